"""The host reads a layer's counts once, and nothing else of what the device computes."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.plan import count, plan
from longcat.model.recomputation import use_recomputation
from longcat.ops.registry import OperatorSettings
from tests.host_reads import HostReads


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("references", [(), ("grouped_matmul", "permute", "combine")])
def test_one_read_a_layer(recompute, references):
    config = load_config("smoke").model
    model = LongcatModel(config, OperatorSettings(references))
    model.initialize(0)
    use_recomputation(model, "full" if recompute else "none")
    tokens = torch.randint(3, 512, (2, 33), generator=torch.Generator().manual_seed(0))
    with HostReads() as forward:
        loss = model.sums(tokens[:, :-1], tokens[:, 1:]).language_model
    assert forward.reads == {"tolist": config.num_layers}
    with HostReads() as backward:
        loss.backward()
    assert backward.reads == ({"tolist": config.num_layers} if recompute else {})


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tolist", lambda x: x.tolist()),
        ("_local_scalar_dense", lambda x: int(x.sum())),
        ("_local_scalar_dense", lambda x: x.sum().item()),
        ("_local_scalar_dense", lambda x: bool(x.sum() > 2)),
        ("bincount", lambda x: x.bincount()),
        ("numpy", lambda x: x.numpy()),
        ("nonzero", lambda x: x.nonzero()),
        ("index", lambda x: x[x > 1]),
        ("repeat_interleave", lambda x: x.repeat_interleave(x)),
    ],
)
def test_reads_are_seen(name, read):
    with HostReads() as seen:
        read(torch.tensor([1, 2, 3]))
    assert seen.reads[name]


def test_a_hidden_read_in_the_backward_pass_is_seen():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.tolist()[0]

    loss = Reads.apply(torch.ones(2, requires_grad=True)).sum()
    with HostReads() as seen:
        loss.backward()
    assert seen.reads == {"tolist": 1}


@pytest.mark.parametrize("numbers", [[], [0, 3, 3, 1, 0, 3], [5]])
def test_counts_are_those_of_bincount(numbers):
    numbers = torch.tensor(numbers, dtype=torch.long)
    assert torch.equal(count(numbers, 6), numbers.bincount(minlength=6))
    counts = plan(count(numbers, 6), numbers.numel())
    assert counts.host == counts.device.tolist()
    assert counts.rows == len(numbers)
