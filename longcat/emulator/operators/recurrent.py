"""LSTM and GRU: torch_npu's own operators of a cell, of one layer, and of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference

Tensors = tuple[Tensor, ...]


def _lstm_step(gates: Tensor, cell: Tensor) -> Tensors:
    """Return hidden state, cell, and input gate, candidate, forget gate, output gate, and the cell's tanh."""
    enter, forget, candidate, leave = gates.chunk(4, -1)
    enter, forget, candidate, leave = enter.sigmoid(), forget.sigmoid(), candidate.tanh(), leave.sigmoid()
    cell = forget * cell + enter * candidate
    squashed = cell.tanh()
    return leave * squashed, cell, enter, candidate, forget, leave, squashed


def _gru_step(of_input: Tensor, of_hidden: Tensor, hidden: Tensor) -> Tensors:
    """Return hidden state, and update gate, reset gate, new gate and the product of the hidden state in the last."""
    (reset, update, new), (reset_h, update_h, new_h) = of_input.chunk(3, -1), of_hidden.chunk(3, -1)
    reset, update = (reset + reset_h).sigmoid(), (update + update_h).sigmoid()
    new = (new + reset * new_h).tanh()
    return new + update * (hidden - new), update, reset, new, new_h


def _steps(x: Tensor, backwards: bool, step: Callable[[Tensor], Tensors]) -> Tensors:
    """Run a step along time, the first dimension, and stack what it returns."""
    order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    results = [step(x[time]) for time in order]
    results = results[::-1] if backwards else results
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _lstm_layer(
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    bias: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    backwards: bool = False,
) -> Tensors:
    """Return the seven results of `_lstm_step` for each time, in float32: `x` is `[time, batch, size]`."""
    state = [hidden.float(), cell.float()]
    of_input, of_hidden = (weight.float() for weight in weights)

    def step(now: Tensor) -> Tensors:
        gates = now @ of_input + state[0] @ of_hidden
        results = _lstm_step(gates if bias is None else gates + bias.float(), state[1])
        state[:] = results[:2]
        return results

    return _steps(x.float(), backwards, step)


def _gru_layer(
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    biases: tuple[Tensor, Tensor] | None,
    hidden: Tensor,
    backwards: bool = False,
) -> Tensors:
    """Return the five results of `_gru_step` for each time, in float32: `x` is `[time, batch, size]`."""
    state = [hidden.float()]
    of_input, of_hidden = (weight.float() for weight in weights)
    one, other = (0.0, 0.0) if biases is None else (biases[0].float(), biases[1].float())

    def step(now: Tensor) -> Tensors:
        results = _gru_step(now @ of_input + one, state[0] @ of_hidden + other, state[0])
        state[0] = results[0]
        return results

    return _steps(x.float(), backwards, step)


def _backward(
    function: Callable[..., Tensors], inputs: list[Tensor | None], results: list[Tensor | None]
) -> list[Tensor | None]:
    """Differentiate a function of several results; a gradient that is None counts as zero."""

    def joined(*arguments: Tensor) -> Tensor:
        found = function(*arguments)
        return torch.cat([part.float().flatten() for part, d in zip(found, results, strict=True) if d is not None])

    given = [d.float().flatten() for d in results if d is not None]
    if not given:
        return [None if tensor is None else torch.zeros_like(tensor) for tensor in inputs]
    found = gradients(joined, inputs, torch.cat(given))
    return [
        torch.zeros_like(tensor) if d is None and tensor is not None else d
        for d, tensor in zip(found, inputs, strict=True)
    ]


@reference("npu_lstm")
def lstm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    seq_mask: Tensor,
    hidden: Tensor,
    cell: Tensor,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    flag_seq: bool,
    direction: bool,
) -> Tensors:
    """Compute one layer of an LSTM.

    Args:
        x: `[time, batch, size]`.
        weight: `[size + hidden, 4 * hidden]`: input gate, forget gate, candidate, output gate.
        bias: `[4 * hidden]`.
        seq_mask: not read here.
        hidden: `[1, batch, hidden]`.
        cell: likewise.
        has_biases: whether the bias counts.
        num_layers: 1.
        dropout: 0.
        train: whether a gradient is wanted.
        bidirectional: False.
        batch_first: False.
        flag_seq: False.
        direction: whether time runs backwards.

    Returns:
        Output, hidden state, cell, input gate, candidate, forget gate, output gate, tanh of the cell: each
        `[time, batch, hidden]`.
    """
    operator = "npu_lstm"
    check(num_layers == 1, operator, f"num_layers is 1, found {num_layers}")
    check(
        not (bidirectional or batch_first or flag_seq) and dropout == 0,
        operator,
        "there is one direction, time first, without dropout",
    )
    found = _lstm_of_weight(x, weight, bias if has_biases else None, hidden, cell, direction)
    output, state, enter, candidate, forget, leave, squashed = (part.to(x.dtype) for part in found)
    return output, output.clone(), state, enter, candidate, forget, leave, squashed


