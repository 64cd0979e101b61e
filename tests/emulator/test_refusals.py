"""Operators refuse what the wheel's documentation excludes, by name, where plain torch would compute it."""

import re

import pytest
import torch

from tests.emulator.same import run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]
WHOLE, HALF, BRAIN, LONG = torch.int32, torch.float16, torch.bfloat16, torch.int64


def t(*shape, dtype=torch.float32):
    return torch.randn(shape).mul(4).to(dtype)


def ints(*values, dtype=WHOLE):
    return torch.tensor(values, dtype=dtype)


def turned(*shape, last=64, mode="half", dtype=torch.float32, table=torch.float32):
    return "npu_rotary_mul", (t(2, 5, 3, last, dtype=dtype), t(*shape, dtype=table), t(*shape, dtype=table), mode)


def in_place(layout="BSND", mode="half", size=64, key=HALF):
    shapes = ((2, 4, 3, size), (2, 4, 2, size), (2, 4, 1, size), (2, 4, 1, size))
    given = [t(*shape, dtype=dtype) for shape, dtype in zip(shapes, (HALF, key, HALF, HALF), strict=True)]
    return "npu_apply_rotary_pos_emb", given, {"layout": layout, "rotary_mode": mode}


def grouped(x=BRAIN, weight=BRAIN, group_list=(3, 8), rows=8, bias=None, width=6, **options):
    ends = ints(*group_list, dtype=LONG) if isinstance(group_list, tuple) else group_list
    given = {"bias": bias, "group_list": ends, "split_item": 3, "group_type": 0, **options}
    return "npu_grouped_matmul", ([t(rows, 4, dtype=x)], [t(2, 4, width, dtype=weight)]), given


def loss(target=(1, 2), **options):
    return "npu_cross_entropy_loss", (t(2, 5), ints(*target, dtype=LONG)), options


def step(grad=torch.float32, shape=(3,)):
    values = (0.9, 0.99, 1e-3, 0.1, 0.9, 0.99, 1e-8, t(*shape, dtype=grad), None, False, False)
    return "npu_apply_adam_w", values, {"out": [t(3), t(3), t(3).abs()]}


