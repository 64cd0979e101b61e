"""The whole configuration tree, and the checks between its sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from longcat.config.benchmark import BenchmarkConfig
from longcat.config.corpus import TRAINED_END_OF_TEXT, CorpusConfig
from longcat.config.evaluation import EvaluationConfig
from longcat.config.model import ModelConfig
from longcat.config.parallel import ParallelConfig
from longcat.config.section import RUNTIME, Section
from longcat.config.tokenizer_file import end_of_text
from longcat.config.training import TrainingConfig
from longcat.errors import UserError


class PipelineConfig(Section):
    """The whole configuration of a run."""

    preset: Annotated[str, RUNTIME] = "custom"
    """Name of the preset this configuration started from."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights and of the order of data."""
    accelerator: Annotated[Literal["auto", "npu", "cuda", "cpu"], RUNTIME] = "auto"
    """Device to train on. The stages that compute put the resolved kind into their identity."""
    experiment: Annotated[str, RUNTIME] = "longcat"
    """MLflow experiment."""
    price_per_device_hour: Annotated[float | None, RUNTIME] = Field(default=None, ge=0)
    """Price of an hour of one device, in a currency of yours: MLflow then shows what a training cost; null shows time only."""
    corpus: CorpusConfig = CorpusConfig()
    """Data preprocessing."""
    model: ModelConfig
    """The model."""
    training: TrainingConfig
    """Pre-training."""
    parallel: ParallelConfig = ParallelConfig()
    """Layout of pre-training over its processes."""
    benchmark: BenchmarkConfig = BenchmarkConfig()
    """MFU benchmark."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Checkpoint evaluation."""

    @model_validator(mode="after")
    def _consistent(self) -> PipelineConfig:
        settled: dict[str, int] = {}
        if self.model.vocab_size is None:
            settled["vocab_size"] = self.corpus.vocabulary_size
        if self.model.eos_token_id is None:
            try:
                settled["eos_token_id"] = end_of_text(self.corpus)
            except UserError as error:
                raise ValueError(f"corpus.tokenizer: {error}") from None
            if settled["eos_token_id"] >= self.corpus.vocabulary_size:
                raise ValueError(
                    f"corpus.tokenizer={self.corpus.tokenizer} ends a document with token {settled['eos_token_id']}; "
                    f"corpus.vocabulary_size={self.corpus.vocabulary_size} has to be larger than its largest id"
                )
        elif self.corpus.tokenizer is None and self.model.eos_token_id != TRAINED_END_OF_TEXT:
            raise ValueError(
                f"model.eos_token_id={self.model.eos_token_id}, but the tokenizer that preprocessing trains ends a "
                f"document with token {TRAINED_END_OF_TEXT}; leave model.eos_token_id out, or name your corpus.tokenizer"
            )
        if settled:  # checked again, with these
            object.__setattr__(self, "model", ModelConfig(**{**dict(self.model), **settled}))
        if self.model.vocabulary < self.corpus.vocabulary_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is smaller than "
                f"corpus.vocabulary_size={self.corpus.vocabulary_size}"
            )
        if self.corpus.sequence_length_tokens > self.model.max_position_embeddings:
            raise ValueError(
                f"corpus.sequence_length_tokens={self.corpus.sequence_length_tokens} exceeds "
                f"model.max_position_embeddings={self.model.max_position_embeddings}"
            )
        if self.model.n_routed_experts % self.training.losses.balance_groups:
            raise ValueError(
                f"training.losses.balance_groups={self.training.losses.balance_groups} does not divide "
                f"model.n_routed_experts={self.model.n_routed_experts}"
            )
        if self.training.answers_after and self.model.mtp_num_layers:
            raise ValueError(
                f"training.answers_after, but multi-token prediction (model.mtp_num_layers={self.model.mtp_num_layers}) "
                "reads the targets that it leaves out; set one of the two"
            )
        phases = {name: getattr(self.training, name) for name in ("dense_attention_steps", "indexer_warmup_steps")}
        without_use = [f"training.{name}={steps}" for name, steps in phases.items() if steps]
        if without_use and self.model.sparse_attention is None:
            raise ValueError(
                f"{' and '.join(without_use)}, but there are no indexers: model.sparse_attention is not set"
            )
        if self.training.indexer_warmup_steps and not self.training.losses.indexer_weight:
            raise ValueError(
                f"training.indexer_warmup_steps={self.training.indexer_warmup_steps} trains nothing but the indexers, "
                "and training.losses.indexer_weight is 0"
            )
        if self.training.init_optimizer and self.training.init_from is None:
            raise ValueError("training.init_optimizer=true, but training.init_from names no checkpoint")
        self._check_nodes()
        self._check_tables()
        if self.parallel.expert and self.model.n_routed_experts % self.parallel.expert:
            raise ValueError(
                f"parallel.expert={self.parallel.expert} does not divide "
                f"model.n_routed_experts={self.model.n_routed_experts}"
            )
        return self

    def _check_nodes(self) -> None:
        """Refuse numbers of nodes that disagree."""
        training = self.training
        if training.launcher == "local" and training.nodes > 1:
            raise ValueError(f"training.nodes={training.nodes} needs training.launcher=slurm or join, not local")
        if training.min_nodes > training.nodes:
            raise ValueError(f"training.min_nodes={training.min_nodes} exceeds training.nodes={training.nodes}")
        if training.processes % training.nodes:
            raise ValueError(
                f"training.processes={training.processes} is not a multiple of training.nodes={training.nodes}: "
                "all nodes start the same number"
            )
        if training.node_names and len(set(training.node_names)) != training.nodes:
            raise ValueError(
                f"training.node_names has {len(set(training.node_names))} names, not training.nodes={training.nodes}"
            )
        host, colon, port = training.head.rpartition(":")
        if training.head and not (colon and host and port.isdigit() and int(port) < 65536):
            raise ValueError(f"training.head={training.head!r} is not HOST:PORT")

    def _check_tables(self) -> None:
        """Refuse settings of the n-gram tables that ask for what is not there, or that have no lazy form."""
        optimizer = self.training.optimizer
        if self.parallel.embedding and self.model.ngram is None:
            raise ValueError("parallel.embedding=true, but there are no n-gram tables: model.ngram is not set")
        if not optimizer.lazy_ngram_moments:
            return
        if not self.parallel.embedding:
            raise ValueError(
                "training.optimizer.lazy_ngram_moments=true needs the rows' own gradients: parallel.embedding=true"
            )
        if self.training.init_optimizer:
            raise ValueError(
                "training.optimizer.lazy_ngram_moments=true counts its moves from the first step of a run, so it cannot begin with "
                "another run's moments; leave training.init_optimizer out"
            )
        if optimizer.beta1**2 >= optimizer.beta2:
            raise ValueError(
                f"training.optimizer.lazy_ngram_moments=true needs beta1 squared below beta2, so that a row that gets no "
                f"gradient comes to rest; they are {optimizer.beta1**2:.4g} and {optimizer.beta2:.4g}"
            )
        if optimizer.epsilon > 1e-12:
            raise ValueError(
                "training.optimizer.lazy_ngram_moments=true leaves epsilon out of moves that are made up for, so it has to be "
                f"1e-12 at most; training.optimizer.epsilon={optimizer.epsilon:g}"
            )
