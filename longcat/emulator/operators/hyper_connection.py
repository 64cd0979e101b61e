"""Manifold-constrained hyper-connections: several residual streams that are mixed before and after each layer."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference

_ALIGNED = 8
"""Rows of the kept sums and norms are so long."""


@reference("npu_mhc_pre")
def mhc_pre(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    gamma: Tensor | None = None,
    norm_eps: float = 1e-6,
    hc_eps: float = 1e-6,
    out_flag: int = 0,
    inner_precise: int = 0,
) -> tuple[Tensor, ...]:
    """Make a layer's input of n streams, and the matrices that mix the streams after it.

    Args:
        x: `[..., n, size]`.
        phi: projections of all streams together, `[n * n + 2 n or 2 n, n * size]`, in float32.
        alpha: factors of the two or three parts of phi.
        bias: of each row of phi.
        gamma: weight of the RMSNorm before the projections, `[n, size]`.
        norm_eps: of that norm.
        hc_eps: added to the weights of the streams.
        out_flag: whether the last three results are wanted; they are there in any case.
        inner_precise: 0 or 1, of silicon.

    Returns:
        The input `[..., size]`; weights of the layer's result for each stream `[..., n]`; how streams mix
        `[..., n, n]`, or one 0; `1 / rms`, the products with phi, and the weights of the streams, for the gradient.
    """
    operator = "npu_mhc_pre"
    check(
        x.numel() > 0 and x.dim() in (3, 4),
        operator,
        f"Input x must be 3D or 4D and not empty, but got {list(x.shape)}.",
    )
    check(alpha.numel() in (2, 3), operator, f"Input alpha must have 3 or 2 elements, but got {alpha.numel()}.")
    check(out_flag in (0, 1), operator, f"Input out_flag must be 0 or 1, but got {out_flag}.")
    check(inner_precise in (0, 1), operator, f"Input inner_precise must be 0 or 1, but got {inner_precise}.")
    n = x.shape[-2]
    rows = 2 * n + (n * n if alpha.numel() == 3 else 0)
    check(
        phi.shape == (rows, n * x.shape[-1]),
        operator,
        f"phi must be [{rows}, {n * x.shape[-1]}], got {list(phi.shape)}",
    )
    check(bias.numel() == rows, operator, f"bias must have {rows} elements, got {bias.numel()}")
    streams = x.shape[-2:]
    check(gamma is None or gamma.shape == streams, operator, f"gamma must be {list(streams)}")
    wide = x.float()
    flat = wide.flatten(-2)
    reciprocal = torch.rsqrt(flat.square().mean(-1) + norm_eps)
    mixed = (wide if gamma is None else wide * gamma.float()).flatten(-2) @ phi.float().T
    logits = mixed * reciprocal.unsqueeze(-1) * _spread(alpha.float(), n) + bias.float()
    before = logits[..., :n].sigmoid() + hc_eps
    after = 2 * logits[..., n : 2 * n].sigmoid()
    between = logits[..., 2 * n :].unflatten(-1, (n, n)) if alpha.numel() == 3 else torch.zeros(1)
    layer_input = (before.unsqueeze(-1) * wide).sum(-2).to(x.dtype)
    return layer_input, after, between, reciprocal, mixed, before


def _spread(alpha: Tensor, n: int) -> Tensor:
    """Repeat the factors for the rows of their parts."""
    return alpha.repeat_interleave(torch.tensor([n, n, n * n][: alpha.numel()]))


@reference("npu_mhc_pre_backward")
def mhc_pre_backward(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    grad_h_in: Tensor | None,
    grad_h_post: Tensor | None,
    grad_h_res: Tensor | None,
    inv_rms: Tensor,
    h_mix: Tensor,
    h_pre: Tensor,
    h_post: Tensor,
    gamma: Tensor | None = None,
    hc_eps: float = 1e-6,
    grad_x_post: Tensor | None = None,
    inner_precise: int = 0,
) -> tuple[Tensor, ...]:
    """Return the gradients of x, to which that of the streams after the layer is added, phi, alpha, bias and gamma.

    A gradient of a result that was not used is None.
    """
    n = x.shape[-2]
    wide = x.float()
    d_input = torch.zeros_like(wide.select(-2, 0)) if grad_h_in is None else grad_h_in.float()
    grad_h_post = torch.zeros_like(h_post) if grad_h_post is None else grad_h_post
    grad_h_res = h_post.new_zeros(*h_post.shape, n) if grad_h_res is None else grad_h_res
    share = h_pre - hc_eps
    d_logits = [(d_input.unsqueeze(-2) * wide).sum(-1) * share * (1 - share), grad_h_post * h_post * (1 - h_post / 2)]
    if alpha.numel() == 3:
        d_logits.append(grad_h_res.flatten(-2))
    d_rows = torch.cat(d_logits, -1)
    factors = _spread(alpha.float(), n)
    d_alpha = (d_rows * h_mix * inv_rms.unsqueeze(-1)).reshape(-1, len(factors)).sum(0)
    sizes = [n, n, n * n][: alpha.numel()]
    d_normed = d_rows * factors
    d_mixed = d_normed * inv_rms.unsqueeze(-1)
    scaled = wide if gamma is None else wide * gamma.float()
    d_scaled = (d_mixed @ phi.float()).unflatten(-1, x.shape[-2:])
    d_reciprocal = (d_normed * h_mix).sum(-1)
    d_x = h_pre.unsqueeze(-1) * d_input.unsqueeze(-2) + (d_scaled if gamma is None else d_scaled * gamma.float())
    d_x = d_x - (d_reciprocal * inv_rms**3)[..., None, None] * wide / (n * x.shape[-1])
    d_x = d_x if grad_x_post is None else d_x + grad_x_post.float()
    d_phi = d_mixed.reshape(-1, len(factors)).T @ scaled.reshape(-1, phi.shape[1])
    d_gamma = (d_scaled * wide).reshape(-1, *x.shape[-2:]).sum(0)
    sums = torch.stack([part.sum() for part in d_alpha.split(sizes)])
    return d_x.to(x.dtype), d_phi, sums, d_rows.reshape(-1, len(factors)).sum(0), d_gamma


def _post(x: Tensor, mixing: Tensor | None, layer: Tensor, weights: Tensor) -> Tensor:
    streams = x if mixing is None else torch.einsum("...ij,...id->...jd", mixing, x)
    return streams + weights.unsqueeze(-1) * layer.unsqueeze(-2)


@reference("npu_mhc_post")
def mhc_post(x: Tensor, h_res: Tensor | None, h_out: Tensor, h_post: Tensor) -> Tensor:
    """Mix the streams `[..., n, size]` by `[..., n, n]` and add the layer's result `[..., size]`, weighted, to each."""
    _check_post(x, h_res, h_out, h_post)
    return _post(x.float(), None if h_res is None else h_res.float(), h_out.float(), h_post.float()).to(x.dtype)


