"""Sample inputs of torch_npu's own operators, by the names of their references; whoever adds a reference adds some."""

import torch

HALF, BF16, FLOAT = torch.float16, torch.bfloat16, torch.float32
INT8, INT32, INT64, UINT8 = torch.int8, torch.int32, torch.int64, torch.uint8
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
HIFLOAT8, E8M0, FLOAT4 = 290, 293, 296

_generator = torch.Generator().manual_seed(0)


def t(*shape, dtype=HALF, low=-8, high=8):
    """A tensor: normal numbers, or whole ones between two limits."""
    if dtype in (UINT8, torch.bool):
        return torch.randint(0, 2, shape, generator=_generator).to(dtype)
    if not dtype.is_floating_point:
        return torch.randint(low, high, shape, generator=_generator).to(dtype)
    return torch.randn(shape, generator=_generator).to(dtype)


def ints(*values, dtype=INT64):
    return torch.tensor(values, dtype=dtype)


def call(*arguments, **options):
    return arguments, options


def packed(*shape):
    return t(*shape, dtype=INT32, low=-(2**31), high=2**31 - 1)


def order(count):
    return torch.randperm(count, generator=_generator)


def experts(*shape):
    return t(*shape, dtype=INT32, low=0, high=8)


def _unpermute_map():
    return call(t(6, 16), order(6).int(), [3, 16], probs=t(3, 2), routing_map=torch.ones(3, 2, dtype=torch.bool))


def _quant_matmul():
    x, w, columns, rows = t(4, 16, dtype=INT8), t(16, 24, dtype=INT8), t(24, dtype=FLOAT), t(4, dtype=FLOAT)
    coded = ints(*[1065353216 | 1 << 46] * 24)
    fp8 = t(4, 64, dtype=E4M3), t(64, 24, dtype=E4M3)
    return [
        call(x, w, columns, output_dtype=15),
        call(x, w, coded, output_dtype=5),
        call(x, w, coded, bias=t(24, dtype=INT32)),
        call(x, w, columns, offset=t(24, dtype=FLOAT)),
        call(x, w, columns, pertoken_scale=rows, bias=t(24, dtype=HALF), output_dtype=5),
        call(x, w, columns, output_dtype=3),
        call(t(2, 4, 16, dtype=INT8), t(2, 16, 24, dtype=INT8), t(24, dtype=BF16), output_dtype=15),
        call(packed(4, 2), packed(16, 3), coded, output_dtype=5),
        call(packed(4, 2), packed(24, 2).T, columns, pertoken_scale=rows, output_dtype=15),
        call(t(4, 256, dtype=INT8), packed(256, 3), ints(*[1065353216] * 24).reshape(1, 24),
             offset=t(24, dtype=FLOAT), pertoken_scale=t(4, 1, dtype=FLOAT), output_dtype=5),
        call(*fp8, columns, pertoken_scale=rows, output_dtype=6),
        call(*fp8, t(1, 24, 2, dtype=UINT8), pertoken_scale=t(4, 1, 2, dtype=UINT8), scale_dtype=E8M0,
             pertoken_scale_dtype=E8M0, output_dtype=15, group_sizes=[1, 1, 32]),
        call(t(4, 32, dtype=UINT8), t(24, 32, dtype=UINT8).T, t(1, 24, 2, dtype=UINT8), x1_dtype=FLOAT4, x2_dtype=FLOAT4,
             pertoken_scale=t(4, 1, 2, dtype=UINT8), scale_dtype=E8M0, pertoken_scale_dtype=E8M0, output_dtype=15, group_sizes=[1, 1, 32]),
        call(t(4, 16, dtype=UINT8), t(16, 24, dtype=UINT8), columns, x1_dtype=HIFLOAT8, x2_dtype=HIFLOAT8,
             output_dtype=15),
        call(t(128, 256, dtype=E5M2), t(256, 128, dtype=E5M2), t(2, 1, dtype=FLOAT), pertoken_scale=t(1, 2, dtype=FLOAT),
             group_sizes=[128, 128, 128], output_dtype=6),
    ]  # fmt: skip


def _grouped_matmul():
    ends = ints(3, 8)
    x, w = t(8, 16), t(2, 16, 24)
    q, qw = t(8, 16, dtype=INT8), t(2, 16, 24, dtype=INT8)
    options = {"group_list": ends, "split_item": 3, "group_type": 0}
    return [
        call([x], [w], **options),
        call([x], [w], bias=[t(2, 24)], group_list=ints(3, 5), split_item=2, group_type=0, group_list_type=1),
        call([t(16, 8)], [t(8, 24)], group_list=ends, split_item=3, group_type=2),
        call([t(3, 16), t(5, 8)], [t(16, 24), t(8, 24)], group_type=-1),
        call([x], [t(2, 16, 24, dtype=INT8)], antiquant_scale=[t(2, 24)], antiquant_offset=[t(2, 24)], **options),
        call([q], [qw], scale=[t(2, 24, dtype=FLOAT)], bias=[t(2, 24, dtype=INT32)], output_dtype=5, **options),
        call([q], [qw], scale=[t(2, 24, dtype=INT64)], **options),
        call([q], [qw], scale=[t(2, 24, dtype=BF16)], per_token_scale=[t(8, dtype=FLOAT)], output_dtype=15, act_type=5,
             **options),
        call([q], [packed(2, 16, 3)], scale=[t(2, 1, 24, dtype=INT64)], bias=[t(2, 24, dtype=FLOAT)],
             per_token_scale=[t(8, 1, dtype=FLOAT)], output_dtype=5, **options),
        call([t(8, 64, dtype=E4M3)], [t(2, 64, 24, dtype=E4M3)], scale=[t(2, 1, 24, 2, dtype=UINT8)],
             per_token_scale=[t(8, 1, 2, dtype=UINT8)], scale_dtype=E8M0, per_token_scale_dtype=E8M0, output_dtype=15,
             **options),
    ]  # fmt: skip


def _swiglu_quant():
    ends, columns, rows = ints(3, 8), t(2, 64, dtype=FLOAT), t(8, dtype=FLOAT)
    x = t(8, 32, dtype=INT8)
    mx = {"weight_scale_dtype": E8M0, "x_scale_dtype": E8M0, "dequant_mode": 2, "quant_mode": 2}
    return [
        call(x, [t(2, 32, 64, dtype=INT8)], [columns], rows, ends),
        call(x, [packed(2, 32, 8)], [t(2, 64, dtype=INT64)], rows, ends, weight_assist_matrix=[columns]),
        call(packed(8, 4), [packed(2, 32, 8)], [columns], rows, ends, smooth_scale=t(2, 32, dtype=FLOAT)),
        call(t(8, 64, dtype=E4M3), [t(2, 64, 256, dtype=E4M3)], [t(2, 1, 256, 2, dtype=UINT8)],
             t(8, 1, 2, dtype=UINT8), ends, quant_dtype=24, **mx),
    ]  # fmt: skip


def _attention(**options):
    qkv = [t(2, 4, 16, 8), t(2, 2, 16, 8), t(2, 2, 16, 8)]
    return call(*qkv, 4, "BNSD", scale=0.3, **options)


