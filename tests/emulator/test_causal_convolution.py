"""Causal convolutions: torch's own on whole sequences, which pieces with a cache must give as well."""

import pytest
import torch
from torch.nn import functional

from tests.emulator.same import run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]
INT32 = torch.int32
WEIGHT = torch.tensor([[0.5, -1.0, 0.25, 2.0], [1.0, 0.5, -0.5, 1.0], [2.0, 1.0, 1.0, -1.0]]).half()


def whole(rows, weight=WEIGHT):
    """torch's convolution of `[tokens, channels]`, padded with zeros in front."""
    padded = functional.pad(rows.float().T[None], (2, 0))
    return functional.conv1d(padded, weight.float().T[:, None], groups=rows.shape[1])[0].T


def numbers(*shape):
    """Small whole numbers, so float16 rounds nothing."""
    return torch.randint(-8, 9, shape).half()


def on_device(*values):
    return [torch.tensor(value, dtype=INT32, device="npu") for value in values]


@pytest.mark.parametrize("masked", [False, True])
def test_masked_convolution_and_its_gradients(masked):
    x, weight = numbers(7, 2, 4), WEIGHT.clone()
    mask = torch.rand(2, 7) > 0.4 if masked else None
    found = run("npu_masked_causal_conv1d", x, weight, mask=mask)
    leaves = [x.float().requires_grad_(), weight.float().requires_grad_()]
    expected = torch.stack([whole(leaves[0][:, row], leaves[1]) for row in range(2)], 1)
    expected = expected * mask.T[..., None] if masked else expected
    assert torch.equal(found, expected.half())
    gradient = numbers(7, 2, 4)
    expected.backward(gradient.float())
    for d, leaf in zip(run("npu_masked_causal_conv1d_backward", gradient, x, weight, mask=mask), leaves, strict=True):
        assert torch.equal(d, leaf.grad.half())

    ours = [leaf.detach().half().npu().requires_grad_() for leaf in leaves]
    torch.ops.npu.npu_masked_causal_conv1d(*ours, mask=None if mask is None else mask.npu()).backward(gradient.npu())
    assert all(torch.equal(tensor.grad.cpu(), leaf.grad.half()) for tensor, leaf in zip(ours, leaves, strict=True))


def test_pieces_of_packed_sequences_give_the_whole():
    sequences, lines = [numbers(9, 4), numbers(6, 4)], [2, 0]
    states, pieces = numbers(4, 2, 4).npu(), [[], []]
    untouched = states[[1, 3]].clone()
    for cuts in ([(0, 4), (0, 1)], [(4, 5), (1, 2)], [(5, 9), (2, 6)]):
        parts = [rows[start:end] for rows, (start, end) in zip(sequences, cuts, strict=True)]
        starts, indices, computed = on_device([0, len(parts[0]), sum(map(len, parts))], lines, [cuts[0][0], cuts[1][0]])
        found = torch.ops.npu.npu_fused_causal_conv1d(
            torch.cat(parts).npu(), WEIGHT.npu(), states, query_start_loc=starts, cache_indices=indices,
            num_computed_tokens=computed, residual_connection=1,
        )  # fmt: skip
        for piece, result in zip(pieces, found.cpu().split(list(map(len, parts))), strict=True):
            piece.append(result)
    for rows, found, line in zip(sequences, pieces, lines, strict=True):
        assert torch.equal(torch.cat(found), (whole(rows) + rows.float()).half())
        assert torch.equal(states[line].cpu(), rows[-2:])
    assert torch.equal(states[[1, 3]], untouched)


def test_tokens_that_were_not_accepted_are_forgotten():
    ahead = 2  # tokens guessed beyond the next one, so a line has 2 + 2 rows
    states, rows = torch.zeros(1, 2 + ahead, 4).half().npu(), numbers(3, 4)
    kept, accepted = rows, 3
    torch.ops.npu.npu_fused_causal_conv1d(rows[None].npu(), WEIGHT.npu(), states, num_computed_tokens=on_device([0])[0])
    for next_accepted in (1, 3, 2):
        guessed = numbers(1, 1 + ahead, 4)
        computed, count = on_device([len(kept)], [accepted])
        found = torch.ops.npu.npu_fused_causal_conv1d(
            guessed.npu(), WEIGHT.npu(), states, num_accepted_tokens=count, num_computed_tokens=computed
        )
        assert torch.equal(found[0].cpu(), whole(torch.cat([kept, guessed[0]]))[-3:].half())
        kept, accepted = torch.cat([kept, guessed[0, :next_accepted]]), next_accepted


