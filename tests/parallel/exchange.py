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
from tests.parallel.parity import EVERYTHING, loss_of
from tests.parallel.whole import gather_whole, whole_tensor

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
    """A model whose parts are spread over processes, the same as a parallel one, and a batch: all rows, and this process' own."""
    spread = whole_model(case)
    tokens = torch.randint(3, 512, (4, 33), generator=torch.Generator().manual_seed(0))
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(4, 32, dtype=torch.long)
    if case in ("everything", "recompute"):
        for row, end in enumerate((32, 20, 30, 9)):
            batch[2][row, end // 2 :] = 1
            batch[2][row, end:], batch[1][row, end - 1 :] = PADDING, IGNORE
    use_recomputation(spread, "full" if case == "recompute" else "none")
    parallel = parallelize(spread, mesh, compute, settings=ParallelConfig(**settings))
    return spread, parallel, batch, [of[mesh.batch_rank :: mesh.batch_world] for of in batch]


def whole_model(case=""):
    """The model of one process."""
    model = LongcatModel(load_config("smoke", overrides=WIDE + (WITH_EVERYTHING if case == "everything" else [])).model)
    model.initialize(0)
    starved = {"starve": 4, "zero": 8}  # no token chooses an expert of the first process and some others; any of the 8
    for layer in model.blocks:
        layer.mlp.router.e_score_correction_bias[: starved.get(case, 0)] = -10
    return model


def parity(mesh, settings, case):
    """Loss, gradients and loads are those of one process with the whole batch."""
    spread, parallel, batch, own = models(mesh, settings, case)
    counts = Counts(*(torch.tensor(int(n)) for n in ((~is_padding(batch[2])).sum(), (batch[1] != IGNORE).sum())))
    for _ in range(2):  # the second time over gradients that are there
        loss = loss_of(parallel, own, counts)
        parallel.backward(loss, last=True)
    total = loss.detach().clone()
    dist.all_reduce(total)
    gradients = gather_whole({name: of.grad for name, of in spread.named_parameters()}, mesh)
    with torch.no_grad():
        load = parallel.sums(own[0], own[1], "sparse", own[2]).router_load
        dist.all_reduce(load)
    if mesh.rank > 0:
        return
    whole = whole_model(case)
    for _ in range(2):
        expected = loss_of(whole, batch, counts)
        expected.backward()
    torch.testing.assert_close(total, expected.detach(), rtol=1e-6, atol=0)
    named = dict(whole.named_parameters())
    assert gradients.keys() == named.keys()
    for name, found in gradients.items():
        largest = named[name].grad.abs().max()
        difference = (found - named[name].grad).abs().max()
        assert difference <= 3e-6 * largest, (name, float(difference), float(largest))
    with torch.no_grad():
        assert torch.equal(load, whole.sums(batch[0], batch[1], "sparse", batch[2]).router_load)


def in_bf16(mesh, settings):
    """Loss and gradients of the whole model that computes in bf16, as far apart as the type from those in fp32."""
    results = []
    for compute in (torch.float32, torch.bfloat16):
        spread, parallel, _, own = models(mesh, settings, compute=compute)
        loss = parallel.sums(*own[:2], "sparse").language_model / 128
        parallel.backward(loss, last=True)
        results.append([float(loss)] + [whole_tensor(of.grad).flatten() for of in spread.parameters()])
    (loss, *exact), (rounded_loss, *rounded) = results
    assert rounded_loss != loss
    assert abs(rounded_loss / loss - 1) < 0.01
    return [float(torch.cosine_similarity(a, b, 0)) for a, b in zip(exact, rounded, strict=True) if a.any()]


def reads(mesh, settings):
    """Reads of the host in the forward pass, and in the backward pass."""
    _, parallel, _, own = models(mesh, settings)
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

    _, parallel, _, own = models(mesh, settings)
    whole, chosen = whole_model(), []
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

    spread, parallel, _, own = models(mesh, settings)
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