def _kv_cache(mode, quantised=False):
    cache = {"dtype": INT8} if quantised else {}
    scales = {"k_rope_scale": t(64, dtype=FLOAT), "c_kv_scale": t(512, dtype=FLOAT)} if quantised else {}
    shape = (2, 1, 8) if mode == "Norm" else (4, 32, 1)
    caches = t(*shape, 64, **cache), t(*shape, 512, **cache)
    index = ints([0, 1, 2], [3, 4, 5]) if mode == "Norm" else ints(0, 32) if "BLK" in mode else ints(*range(6))
    rotary = t(2, 1, 3, 64), t(2, 1, 3, 64)
    return call(t(2, 1, 3, 576), t(512), *rotary, index, *caches, cache_mode=mode, is_output_kv=True, **scales)


def _kv_caches():
    modes = ("Norm", "PA", "PA_NZ", "PA_BLK_BNSD", "PA_BLK_NZ")
    return [_kv_cache(mode, quantised) for mode in modes for quantised in (False, True)]


def _qkv(output):
    caches = t(4, 16 * 2 // 16, 16, 16), t(4, 16 * 2 // 16, 16, 16)
    return call(t(3, 8 * 16), t(16), t(16), t(3, 16), t(3, 16), ints(0, 1, 2), t(3, 64), *caches, [1, 3, 8, 16],
                [4, 2, 2], is_output_qkv=output)  # fmt: skip


def _rope_cache(x, **options):
    caches = t(2, 8, 2, 16, dtype=INT8), t(2, 8, 2, 16, dtype=INT8)
    factors = t(2, 3, 1, 16), t(2, 3, 1, 16)
    scales = t(2, 16, dtype=FLOAT), t(2, 16, dtype=FLOAT)
    return call(x, *factors, *caches, ints(0, 2, dtype=INT32), *scales, [64, 32, 32], **options)


def _scatter(key, mode):
    shape = (4, 4, 16, 16) if mode == "PA_NZ" else (4, 16, 4, 16)
    return call(key, t(*key.shape), t(*shape), t(*shape), ints(0, 17, 33, dtype=INT32), cache_mode=mode)


def _mla_preprocess(mode):
    natural = mode == "krope_ctkv"
    caches = (
        t(4, 16, 1, 512) if natural else t(4, 16, 16, 32, dtype=INT8),
        t(4, 16, 1, 64) if natural else t(4, 4, 16, 16),
    )
    scales = {} if natural else {"ctkv_scale": t(1), "q_nope_scale": t(2)}
    return call(
        t(3, 32), t(32), t(32), t(2112, 32, dtype=INT8), t(2112, dtype=FLOAT), t(1536), t(1536),
        t(384, 1536, dtype=INT8), t(384, dtype=FLOAT), t(512), t(3, 64), t(3, 64), t(2, 128, 512), *caches,
        ints(0, 5, 17, dtype=INT32), cache_mode=mode, **scales,
    )  # fmt: skip


def _unpermute():
    return call(t(8, 16), order(8).int(), torch.rand(4, 2, generator=_generator).half())


_NORM = (t(4, 16), t(4, 16), t(16))


def _block_sparse(backward=False):
    shape, named = [16, 128], {"num_key_value_heads": 2, "scale_value": 0.125}
    q, k, v = t(2, 4, 40, 64), t(2, 2, 200, 64), t(2, 2, 200, 64)
    chosen = torch.ones(2, 4, 3, 2, dtype=INT8)
    if backward:
        return call(q, q, k, v, q, t(2, 4, 40, 1, dtype=FLOAT), chosen, shape, None, None, "BNSD", "BNSD", 2, 0.125)
    return call(q, k, v, chosen, shape, q_input_layout="BNSD", kv_input_layout="BNSD", softmax_lse_flag=1, **named)


def _delta_rule(*state, **options):
    query, key, value = t(5, 2, 8, dtype=BF16), t(5, 2, 8, dtype=BF16), t(5, 4, 6, dtype=BF16)
    named = {"beta": t(5, 4, dtype=BF16), "g": -t(5, 4, dtype=FLOAT).abs(), "scale": 0.5}
    return call(query, key, value, *state, actual_seq_lengths=ints(3, 2, dtype=INT32), **named, **options)


def _floyd(backward=False):
    row, pair = (1, 1, 16, 128, 32), (1, 1, 128, 128, 32)
    inputs = [t(*row), t(*row), t(*row), t(*pair), t(*pair)]
    statistics = [torch.ones(1, 1, 16, 128, 8) for _ in range(2)]
    return call(t(*row), *inputs, t(*row), *statistics, scale_value=0.2) if backward else call(*inputs, scale_value=0.2)


def _indexer_loss(sparse):
    index = [t(2, 6, 8, 128), t(2, 6, 1, 128), t(2, 6, 8, dtype=FLOAT)]
    rows = [torch.ones(2, 4, 6, 1) for _ in range(2)]
    extra = [torch.zeros(2, 6, 1, 3, dtype=INT32)] if sparse else []
    sums = [] if sparse else [torch.ones(2, 1, 6) for _ in range(2)]
    return call(t(2, 6, 4, 16), t(2, 6, 4, 16), *index, *extra, *rows, *sums, 0.25)


def _prolog(version):
    tokens, width, latent, heads, size, rotary, keys = 3, 7168, 1536, 2, 128, 64, 512
    shapes = [(1, tokens, width), (width, latent), (latent, heads * (size + rotary)), (heads, size, keys),
              (width, keys + rotary), (latent,), (keys,), (1, tokens, rotary), (1, tokens, rotary)]  # fmt: skip
    given, caches = [t(*shape, dtype=BF16) for shape in shapes], [t(2, 16, 1, n, dtype=BF16) for n in (keys, rotary)]
    index = ints([17, 18, 3])
    return call(*given, *caches, cache_index=index) if version == 3 else call(*given, index, *caches)


def _multi_head(backward=False):
    batch, heads, size, tokens = 2, 2, 16, 16
    width, scores = heads * size, (batch, heads, tokens, tokens)
    rows, weights = [t(batch * tokens, width) for _ in range(3)], [t(width, width) for _ in range(4)]
    biases, numbers = [t(width) for _ in range(4)], (heads, size, tokens, tokens, 0.0, True)
    if not backward:
        return call(*rows, *weights[:3], t(*scores), weights[3], *biases, None, *numbers)
    kept = [t(batch, heads, tokens, size) for _ in range(3)]
    mask = torch.full((batch * heads * tokens * tokens // 8,), 255, dtype=UINT8)
    return call(*rows, *weights, *biases, *kept, t(*scores, dtype=FLOAT), t(*scores), t(batch * tokens, width),
                t(batch * tokens, width), mask, *numbers)  # fmt: skip


_PLACES = ints(2, 0, 1, 5, 3, dtype=INT32)
_PACKED = [t(6, 2, 8) for _ in range(3)]
_STATISTICS = [torch.ones(2, 1, 6, 8) for _ in range(2)]
_BY_TOKENS = [torch.ones(6, 2, 8) for _ in range(2)]
_HEADS = [t(2, 2, 32, 16) for _ in range(3)]

SAMPLES = {
    # quantisation
    "npu_quantize": [
        *(call(t(4, 16), t(16, dtype=FLOAT), t(16, dtype=INT32), dtype, -1) for dtype in (12, 13, 3)),
        *(call(t(4, 16), t(16), t(16), dtype, -1, False) for dtype in (12, 16, HIFLOAT8, 23, 24)),
    ],
    "npu_group_quant": [
        call(t(8, 16), t(2, 16), ints(3, 8, dtype=INT32), offset=t(1), dst_dtype=dtype)
        for dtype in (torch.qint8, torch.quint4x2)
    ],
    "npu_dynamic_quant": [
        *(call(t(2, 4, 16), dst_type=dtype) for dtype in (None, 1, 16, 23, 24, HIFLOAT8)),
        call(t(2, 4, 16), smooth_scales=t(16)),
        call(t(8, 16), smooth_scales=t(2, 16), group_index=ints(3, 8, dtype=INT32)),
        call(t(2, 4, 16), smooth_scales=t(4), quant_mode="perchannel"),
        call(t(2, 4, 16), quant_mode="pertensor"),
    ],
    "npu_dynamic_quant_asymmetric": [
        *(call(t(2, 4, 16, dtype=BF16), dst_type=dtype) for dtype in (None, 1, 16)),
        call(t(2, 4, 16), quant_mode="perchannel"),
        call(t(2, 4, 16), quant_mode="pertensor"),
    ],
    "npu_dynamic_block_quant": [call(t(5, 200)), call(t(2, 5, 200), dst_type=292, row_block_size=2)],
    "npu_grouped_dynamic_block_quant": [call(t(8, 200), ints(3, 8, dtype=INT32))],
    "npu_dynamic_mx_quant": [
        call(t(3, 70, 40), axis=axis, dst_type=dtype) for axis in (-1, 1, 0) for dtype in (FLOAT4, 297, 23, 24)
    ],
    "npu_dynamic_mx_quant_with_dual_axis": [call(t(3, 70, 40), dst_type=dtype) for dtype in (FLOAT4, 24)],
    "npu_dynamic_block_mx_quant": [call(t(3, 70, 40), dst_type=dtype) for dtype in (FLOAT4, 24)],
    "npu_dynamic_dual_level_mx_quant": [call(t(3, 600, dtype=BF16))],
    "npu_grouped_dynamic_mx_quant": [call(t(100, 6), ints(30, 100, dtype=INT32), dst_type=d) for d in (23, FLOAT4)],
    "npu_quant_max": [
        call(t(4, 16), t(1, dtype=FLOAT)),
        call(t(4, 16), t(2, dtype=FLOAT), dst_dtype=HIFLOAT8, group_list=ints(1, 4)),
    ],
    "npu_anti_quant": [
        call(t(4, 16, dtype=INT8), t(16, dtype=FLOAT), offset=t(16, dtype=FLOAT)),
        call(packed(4, 2), t(16, dtype=FLOAT), dst_dtype=15),
        call(t(4, 16, dtype=E4M3), t(1, dtype=FLOAT), dst_dtype=5),
    ],
    "npu_anti_mx_quant": [
        call(t(3, 40, dtype=E4M3), t(3, 1, 2, dtype=UINT8)),
        call(t(3, 20, dtype=UINT8), t(3, 1, 2, dtype=UINT8), dst_type=5, src_type=FLOAT4),
    ],
    "npu_dequant_bias": [
        call(t(4, 16, dtype=INT32), t(16, dtype=FLOAT), t(4, dtype=FLOAT), t(16, dtype=INT32)),
        call(t(4, 16, dtype=INT32), t(16, dtype=FLOAT), None, t(16), output_dtype=BF16),
    ],
    "npu_trans_quant_param": [call(t(16, dtype=FLOAT)), call(t(1, dtype=FLOAT), t(16, dtype=FLOAT))],
    "npu_weight_quant_preprocess": [
        call(t(16, 8, dtype=UINT8), t(2, 8), 5, FLOAT4, 5),
        call(t(16, 8, dtype=UINT8), t(2, 8), 5, FLOAT4, 5, t(2, 8), t(8)),
    ],
    "npu_quant_scatter": [call(t(2, 8, 32, dtype=INT8), ints(1, 2, dtype=INT32), t(2, 3, 32), t(32, dtype=FLOAT))],
    "npu_quant_scatter_": [call(t(2, 8, 32, dtype=INT8), ints(1, 2, dtype=INT32), t(2, 3, 32), t(32, dtype=FLOAT))],
    "npu_kronecker_quant": [call(t(3, 4, 16), t(4, 4), t(16, 16)), call(t(3, 4, 16), t(4, 4), t(16, 16), dst_dtype=FLOAT4)],
    "npu_rotate_quant": [call(t(3, 64), t(16, 16), dst_dtype=dtype) for dtype in (None, 1, 16)],
    # products
    "npu_quant_matmul": _quant_matmul(),
    "npu_quant_matmul_reduce_sum": [
        call(t(2, 4, 16, dtype=INT8), t(2, 16, 24, dtype=INT8), x1_scale=t(2, 4, dtype=FLOAT), x2_scale=t(24, dtype=BF16))
    ],
    "npu_quant_matmul_dequant": [
        call(t(4, 16), t(24, 16, dtype=INT8), t(24, dtype=FLOAT)),
        call(t(4, 16), t(24, 16, dtype=INT8), t(24, dtype=FLOAT), x_scale=t(1, dtype=FLOAT), quant_mode="pertensor"),
    ],
    "npu_quant_grouped_matmul_dequant": [call(t(8, 16), t(2, 24, 16, dtype=INT8), t(2, 24, dtype=FLOAT), ints(3, 8))],
    "npu_weight_quant_batchmatmul": [
        call(t(4, 64), t(64, 24, dtype=INT8), t(1, 24), t(1, 24)),
        call(t(4, 64), packed(64, 3), t(2, 24), antiquant_group_size=32, bias=t(24)),
        call(t(4, 64), t(64, 24, dtype=INT8), t(24), quant_scale=t(24, dtype=FLOAT), quant_offset=t(24, dtype=FLOAT)),
    ],
    "npu_add_quant_matmul": [call(t(4, 24, dtype=FLOAT), t(4, 16, dtype=E4M3), t(16, 24, dtype=E4M3), t(24, dtype=FLOAT))],
    "npu_add_quant_matmul_": [call(t(4, 24, dtype=FLOAT), t(4, 16, dtype=E4M3), t(16, 24, dtype=E4M3), t(24, dtype=FLOAT))],
    "npu_kv_quant_sparse_flash_attention": [
        call(t(2, 3, 4, 576), t(2, 16, 1, 656, dtype=INT8), t(2, 16, 1, 512, dtype=INT8), ints(1, 0, dtype=INT32).expand(2, 3, 1, 2), 0.1, 2, 2, attention_mode=2),
        call(t(5, 4, 576, dtype=BF16), t(6, 16, 1, 656, dtype=INT8), t(6, 16, 1, 512, dtype=INT8), ints(1, -1, dtype=INT32).expand(5, 1, 2),
             0.1, 2, 2, attention_mode=2, layout_query="TND", layout_kv="PA_BSND", sparse_block_size=4,
             actual_seq_lengths_query=ints(2, 5, dtype=INT32), actual_seq_lengths_kv=ints(20, 37, dtype=INT32),
             block_table=ints(0, 1, 2, 3, 4, 5, dtype=INT32).view(2, 3)),
    ],
    "npu_quant_lightning_indexer": [
        call(t(2, 3, 4, 128, dtype=INT8), t(2, 40, 1, 128, dtype=INT8), t(2, 3, 4), t(2, 3, 4), t(2, 40, 1), 0, 0),
        call(t(5, 4, 128, dtype=INT8), t(6, 16, 1, 128, dtype=INT8), t(5, 4), t(5, 4), t(6, 16, 1), 0, 0,
             layout_query="TND", layout_key="PA_BSND", actual_seq_lengths_query=ints(2, 5, dtype=INT32),
             actual_seq_lengths_key=ints(20, 37, dtype=INT32), sparse_count=24,
             block_table=ints(0, 1, 2, 3, 4, 5, dtype=INT32).view(2, 3)),
    ],
    "npu_add_quant_gmm": [
        call(t(2, 4, 24, dtype=FLOAT), t(4, 16, dtype=E4M3), t(16, 24, dtype=E4M3), t(2, 24, dtype=FLOAT), ints(6, 16))
    ],
    "npu_add_quant_gmm_": [
        call(t(2, 4, 24, dtype=FLOAT), t(4, 16, dtype=E4M3), t(16, 24, dtype=E4M3), t(2, 24, dtype=FLOAT), ints(6, 16))
    ],
    "npu_fused_matmul": [
        call(t(4, 16), t(16, 24), fused_op_type="gelu_erf"),
        call(t(2, 4, 16), t(16, 24), x3=t(2, 4, 24), fused_op_type="add"),
    ],
    "npu_transpose_batchmatmul": [
        call(t(3, 4, 16), t(3, 16, 24)),
        call(t(4, 3, 16), t(3, 16, 24), perm_x1=[1, 0, 2], batch_split_factor=3),
        call(t(3, 4, 16), t(3, 16, 24), scale=t(72, dtype=INT64)),
    ],
    "npu_transpose_quant_batchmatmul": [
        call(t(4, 3, 16, dtype=E4M3), t(3, 16, 24, dtype=E4M3), 15, x1_scale=t(4, dtype=FLOAT),
             x2_scale=t(24, dtype=FLOAT), perm_x1=[1, 0, 2], perm_x2=[0, 1, 2], perm_y=[1, 0, 2])
    ],
    "npu_batch_gather_matmul": [call(t(4, 24), t(4, 16), t(3, 1, 24, 8), ints(0, 1, 2, 3, dtype=INT32), t(3, 1, 8, 16))],
    "npu_batch_gather_matmul_": [call(t(4, 24), t(4, 16), t(3, 1, 24, 8), ints(0, 1, 2, 3, dtype=INT32), t(3, 1, 8, 16))],
    "npu_quant_conv2d": [
        call(t(2, 4, 8, 8, dtype=INT8), t(6, 4, 3, 3, dtype=INT8), t(6, dtype=INT64), [2, 2], [1, 1], output_dtype=5,
             bias=t(6, dtype=INT32)),
    ],
    "npu_ffn": [
        call(t(4, 16), t(16, 24), t(24, 16), "silu", bias1=t(24), bias2=t(16)),
        call(t(4, 16), t(16, 48), t(24, 16), "swiglu"),
        call(t(2, 4, 16), t(2, 16, 24), t(2, 24, 16), "gelu", expert_tokens=[3, 5]),
        call(t(4, 16), t(16, 24, dtype=INT8), t(24, 16, dtype=INT8), "relu", antiquant_scale1=t(24),
             antiquant_scale2=t(16), antiquant_offset1=t(24), antiquant_offset2=t(16)),
        call(t(4, 16, dtype=INT8), t(16, 24, dtype=INT8), t(24, 16, dtype=INT8), "fastgelu", scale=t(1, dtype=FLOAT),
             offset=t(1, dtype=FLOAT), deq_scale1=t(24, dtype=FLOAT), deq_scale2=t(16, dtype=FLOAT)),
    ],
    "npu_grouped_matmul": _grouped_matmul(),
    "npu_grouped_matmul.List": [call([t(8, 16)], [t(16, 24), t(16, 24)], group_list=[3, 8], split_item=3)],
    "npu_grouped_matmul_add": [call(t(2, 16, 24, dtype=FLOAT), t(8, 16), t(8, 24), ints(3, 8))],
    "npu_grouped_matmul_add_": [call(t(2, 16, 24, dtype=FLOAT), t(8, 16), t(8, 24), ints(3, 8))],
    "npu_grouped_matmul_swiglu_quant": [
        call(t(8, 32, dtype=INT8), t(2, 32, 64, dtype=INT8), ints(3, 8), t(2, 64, dtype=FLOAT), t(8, dtype=FLOAT))
    ],
    "npu_grouped_matmul_swiglu_quant_v2": _swiglu_quant(),
    "npu_grouped_matmul_finalize_routing": [
        call(t(8, 16, dtype=INT8), t(2, 16, 24, dtype=INT8), ints(3, 5), scale=t(2, 24, dtype=FLOAT),
             pertoken_scale=t(8, dtype=FLOAT), logit=t(8, dtype=FLOAT), row_index=ints(0, 1, 2, 3, 0, 1, 2, 3),
             shared_input=t(2, 24, dtype=BF16), shared_input_offset=1, output_bs=4),
        call(t(8, 16, dtype=INT8), packed(2, 16, 3), ints(3, 8), scale=t(2, 1, 24, dtype=INT64),
             bias=t(2, 24, dtype=FLOAT), pertoken_scale=t(8, dtype=FLOAT), group_list_type=0),
    ],
    "npu_bmmV2": [call(t(2, 4, 16), t(2, 16, 24), [])],
    "npu_linear": [call(t(4, 16), t(24, 16), t(24))],
    "npu_linear_backward": [call(t(4, 24), t(4, 16), t(24, 16))],
    "npu_transpose": [call(t(2, 3, 4), [2, 0, 1])],
    # layers whose result is quantised
    "npu_rms_norm_quant": [
        call(t(4, 16), t(16), t(16), t(1), t(1, dtype=INT8), dst_dtype=dtype) for dtype in (None, 1, 16, 23)
    ],
    "npu_rms_norm_quant_v2": [
        call(t(4, 16), t(16), t(16), offset=t(16), beta=t(16), dst_dtype=dtype) for dtype in (1, 16, HIFLOAT8)
    ],
    "npu_rms_norm_dynamic_mx_quant": [call(t(4, 40), t(40, dtype=FLOAT), dst_type=dtype) for dtype in (FLOAT4, 24)],
    "npu_add_rms_norm_dynamic_mx_quant": [call(t(4, 40), t(4, 40), t(40), dst_type=dtype) for dtype in (FLOAT4, 24)],
    "npu_add_rms_norm_quant": [
        call(*_NORM, t(16, dtype=FLOAT), t(16, dtype=INT32), t(16)),
        call(*_NORM, t(16, dtype=FLOAT), None, scales2=t(16, dtype=FLOAT), dst_type=291),
    ],
    "npu_add_rms_norm_dynamic_quant": [
        call(*_NORM, smooth_scale1=t(16), smooth_scale2=t(16)),
        call(*_NORM, output_mask=[True, True], y_dtype=16),
    ],
    "_npu_rms_norm_backward_quant": [
        call(t(4, 16), t(4, 16), torch.ones(4, 1), t(16), t(1, dtype=FLOAT), offset_x=t(1, dtype=INT32))
    ],
    "npu_gelu_quant": [
        call(t(4, 16), dst_type=1),
        call(t(4, 16), input_scale=t(16), input_offset=t(16), quant_mode="static", dst_type=1),
    ],
    "npu_swiglu_quant": [
        call(t(8, 32), smooth_scales=t(2, 16, dtype=FLOAT), group_index=ints(3, 8, dtype=INT32), quant_mode=1,
             dst_type=INT8),
        call(t(2, 4, 32), quant_mode=0, dst_type=INT8),
    ],
    "npu_dequant_swiglu_quant": [
        call(t(8, 32, dtype=INT32), weight_scale=t(2, 32, dtype=FLOAT), activation_scale=t(8, 1, dtype=FLOAT),
             quant_scale=t(2, 16, dtype=FLOAT), group_index=ints(3, 5), quant_mode=1),
        call(t(2, 4, 32), quant_mode=1, swiglu_mode=1),
        call(t(2, 8, 32), quant_mode=1, activate_dim=1),
        call(t(4, 32), quant_scale=t(16, dtype=FLOAT), quant_offset=t(16, dtype=FLOAT), dst_type=291, round_mode=0),
    ],
    "npu_swiglu_mx_quant": [
        call(t(70, 128, dtype=BF16), dst_type=dtype, **options)
        for dtype in (FLOAT4, 292)
        for options in ({}, {"axis": 0}, {"axis": 0, "group_index": ints(30, 40)}, {"activate_dim": 0})
    ],
    "npu_swiglu_group_quant": [
        call(t(8, 32), quant_mode=3, group_index=ints(3, 5), weight=t(8, 1, dtype=FLOAT), output_origin=True),
        call(t(8, 32), quant_mode=2, scale=t(1, dtype=FLOAT)),
    ],
    "npu_swiglu_group_quant_backward": [
        call(t(8, 16), t(8, 32), weight=t(8, 1, dtype=FLOAT), clamp_limit=1.0),
        call(t(8, 16), t(8, 32)),
    ],
    # caches
    "npu_scatter_pa_kv_cache": [_scatter(t(3, 4, 16), mode) for mode in ("PA_NZ", "Norm")],
    "npu_scatter_pa_kv_cache_functional": [_scatter(t(3, 4, 16), mode) for mode in ("PA_NZ", "Norm")],
    "npu_gather_pa_kv_cache_functional": [
        call(t(4, 16, 2, 8), t(4, 16, 2, 8), ints([1, 0], [2, 3], dtype=INT32), ints(20, 3, dtype=INT32), t(23, 2, 8),
             t(23, 2, 8))
    ],
    "npu_kv_rmsnorm_rope_cache": _kv_caches(),
    "npu_kv_rmsnorm_rope_cache_v2": _kv_caches(),
    "npu_kv_rmsnorm_rope_cache_v2_functional": _kv_caches(),
    "npu_qkv_rms_norm_rope_cache": [_qkv(True), _qkv(False)],
    "npu_qkv_rms_norm_rope_cache_functional": [_qkv(True), _qkv(False)],
    "npu_rope_quant_kvcache": [_rope_cache(t(2, 3, 128), kv_output=output) for output in (False, True)],
    "npu_dequant_rope_quant_kvcache": [
        _rope_cache(t(2, 3, 128, dtype=INT32), weight_scale=t(128, dtype=FLOAT), activation_scale=t(6, dtype=FLOAT))
    ],
    "atb::npu_multi_head_latent_attention": [
        call(t(2, 4, 512), t(2, 4, 64), t(4, 16, 1, 512), t(4, 16, 1, 64), ints([0, 1], [2, 3], dtype=INT32), [20, 3], 4,
             0.1, 1)
    ],
    "atb::npu_self_attention_prefix_encoder": [
        call(t(5, 4, 16), t(4, 16, 2, 16), t(4, 16, 2, 16), ints([0, 1], [2, 3], dtype=INT32), [2, 3], [20, 3], 4, 0.1, 2)
    ],
    "atb::npu_mla_preprocess": [_mla_preprocess(cache) for cache in ("krope_ctkv", "int8_nzcache")],
    "atb::npu_fused_add_topk_div": [call(t(3, 16), t(16), group_num=4, group_topk=2, n=2, k=3)],
    "npu_top_k_top_p": [call(t(3, 16), t(3).sigmoid(), ints(1, 5, 16, dtype=INT32))],
    # normalisation, activation, attention
    "npu_rms_norm": [call(t(4, 16), t(16))],
    "npu_rms_norm_backward": [call(t(4, 16), t(4, 16), t(16), torch.ones(4, 1))],
    "npu_add_rms_norm": [call(*_NORM)],
    "npu_gemma_rms_norm": [call(t(4, 16), t(16))],
    "npu_fast_gelu": [call(t(4, 16))],
    "npu_fast_gelu_backward": [call(t(4, 16), t(4, 16))],
    "npu_gelu": [call(t(4, 16), approximate="tanh")],
    "npu_gelu_backward": [call(t(4, 16), t(4, 16))],
    "npu_silu": [call(t(4, 16))],
    "npu_silu_backward": [call(t(4, 16), t(4, 16), t(4, 16))],
    "npu_swiglu": [call(t(4, 16)), call(t(4, 16), 0)],
    "npu_swiglu_backward": [call(t(4, 8), t(4, 16))],
    "npu_scaled_masked_softmax": [call(t(2, 4, 32, 32), t(2, 1, 32, 32, dtype=torch.bool), 0.5)],
    "npu_scaled_masked_softmax_backward": [
        call(t(2, 4, 32, 32), t(2, 4, 32, 32), t(2, 1, 32, 32, dtype=torch.bool), 0.5, False)
    ],
    "_npu_dtype_cast": [call(t(4, 16), BF16)],
    "npu_dtype_cast": [call(t(4, 16), 15)],
    "_npu_dtype_cast_backward": [call(t(4, 16), BF16)],
    "npu_dtype_cast_backward": [call(t(4, 16), BF16)],
    "npu_fusion_attention": [_attention()],
    "npu_fusion_attention_v2": [_attention()],
    "npu_rotary_mul": [call(t(2, 3, 4, 16), t(1, 3, 1, 16), t(1, 3, 1, 16))],
    "npu_rotary_mul_backward": [call(t(2, 3, 4, 16), t(2, 3, 4, 16), t(1, 3, 1, 16), t(1, 3, 1, 16))],
    "npu_apply_rotary_pos_emb": [call(t(2, 3, 4, 128), t(2, 3, 2, 128), t(2, 3, 1, 128), t(2, 3, 1, 128))],
    "npu_interleave_rope": [call(t(2, 4, 3, 64), t(2, 1, 3, 64), t(2, 1, 3, 64))],
    # losses, routing
    "npu_cross_entropy_loss": [call(t(4, 16, dtype=FLOAT), ints(0, 3, 5, 15))],
    "npu_cross_entropy_loss_backward": [call(t(dtype=FLOAT), t(4, 16, dtype=FLOAT), ints(0, 3, 5, 15))],
    "npu_moe_compute_expert_tokens": [call(ints(0, 1, 1, 2, dtype=INT32), 3)],
    "npu_moe_gating_top_k": [call(t(4, 16, dtype=FLOAT), 2, k_group=2, group_count=4, out_flag=True, norm_type=1)],
    "npu_moe_gating_top_k_softmax": [call(t(4, 16), None, 2)],
    "npu_moe_token_permute": [call(t(4, 16), t(4, 2, dtype=INT32, low=0, high=8))],
    "npu_moe_token_permute_grad": [
        call(t(4, 16), t(8, 16), t(4, 2, dtype=INT32, low=0, high=8), order(8).int())
    ],
    "npu_moe_token_permute_grad_v2": [call(t(8, 16), order(8).int(), 4, HALF, 2)],
    "npu_moe_token_unpermute": [_unpermute()],
    "npu_moe_token_unpermute_grad": [call(t(8, 16), t(4, 16), order(8).int(), t(4, 2))],
    "npu_moe_token_unpermute_grad_v2": [call(t(4, 16), order(8).int(), 8, HALF, t(4, 2), permuted_tokens=t(8, 16))],
    "npu_moe_gating_top_k_softmax_v2": [
        call(t(4, 16), k=2, output_softmax=True), call(t(4, 16), k=2, renorm=1), call(t(2, 4, 16), k=2),
    ],
    "npu_moe_init_routing": [call(t(4, 16), order(8).int().reshape(4, 2), experts(4, 2), 3)],
    "npu_moe_init_routing_v2": [
        call(t(4, 16), experts(4, 2), expert_num=8),
        call(t(4, 16), experts(4, 2), expert_num=8, active_num=5, expert_tokens_num_flag=True),
        call(t(4, 16), experts(4, 2), expert_num=8, active_expert_range=[2, 5], expert_tokens_num_flag=True,
             expert_tokens_num_type=1, scale=t(4, dtype=FLOAT)),
        call(t(4, 16), experts(4, 2), expert_num=8, expert_tokens_num_flag=True, expert_tokens_num_type=2, quant_mode=1),
        call(t(4, 16), experts(4, 2), expert_num=8, expert_capacity=3, drop_pad_mode=1, row_idx_type=1),
        call(t(4, 16), experts(4, 2), expert_num=8, quant_mode=0, scale=t(1, dtype=FLOAT), offset=t(1, dtype=FLOAT)),
    ],
    "npu_moe_finalize_routing": [
        call(t(8, 16), t(4, 16), None, t(8, 16), t(4, 2), order(8).int(), experts(4, 2)),
        call(t(8, 3, 16), None, None, None, None, order(8).int(), None, 3, 2),
    ],
    "npu_moe_re_routing": [call(t(10, 16), ints(1, 2, 3, 4).reshape(2, 2), per_token_scales=t(10, dtype=FLOAT))],
    "npu_moe_update_expert": [
        call(experts(4, 2), ints(1, 3, 0, 2, 4, 5, dtype=INT32).repeat(4, 1).reshape(8, 3), local_rank_id=1, world_size=2)
    ],
    "npu_moe_token_permute_with_routing_map": [
        call(t(3, 16), torch.ones(3, 2, dtype=torch.bool), num_out_tokens=6, probs=t(3, 2)),
        call(t(3, 16), torch.ones(3, 2, dtype=INT8), num_out_tokens=4, drop_and_pad=True),
    ],
    "npu_moe_token_permute_with_routing_map_grad": [
        call(t(6, 16), t(6), order(6).int(), torch.ones(3, 2, dtype=torch.bool), 2, 3, False)
    ],
    "npu_moe_token_unpermute_with_routing_map": [_unpermute_map()],
    "_npu_moe_token_unpermute_with_routing_map": [_unpermute_map()],
    "npu_moe_token_unpermute_with_routing_map_grad": [
        call(t(3, 16), order(6).int(), torch.arange(3, dtype=INT32).repeat_interleave(2),
             torch.ones(3, 2, dtype=torch.bool), t(6, 16), t(3, 2), False, [3, 16]),
        call(t(3, 16), order(6).int(), torch.arange(3, dtype=INT32).repeat_interleave(2), None, None, None, False, [3, 16]),
    ],
    # indexing
    "npu_reshape": [call(t(4, 6), [8, 3])],
    "npu_gather_sparse_index": [call(t(5, 6), ints(0, 4, 4, 1).reshape(2, 2))],
    "scatter_update": [call(t(2, 4, 8), ints(1, 3), t(2, 1, 8), -2)],
    "scatter_update_": [call(t(2, 4, 8), ints(1, 3), t(2, 1, 8), -2)],
    "npu_scatter_list": [call([t(4, 8), t(4, 8)], ints(1, 3), t(2, 1, 8), t(2, dtype=UINT8))],
    "npu_scatter_nd_update": [call(t(4, 8), ints(1, 3).reshape(2, 1), t(2, 8))],
    "npu_scatter_nd_update_": [call(t(4, 8), ints(1, 3).reshape(2, 1), t(2, 8))],
    "_npu_index_add": [call(t(4, 8), ints(1, 3), t(2, 8))],
    "_npu_index_add_": [call(t(4, 8), ints(1, 3), t(2, 8))],
    "repeat_interleave_backward_int": [call(t(8, 3), t(4, 3), 2, 0)],
    # convolutions, recurrent networks, boxes
    "npu_conv2d": [call(t(2, 4, 6, 6), t(3, 4, 3, 3), t(3), [1, 1], [1, 1], [1, 1], 1)],
    "npu_convolution": [call(t(2, 4, 6, 6), t(6, 2, 3, 3), None, [2, 2], [1, 1], [1, 1], 2)],
    "npu_convolution_transpose": [call(t(2, 4, 5, 5), t(4, 3, 3, 3), None, [1, 1], [1, 1], [2, 2], [1, 1], 1)],
    "npu_conv2d_backward": [
        call(t(2, 4, 6, 6), t(2, 3, 6, 6), t(3, 4, 3, 3), [1, 1], [1, 1], [1, 1], 1, [True, True, True])
    ],
    "npu_deformable_conv2d": [
        call(t(1, 2, 5, 5, dtype=FLOAT), t(3, 2, 3, 3, dtype=FLOAT), t(1, 27, 5, 5, dtype=FLOAT), None, [3, 3],
             [1, 1, 1, 1], [1, 1, 1, 1])
    ],
    "npu_lstm_cell": [call(t(3, 5), t(5, 16), t(4, 16), t(3, 4), t(3, 4), t(16), t(16))],
    "npu_lstm_cell_backward": [
        call(t(1, 3, 4), None, t(3, 4), t(3, 5), t(5, 16), t(4, 16), t(3, 4), t(3, 4), t(1, 3, 4), t(3, 4), t(3, 4),
             *(t(1, 3, 4) for _ in range(5)))
    ],
    "npu_iou": [call(t(3, 4), t(2, 4))],
    "npu_ciou": [call(t(4, 3), t(4, 3), True, False), call(t(4, 3), t(4, 2), True, True)],
    "_npu_ciou": [call(t(4, 3), t(4, 3), True, False)],
    "npu_ps_roi_pooling": [
        call(t(2, 8, 9, 9), torch.tensor([[[0], [1], [1], [5], [5]], [[1], [0], [2], [8], [8]]]).half(), 0.5, 2, 2)
    ],
    # norms, activations and losses that training seldom calls
    "fast_gelu": [call(t(4, 16))],
    "npu_geglu": [call(t(4, 16))],
    "npu_gelu_mul": [call(t(4, 16))],
    "npu_clipped_swiglu": [call(t(4, 16)), call(t(4, 16), group_index=ints(1, 2))],
    "npu_add_layer_norm": [call(t(3, 4, 16), t(3, 4, 16), t(16), t(16), 1e-5, more) for more in (False, True)],
    "npu_add_rms_norm_cast": [call(*_NORM)],
    "npu_add_rms_norm_v2": [call(*_NORM)],
    "npu_add_rms_norm_v2_functional": [call(*_NORM)],
    "npu_deep_norm": [call(t(3, 4, 16), t(3, 4, 16), t(16), t(16))],
    "npu_deep_norm_backward": [
        call(t(3, 4, 16), t(3, 4, 16), t(3, 4, 16), t(16), t(3, 4, 1, dtype=FLOAT), torch.ones(3, 4, 1))
    ],
    "npu_group_norm_silu": [call(t(2, 6, 5, 3), t(6), t(6), 2), call(t(2, 6, 5, 3), None, None, 2)],
    "npu_group_norm_swish": [call(t(2, 6, 5, 3), 3, t(6), t(6))],
    "npu_layer_norm_eval": [call(t(3, 4, 8), [4, 8])],
    "batch_norm_reduce": [call(t(2, 6, 5, 3), 1e-5)],
    "batch_norm_gather_stats_update": [
        call(t(2, 6, 5, 3), t(3, 6, dtype=FLOAT), torch.ones(3, 6), t(6, dtype=FLOAT), torch.ones(6), 0.1, 1e-5,
             torch.full((3,), 30.0))
    ],
    "kl_div_backward": [call(t(*(4, 16)[: 2 * (way == 0)]), t(4, 16), t(4, 16).softmax(-1), way) for way in (0, 1, 2)],
    "l1_loss_backward": [call(t(*(4, 16)[: 2 * (way == 0)]), t(4, 16), t(4, 16), way) for way in (0, 1, 2)],
    # the meta kernel says float32 for every type, where the wheel's LabelSmoothingCrossEntropy casts the loss to it
    "npu_softmax_cross_entropy_with_logits": [call(t(5, 7, dtype=FLOAT), t(5, 7, dtype=FLOAT).softmax(-1))],
    "npu_softmax_cross_entropy_with_logits_backward": [call(t(5), t(5, 7), t(5, 7).softmax(-1))],
    "npu_masked_softmax_with_rel_pos_bias": [call(t(2, 3, 4, 8, 8), None, t(1, 1, 4, 8, 8), 0.5)],
    "_npu_dropout_gen_mask.Tensor": [call(t(4, 16), [200], 0.4, 1, 0)],
    "npu_dropout_with_add_softmax": [call(t(4, 32), t(4, 32), 0.3, 0.4, -1)],
    "npu_sim_exponential_": [call(t(4, 16))],
    "npu_mhc_pre": [
        call(t(*rows, 4, 16), t(24, 64, dtype=FLOAT), t(3, dtype=FLOAT), t(24, dtype=FLOAT), out_flag=kept)
        for rows in ((5,), (2, 3)) for kept in (0, 1)
    ],
    "npu_mhc_post": [
        call(t(5, 4, 16), t(5, 4, 4, dtype=FLOAT), t(5, 16), t(5, 4, dtype=FLOAT)),
        call(t(2, 3, 4, 16), None, t(2, 3, 16), t(2, 3, 4, dtype=FLOAT)),
    ],
    "npu_mhc_sinkhorn": [
        call(t(*rows, 4, 4, dtype=FLOAT), num_iters=3, out_flag=kept) for rows in ((5,), (2, 3)) for kept in (0, 1)
    ],
    "npu_chunk_gated_delta_rule": [_delta_rule(initial_state=t(2, 4, 6, 8, dtype=BF16))],
    "npu_recurrent_gated_delta_rule": [_delta_rule(t(6, 4, 6, 8, dtype=BF16), ssm_state_indices=_PLACES)],
    "npu_recurrent_gated_delta_rule_functional": [
        _delta_rule(t(6, 4, 6, 8, dtype=BF16), ssm_state_indices=_PLACES)
    ],
    "npu_mrope": [
        call(ints(0, 3, 5, 7, 9), t(5, 96), t(5, 48), t(20, 32), 48),
        call(ints(0, 3, 5, 7, 9).expand(3, 5).contiguous(), t(5, 96), t(5, 48), t(20, 32), 48, mrope_section=[6, 5, 5]),
    ],
    "npu_masked_causal_conv1d": [call(t(6, 2, 16), t(3, 16)), call(t(6, 2, 16), t(3, 16), mask=t(2, 6) > 0)],
    "npu_masked_causal_conv1d_backward": [call(t(6, 2, 16), t(6, 2, 16), t(3, 16), mask=t(2, 6) > 0)],
    "npu_fused_causal_conv1d": [
        call(t(2, 3, 16), t(3, 16), t(2, 4, 16)),
        call(t(6, 16), t(3, 16), t(2, 2, 16), query_start_loc=ints(0, 2, 6, dtype=INT32)),
    ],
    "npu_mla_prolog": [_prolog(1)],
    "npu_mla_prolog_v2": [_prolog(2)],
    "npu_mla_prolog_v3": [_prolog(3)],
    "npu_mla_prolog_v3_functional": [_prolog(3)],
    # the attention family
    "npu_fusion_attention_v3": [
        _attention(), call(*_PACKED, 2, "TND", actual_seq_qlen=ints(2, 6), actual_seq_kvlen=ints(2, 6))
    ],
    "npu_fusion_attention_grad_v3": [
        call(t(2, 4, 16, 8), t(2, 2, 16, 8), t(2, 2, 16, 8), t(2, 4, 16, 8), 4, "BNSD", **more)
        for more in ({}, {"sink": t(4, dtype=FLOAT)})  # the meta kernel leaves the gradient of pse out
    ],
    "npu_ring_attention_update": [
        call(t(6, 2, 16), *_STATISTICS, t(6, 2, 16), *_STATISTICS),
        call(t(6, 2, 64), *_BY_TOKENS, t(6, 2, 64), *_BY_TOKENS,
             actual_seq_qlen=ints(2, 6), input_layout="TND", input_softmax_layout="TND"),
    ],
    "npu_attention_update": [
        call([t(5, dtype=FLOAT) for _ in range(3)], [t(5, 8) for _ in range(3)], kind) for kind in (0, 1)
    ],
    "npu_block_sparse_attention": [_block_sparse()],
    "npu_block_sparse_attention_backward": [_block_sparse(backward=True)],
    "npu_fused_floyd_attention": [_floyd()],
    "npu_fused_floyd_attention_backward": [_floyd(backward=True)],
    "npu_dense_lightning_indexer_softmax_lse": [
        call(t(2, 6, 8, 128), t(2, 6, 1, 128), t(2, 6, 8, dtype=FLOAT)),
        call(t(6, 8, 128), t(6, 1, 128), t(6, 8, dtype=FLOAT), layout="TND", actual_seq_qlen=[2, 6],
             actual_seq_klen=[2, 6]),
    ],
    "npu_dense_lightning_indexer_grad_kl_loss": [_indexer_loss(sparse=False)],
    "npu_sparse_lightning_indexer_grad_kl_loss": [_indexer_loss(sparse=True)],
    "npu_multi_head_attention": [_multi_head()],
    "npu_multi_head_attention_backward": [_multi_head(backward=True)],
    "npu_fused_attention_score": [call(*_HEADS, t(2, 1, 32, 32), 0.25, 1.0)],
    "npu_fused_attention_score_fwd": [call(*_HEADS, t(2, 1, 32, 32), 0.25, 1.0)],
    "npu_prompt_flash_attention": [
        call(t(2, 2, 4, 16), t(2, 2, 6, 16), t(2, 2, 6, 16), num_heads=2, input_layout="BNSD"),
        call(t(2, 4, 32), t(2, 6, 32), t(2, 6, 32), num_heads=2),
    ],
    "npu_incre_flash_attention": [
        call(t(2, 1, 32), t(2, 6, 32), t(2, 6, 32), num_heads=2),
        call(t(2, 2, 1, 16), t(2, 2, 6, 16), t(2, 2, 6, 16), num_heads=2, input_layout="BNSD"),
    ],
    "npu_fused_infer_attention_score": [
        call(t(2, 4, 3, 16), t(2, 2, 9, 16), t(2, 2, 9, 16), num_heads=4, num_key_value_heads=2, input_layout=layout,
             softmax_lse_flag=flag)
        for layout in ("BNSD", "BNSD_BSND", "BNSD_NBSD") for flag in (False, True)
    ] + [
        call(t(2, 3, 64), t(2, 9, 32), t(2, 9, 32), num_heads=4, num_key_value_heads=2),
        call(t(3, 4, 16), t(9, 2, 16), t(9, 2, 16), num_heads=4, num_key_value_heads=2, input_layout="TND",
             actual_seq_lengths=[3], actual_seq_lengths_kv=[9], softmax_lse_flag=True),
    ],
    "npu_fused_infer_attention_score_v2": [
        call(t(2, 4, 3, 16), t(2, 2, 9, 16), t(2, 2, 9, 16), num_query_heads=4, num_key_value_heads=2,
             input_layout=layout, return_softmax_lse=flag)
        for layout in ("BNSD", "BNSD_BSND", "BNSD_NBSD") for flag in (False, True)
    ] + [
        call(t(2, 3, 64), t(2, 9, 32), t(2, 9, 32), num_query_heads=4, num_key_value_heads=2),
        call(t(3, 4, 16), t(9, 2, 16), t(9, 2, 16), num_query_heads=4, num_key_value_heads=2, input_layout="TND",
             actual_seq_qlen=[3], actual_seq_kvlen=[9], return_softmax_lse=True),
    ],
}  # fmt: skip
"""Positional and named arguments of calls, with tensors of the CPU."""

WITHOUT = {
    **dict.fromkeys(
        (
            "npu_mm_all_reduce_base", "npu_all_gather_base_mm", "npu_all_gather_quant_mm", "npu_mm_reduce_scatter_base",
            "npu_quant_mm_reduce_scatter", "npu_matmul_all_to_all", "npu_quant_matmul_all_to_all",
            "npu_all_to_all_matmul", "npu_all_to_all_quant_matmul", "npu_alltoallv_gmm", "npu_gmm_alltoallv",
            "npu_alltoallv_quant_gmm", "npu_quant_gmm_alltoallv", "npu_moe_distribute_dispatch",
            "npu_moe_distribute_dispatch_v2", "npu_moe_distribute_combine", "npu_moe_distribute_combine_v2",
            "npu_moe_distribute_combine_add_rms_norm", "_npu_distribute_barrier",
        ),
        "needs several ranks: ranks.py",
    ),
    **dict.fromkeys(
        ("npu_lightning_indexer", "npu_lightning_indexer_grad", "npu_sparse_flash_attention",
         "npu_sparse_flash_attention_grad"),
        "only widths of LongCat-2.0: test_model.py compares every call of a layer",
    ),
    **dict.fromkeys(
        ("_npu_dropout", "npu_dropout_backward"),
        "the wheel's meta kernel pads the mask by another rule than its own device code",
    ),
    **dict.fromkeys(
        ("npu_attention_worker_combine", "npu_ffn_worker_batching", "attention_worker_scheduler",
         "attention_worker_scheduler_", "ffn_worker_scheduler", "ffn_worker_scheduler_"),
        "takes addresses in the device's memory: test_inference.py compares shapes and types",
    ),
    "npu_gather_backward": "differentiated by torch, so there is no reference of its own",
    "npu_apply_adam_w.out": "the wheel's meta kernel returns None for what it writes in place",
    "npu_fusion_attention_grad": "the wheel's meta kernels disagree on the gradient of no bias: None, or empty in others",
    "npu_fusion_attention_grad_v2": "the wheel's meta kernel raises a TypeError of its own",
    **dict.fromkeys(
        ("npu_moe_distribute_dispatch", "npu_moe_distribute_dispatch_v2", "npu_moe_distribute_combine",
         "npu_moe_distribute_combine_v2", "npu_moe_distribute_combine_add_rms_norm", "_npu_distribute_barrier"),
        "needs several ranks: ranks.py",
    ),
    "npu_fused_causal_conv1d_v2": "returns nothing: test_causal_convolution.py looks at what it has written",
    "npu_scatter_list_": "returns nothing: test_indexing.py looks at what it has written",
    "_npu_moe_token_unpermute": "test_operators.py compares it with the public form",
    "npu_geglu_grad": "the wheel's meta kernel returns two tensors where the schema has one",
    "npu_fused_attention_score_backward": "the wheel's meta kernel gives the shape of the flat result to gradients of heads",
    "npu_quant_matmul_gelu": "the wheel's meta kernel leaves rows and columns out of the shape",
    "atb::npu_multi_head_latent_attention.lse": "the wheel's meta kernel does not take the workspace of its schema",
}  # fmt: skip
"""Operators with a meta kernel and without a sample, and the reason."""