def test_blocks_keep_the_tokens_before_their_ends():
    rows, size = numbers(11, 4), 4
    states, table = torch.zeros(6, 2, 4).half().npu(), on_device([[5, 1, 3]])[0]
    for start, end in ((0, 6), (6, 11)):
        options = dict(
            zip(
                ("query_start_loc", "num_computed_tokens", "block_idx_first_scheduled_token",
                 "block_idx_last_scheduled_token", "initial_state_idx"),
                on_device([0, end - start], [start], [start // size], [(end - 1) // size], [max(start - 1, 0) // size]),
                strict=True,
            )
        )  # fmt: skip
        found = torch.ops.npu.npu_fused_causal_conv1d(
            rows[start:end].npu(), WEIGHT.npu(), states, cache_indices=table, block_size=size, **options
        )
        assert torch.equal(found.cpu(), whole(rows)[start:end].half())
    for line, end in ((5, 4), (1, 8), (3, 11)):
        assert torch.equal(states[line].cpu(), rows[end - 2 : end])


def test_pangu_resets_rows_without_history_and_the_second_version_writes_in_place():
    rows, history = numbers(5, 4), numbers(1, 2, 4)
    starts, computed = on_device([0, 2, 5], [0, 1])
    states = torch.cat([numbers(1, 2, 4), history]).npu()
    x = rows.npu()
    result = torch.ops.npu.npu_fused_causal_conv1d_v2(
        x, WEIGHT.npu(), states, query_start_loc=starts, num_computed_tokens=computed, conv_mode="pangu"
    )
    assert result is None
    second = whole(torch.cat([history[0], rows[2:]]))[2:]
    second[:1] = 0  # one token was computed before: the first row lacks one
    assert torch.equal(x.cpu(), torch.cat([torch.zeros(2, 4), second]).half())


def test_a_line_that_is_padding_is_left_out_and_wrong_options_are_refused():
    rows, states = numbers(3, 4), numbers(2, 2, 4).npu()
    before = states.clone()
    starts, lines = on_device([0, 3], [-1])
    options = {"query_start_loc": starts, "cache_indices": lines}
    found = torch.ops.npu.npu_fused_causal_conv1d(rows.npu(), WEIGHT.npu(), states, **options)
    assert found.count_nonzero() == 0 and torch.equal(states, before)
    by_blocks = dict.fromkeys(
        (
            "num_computed_tokens",
            "block_idx_first_scheduled_token",
            "block_idx_last_scheduled_token",
            "initial_state_idx",
        ),
        on_device([0])[0],
    )
    for weight, more, reason in (
        (WEIGHT[:2], options, r"weight must be \[3, 4\], got \[2, 4\]"),
        (WEIGHT[:, :1], options, r"weight must be \[3, 4\], got \[3, 1\]"),
        (WEIGHT, {"query_start_loc": on_device([0, 4])[0]}, "query_start_loc ends with 4, of 3 tokens"),
        (WEIGHT, {"query_start_loc": starts, "num_accepted_tokens": on_device([2])[0]}, "must be 1 to 1, got 2"),
        (
            WEIGHT,
            options | by_blocks | {"cache_indices": lines[None], "block_size": 0},
            "block_size must be positive, got 0",
        ),
        (WEIGHT, {}, "query_start_loc is required"),
        (WEIGHT, options | {"conv_mode": "pangu"}, "num_computed_tokens is required"),
        (WEIGHT, options | {"conv_mode": "other"}, "conv_mode must be default or pangu, got other"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            torch.ops.npu.npu_fused_causal_conv1d(rows.npu(), weight.npu(), states, **more)


@pytest.mark.parametrize(
    ("x", "weight", "mask", "reason"),
    [
        ((5, 4), (3, 4), None, "input must have 3 dimensions, got 2"),
        ((5, 2, 4), (3, 1), None, r"weight must be \[3, 4\], got \[3, 1\]"),
        ((5, 2, 4), (3, 4), (1, 5), r"mask must be \[2, 5\], batch and tokens"),
    ],
)
def test_a_masked_convolution_takes_no_shape_that_would_be_repeated(x, weight, mask, reason):
    x, weight = numbers(*x), numbers(*weight)
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=reason):
        run("npu_masked_causal_conv1d", x, weight, mask=mask)
    with pytest.raises(RuntimeError, match=reason):
        run("npu_masked_causal_conv1d_backward", x, x, weight, mask=mask)
