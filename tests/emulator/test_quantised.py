"""torch_npu's quantised operators against plain formulas on the CPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.emulator.same import run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]


def near(found, expected, tolerance=1e-3):
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance, rtol=tolerance)


def nibbles(packed):
    """Signed 4-bit numbers of int32, by numpy."""
    octets = packed.contiguous().numpy().view(np.uint8)
    both = np.stack([octets & 15, octets >> 4], -1).reshape(*packed.shape[:-1], -1).astype(np.int8)
    return torch.from_numpy(np.where(both > 7, both - 16, both))


def hifloat8(code):
    """Value of a HiFloat8 code, field by field."""
    sign, code = -1.0 if code & 128 else 1.0, code & 127
    if code < 8:
        return sign * (2.0 ** (code - 23) if code else 0.0)
    bits = f"{code:07b}"
    prefix = next(p for p in ("0001", "001", "01", "10", "11") if bits.startswith(p))
    size = {"0001": 0, "001": 1, "01": 2, "10": 3, "11": 4}[prefix]
    field, mantissa = bits[len(prefix) : len(prefix) + size], bits[len(prefix) + size :]
    exponent = int("1" + field[1:], 2) * (-1 if field[0] == "1" else 1) if size else 0
    return sign * 2.0**exponent * (1 + int(mantissa, 2) / 2 ** len(mantissa))


def test_hifloat8_has_the_values_of_its_definition_and_rounds_to_the_nearest():
    from longcat.emulator.number_formats import HIFLOAT8, decode, encode

    codes = [code for code in range(256) if code not in (111, 128, 239)]
    values = torch.tensor([hifloat8(code) for code in codes])
    assert decode(torch.tensor(codes, dtype=torch.uint8), 290).tolist() == values.tolist()
    assert encode(values, HIFLOAT8).tolist() == codes
    x = torch.randn(1000) * 50
    error = (decode(encode(x, HIFLOAT8), 290) - x).abs()
    assert torch.equal(error, (values.unsqueeze(0) - x.unsqueeze(1)).abs().amin(1))


@pytest.mark.parametrize("size", [0.0, 2.0**-20, 0.37, 1.0, 448.0, 5e4])
@pytest.mark.parametrize("kind", ["fp8", "fp4"])
def test_shared_exponents_are_the_largest_that_do_not_lose_the_largest_value(size, kind):
    from longcat.emulator.number_formats import FLOAT4_E2M1, FLOAT8_E4M3, decode, encode_blocks, exponents

    form, number = (FLOAT8_E4M3, 24) if kind == "fp8" else (FLOAT4_E2M1, 296)
    x = torch.rand(32) * size
    x[7] = -size
    codes, scales = encode_blocks(x, form)
    back = decode(codes, number) * exponents(scales.flatten()[:1])
    largest = float(x.abs().max())
    assert scales.shape == (1, 2) and int(scales[0, 1]) == 0
    assert int(scales[0, 0]) == (int(np.floor(np.log2(largest))) - form.exponent + 127 if largest else 0)
    step = largest / 4 if kind == "fp4" else largest / 8
    assert float((back - x).abs().max()) <= step


def test_packing_int4_puts_the_first_number_lowest():
    values = torch.randint(-8, 8, (3, 16), dtype=torch.int32)
    assert torch.equal(nibbles(run("npu_convert_weight_to_int4pack", values)), values.to(torch.int8))
    quantised = run("npu_quantize", values.float(), torch.ones(1), None, 16, -1, False)
    assert torch.equal(nibbles(quantised), values.to(torch.int8))


@pytest.mark.parametrize(("number", "dtype"), [(12, torch.qint8), (13, torch.quint8), (14, torch.qint32)])
def test_quantize_is_torchs(number, dtype):
    x, scale, zero = torch.randn(3, 5), torch.rand(5) + 0.1, torch.randint(0, 5, (5,), dtype=torch.int32)
    expected = torch.quantize_per_channel(x, scale, zero, 1, dtype).int_repr()
    assert torch.equal(run("npu_quantize", x, scale, zero, number, 1), expected)


def test_dynamic_quant_finds_scales_after_smoothing_of_groups():
    x, smooth = torch.randn(8, 16).half(), torch.rand(2, 16).half() + 0.5
    codes, scale = run(
        "npu_dynamic_quant", x, smooth_scales=smooth, group_index=torch.tensor([3, 8], dtype=torch.int32)
    )
    whole = x.float() * smooth.float()[[0] * 3 + [1] * 5]
    near(scale, whole.abs().amax(1) / 127)
    near(codes.float() * scale.unsqueeze(1), whole, float(scale.max()) * 0.51)
    zero, one = run("npu_dynamic_quant", torch.zeros(2, 16).half())
    assert (zero == 0).all() and (one == 0).all()


def test_asymmetric_quantisation_uses_the_whole_range():
    x = torch.rand(4, 64).half() + 3
    codes, scale, offset = run("npu_dynamic_quant_asymmetric", x)
    assert (codes.amin(1) == -128).all() and (codes.amax(1) == 127).all()
    near((codes.float() - offset.unsqueeze(1)) * scale.unsqueeze(1), x, float(scale.max()))


def test_blocks_are_quantised_apart():
    x = torch.randn(4, 200).half()
    x[:, 128:] *= 100
    codes, scale = run("npu_dynamic_block_quant", x)
    assert scale.shape == (4, 2)
    near(codes[:, :128].float() * scale[:, :1], x[:, :128], 0.02)


def test_a_scale_for_products_keeps_19_bits_and_the_offset_9():
    scale, offset = torch.tensor([1.2345678]), torch.tensor([-3.4])
    bits = int(run("npu_trans_quant_param", scale, offset)[0])
    assert bits & 0xFFFFFFFF == int(scale.numpy().view(np.uint32)[0]) & 0xFFFFE000
    assert (bits >> 37) & 0x1FF == -3 & 0x1FF and bits >> 46 == 1


@pytest.mark.parametrize("kind", ["columns", "rows", "int8", "batch", "transposed", "int4"])
def test_quantised_products(kind):
    x, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((6, 512), (512, 16)))
    scale, rows = torch.rand(16) * 1e-3, torch.rand(6)
    sums = x.double() @ w.double()
    if kind == "columns":
        bias = torch.randint(-9, 9, (16,), dtype=torch.int32)
        found, expected = run("npu_quant_matmul", x, w, scale, bias=bias, output_dtype=15), (sums + bias) * scale
    elif kind == "rows":
        bias = torch.randn(16)
        found = run("npu_quant_matmul", x, w, scale, pertoken_scale=rows, bias=bias, output_dtype=5)
        expected = sums * scale * rows.unsqueeze(1) + bias
    elif kind == "int8":
        offset, coded = torch.full((16,), 3.0), run("npu_trans_quant_param", scale, torch.full((16,), 3.0))
        found, expected = run("npu_quant_matmul", x, w, coded), (sums * scale + 3).round().clamp(-128, 127)
        assert torch.equal(run("npu_quant_matmul", x, w, scale, offset=offset).float(), expected.float())
        assert (found.float() - expected).abs().max() <= 1  # the scale was cut to 19 bits
        return
    elif kind == "batch":
        found = run("npu_quant_matmul", x.expand(2, 6, 512).contiguous(), w, scale, output_dtype=15)
        expected = (sums * scale).expand(2, 6, 16)
    elif kind == "transposed":
        found = run("npu_quant_matmul", x, w.T.contiguous().npu().T, scale, output_dtype=15)
        expected = sums * scale
    else:
        x4, w4 = (torch.randint(-8, 8, shape, dtype=torch.int32) for shape in ((6, 64), (64, 16)))
        packed = [run("npu_convert_weight_to_int4pack", part) for part in (x4, w4)]
        found = run("npu_quant_matmul", *packed, scale, pertoken_scale=rows, output_dtype=5)
        expected = x4.double() @ w4.double() * scale * rows.unsqueeze(1)
    near(found, expected, 1e-2)


def test_products_with_shared_exponents():
    from longcat.emulator.number_formats import FLOAT8_E4M3, encode_blocks

    x, w = torch.randn(6, 96), torch.randn(96, 16)
    (a, rows), (b, columns) = encode_blocks(x, FLOAT8_E4M3), encode_blocks(w, FLOAT8_E4M3, 0)
    found = run(
        "npu_quant_matmul", a, b, columns, pertoken_scale=rows, scale_dtype=293, pertoken_scale_dtype=293,
        group_sizes=[1, 1, 32], output_dtype=6,
    )  # fmt: skip
    near(found, x @ w, 0.1 * float((x @ w).abs().max()))


@pytest.mark.parametrize("group", [0, 32])
def test_weights_are_scaled_back_before_a_product(group):
    x, w = torch.randn(4, 64).bfloat16(), torch.randint(-128, 128, (64, 16), dtype=torch.int8)
    scale, offset = torch.rand(2 if group else 1, 16).bfloat16(), torch.randn(2 if group else 1, 16).bfloat16()
    found = run("npu_weight_quant_batchmatmul", x, w, scale, offset, antiquant_group_size=group)
    each = 64 // scale.shape[0]
    weight = (w.float() + offset.float().repeat_interleave(each, 0)) * scale.float().repeat_interleave(each, 0)
    near(found, x.float() @ weight, 0.02 * float((x.float() @ weight).abs().max()))


def test_grouped_products_of_int8_and_of_scaled_weights():
    x, w = torch.randint(-9, 9, (8, 16), dtype=torch.int8), torch.randint(-9, 9, (2, 16, 12), dtype=torch.int8)
    columns, rows, ends = torch.rand(2, 12), torch.rand(8), torch.tensor([3, 8])
    options = {"group_list": ends, "group_type": 0, "split_item": 3}
    found = run("npu_grouped_matmul", [x], [w], scale=[columns], per_token_scale=[rows], output_dtype=5, **options)
    each = torch.cat([x[:3].float() @ w[0].float() * columns[0], x[3:].float() @ w[1].float() * columns[1]])
    near(found, each * rows.unsqueeze(1), 1e-2)
    half, scale = torch.randn(8, 16).half(), torch.rand(2, 12).half()
    found = run("npu_grouped_matmul", [half], [w], antiquant_scale=[scale], antiquant_offset=[scale], **options)
    weight = (w.float() + scale.float().unsqueeze(1)) * scale.float().unsqueeze(1)
    near(found, torch.cat([half[:3].float() @ weight[0], half[3:].float() @ weight[1]]), 0.05)


def test_groups_may_name_their_weights_in_any_order():
    x, w = torch.randint(-9, 9, (8, 16), dtype=torch.int8), torch.randint(-9, 9, (3, 16, 12), dtype=torch.int8)
    columns, rows = torch.rand(3, 12), torch.rand(8)
    pairs = torch.tensor([[2, 3], [0, 5], [1, 0]])
    options = {"group_list": pairs, "group_list_type": 2, "group_type": 0, "split_item": 3, "output_dtype": 5}
    found = run("npu_grouped_matmul", [x], [w], scale=[columns], per_token_scale=[rows], **options)
    each = torch.cat([x[:3].float() @ w[2].float() * columns[2], x[3:].float() @ w[0].float() * columns[0]])
    near(found, each * rows.unsqueeze(1), 1e-2)


def swiglu(x):
    first, second = x.chunk(2, -1)
    return F.silu(first) * second


def test_grouped_product_swiglu_and_quantisation_in_one():
    x, w = torch.randint(-9, 9, (8, 16), dtype=torch.int8), torch.randint(-9, 9, (2, 16, 32), dtype=torch.int8)
    columns, rows = torch.rand(2, 32) * 0.1, torch.rand(8)
    sums = torch.cat([x[:3].float() @ w[0].float() * columns[0], x[3:].float() @ w[1].float() * columns[1]])
    expected = swiglu(sums * rows.unsqueeze(1))
    codes, scale = run("npu_grouped_matmul_swiglu_quant_v2", x, [w], [columns], rows, torch.tensor([3, 8]))
    near(codes.float() * scale.unsqueeze(1), expected, float(scale.max()))
    fractal = w.reshape(2, 1, 16, 1, 32).permute(0, 3, 1, 2, 4).contiguous()
    again = run("npu_grouped_matmul_swiglu_quant_v2", x, [fractal], [columns], rows, torch.tensor([3, 8]))
    assert torch.equal(again[0], codes)


def test_experts_outputs_are_added_where_their_tokens_were():
    x, w = torch.randint(-9, 9, (8, 16), dtype=torch.int8), torch.randint(-9, 9, (2, 16, 12), dtype=torch.int8)
    columns, rows, logit = torch.rand(2, 12), torch.rand(8), torch.rand(8)
    where, shared = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), torch.randn(2, 12).bfloat16()
    found = run(
        "npu_grouped_matmul_finalize_routing", x, w, torch.tensor([3, 5]), scale=columns, pertoken_scale=rows,
        logit=logit, row_index=where, shared_input=shared, shared_input_offset=1, output_bs=4,
    )  # fmt: skip
    sums = torch.cat([x[:3].float() @ w[0].float() * columns[0], x[3:].float() @ w[1].float() * columns[1]])
    whole = (sums * (rows * logit).unsqueeze(1)).view(2, 4, 12).sum(0)
    whole[1:3] += shared.float()
    near(found, whole)


@pytest.mark.parametrize("experts", [False, True])
def test_ffn(experts):
    x, w1, w2 = torch.randn(8, 16).half(), torch.randn(2, 16, 24).half() * 0.1, torch.randn(2, 24, 16).half() * 0.1
    if experts:
        found = run("npu_ffn", x, w1, w2, "gelu", expert_tokens=[3, 5])
        rows = [F.gelu(part.float() @ w1[i].float()) @ w2[i].float() for i, part in enumerate((x[:3], x[3:]))]
        near(found, torch.cat(rows), 1e-2)
    else:
        near(run("npu_ffn", x, w1[0], w2[0], "silu"), F.silu(x.float() @ w1[0].float()) @ w2[0].float(), 1e-2)


def normalised(x, gamma):
    return x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-6).sqrt() * gamma.float()


def test_normalisations_that_quantise():
    x, other, gamma = torch.randn(4, 64).half(), torch.randn(4, 64).half(), torch.rand(64).half() + 0.5
    codes = run(
        "npu_rms_norm_quant",
        x,
        gamma,
        torch.zeros(64).half(),
        torch.tensor([0.1]).half(),
        torch.tensor([3], dtype=torch.int8),
    )
    near(codes, (normalised(x, gamma) / torch.tensor(0.1).half().float() + 3).round(), 1)
    first, second, total, scale, _ = run(
        "npu_add_rms_norm_dynamic_quant", x, other, gamma, smooth_scale1=gamma, smooth_scale2=gamma
    )
    near(total, (x.float() + other.float()), 1e-2)
    expected = normalised(x.float() + other.float(), gamma) * gamma.float()
    near(first.float() * scale.unsqueeze(1), expected, float(scale.max()))
    assert torch.equal(first, second)


def test_activations_that_quantise():
    x = torch.randn(8, 32)
    codes, scale = run("npu_swiglu_quant", x, activate_left=True, quant_mode=1, dst_type=torch.int8)
    near(codes.float() / scale.unsqueeze(1), swiglu(x), 1 / float(scale.min()))
    sums, columns, rows = torch.randint(-99, 99, (8, 32), dtype=torch.int32), torch.rand(1, 32), torch.rand(8, 1)
    codes, scale = run(
        "npu_dequant_swiglu_quant", sums, weight_scale=columns, activation_scale=rows, activate_left=True, quant_mode=1
    )
    near(codes.float() * scale.unsqueeze(1), swiglu(sums * columns * rows), float(scale.max()))
    codes, scale = run("npu_gelu_quant", x, dst_type=1)
    near(codes.float() * scale.unsqueeze(1), F.gelu(x), float(scale.max()))


def test_convolution_of_int8():
    x, w = torch.randint(-9, 9, (2, 4, 8, 8), dtype=torch.int8), torch.randint(-9, 9, (6, 4, 3, 3), dtype=torch.int8)
    scale = torch.rand(6) * 0.1
    coded = run("npu_trans_quant_param", scale)
    found = run("npu_quant_conv2d", x, w, coded, [2, 2], [1, 1], output_dtype=5)
    near(found, F.conv2d(x.float(), w.float(), None, 2, 1) * scale.view(-1, 1, 1), 1e-2)


def test_quantised_updates_are_written_where_indices_say():
    cache, updates, scale = torch.zeros(2, 8, 32, dtype=torch.int8), torch.randn(2, 3, 32).half(), torch.rand(32) + 0.1
    found = run("npu_quant_scatter", cache, torch.tensor([1, 4], dtype=torch.int32), updates, scale)
    expected = cache.clone()
    codes = (updates.float() / scale).round().clamp(-128, 127).to(torch.int8)
    expected[0, 1:4], expected[1, 4:7] = codes[0], codes[1]
    assert torch.equal(found, expected)


X8 = torch.ones(4, 16, dtype=torch.int8)


@pytest.mark.parametrize(
    ("operator", "arguments", "options", "reason"),
    [
        ("npu_quantize", (torch.ones(4, 6), torch.ones(1), None, 16, -1, False), {}, "divi"),
        ("npu_quantize", (torch.ones(4, 6), torch.ones(5), None, 12, 1), {}, "scales must have"),
        ("npu_quantize", (torch.ones(4, 6), torch.ones(1), None, 11, 1), {}, "no quantised type"),
        ("npu_dynamic_quant", (torch.ones(4, 6),), {}, "float16 or bfloat16"),
        ("npu_dynamic_quant", (torch.ones(4, 6).half(),), {"quant_mode": "peruse"}, "quant_mode"),
        ("npu_anti_quant", (X8, torch.ones(3)), {}, "scale must have shape"),
        ("npu_trans_quant_param", (torch.ones(3, 2),), {}, "scale shape"),
        ("npu_quant_matmul", (X8, torch.ones(8, 4, dtype=torch.int8), torch.ones(4)), {"output_dtype": 15}, "k dim"),
        ("npu_quant_matmul", (X8, X8.T.contiguous(), torch.ones(3)), {"output_dtype": 15}, "scale 1st dim"),
        ("npu_quant_matmul", (X8, X8.T.contiguous(), torch.ones(4)), {"output_dtype": 5, "offset": torch.ones(4)}, "int8"),
        ("npu_grouped_matmul", ([], []), {}, "no tensor arguments"),
        ("npu_grouped_matmul", ([X8], [X8]), {"group_list": torch.tensor([4])}, "manual passing group_type"),
        ("npu_grouped_matmul", ([X8], [X8]), {"group_list": torch.tensor([4]), "group_type": 3}, "The group type must be"),
        ("npu_ffn", (torch.ones(4, 8).half(), torch.ones(8, 8).half(), torch.ones(8, 8).half(), "tanh"), {}, "activation"),
        ("npu_dynamic_mx_quant", (torch.ones(4, 64).half(),), {"block_size": 33}, "block_size"),
        ("npu_convert_weight_to_int4pack", (torch.ones(4, 6, dtype=torch.int32),), {}, "divisible by 8"),
        ("npu_rms_norm_quant", (torch.ones(4, 6), torch.ones(6).half(), torch.ones(6), torch.ones(1), torch.ones(1)), {},
         "gamma must be float32"),
        ("npu_swiglu_quant", (torch.ones(4, 6),), {"quant_mode": 7, "dst_type": torch.int8}, "quant_mode"),
    ],
)  # fmt: skip
def test_what_a_device_refuses_is_refused_here(operator, arguments, options, reason):
    with pytest.raises(RuntimeError, match=reason):
        run(operator, *arguments, **options)
