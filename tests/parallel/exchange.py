"""What every rank does in test_exchange."""

import torch
import torch.distributed as dist

from longcat.config import load_config
from longcat.config.parallel import ParallelConfig
from longcat.model import LongcatModel
from longcat.model.recomputation import use_recomputation
from longcat.padding import IGNORE, PADDING, is_padding
from longcat.parallel.overlap import Exchange
from longcat.parallel.parallelize import parallelize
from longcat.training.losses import Counts
from tests.host_reads import HostReads
from tests.parallel.parity import EVERYTHING, loss_of, whole_tensor

WIDE = [
    "model.num_layers=2",
    "model.n_routed_experts=8",
    "model.zero_expert_num=4",
    "model.moe_topk=4",
    "model.initializer_range=0.2",
]

WITH_EVERYTHING = [*EVERYTHING, "model.initializer_range=0.1"]
"""With 0.2, one rounding of a mixture's output moves gradients of one process by 4e-6 of their largest number."""


def models(mesh, settings, case="", compute=torch.float32):
    """The same model twice, whole and spread over processes, and a batch: all rows, and this process' own."""
    config = load_config("smoke", overrides=WIDE + (WITH_EVERYTHING if case == "everything" else [])).model
    whole, spread = LongcatModel(config), LongcatModel(config)
    for model in (whole, spread):
        model.initialize(0)
        if case == "starve":  # no token chooses an expert of the first process, nor some of the others
            for layer in model.blocks:
                layer.mlp.router.e_score_correction_bias[:4] = -10
        if case == "zero":  # no token chooses any routed expert
            for layer in model.blocks:
                layer.mlp.router.e_score_correction_bias[:8] = -10
    tokens = torch.randint(3, 512, (4, 33), generator=torch.Generator().manual_seed(0))
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(4, 32, dtype=torch.long)
    if case in ("everything", "recompute"):
        for row, end in enumerate((32, 20, 30, 9)):
            batch[2][row, end // 2 :] = 1
            batch[2][row, end:], batch[1][row, end - 1 :] = PADDING, IGNORE
    use_recomputation(spread, "full" if case == "recompute" else "none")
    parallel = parallelize(spread, mesh, compute, settings=ParallelConfig(**settings))
    return whole, spread, parallel, batch, [of[mesh.batch_rank :: mesh.batch_world] for of in batch]


def parity(mesh, settings, case):
    """Loss, gradients and loads are those of one process with the whole batch."""
    whole, spread, parallel, batch, own = models(mesh, settings, case)
    counts = Counts(*(torch.tensor(int(n)) for n in ((~is_padding(batch[2])).sum(), (batch[1] != IGNORE).sum())))
    for _ in range(2):  # the second time over gradients that are there
        expected_loss, found_loss = loss_of(whole, batch, counts), loss_of(parallel, own, counts)
        expected_loss.backward()
        parallel.backward(found_loss, last=True)
    total = found_loss.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total, expected_loss.detach(), rtol=1e-6, atol=0)
    for (name, found), (_, expected) in zip(spread.named_parameters(), whole.named_parameters(), strict=True):
        assert found.grad is not None, name
        difference = (whole_tensor(found.grad) - expected.grad).abs().max()
        assert difference <= 3e-6 * expected.grad.abs().max(), (
            name,
            float(difference),
            float(expected.grad.abs().max()),
        )
    with torch.no_grad():
        load = parallel.sums(own[0], own[1], "sparse", own[2]).router_load
        dist.all_reduce(load)
        assert torch.equal(load, whole.sums(batch[0], batch[1], "sparse", batch[2]).router_load)


def in_bf16(mesh, settings):
    """Loss and gradients of the whole model that computes in bf16, as far apart as the type from those in fp32."""
    results = []
    for compute in (torch.float32, torch.bfloat16):
        _, spread, parallel, _, own = models(mesh, settings, compute=compute)
        loss = parallel.sums(*own[:2], "sparse").language_model / 128
        parallel.backward(loss, last=True)
        results.append([float(loss)] + [whole_tensor(of.grad).flatten() for of in spread.parameters()])
    (loss, *exact), (rounded_loss, *rounded) = results
    assert rounded_loss != loss
    assert abs(rounded_loss / loss - 1) < 0.01
    return [float(torch.cosine_similarity(a, b, 0)) for a, b in zip(exact, rounded, strict=True) if a.any()]


def reads(mesh, settings):
    """Reads of the host in the forward pass, and in the backward pass."""
    _, _, parallel, _, own = models(mesh, settings)
    parallel.sums(*own[:2], "sparse")  # whatever happens once
    with HostReads() as forward:
        loss = parallel.sums(*own[:2], "sparse").language_model
    with HostReads() as backward:
        parallel.backward(loss, last=True)
    return dict(forward.reads), dict(backward.reads)


class Sent:
    """Records what all-to-alls send to each other rank, by what it is."""

    def __init__(self, patch):
        self.rows, self.bytes = {}, {}
        exchange = dist.all_to_all_single

        def recording(output, input, output_split_sizes=None, input_split_sizes=None, group=None, async_op=False):
            ranks = dist.get_process_group_ranks(group)
            splits = input_split_sizes or [len(input) // len(ranks)] * len(ranks)
            kind = "counts" if input_split_sizes is None else "rows" if input.shape[1] == 64 else "numbers"
            for rank, rows in zip(ranks, splits, strict=True):
                if rank != dist.get_rank():
                    self.rows[kind, rank] = self.rows.get((kind, rank), 0) + rows
                    size = rows * input[:1].nbytes if rows else 0
                    self.bytes[kind, rank] = self.bytes.get((kind, rank), 0) + size
            return exchange(output, input, output_split_sizes, input_split_sizes, group, async_op)

        patch.setattr(dist, "all_to_all_single", recording)


def traffic(mesh, settings):
    """What this rank sent to each other one, in the forward pass and in both, and its tokens' experts in each layer."""
    import pytest

    whole, _, parallel, _, own = models(mesh, settings)
    chosen = []
    for layer in whole.blocks:
        layer.mlp.router.register_forward_hook(lambda *call: chosen.append(call[2][1]))
    whole.sums(*own[:2], "sparse")
    with pytest.MonkeyPatch.context() as patch:
        sent = Sent(patch)
        loss = parallel.sums(*own[:2], "sparse").language_model
        forward = dict(sent.rows)
        parallel.backward(loss, last=True)
    return forward, sent.rows, sent.bytes, torch.stack(chosen).tolist()


def order_of_work(mesh, settings):
    """What happens between the two ends of each exchange, in both passes: `+` starts one, `-` waits for one."""
    import pytest

    _, spread, parallel, _, own = models(mesh, settings)
    seen = []
    first = spread.blocks[0]
    for number, module in enumerate(first.mlps):
        module.register_forward_hook(lambda *_, number=number: seen.append(f"dense {number}"))
        module.register_full_backward_hook(lambda *_, number=number: seen.append(f"dense {number} back"))
    first.mlp.experts.register_forward_hook(lambda *_: seen.append("experts"))
    with pytest.MonkeyPatch.context() as patch:
        for name, sign in (("set_off", "+"), ("arrive", "-")):
            original = getattr(Exchange, name)
            patch.setattr(
                Exchange, name, lambda *args, original=original, sign=sign: (seen.append(sign), original(*args))[1]
            )
        loss = parallel.sums(*own[:2], "sparse").language_model
        forward = list(seen)
        seen.clear()
        parallel.backward(loss, last=True)
    return forward, seen