def _check_post(x: Tensor, h_res: Tensor | None, h_out: Tensor, h_post: Tensor) -> None:
    operator = "npu_mhc_post"
    check(x.dtype in (torch.float16, torch.bfloat16), operator, f"x dtype must be FLOAT16 or BFLOAT16, got {x.dtype}")
    check(x.dim() in (3, 4), operator, f"x dim must be 3 or 4, got {x.dim()}")
    check(
        h_out.dtype == x.dtype and h_out.shape == (*x.shape[:-2], x.shape[-1]),
        operator,
        "h_out must be x without its streams",
    )
    check(h_post.dtype == torch.float32, operator, f"h_post dtype must be FLOAT32, got {h_post.dtype}")
    check(
        h_post.shape == x.shape[:-1], operator, f"h_post shape must be {list(x.shape[:-1])}, got {list(h_post.shape)}"
    )
    if h_res is not None:
        check(h_res.dtype == torch.float32, operator, f"h_res dtype must be FLOAT32, got {h_res.dtype}")
        shape = (*x.shape[:-1], x.shape[-2])
        check(h_res.shape == shape, operator, f"h_res shape must be {list(shape)}, got {list(h_res.shape)}")


@reference("npu_mhc_post_backward")
def mhc_post_backward(
    grad_y: Tensor, x: Tensor, h_res: Tensor | None, h_out: Tensor, h_post: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all four; that of a mixing matrix that was not given is 0."""
    _check_post(x, h_res, h_out, h_post)
    check(grad_y.shape == x.shape, "npu_mhc_post_backward", "grad_y shape must be the same as x shape")
    given = [None if t is None else t.float() for t in (x, h_res, h_out, h_post)]

    def function(streams: Tensor, mixing: Tensor | None, layer: Tensor, weights: Tensor) -> Tensor:
        return _post(streams, mixing, layer, weights)

    d_x, d_mixing, d_layer, d_weights = gradients(function, given, grad_y.float())
    assert d_x is not None and d_layer is not None
    return (
        d_x.to(x.dtype),
        torch.zeros(*x.shape[:-1], x.shape[-2]) if d_mixing is None else d_mixing,
        d_layer.to(h_out.dtype),
        d_weights,
    )


@reference("npu_mhc_sinkhorn")
def mhc_sinkhorn(
    x: Tensor, *, eps: float = 1e-6, num_iters: int = 20, out_flag: int = 0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Make `[..., n, n]` doubly stochastic: softmax, then columns and rows normed in turn.

    Returns:
        The matrices, and, if they are wanted, all norms and sums on the way for the gradient, flat.
    """
    operator = "npu_mhc_sinkhorn"
    check(x.dim() in (3, 4), operator, f"The x's dim should be 3 or 4, but got {x.dim()}.")
    check(x.shape[-1] in (4, 6, 8), operator, f"The x's dim should be 4 or 6 or 8, but got {x.shape[-1]}.")
    check(0 < num_iters <= 100, operator, f"num_iters must be within (0, 100], but got {num_iters}.")
    check(x.dtype == torch.float32, operator, f"x must be float32, got {x.dtype}")
    check(out_flag in (0, 1), operator, f"out_flag must be 0 or 1, got {out_flag}")
    n = x.shape[-1]
    check(x.shape[-2] == n, operator, f"x must have square matrices, got {list(x.shape)}")
    norms = [x.reshape(-1, n, n).softmax(-1) + eps]
    sums = [torch.ones(len(norms[0]), n)]
    for step in range(1, 2 * num_iters):
        dim = -2 if step % 2 else -1
        total = norms[-1].sum(dim, keepdim=True) + eps
        norms.append(norms[-1] / total)
        sums.append(total.squeeze(dim))
    result = norms[-1].view(x.shape)
    if not out_flag:
        return result, None, None
    pad = (0, _ALIGNED - n)
    kept = [torch.nn.functional.pad(torch.stack(of), pad).flatten() for of in (norms, sums)]
    return result, kept[0], kept[1]


@reference("npu_mhc_sinkhorn_backward")
def mhc_sinkhorn_backward(grad_y: Tensor, norm: Tensor, sum: Tensor) -> Tensor:
    """Return the gradient of x, from all norms and sums of the way."""
    n = grad_y.shape[-1]
    gradient = grad_y.reshape(-1, n, n)
    norms = norm.view(-1, *gradient.shape[:2], _ALIGNED)[..., :n]
    sums = sum.view(-1, len(gradient), _ALIGNED)[..., :n]
    for step in range(len(norms) - 1, 0, -1):
        dim = -2 if step % 2 else -1
        inner = (gradient * norms[step]).sum(dim, keepdim=True)
        gradient = (gradient - inner) / sums[step].unsqueeze(dim)
    first = norms[0]
    return (first * (gradient - (gradient * first).sum(-1, keepdim=True))).view(grad_y.shape)
