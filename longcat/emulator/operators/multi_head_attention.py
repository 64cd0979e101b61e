"""Attention with its projections and the older fused scores, which keep their probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.dropout import packed, scaled, softmax_backward, unpacked
from longcat.emulator.reference import check, draw, gradients, kept, reference


def _by_heads(x: Tensor, tokens: int, heads: int, size: int) -> Tensor:
    """Split `[batch * tokens, width]` into `[batch, heads, tokens, size]`."""
    return x.view(-1, tokens, heads, size).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """Undo `_by_heads`."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)


@reference("npu_multi_head_attention")
def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    attn_mask: Tensor,
    out_proj_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    value_bias: Tensor | None,
    out_proj_bias: Tensor | None,
    dropout_mask: Tensor | None,
    attn_head_num: int,
    attn_dim_per_head: int,
    src_len: int,
    tgt_len: int,
    dropout_prob: float,
    softmax_use_float: bool,
) -> tuple[Tensor, ...]:
    """Project, attend with an added mask and project back; all tokens of a batch in a row, `[batch * tokens, width]`.

    Returns:
        The result, the packed dropout mask, query (scaled), key and value by heads, probabilities, those after
        dropout, and the result before its projection.
    """
    check(
        query.shape[-1] == attn_head_num * attn_dim_per_head,
        "npu_multi_head_attention",
        f"width {query.shape[-1]} must be {attn_head_num} heads of {attn_dim_per_head}",
    )
    linear = torch.nn.functional.linear
    q = _by_heads(
        linear(query, query_weight, query_bias) * attn_dim_per_head**-0.5, tgt_len, attn_head_num, attn_dim_per_head
    )
    k = _by_heads(linear(key, key_weight, key_bias), src_len, attn_head_num, attn_dim_per_head)
    v = _by_heads(linear(value, value_weight, value_bias), src_len, attn_head_num, attn_dim_per_head)
    scores = (q @ k.mT) + attn_mask
    probabilities = scores.float().softmax(-1)
    narrow = probabilities.to(query.dtype)
    count = narrow.numel()
    if dropout_mask is not None and dropout_mask.numel() * 8 >= count:
        keep = unpacked(dropout_mask, count)
    else:
        keep = kept(*draw(), count, 1 - dropout_prob)
    dropped = scaled(narrow, keep, dropout_prob)
    context = _joined(dropped @ v)
    y = linear(context, out_proj_weight, out_proj_bias)
    scores_out = probabilities if softmax_use_float else narrow
    mask = packed(keep)[: -(-count // 8)]
    return y, mask, q, k, v, scores_out, dropped, context


@reference("npu_multi_head_attention_backward")
def multi_head_attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    out_proj_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    value_bias: Tensor | None,
    out_proj_bias: Tensor | None,
    query_res: Tensor,
    key_res: Tensor,
    value_res: Tensor,
    attn_scores: Tensor,
    attn_res: Tensor,
    context: Tensor,
    y_grad: Tensor,
    dropout_mask: Tensor,
    attn_head_num: int,
    attn_dim_per_head: int,
    src_len: int,
    tgt_len: int,
    dropout_prob: float,
    softmax_use_float: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of the four weights, of query, key and value, and of the four biases `[1, width]`."""
    d_context = _by_heads(y_grad @ out_proj_weight, tgt_len, attn_head_num, attn_dim_per_head)
    d_value = attn_res.mT @ d_context
    keep = unpacked(dropout_mask, attn_scores.numel())
    d_probabilities = scaled((d_context @ value_res.mT).float(), keep, dropout_prob)
    d_scores = softmax_backward(d_probabilities, attn_scores.float()).to(query.dtype)
    d_query = _joined(d_scores @ key_res) * attn_dim_per_head**-0.5
    d_key, d_value = _joined(d_scores.mT @ query_res), _joined(d_value)
    rows = ((d_query, query), (d_key, key), (d_value, value), (y_grad, context))
    weights = [d.T @ x for d, x in rows]
    inputs = [d_query @ query_weight, d_key @ key_weight, d_value @ value_weight]
    return *weights, *inputs, *(d.sum(0, keepdim=True) for d, _ in rows)


def _turned(x: Tensor, transposed: bool) -> Tensor:
    return x.mT if transposed else x


@reference("npu_fused_attention_score_fwd")
def fused_attention_score_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scale: float,
    keep_prob: float,
    query_transpose: bool = False,
    key_transpose: bool = False,
    bmm_score_transpose_a: bool = False,
    bmm_score_transpose_b: bool = False,
    value_transpose: bool = False,
    dx_transpose: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from `[batch, heads, tokens, size]` with a mask that is added.

    Returns:
        `[batch * tokens, width]`, the probabilities, and a byte for each that dropout keeps.
    """
    for tensor in (query, key, value, attention_mask):
        check(tensor.dtype == torch.float16, "npu_fused_attention_score", f"takes float16 only, got {tensor.dtype}")
    q, k, v = (_turned(t, f) for t, f in ((query, query_transpose), (key, key_transpose), (value, value_transpose)))
    probabilities = ((q.float() @ k.float().mT) * scale + attention_mask.float()).softmax(-1).to(query.dtype)
    keep = kept(*draw(), probabilities.numel(), keep_prob)
    dropped = scaled(probabilities, keep, 1 - keep_prob)
    return _joined(dropped @ v), probabilities, keep.to(torch.uint8)


@reference("npu_fused_attention_score")
def fused_attention_score(*arguments: Any, **options: Any) -> Tensor:
    """Return the first result of `fused_attention_score_forward`."""
    return fused_attention_score_forward(*arguments, **options)[0]


@reference("npu_fused_attention_score_backward")
def fused_attention_score_backward(
    d_result: Tensor,
    probabilities: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    keep_prob: float,
    query_transpose: bool = False,
    key_transpose: bool = False,
    value_transpose: bool = False,
    dx_transpose: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    q, k, v = (_turned(t, f) for t, f in ((query, query_transpose), (key, key_transpose), (value, value_transpose)))
    d_out = _by_heads(d_result, q.shape[2], q.shape[1], v.shape[-1])
    keep = mask.bool().view(probabilities.shape)
    d_value = scaled(probabilities, keep, 1 - keep_prob).mT @ d_out
    d_probabilities = scaled((d_out @ v.mT).float(), keep, 1 - keep_prob)
    d_scores = (softmax_backward(d_probabilities, probabilities.float()) * scale).to(query.dtype)
    d_query, d_key = d_scores @ k, d_scores.mT @ q
    return _turned(d_query, query_transpose), _turned(d_key, key_transpose), _turned(d_value, value_transpose)


@reference("npu_fused_attention_score_grad")
def fused_attention_score_grad(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Return the same gradients as `[batch * tokens, width]`."""
    return tuple(_joined(gradient) for gradient in fused_attention_score_backward(*arguments, **options))


@reference("npu_fused_attention_layernorm_qkv_fwd")
def fused_attention_layer_norm_qkv(
    x: Tensor,
    kernel_query: Tensor,
    kernel_key: Tensor,
    kernel_value: Tensor,
    gamma: Tensor,
    beta: Tensor,
    bias_query: Tensor | None = None,
    bias_key: Tensor | None = None,
    bias_value: Tensor | None = None,
    seq_len: int = 128,
    num_heads: int = 12,
    eps: float = 1e-5,
) -> list[Tensor]:
    """Return the layer norm of `[batch * tokens, width]`, its three projections by heads, mean and `1 / deviation`."""
    normal, mean, reciprocal = torch.native_layer_norm(x, [x.shape[-1]], gamma, beta, eps)
    projected = []
    for kernel, bias in ((kernel_query, bias_query), (kernel_key, bias_key), (kernel_value, bias_value)):
        y = normal @ kernel
        y = y if bias is None else y + bias
        projected.append(_by_heads(y, seq_len, num_heads, x.shape[-1] // num_heads))
    return [normal, *projected, mean.flatten(), reciprocal.flatten()]


@reference("npu_fused_attention_qkv_grad")
def fused_attention_qkv_grad(
    d_query: Tensor,
    d_key: Tensor,
    d_value: Tensor,
    query_kernel: Tensor,
    key_kernel: Tensor,
    value_kernel: Tensor,
    hidden_states: Tensor,
    d_norm: Tensor,
) -> list[Tensor]:
    """Return the gradients of the projections' input, of which one part comes in, of the kernels and of the biases."""
    rows = [d if d.dim() == 2 else _joined(d) for d in (d_query, d_key, d_value)]
    kernels = (query_kernel, key_kernel, value_kernel)
    d_hidden = d_norm + sum(row @ kernel.T for row, kernel in zip(rows, kernels, strict=True))
    return [d_hidden, *(hidden_states.T @ row for row in rows), *(row.sum(0) for row in rows)]


@reference("npu_fused_floyd_attention")
def fused_floyd_attention(
    query_ik: Tensor,
    key_ij: Tensor,
    value_ij: Tensor,
    key_jk: Tensor,
    value_jk: Tensor,
    *,
    atten_mask: Tensor | None = None,
    scale_value: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from edges (i, k) over the nodes j between: keys of (i, j) and of (j, k) are added, values too.

    Returns:
        Maximum and sum of each row, `[batch, heads, i, k, 8]`, and the result, as query.
    """
    _check_floyd(query_ik, key_ij, value_ij, key_jk, value_jk, atten_mask)
    scores = _floyd_scores(query_ik, key_ij, key_jk, atten_mask, scale_value)
    maximum = scores.amax(-1, keepdim=True)
    exponentials = (scores - maximum).exp()
    total = exponentials.sum(-1, keepdim=True)
    result = _floyd_result(exponentials / total, value_ij, value_jk).to(query_ik.dtype)
    return maximum.expand(*maximum.shape[:-1], 8), total.expand(*total.shape[:-1], 8), result


def _check_floyd(query: Tensor, *others: Tensor | None) -> None:
    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_fused_floyd_attention", reason)

    key_ij, value_ij, key_jk, value_jk, mask = others
    assert key_ij is not None and value_ij is not None and key_jk is not None and value_jk is not None
    tensors = (query, key_ij, value_ij, key_jk, value_jk)
    need(all(t.dim() == 5 for t in tensors), "takes tensors of 5 dimensions")
    need(
        query.dtype in (torch.float16, torch.bfloat16) and len({t.dtype for t in tensors}) == 1,
        "takes float16 or bfloat16 of one kind",
    )
    (_, _, nodes, others_k, size), nodes_j = query.shape, key_ij.shape[3]
    need(
        nodes % 16 == 0 and others_k % 128 == 0 and nodes_j % 128 == 0 and size in (32, 64, 128),
        f"takes i in 16s, k and j in 128s, and sizes of 32, 64 or 128, got {list(query.shape)} and j {nodes_j}",
    )
    need(key_ij.shape == value_ij.shape and key_jk.shape == value_jk.shape, "keys and values must have one shape")
    need(mask is None or mask.dtype in (torch.bool, torch.uint8), "atten_mask must be bool or uint8")


def _floyd_scores(query: Tensor, key_ij: Tensor, key_jk: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = torch.einsum("bhikc,bhijc->bhikj", query.float(), key_ij.float())
    scores = (scores + torch.einsum("bhikc,bhjkc->bhikj", query.float(), key_jk.float())) * scale
    return scores if mask is None else scores.masked_fill(mask.bool(), -4e9 * scale)


def _floyd_result(probabilities: Tensor, value_ij: Tensor, value_jk: Tensor) -> Tensor:
    result = torch.einsum("bhikj,bhijc->bhikc", probabilities, value_ij.float())
    return result + torch.einsum("bhikj,bhjkc->bhikc", probabilities, value_jk.float())


@reference("npu_fused_floyd_attention_backward")
def fused_floyd_attention_backward(
    d_result: Tensor,
    query_ik: Tensor,
    key_ij: Tensor,
    value_ij: Tensor,
    key_jk: Tensor,
    value_jk: Tensor,
    attention_out: Tensor,
    softmax_max: Tensor,
    softmax_sum: Tensor,
    *,
    atten_mask: Tensor | None = None,
    scale_value: float = 1.0,
) -> tuple[Tensor, ...]:
    """Return the gradients of query, and of key and value of (i, j) and of (j, k)."""

    def function(query: Tensor, k_ij: Tensor, v_ij: Tensor, k_jk: Tensor, v_jk: Tensor) -> Tensor:
        return _floyd_result(_floyd_scores(query, k_ij, k_jk, atten_mask, scale_value).softmax(-1), v_ij, v_jk)

    tensors = (query_ik, key_ij, value_ij, key_jk, value_jk)
    found = gradients(function, [t.float() for t in tensors], d_result.float())
    return tuple(d.to(t.dtype) for d, t in zip(found, tensors, strict=True) if d is not None)
