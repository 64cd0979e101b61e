"""Run by torchrun in test_parity: gradients of a parallel model against those of one process with the whole batch."""

import sys
from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.padding import IGNORE, PADDING, is_padding
from longcat.parallel.mesh import join, leave
from longcat.parallel.parallelize import ParallelModel, parallelize
from longcat.training.losses import Counts
from longcat.training.trainer import global_counts

EVERYTHING = [
    "model.mtp_num_layers=2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
]


def main(expert_parallel: int, case: str) -> None:
    config = load_config("smoke", overrides=[] if case in ("even", "starve") else EVERYTHING).model
    starve = case == "starve"
    mesh = join(choose("cpu"), expert_parallel, timeout_s=60)
    tokens = torch.randint(3, 512, (4, 33), generator=torch.Generator().manual_seed(0))
    models = [LongcatModel(config) for _ in range(2)]
    for model in models:
        model.initialize(0)
        if starve:  # nobody chooses routed expert 0
            for layer in model.model.layers:
                layer.mlp.router.e_score_correction_bias[0] = -10
    whole, spread = models
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(4, 32, dtype=torch.long)
    if case == "documents":  # the second process has fewer tokens and targets
        for row, end in enumerate((32, 20, 30, 9)):
            batch[2][row, end // 2 :] = 1
            batch[2][row, end:], batch[1][row, end - 1 :] = PADDING, IGNORE
    real, learnt = int((~is_padding(batch[2])).sum()), int((batch[1] != IGNORE).sum())
    loss_of(whole, batch, Counts(real, learnt)).backward()
    spread.model.activation_checkpointing = case == "recompute"
    parallel = parallelize(spread, mesh, torch.float32)
    mine = [of[mesh.rank :: mesh.processes] for of in batch]
    counts = global_counts(mine[1], mine[2], mesh)
    assert [int(count) for count in counts] == [real, learnt]
    parallel.zero_grad()
    parallel.backward(loss_of(parallel, mine, counts), last=True)
    for (name, ours), (_, theirs) in zip(spread.named_parameters(), whole.named_parameters(), strict=True):
        assert ours.grad is not None, name
        torch.testing.assert_close(whole_tensor(ours.grad), theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
    if starve:
        assert float(whole.model.layers[0].mlp.experts.down_proj.grad[0].abs().sum()) == 0
    leave()


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def loss_of(model: LongcatModel | ParallelModel, batch: Sequence[torch.Tensor], counts: Counts) -> torch.Tensor:
    tokens, targets, documents = batch
    sums = model.sums(tokens, targets, "sparse", documents)
    return (sums.language_model + 0.3 * sums.mtp) / counts.targets + (
        sums.indexer + 1e-3 * sums.hidden_z
    ) / counts.tokens


main(int(sys.argv[1]), sys.argv[2])
