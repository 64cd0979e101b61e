"""Which artifacts each field of the configuration moves, and how configurations are read."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from longcat.artifact import Artifact, Workspace
from longcat.config import (
    RUNTIME,
    ModelConfig,
    PipelineConfig,
    SourceConfig,
    all_keys,
    identity,
    load_config,
    preset_names,
)
from longcat.corpus.stage import preprocess
from longcat.errors import ConfigError
from longcat.training.stage import pretrain


class Asked(Exception):
    """Carries the recipe that a stage would have built."""


class Recorder(Workspace):
    def materialize(self, recipe, build, *, resumable=False):
        raise Asked(recipe)


def digest_of(stage, *arguments, workspace):
    with pytest.raises(Asked) as asked:
        stage(*arguments, workspace=workspace)
    return asked.value.args[0].digest


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        words = " ".join(f"some words {i * number % 97}" for i in range(60 + 4 * number))
        (folder / f"{number}.txt").write_text(f"Text {number}. {words}")
    return folder


def base(corpus_file):
    return load_config(
        "smoke",
        overrides=[
            f"corpus.sources={corpus_file}",
            "training.processes=2",
            "corpus.near_duplicates={threshold: 1.0}",
            "corpus.quality={function: 'builtins:len', minimum: 1}",
            "corpus.long_documents={min_tokens: 500, share: 0.5}",
            "model.ngram={vocab_size_ratio: 3.5, neighbor_num: 3, split_num: 2}",
            "model.sparse_attention={index_topk: 64, index_head_dim: 16, index_init_tokens: 2, index_local_tokens: 8}",
            "model.rope_scaling={factor: 4.0, original_max_position_embeddings: 64}",
        ],
    )


@pytest.fixture(scope="module")
def tokens(corpus_file, tmp_path_factory):
    return preprocess(base(corpus_file), workspace=Workspace(tmp_path_factory.mktemp("workspace")))


@pytest.fixture
def digests(tokens, tmp_path):
    """Digests of the artifacts that stages would make from a configuration."""
    recorder = Recorder(tmp_path / "recorder")

    def of(config):
        # the second stage gets the first one's digest as its parent, whatever it is made from
        parent = Artifact("tokens", digest_of(preprocess, config, workspace=recorder), tokens.path, tokens.manifest)
        return {"tokens": parent.digest, "checkpoint": digest_of(pretrain, config, parent, workspace=recorder)}

    return of


ALL = {"tokens", "checkpoint"}
# field -> another valid value, and what it moves. A new field fails the test below until it is entered here.
FIELDS = {
    "preset": ("other", set()),
    "seed": (1, {"checkpoint"}),
    "accelerator": ("cpu", set()),
    "experiment": ("other", set()),
    "corpus.max_bad_share": (0.5, ALL),
    "corpus.min_characters": (100, ALL),
    "corpus.max_characters": (90_000, ALL),
    "corpus.filters": (["gopher_bullets"], ALL),
    "corpus.mask": (["email"], ALL),
    "corpus.languages": (["en", "zh"], ALL),
    "corpus.near_duplicates.threshold": (0.5, ALL),
    "corpus.near_duplicates.shingle_words": (3, ALL),
    "corpus.near_duplicates.bands": (4, ALL),
    "corpus.near_duplicates.rows": (4, ALL),
    "corpus.decontaminate": (["data"], ALL),
    "corpus.held_out_share": (0.2, ALL),
    "corpus.vocabulary_size": (500, ALL),
    "corpus.tokenizer_sample_bytes": (1000, ALL),
    "corpus.sequence_length_tokens": (32, ALL),
    "corpus.shard_sequences": (7, ALL),
    "corpus.encodings": (["utf-8", "gb18030"], ALL),
    "corpus.repair_encoding": (True, ALL),
    "corpus.quality.function": ("math:log10", ALL),
    "corpus.quality.minimum": (2.0, ALL),
    "corpus.repeated_paragraph_characters": (50, ALL),
    "corpus.tokenizer": (__file__, ALL),  # only its content is asked for here
    "corpus.end_of_text": ("<eos>", ALL),
    "corpus.block_bytes": (1000, ALL),
    "corpus.max_padding": (0.1, ALL),
    "corpus.mixture_tokens": (100, ALL),
    "corpus.max_repeats": (2.0, ALL),
    "corpus.long_documents.min_tokens": (9, ALL),
    "corpus.long_documents.share": (0.3, ALL),
    "corpus.runner": ("dask", set()),
    "corpus.cluster": ("tcp://somewhere:1", set()),
    "corpus.workers": (3, set()),
    "model.vocab_size": (600, {"checkpoint"}),
    "model.hidden_size": (32, {"checkpoint"}),
    "model.num_layers": (2, {"checkpoint"}),
    "model.num_attention_heads": (4, {"checkpoint"}),
    "model.q_lora_rank": (8, {"checkpoint"}),
    "model.kv_lora_rank": (8, {"checkpoint"}),
    "model.qk_nope_head_dim": (8, {"checkpoint"}),
    "model.qk_rope_head_dim": (4, {"checkpoint"}),
    "model.v_head_dim": (8, {"checkpoint"}),
    "model.ffn_hidden_size": (64, {"checkpoint"}),
    "model.expert_ffn_hidden_size": (16, {"checkpoint"}),
    "model.n_routed_experts": (8, {"checkpoint"}),
    "model.zero_expert_num": (4, {"checkpoint"}),
    "model.moe_topk": (2, {"checkpoint"}),
    "model.routed_scaling_factor": (3.0, {"checkpoint"}),
    "model.attention_bias": (True, {"checkpoint"}),
    "model.rms_norm_eps": (1e-6, {"checkpoint"}),
    "model.rope_theta": (1e4, {"checkpoint"}),
    "model.rope_scaling.factor": (2.0, {"checkpoint"}),
    "model.rope_scaling.original_max_position_embeddings": (32, {"checkpoint"}),
    "model.rope_scaling.beta_fast": (16.0, {"checkpoint"}),
    "model.rope_scaling.beta_slow": (2.0, {"checkpoint"}),
    "model.rope_scaling.mscale": (0.5, {"checkpoint"}),
    "model.rope_scaling.mscale_all_dim": (0.5, {"checkpoint"}),
    "model.max_position_embeddings": (512, {"checkpoint"}),
    "model.mla_scale_q_lora": (False, {"checkpoint"}),
    "model.mla_scale_kv_lora": (False, {"checkpoint"}),
    "model.initializer_range": (0.01, {"checkpoint"}),
    "model.proxy_hidden_size": (32, {"checkpoint"}),
    "model.sparse_attention.index_n_heads": (2, {"checkpoint"}),
    "model.sparse_attention.index_head_dim": (32, {"checkpoint"}),
    "model.sparse_attention.index_topk": (32, {"checkpoint"}),
    "model.sparse_attention.index_init_tokens": (1, {"checkpoint"}),
    "model.sparse_attention.index_local_tokens": (4, {"checkpoint"}),
    "model.sparse_attention.hierarchical_from_tokens": (128, {"checkpoint"}),
    "model.sparse_attention.index_page_tokens": (64, {"checkpoint"}),
    "model.sparse_attention.index_block_tokens": (4, {"checkpoint"}),
    "model.sparse_attention.index_pages": (8, {"checkpoint"}),
    "model.sparse_attention.hierarchical_after_layers": (0, {"checkpoint"}),
    "model.mtp_num_layers": (1, {"checkpoint"}),
    "model.ngram.vocab_size_ratio": (4.5, {"checkpoint"}),
    "model.ngram.neighbor_num": (2, {"checkpoint"}),
    "model.ngram.split_num": (1, {"checkpoint"}),
    "model.ngram.allow_near_multiple": (True, {"checkpoint"}),
    "training.steps": (13, {"checkpoint"}),
    "training.global_batch_sequences": (16, {"checkpoint"}),
    "training.micro_batch_sequences": (2, {"checkpoint"}),
    "training.activation_checkpointing": ("full", {"checkpoint"}),
    "training.processes": (1, {"checkpoint"}),
    "training.expert_parallel": (1, {"checkpoint"}),
    "training.precision": ("fp32", {"checkpoint"}),
    "training.compile": (True, {"checkpoint"}),
    "training.reference_operators": (["rotary"], {"checkpoint"}),
    "training.mask_documents": (True, {"checkpoint"}),
    "training.optimizer.name": ("muon", {"checkpoint"}),
    "training.optimizer.momentum": (0.8, {"checkpoint"}),
    "training.optimizer.learning_rate": (1e-4, {"checkpoint"}),
    "training.optimizer.router_learning_rate_fraction": (0.5, {"checkpoint"}),
    "training.losses.importance_weight": (0.5, {"checkpoint"}),
    "training.held_out_every_steps": (7, set()),
    "training.held_out_sequences": (7, set()),
    "training.sample_prompt": ("class ", set()),
    "training.sample_tokens": (7, set()),
    "training.optimizer.final_learning_rate_fraction": (0.5, {"checkpoint"}),
    "training.optimizer.warmup_steps": (7, {"checkpoint"}),
    "training.optimizer.beta1": (0.8, {"checkpoint"}),
    "training.optimizer.beta2": (0.8, {"checkpoint"}),
    "training.optimizer.epsilon": (1e-8, {"checkpoint"}),
    "training.optimizer.weight_decay": (0.2, {"checkpoint"}),
    "training.optimizer.max_gradient_norm": (2.0, {"checkpoint"}),
    "training.balance.target_ffn_experts": (1.5, {"checkpoint"}),
    "training.balance.bias_update_rate": (1e-2, {"checkpoint"}),
    "training.balance.final_bias_update_fraction": (1.0, {"checkpoint"}),
    "training.losses.mtp_weight": (0.1, {"checkpoint"}),
    "training.losses.indexer_weight": (0.1, {"checkpoint"}),
    "training.losses.balance_weight": (0.1, {"checkpoint"}),
    "training.losses.balance_groups": (2, {"checkpoint"}),
    "training.losses.hidden_z_weight": (0.1, {"checkpoint"}),
    "training.dense_attention_steps": (1, {"checkpoint"}),
    "training.indexer_warmup_steps": (1, {"checkpoint"}),
    "training.log_every_steps": (3, set()),
    "training.checkpoint_every_steps": (3, set()),
    "training.keep_checkpoints": (3, set()),
    "training.max_restarts": (3, set()),
    "training.collective_timeout_s": (30, set()),
    "training.deadline_s": (30, set()),
    "training.grace_s": (3, set()),
    "benchmark.warmup_steps": (2, set()),
    "benchmark.windows": (4, set()),
    "benchmark.window_steps": (5, set()),
    "benchmark.reference_rows": (3, set()),
    "benchmark.profiled_steps": (1, set()),
    "benchmark.kernel_seconds": (0.1, set()),
    "benchmark.collective_bytes": ([64], set()),
    "benchmark.sweep.micro_batch_sequences": ([1], set()),
    "benchmark.sweep.sequence_length_tokens": ([32], set()),
    "benchmark.sweep.activation_checkpointing": (["full"], set()),
    "benchmark.sweep.processes": ([1], set()),
    "evaluation.held_out_sequences": (8, set()),
    "evaluation.ngram_order": (3, set()),
    "evaluation.tasks": (["other"], set()),
    "evaluation.task_limit": (3, set()),
    "evaluation.batch_sequences": (3, set()),
}
SOURCE_FIELDS = {
    "kind": ("stdlib", True),
    "path": (None, False),  # another place for the same files, see the test
    "package": ("apt:x", True),
    "members": ("*.txt", True),
    "licence": ("MIT", False),
    "name": ("x", True),
    "subset": ("x", True),
    "split": ("x", True),
    "revision": ("x", True),
    "text_field": ("x", True),
    "max_documents": (30, True),
    "max_tokens": (3000, True),
    "weight": (2.0, True),
    "tokenizer_weight": (2.0, True),
}


def changed(config, key, value):
    tree = config.model_dump()
    *sections, name = key.split(".")
    part = tree
    for section in sections:
        part = part[section]
    assert part[name] != value
    part[name] = value
    if key == "corpus.vocabulary_size":
        tree["model"]["vocab_size"] = None  # follows the corpus, as it does where nobody sets it
    return PipelineConfig.model_validate(tree)


def leaves(section=PipelineConfig):
    keys = set(all_keys(section))
    nested = {key for key in keys if any(other.startswith(f"{key}.") for other in keys)}
    return {key for key in keys - nested if not key.startswith("corpus.sources")}


def test_every_field_is_entered_here():
    assert leaves() == set(FIELDS)
    assert set(SourceConfig.model_fields) == set(SOURCE_FIELDS)


@pytest.mark.parametrize("key", FIELDS)
def test_field_moves_what_it_can_change(key, corpus_file, digests):
    value, moves = FIELDS[key]
    before, after = digests(base(corpus_file)), digests(changed(base(corpus_file), key, value))
    assert {kind for kind in ALL if before[kind] != after[kind]} == moves


@pytest.mark.parametrize("key", sorted(set(SOURCE_FIELDS) - {"path"}))
def test_field_of_a_source_moves_the_tokens(key, corpus_file, digests):
    value, moves = SOURCE_FIELDS[key]
    config = base(corpus_file)
    source = config.corpus.sources[0].model_copy(update={key: value})
    other = config.model_copy(update={"corpus": config.corpus.model_copy(update={"sources": [source]})})
    assert (digests(other)["tokens"] != digests(config)["tokens"]) is moves


def test_place_of_the_files_moves_nothing(corpus_file, digests, tmp_path):
    (tmp_path / "elsewhere").symlink_to(corpus_file)
    assert digests(base(tmp_path / "elsewhere")) == digests(base(corpus_file))


def test_runtime_fields_are_in_no_identity():
    def check(section):
        for name, field in type(section).model_fields.items():
            assert (name in identity(section)) is (RUNTIME not in field.metadata)
            if isinstance(getattr(section, name), BaseModel):
                check(getattr(section, name))

    check(load_config("tiny"))


def test_identity_refuses_what_has_no_canonical_form():
    class Section(BaseModel):
        place: Path = Path("x")

    with pytest.raises(TypeError, match="place: a PosixPath"):
        identity(Section())


# ---------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete(name):
    config = load_config(name)
    assert config.preset == name
    assert config.model.vocabulary == config.corpus.vocabulary_size


def test_file_over_preset_and_override_over_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: smoke\ntraining: {steps: 5, optimizer: {beta1: 0.5}}\n")
    config = load_config(file=file, overrides=["training.optimizer.learning_rate=3e-4", "seed=7"])
    assert (config.preset, config.training.steps, config.training.global_batch_sequences) == ("smoke", 5, 8)
    optimizer = config.training.optimizer
    assert (optimizer.beta1, optimizer.warmup_steps, optimizer.learning_rate, config.seed) == (0.5, 2, 3e-4, 7)
    assert load_config("tiny", file=file).corpus.sequence_length_tokens == 256
    assert load_config("tiny", file=file).training.steps == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("stdlib", {"kind": "stdlib"}),
        ("hub:org/name", {"kind": "hub", "name": "org/name"}),
        ("data/a.jsonl", {"kind": "files", "path": "data/a.jsonl"}),
    ],
)
def test_short_form_of_a_source(value, expected):
    [source] = load_config("smoke", overrides=[f"corpus.sources={value}"]).corpus.sources
    assert source == SourceConfig(**expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainin.steps=1"], r"unknown key 'trainin'; did you mean 'training'\?"),
        (["training.step=1"], r"unknown key 'training.step'; did you mean 'training.steps'\?"),
        (["training.learning_rate=1"], r"did you mean 'training.optimizer.learning_rate'\?"),
        (["training.batch_sequences=8"], r"did you mean 'training.global_batch_sequences'\?"),
        (["training.recompute=full"], r"did you mean 'training.activation_checkpointing'\?"),
        (["benchmark.sweep.recompute=[full]"], r"did you mean 'benchmark.sweep.activation_checkpointing'\?"),
        (
            ["training.optimizer.final_learning_rate_share=1"],
            r"did you mean 'training.optimizer.final_learning_rate_fraction'\?",
        ),
        (
            ["training.balance.final_bias_update_share=1"],
            r"did you mean 'training.balance.final_bias_update_fraction'\?",
        ),
        (["corpus.held_out_share=0.9"], r"corpus.held_out_share: .*less than 0.5 \(found 0.9\)"),
        (["training.steps"], "expected KEY=VALUE"),
        (["training.steps=[1"], "not valid YAML"),
        (["model.moe_topk=7"], "moe_topk=7 exceeds n_routed_experts"),
        (["model.vocab_size=10"], "model.vocab_size=10 is smaller than corpus.vocabulary_size"),
        (["corpus.sequence_length_tokens=512"], "exceeds model.max_position_embeddings=256"),
        (["training.expert_parallel=3"], "does not divide"),
        (["training.indexer_warmup_steps=3"], "indexer_warmup_steps=3, but there are no indexers"),
        (
            ["model.sparse_attention={}", "training.indexer_warmup_steps=3", "training.losses.indexer_weight=0"],
            "trains nothing but the indexers",
        ),
        (["corpus.sources=[{kind: files}]"], "needs `path`"),
        (["corpus.sources=[]"], "corpus.sources"),
        (["training.optimizer.learning_rate=.nan"], "training.optimizer.learning_rate"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", overrides=overrides)


def test_mistakes_in_files_are_named(tmp_path):
    file = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match=r"cannot read configuration .*a\.yaml: No such file"):
        load_config(file=file)
    for content, message in [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1", "model is missing"),
    ]:
        file.write_text(content)
        with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
            load_config(file=file)
    with pytest.raises(ConfigError, match=r"unknown preset 'smok'; did you mean 'smoke'\?; there are: .*smoke"):
        load_config("smok")


def test_configuration_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError):
        load_config("smoke").seed = 3


def test_vocabulary_without_a_corpus():
    model = ModelConfig.model_validate({**load_config("smoke").model.model_dump(), "vocab_size": None})
    with pytest.raises(ConfigError, match=r"model\.vocab_size is not set"):
        _ = model.vocabulary
