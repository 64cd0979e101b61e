"""Configuration of pre-training: optimizer, balance of the experts, losses, batch, layout and what is saved."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from longcat.config.model import ModelConfig
from longcat.config.section import RUNTIME, Formerly, Section

_OPERATORS = Path(__file__).parents[1] / "ops"


def operator_names() -> list[str]:
    """List the operators of `longcat.ops` by reading its files, as importing them would load torch."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(_OPERATORS.glob("*.py"))]
    return [name for text in texts for name in re.findall(r'^@operator\(\s*"(\w+)"', text, re.MULTILINE)]


def _known_operator(name: str) -> str:
    if name not in (names := operator_names()):
        near = difflib.get_close_matches(name, names, n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown operator {name!r}{suggestion}; there are: {', '.join(names)}")
    return name


Phase = Literal["dense", "warmup", "sparse"]
"""Phases of training sparse attention: dense without the indexer; dense, with the indexer learning from all keys; sparse."""


class OptimizerConfig(Section):
    """The optimizer, and the schedule of its learning rate."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon` for the matrices of the layers and AdamW for the rest."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Course of the learning rate after the warm-up: falling along a cosine; `wsd`, at the peak until it falls over the last steps;
    or at the peak to the end (docs/pretrain.md)."""
    final_learning_rate_fraction: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step, as a fraction of the peak; of no effect with `constant`."""
    decay_fraction: float = Field(default=0.1, gt=0, le=1)
    """With `wsd`: last part of all steps, over which the learning rate falls."""
    decay_form: Literal["sqrt", "linear", "cosine"] = "sqrt"
    """With `wsd`: how it falls, with x from 0 to 1: as 1 - sqrt(x), as 1 - x, or along half a cosine."""
    router_learning_rate_fraction: float = Field(default=0.1, gt=0, le=1)
    """Learning rate of the routers, as a fraction of that of all other weights: at the full rate a router becomes certain
    of a few experts before the others have learnt anything."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of AdamW's first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of AdamW's second moment."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon."""
    epsilon: float = Field(default=1e-16, gt=0)
    """Epsilon of AdamW; well below the RMS of the gradients, as LongCat-Flash prescribes (arXiv 2509.01322)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices; norms, embeddings and biases have none."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Maximum global norm of the gradients; larger gradients are scaled down to it."""
    offload: Annotated[bool, RUNTIME] = False
    """Keep the optimizer's moments in the host's memory; each step brings them to the device and back in pieces. Same bits,
    less memory on the device, slower steps. Those of `lazy_ngram_moments` stay on the device."""
    lazy_ngram_moments: bool = False
    """Update only the rows of the n-gram tables that were looked up in a step. What AdamW would have done to a row meanwhile is
    made up for when it is next looked up, so that training differs from AdamW's by rounding. Needs `parallel.embedding`,
    beta1 squared below beta2, and an epsilon of 1e-12 at most."""


class BalanceConfig(Section):
    """Load balance of experts through the selection bias (arXiv 2509.01322, section on zero-computation experts)."""

    target_ffn_experts: float | None = Field(default=None, gt=0)
    """K_e, mean routed experts per token; null takes moe_topk * 2/3 (8 of 12 in LongCat-Flash), or moe_topk without
    zero-computation experts."""
    bias_update_rate: float = Field(default=1e-3, ge=0)
    """mu, step size of the bias update: about the fraction of the mean probability by which the bias of an expert without
    tokens rises per step, for any number of experts (docs/pretrain.md). Our choice: Meituan has published no value."""
    final_bias_update_fraction: float = Field(default=0.1, ge=0, le=1)
    """mu at the last step, as a fraction of the first, with linear decay. Published is only that mu decays."""


def target_ffn_experts(model: ModelConfig, balance: BalanceConfig) -> float:
    """Return K_e: the configured value, or two thirds of the slots (all of them without zero-computation experts)."""
    if balance.target_ffn_experts is not None:
        return balance.target_ffn_experts
    return model.moe_topk * 2 / 3 if model.zero_expert_num else float(model.moe_topk)


class LossConfig(Section):
    """Weights of the auxiliary losses; our choice where Meituan has published no value."""

    mtp_weight: float = Field(default=0.3, ge=0)
    """Weight of the multi-token-prediction loss, a mean over depths; value of DeepSeek-V3 (LongCat's is unpublished)."""
    indexer_weight: float = Field(default=1.0, ge=0)
    """Weight of the indexer's divergence from attention; it has a gradient in the indexer only. Our choice."""
    balance_weight: float = Field(default=1e-3, ge=0)
    """alpha, weight of the device-level balance loss. Published is only that its gradient is below 0.1 of the main one."""
    balance_groups: int = Field(default=1, ge=1)
    """D, number of groups of routed experts in the balance loss, one per expert-parallel device."""
    importance_weight: float = Field(default=0.03, ge=0)
    """Weight of the importance loss, which keeps the routers' mean probabilities near the target of the load (arXiv
    1701.06538, eq. 7). Our choice: the bias balances the slots whatever the probabilities are, so it alone does not."""
    hidden_z_weight: float = Field(default=1e-7, ge=0)
    """lambda, weight of the hidden z-loss, which keeps activations from growing (arXiv 2509.01322)."""


class SlurmConfig(Section):
    """What is asked of Slurm for `training.launcher: slurm` (docs/cluster.md)."""

    partition: Annotated[str, RUNTIME] = ""
    """Partition of the nodes; empty takes the cluster's default one."""
    account: Annotated[str, RUNTIME] = ""
    """Account that is charged."""
    time: Annotated[str, RUNTIME] = ""
    """Time limit of the job, as `srun --time` takes it."""
    arguments: Annotated[list[str], RUNTIME] = Field(default_factory=list)
    """Further arguments of srun, such as `--gres=npu:8` or `--exclusive`."""
    queue_wait_s: Annotated[float | None, RUNTIME] = Field(default=86400, gt=0)
    """Maximum time in seconds of a wait in Slurm's queue, a day by default; null waits without limit."""


class TrainingConfig(Section):
    """Pre-training: batch, length, losses, parallel layout and checkpoints."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    global_batch_sequences: Annotated[int, Formerly("batch_sequences")] = Field(ge=1)
    """Sequences in one optimizer step, over all processes."""
    micro_batch_sequences: int = Field(default=0, ge=0)
    """Sequences per process and forward pass; 0 takes all sequences of a process at once."""
    activation_checkpointing: Annotated[Literal["none", "selective", "full"], Formerly("recompute")] = "none"
    """Activations recomputed in the backward pass instead of stored: none; those of attention and feed-forward sublayers but
    for attention's output, the routing and the tokens at their experts; or those of every layer (docs/pretrain.md)."""
    processes: Annotated[int, RUNTIME] = Field(default=0, ge=0, le=1 << 24)
    """Training processes, on all nodes together; 0 takes one per accelerator, or two on a CPU with two cores or more."""
    launcher: Annotated[Literal["local", "slurm", "join"], RUNTIME] = "local"
    """Where processes are started: on this machine; on nodes that Slurm gives; or on machines that call `longcat join`
    (docs/cluster.md)."""
    nodes: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Machines that train together."""
    min_nodes: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Machines that training goes on with when others are lost; 0 waits for all of them."""
    node_names: Annotated[list[str], RUNTIME] = Field(default_factory=list)
    """Names of the machines that are to join; empty takes whichever come."""
    node_wait_s: Annotated[float, RUNTIME] = Field(default=600, gt=0)
    """Maximum time in seconds of a wait for machines. Time in Slurm's queue does not count, see `training.slurm.queue_wait_s`."""
    head: Annotated[str, RUNTIME] = ""
    """HOST:PORT of this machine where others join; empty takes all its addresses, and port 29400 or, with Slurm, any."""
    slurm: SlurmConfig = SlurmConfig()
    """What is asked of Slurm."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute precision; weights and optimizer state stay fp32. `auto`: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the layers with torch.compile: about half a minute once, and faster steps. Needs a C++ compiler on a CPU."""
    reference_operators: list[Annotated[str, AfterValidator(_known_operator)]] = Field(default_factory=list)
    """Operators to compute by their plain torch reference even if the device has a faster implementation
    (docs/ascend.md)."""
    mask_documents: bool = False
    """Keep attention, its indexer, n-grams and multi-token prediction within the documents of a row.
    Off by default: LongCat's reports do not mention it."""
    answers_after: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Texts that end questions, such as `Answer:`: of a document that has one, only what comes after the first is learnt, and
    what is before is read; other documents are learnt whole. An empty list learns everything."""
    init_from: Annotated[str | None, RUNTIME] = None
    """Checkpoint whose weights training begins with, and whose tokenizer the corpus gets: a folder, a digest in the workspace or its
    beginning, DIGEST@STEP, or a Hugging Face folder of a LongCat model; null begins with the weights that the seed gives. What it
    holds is in the identity of the result, not its name."""
    init_optimizer: bool = False
    """Begin with the optimizer's state of `init_from`, too, which has to be a finished checkpoint that was trained here."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer and its schedule."""
    balance: BalanceConfig = BalanceConfig()
    """Load balance of the experts."""
    losses: LossConfig = LossConfig()
    """Weights of the auxiliary losses."""
    dense_attention_steps: int = Field(default=0, ge=0)
    """With sparse attention: number of first steps with dense attention and frozen indexers."""
    indexer_warmup_steps: int = Field(default=0, ge=0)
    """With sparse attention: number of following steps with dense attention in which only the indexers are trained;
    weights, optimizer state and selection biases of everything else stay unchanged."""
    max_skipped_steps: int = Field(default=10, ge=1)
    """Steps in a row without a finite loss and finite gradients after which training goes back to the last good checkpoint and
    passes over the batches since; if it gets no further then, it ends."""
    loss_spikes: Literal["warn", "rewind", "ignore"] = "warn"
    """What is done about a loss far above those before it: a warning, going back as after skipped steps, or nothing."""
    spike_deviations: float = Field(default=10.0, gt=0)
    """Distance from the median of the last losses, in their deviation (1.4826 MAD), beyond which a loss is a spike."""
    spike_window_steps: int = Field(default=100, ge=20)
    """Number of last losses that median and deviation are taken of; those of spikes and skipped steps are left out."""
    log_every_steps: Annotated[int, RUNTIME] = Field(default=10, ge=1)
    """Steps between two records of throughput and MFU; the loss is recorded at every step."""
    held_out_every_steps: Annotated[int, RUNTIME] = Field(default=100, ge=0)
    """Steps between two measurements of the held-out loss, which is also measured at the last step; 0 omits them."""
    held_out_sequences: Annotated[int, RUNTIME] = Field(default=16, ge=1)
    """Number of held-out sequences in these measurements, always the first ones."""
    sample_prompt: Annotated[str, RUNTIME] = "def "
    """Text that the model continues at each checkpoint and at the end."""
    sample_tokens: Annotated[int, RUNTIME] = Field(default=64, ge=0)
    """Number of tokens of that continuation, by greedy decoding; 0 omits it."""
    checkpoint_every_steps: Annotated[int, RUNTIME] = Field(default=200, ge=1)
    """Steps between two checkpoints that an interrupted run resumes from."""
    keep_checkpoints: Annotated[int, RUNTIME] = Field(default=2, ge=1)
    """Number of latest checkpoints kept while training."""
    keep_every_steps: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Checkpoints after multiples of this number of steps are kept as well, and of a finished run their weights; 0 keeps none."""
    asynchronous_checkpoints: Annotated[bool, RUNTIME] = True
    """Let training go on while a checkpoint is written: a step waits for a copy in the host's memory only, which needs as much
    of it as weights and optimizer state take."""
    checkpoint_local: Annotated[str | None, RUNTIME] = None
    """Folder in memory (such as /dev/shm/longcat) or on each node's own disk that checkpoints are written to before they are copied
    to the folder of the run; one is kept, and removed at the end."""
    checkpoint_timeout_s: Annotated[float, RUNTIME] = Field(default=3600, gt=0)
    """Maximum time in seconds that a process waits for the others to write their parts of a checkpoint."""
    max_restarts: Annotated[int, RUNTIME] = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a failed process, until there is a newer one: a run may fail more often, but
    not more often at the same steps."""
    collective_timeout_s: Annotated[float, RUNTIME] = Field(default=300, gt=0)
    """Maximum time in seconds that a collective waits."""
    check_every_steps: Annotated[int, RUNTIME] = Field(default=500, ge=0)
    """Steps between two searches for silent corruption: a micro-batch is computed twice and by a neighbour, and copies are
    compared; 0 omits them."""
    hang_timeout_s: Annotated[float, RUNTIME] = Field(default=60, ge=0)
    """Seconds without a sign of life after which a process is taken to hang, and all are started again from the last
    checkpoint; 0 never. Starting, the first step, waiting for data, the held-out loss and checkpoints may take ten times as long."""
    deadline_s: Annotated[float, RUNTIME] = Field(default=7 * 24 * 3600, gt=0)
    """Maximum time in seconds of the whole stage."""
    grace_s: Annotated[float, RUNTIME] = Field(default=20, gt=0)
    """Seconds that stopping processes have to save a checkpoint before they are killed."""