REFUSED = {
    "input must be bfloat16 or float16 or float32, got torch.int32": ("npu_rms_norm", (ints(1, 2), ints(1, 2))),
    "gamma must be float32 or float32, got torch.float16": ("npu_rms_norm", (t(2, 4), t(4, dtype=HALF))),
    "x1 must be bfloat16 or float16 or float32": ("npu_add_rms_norm", (ints(1, 2), ints(1, 2), ints(1, 2))),
    "npu_swiglu: input must be bfloat16": ("npu_swiglu", (ints(1, 2, 3, 4),)),
    "npu_gemma_rms_norm: input must be": ("npu_gemma_rms_norm", (ints(1, 2), ints(1, 2))),
    "the last size must be even and below 896, got 63": turned(1, 5, 1, 63, last=63),
    "below 896, got 1024": turned(1, 5, 1, 1024, last=1024),
    "r1 [1, 1, 1, 64] does not go with input [2, 5, 3, 64]": turned(1, 1, 1, 64),
    "r1 [1, 5, 3, 64] does not go": turned(1, 5, 3, 64),
    "r1 [2, 5, 1, 64] does not go": turned(2, 5, 1, 64, mode="interleave"),
    "r1 [1, 5, 1, 32] does not go": turned(1, 5, 1, 32),
    "npu_rotary_mul: input must be bfloat16": turned(1, 5, 1, 64, dtype=WHOLE),
    "rotary_mode must be half, got interleave": in_place(mode="interleave"),
    "layout must be BSND or TND, got BNSD": in_place(layout="BNSD"),
    "query must have 3 dimensions in TND": in_place(layout="TND"),
    "the last size of query must be 64 or 128, got 32": in_place(size=32),
    "key must be float16, got torch.bfloat16": in_place(key=BRAIN),
    "x must be bfloat16 or float16, got": ("npu_interleave_rope", (t(1, 2, 3, 64), t(1, 1, 3, 64), t(1, 1, 3, 64))),
    "x must be [batch, heads, tokens, 64]": ("npu_interleave_rope", [t(1, 1, 3, 32, dtype=HALF)] * 3),
    "skip1 must be float32, got torch.float16": (
        "npu_moe_finalize_routing",
        (t(4, 6), t(2, 6, dtype=HALF), None, None, t(2, 2), ints(0, 1, 2, 3), ints(0, 1, 1, 0).view(2, 2)),
    ),
    "groups have more than 2 experts": ("npu_moe_gating_top_k", (t(3, 4), 2), {"k_group": 1, "group_count": 2}),
    "renorm is 0, found 1": ("npu_moe_gating_top_k", (t(3, 4), 2), {"renorm": 1}),
    "norm_type is 0 or 1, found 2": ("npu_moe_gating_top_k", (t(3, 4), 2), {"norm_type": 2}),
    "tokens have 2 dimensions, found 3": ("npu_moe_token_permute", (t(2, 3, 4), ints(1, 0))),
    "indices must be int32 or int64": ("npu_moe_token_permute", (t(2, 4), t(2, 2))),
    "indices are of 3 tokens, found [2]": ("npu_moe_token_permute", (t(3, 4), ints(1, 0))),
    "tokens must be float16": ("npu_moe_token_permute", (t(2, 4, dtype=torch.int8), ints(1, 0))),
    "probs are of 4 choices, found [2, 3]": ("npu_moe_token_unpermute", (t(4, 6), ints(0, 1, 2, 3), t(2, 3))),
    "does not decrease": ("npu_moe_compute_expert_tokens", (ints(0, 2, 1), 3)),
    "weight must be float32, got torch.float16": grouped(x=torch.float32, weight=HALF),
    "group_list must be int64, got torch.int32": grouped(group_list=ints(3, 8)),
    "group_type 0 needs group_list": grouped(group_list=None),
    "split_item must be 0 to 3, got 5": grouped(split_item=5),
    "bias must be float32, got torch.bfloat16": grouped(bias=[t(2, 6, dtype=BRAIN)]),
    "groups must not end before they begin": grouped(group_list=(8, 3)),
    "groups end at 9, and x has 8 rows": grouped(group_list=(3, 9)),
    "last sizes must be below 65536, got 65536": grouped(width=65536),
    "group_list_type must be 0 or 1": grouped(group_list=ints(0, 3, 1, 5, dtype=LONG).view(2, 2), group_list_type=2),
    "npu_grouped_matmul: ": ("npu_grouped_matmul", ([t(8, 5)], [t(2, 4, 6)]), grouped()[2]),
    "every target must be within 0 and 4": loss(target=(1, -100)),
    "ignore_index must be below the 5 classes, got 5": loss(ignore_index=5),
    "grad must be float32, got torch.float16": step(grad=HALF),
    "all tensors must have var's shape": step(shape=(4,)),
    "weight must be float16 or float32, got torch.bfloat16": (
        "npu_group_norm_silu", (t(2, 4, 3, dtype=HALF), t(4, dtype=BRAIN), t(4, dtype=BRAIN), 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    operator, given, *options = REFUSED[message]
    with pytest.raises(RuntimeError, match=re.escape(message)) as caught:
        run(operator, *given, **(options[0] if options else {}))
    assert operator in str(caught.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"weight": t(5).abs()}, "weight"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"ignore_index": 3}, "ignore_index"),
    ],
)
def test_a_mean_loss_has_gradients_of_plain_options_alone(given, name):
    import torch_npu

    logits = t(2, 5).npu().requires_grad_()
    options = {key: value.npu() if isinstance(value, torch.Tensor) else value for key, value in given.items()}
    value = torch_npu.npu_cross_entropy_loss(logits, ints(1, 2, dtype=LONG).npu(), **options)[0]
    with pytest.raises(RuntimeError, match=f"{name} has no gradient with reduction mean"):
        value.sum().backward()


@pytest.mark.parametrize(
    "shape", [(1, 5, 1, 64), (2, 5, 1, 64), (2, 5, 3, 64), (1, 1, 3, 64), (2, 1, 3, 64), (2, 1, 1, 64)]
)
def test_tables_of_cosines_share_heads_or_batch_and_heads(shape):
    operator, given = turned(*shape)
    assert run(operator, *given).shape == (2, 5, 3, 64)