def _lstm_of_weight(
    x: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, cell: Tensor, backwards: bool = False
) -> Tensors:
    size = x.shape[-1]
    hidden, cell = hidden.reshape(-1, hidden.shape[-1]), cell.reshape(-1, cell.shape[-1])
    return _lstm_layer(x, (weight[:size], weight[size:]), bias, hidden, cell, backwards)


@reference("npu_lstm_backward")
def lstm_backward(
    d_output: Tensor | None,
    d_hidden: Tensor | None,
    d_cell: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
    *kept: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias, hidden state and cell."""

    def forward(x: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor) -> Tensors:
        output, state, *_ = _lstm_of_weight(x, weight, bias, hidden, cell)
        return output, output, state

    results = [_at_end(d, len(x)) for d in (d_output, d_hidden, d_cell)]
    return tuple(_backward(forward, [x, weight, bias, hidden, cell], results))


def _at_end(gradient: Tensor | None, steps: int) -> Tensor | None:
    """Return a gradient of all steps; one of a single step belongs to the last."""
    if gradient is None or (gradient.dim() == 3 and len(gradient) == steps):
        return gradient
    gradient = gradient.reshape(1, *gradient.shape[-2:])
    return torch.cat([gradient.new_zeros(steps - 1, *gradient.shape[1:]), gradient])


@reference("npu_lstm_cell")
def lstm_cell(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    hidden: Tensor,
    cell: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensors:
    """Compute an LSTM cell; weights are `[size, 4 * hidden]`.

    Returns:
        Output `[1, batch, hidden]`, hidden state and cell `[batch, hidden]`, and input gate, candidate, forget gate,
        output gate and tanh of the cell, each as the output.
    """
    found = tuple(part.to(x.dtype) for part in _lstm_cell(x, w_ih, w_hh, hidden, cell, b_ih, b_hh))
    return (found[0][None], found[0].clone(), found[1], *(part[None] for part in found[2:]))


def _lstm_cell(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, hidden: Tensor, cell: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> Tensors:
    gates = x.float() @ w_ih.float() + hidden.float() @ w_hh.float()
    for bias in (b_ih, b_hh):
        gates = gates if bias is None else gates + bias.float()
    return _lstm_step(gates, cell.float())


@reference("npu_lstm_cell_backward")
def lstm_cell_backward(
    d_output: Tensor | None,
    d_hidden: Tensor | None,
    d_cell: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    hidden: Tensor,
    cell: Tensor,
    output: Tensor,
    new_hidden: Tensor,
    new_cell: Tensor,
    enter: Tensor,
    candidate: Tensor,
    forget: Tensor,
    leave: Tensor,
    squashed: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, both weights, both biases, hidden state and cell."""
    i, j, f, o, tanh = (part[0].float() for part in (enter, candidate, forget, leave, squashed))
    d_h = torch.zeros_like(i)
    for gradient in (d_output, d_hidden):
        d_h = d_h if gradient is None else d_h + gradient.float().reshape(d_h.shape)
    d_c = d_h * o * (1 - tanh**2) + (0.0 if d_cell is None else d_cell.float().reshape(d_h.shape))
    d_gates = torch.cat(
        [d_c * j * i * (1 - i), d_c * cell.float() * f * (1 - f), d_c * i * (1 - j**2), d_h * tanh * o * (1 - o)], -1
    )
    d_bias = d_gates.sum(0)
    found = [
        d_gates @ w_ih.float().mT, x.float().mT @ d_gates, hidden.float().mT @ d_gates, d_bias, d_bias.clone(),
        d_gates @ w_hh.float().mT, d_c * f,
    ]  # fmt: skip
    return tuple(part.to(x.dtype) for part in found)


@reference("npu_gru")
def gru(
    x: Tensor,
    hidden: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor,
    bias_hidden: Tensor,
    seq_length: Tensor,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Tensors:
    """Compute one layer of a GRU.

    Args:
        x: `[time, batch, size]`.
        hidden: `[1, batch, hidden]`.
        weight_input: `[size, 3 * hidden]`: reset gate, update gate, new gate.
        weight_hidden: `[hidden, 3 * hidden]`.
        bias_input: `[3 * hidden]`.
        bias_hidden: likewise.
        seq_length: not read here.
        has_biases: whether biases count.
        num_layers: 1.
        dropout: 0.
        train: whether a gradient is wanted.
        bidirectional: False.
        batch_first: False.

    Returns:
        Output, hidden state, update gate, reset gate, new gate, the hidden state's product in the new gate: each
        `[time, batch, hidden]`.
    """
    check(num_layers == 1, "npu_gru", f"num_layers is 1, found {num_layers}")
    check(
        not (bidirectional or batch_first) and dropout == 0,
        "npu_gru",
        "there is one direction, time first, without dropout",
    )
    biases = (bias_input, bias_hidden) if has_biases else None
    found = _gru_layer(x, (weight_input, weight_hidden), biases, hidden.reshape(-1, hidden.shape[-1]))
    output, update, reset, new, product = (part.to(x.dtype) for part in found)
    return output, output.clone(), update, reset, new, product


@reference("npu_gru_backward")
def gru_backward(
    d_output: Tensor | None,
    d_hidden: Tensor | None,
    x: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor,
    bias_hidden: Tensor,
    seq_length: Tensor,
    hidden: Tensor,
    *kept: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of both weights, x, both biases and the hidden state."""

    def forward(w_i: Tensor, w_h: Tensor, x: Tensor, b_i: Tensor, b_h: Tensor, hidden: Tensor) -> Tensors:
        output = _gru_layer(x, (w_i, w_h), (b_i, b_h), hidden.reshape(-1, hidden.shape[-1]))[0]
        return output, output

    inputs: list[Tensor | None] = [weight_input, weight_hidden, x, bias_input, bias_hidden, hidden]
    return tuple(_backward(forward, inputs, [_at_end(d, len(x)) for d in (d_output, d_hidden)]))


def _network(
    x: Tensor,
    states: list[Tensor],
    params: list[Tensor],
    layer: Callable[..., Tensors],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool | None,
) -> tuple[Tensor, list[Tensors]]:
    """Return the output of stacked layers, and what each layer and direction returned."""
    directions = 2 if bidirectional else 1
    each = 4 if has_biases else 2
    values = x.transpose(0, 1) if batch_first else x
    found: list[Tensors] = []
    for number in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = number * directions + direction
            w_ih, w_hh, *biases = params[place * each : (place + 1) * each]
            state = [s[place] for s in states]
            results = layer(values, (w_ih.mT, w_hh.mT), biases, state, direction == 1)
            found.append(results)
            outputs.append(results[0])
        values = torch.cat(outputs, -1)
    return (values.transpose(0, 1) if batch_first else values), found


def _last(found: list[Tensors], part: int, bidirectional: bool) -> Tensor:
    """Return a result at the last step of each layer and direction; backwards that is the first."""
    return torch.stack([r[part][0 if bidirectional and i % 2 else -1] for i, r in enumerate(found)])


def _lstm_network(
    x: Tensor, hx: list[Tensor], params: list[Tensor], options: tuple[Any, ...]
) -> tuple[Tensor, list[Tensors]]:
    def layer(x: Tensor, weights: Any, biases: list[Tensor], state: list[Tensor], backwards: bool) -> Tensors:
        return _lstm_layer(x, weights, biases[0] + biases[1] if biases else None, state[0], state[1], backwards)

    return _network(x, hx, params, layer, *options)


def _gru_network(x: Tensor, hx: Tensor, params: list[Tensor], options: tuple[Any, ...]) -> tuple[Tensor, list[Tensors]]:
    def layer(x: Tensor, weights: Any, biases: list[Tensor], state: list[Tensor], backwards: bool) -> Tensors:
        return _gru_layer(x, weights, (biases[0], biases[1]) if biases else None, state[0], backwards)

    return _network(x, [hx], params, layer, *options)


def _refuse_packed(operator: str, batch_sizes: Tensor | None, dropout: float) -> None:
    check(dropout == 0, operator, f"dropout is 0, found {dropout}")
    if batch_sizes is not None:
        raise NotImplementedError(f"{operator}: packed sequences (batch_sizes) are not emulated")


@reference("_lstm_npu")
def lstm_network(
    x: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *,
    batch_first: bool | None = False,
    batch_sizes: Tensor | None = None,
) -> Tensors:
    """Compute an LSTM of several layers, with torch's weights.

    Returns:
        Output, last hidden states and cells, then `[layers * directions, time, batch, hidden]`: input gates, candidates,
        forget gates, output gates, hidden states, cells, and tanh of these. Without `train` gates are empty, and hidden
        states and cells those of the last step.
    """
    _refuse_packed("_lstm_npu", batch_sizes, dropout)
    options = has_biases, num_layers, bidirectional, batch_first
    output, found = _lstm_network(x, hx, params, options)
    last = [_last(found, part, bidirectional) for part in (0, 1)]
    if train:
        kept = [torch.stack([r[part] for r in found]) for part in (2, 3, 4, 5, 0, 1, 6)]
    else:
        nothing = x.new_empty(0)
        kept = [*(nothing.clone() for _ in range(4)), *(t.clone() for t in last), nothing]
    return tuple(part.to(x.dtype) for part in (output, *last, *kept))


@reference("_lstm_npu_backward")
def lstm_network_backward(
    d_output: Tensor,
    d_hidden: Tensor,
    d_cell: Tensor,
    x: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    i: Tensor,
    j: Tensor,
    f: Tensor,
    o: Tensor,
    h: Tensor,
    c: Tensor,
    tanhc: Tensor,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *,
    batch_first: bool | None = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of x, of the first hidden state and cell, and of the weights."""
    _refuse_packed("_lstm_npu_backward", batch_sizes, dropout)

    def forward(x: Tensor, hidden: Tensor, cell: Tensor, *params: Tensor) -> Tensors:
        options = has_biases, num_layers, bidirectional, batch_first
        output, found = _lstm_network(x, [hidden, cell], list(params), options)
        return output, _last(found, 0, bidirectional), _last(found, 1, bidirectional)

    d_x, d_h, d_c, *d_params = _backward(forward, [x, *hx, *params], [d_output, d_hidden, d_cell])
    return d_x, [d_h, d_c], d_params


@reference("_gru_npu")
def gru_network(
    x: Tensor,
    hx: Tensor,
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *,
    batch_first: bool | None = False,
    batch_sizes: Tensor | None = None,
) -> Tensors:
    """Compute a GRU of several layers, with torch's weights.

    Returns:
        Output, last hidden states, then `[layers * directions, time, batch, hidden]`: reset gates, update gates, new
        gates, the hidden states' products in these, hidden states. Without `train` these are empty.
    """
    _refuse_packed("_gru_npu", batch_sizes, dropout)
    output, found = _gru_network(x, hx, params, (has_biases, num_layers, bidirectional, batch_first))
    if train:
        kept = [torch.stack([r[part] for r in found]) for part in (2, 1, 3, 4, 0)]
    else:
        kept = [x.new_empty(0) for _ in range(5)]
    return tuple(part.to(x.dtype) for part in (output, _last(found, 0, bidirectional), *kept))


@reference("_gru_npu_backward")
def gru_network_backward(
    d_output: Tensor,
    d_hidden: Tensor,
    x: Tensor,
    hx: Tensor,
    params: list[Tensor],
    r: Tensor,
    z: Tensor,
    n: Tensor,
    h_n: Tensor,
    h: Tensor,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *,
    batch_first: bool | None = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """Return the gradients of x, of the first hidden state, and of the weights."""
    _refuse_packed("_gru_npu_backward", batch_sizes, dropout)

    def forward(x: Tensor, hidden: Tensor, *params: Tensor) -> Tensors:
        options = has_biases, num_layers, bidirectional, batch_first
        output, found = _gru_network(x, hidden, list(params), options)
        return output, _last(found, 0, bidirectional)

    d_x, d_h, *d_params = _backward(forward, [x, hx, *params], [d_output, d_hidden])
    return d_x, d_h, d_params
