"""What a program computes, written down: losses at `backward()`, steps of optimizers, and the results of operators in order.

A record is a file of JSON lines for each process that trains. The program is stopped when it begins to go backwards after
its last step; what it does after `backward()`, such as printing, is done for every step.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
import torch.utils.checkpoint
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from longcat.port.witness.hook import FOLDER, SEED, STEPS

MOST_OPERATORS = 20_000
"""Operators that are recorded, from the beginning."""
RECORDED_STEPS = 2
"""Steps whose operators are recorded."""
_MOST_BACKWARDS = 64
"""Backward passes per step after which a program is stopped that never steps an optimizer."""
_SAMPLED = 65_536
"""Elements of a result that are looked at."""
_WAIT_S = 20.0
_UNCOMPUTED = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_to_copy", "copy_", "clone", "detach", "detach_",
    "alias", "view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "split", "split_with_sizes", "unbind", "as_strided", "lift_fresh", "contiguous", "_local_scalar_dense", "set_", "resize_",
    "chunk", "narrow", "diagonal", "record_stream", "is_pinned", "_pin_memory", "zero_", "zeros", "zeros_like", "npu_format_cast",
    "_npu_format_cast", "item", "numpy_T", "movedim", "unfold",
}  # fmt: skip
"""Operators that compute nothing: they allocate, move or view."""


class Recorder:
    """Record of one process."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.pid, self.rank = os.getpid(), int(os.environ.get("RANK", "0"))
        self.done = self.backwards = self.operators = 0
        self._first: Any = None
        self._stream: IO[str] | None = None
        self._raw: tuple[int, float] | None = None
        self.on_device = False

    def computed(self, result: Any) -> None:
        """Note the first result that lies on a device other than the host."""
        if not self.on_device and os.getpid() == self.pid:
            found = (one.device.type for one in tree_leaves(result) if isinstance(one, torch.Tensor))
            if (device := next((one for one in found if one not in ("cpu", "meta")), None)) is not None:
                self.on_device = True
                self.write(kind="device", device=device)

    def write(self, **row: Any) -> None:
        """Write one line, at once."""
        if os.getpid() != self.pid:
            return  # a forked loader of data
        if self._stream is None:
            name = f"rank{self.rank}-{self.pid}.jsonl"
            self._stream = (self.folder / name).open("a", encoding="utf-8", buffering=1)
        self._stream.write(json.dumps(row) + "\n")

    def scaled(self, raw: torch.Tensor, result: torch.Tensor) -> None:
        """Remember the value of a loss before it was scaled."""
        self._raw = (id(result), _float(raw))

    def backward(self, roots: Any) -> None:
        """Record the loss that a backward pass begins at; stop the program after its last step."""
        if os.getpid() != self.pid:
            return
        if self.done >= self.steps or self.backwards >= self.steps * _MOST_BACKWARDS:
            self.stop()
        leaves = [one for one in tree_leaves(roots) if isinstance(one, torch.Tensor)]
        self.backwards += 1
        if len(leaves) == 1 and leaves[0].numel() == 1:
            value = self._raw[1] if self._raw is not None and self._raw[0] == id(leaves[0]) else _float(leaves[0])
            self.write(
                kind="loss", step=self.done, value=value if math.isfinite(value) else None, dtype=str(leaves[0].dtype)
            )

    def stepped(self, optimizer: Any) -> None:
        """Count the steps of the first optimizer."""
        if self._first is None:
            self._first = id(optimizer)
        if self._first == id(optimizer) and os.getpid() == self.pid:
            self.done += 1
            self.write(kind="step", step=self.done)

    def stop(self) -> None:
        """End this process when all ranks have come so far, or do not come."""
        self.write(kind="stopped", step=self.done)
        (self.folder / f"reached-{self.rank}").touch()
        world, until = int(os.environ.get("WORLD_SIZE", "1")), time.monotonic() + _WAIT_S
        while time.monotonic() < until and len(list(self.folder.glob("reached-*"))) < world:
            time.sleep(0.05)
        time.sleep(0.2 if world > 1 else 0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Operators(TorchDispatchMode):
    """Writes down the results of operators, and has random numbers of every device come from the host's generator."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._lock = threading.Lock()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(one.__name__ == "DTensor" for one in types):
            _draw_shards_on_the_host()
            return NotImplemented  # its own parts come here again
        if any(one.__name__ in ("FakeTensor", "FunctionalTensor") for one in types):
            return function(*args, **kwargs)
        name = function._schema.name.partition("::")[2]
        if torch.Tag.nondeterministic_seeded in function.tags and kwargs.get("generator") is None:
            result = _drawn(function, args, kwargs)
        else:
            try:
                result = function(*args, **kwargs)
            except NotImplementedError as error:
                self.recorder.write(kind="missing", name=function.name(), why=str(error).splitlines()[0][:300])
                raise
        recorder = self.recorder
        if name not in _UNCOMPUTED:
            recorder.computed(result)
        if (
            name not in _UNCOMPUTED
            and recorder.operators < MOST_OPERATORS
            and recorder.done < RECORDED_STEPS
            and os.getpid() == recorder.pid
        ):
            with self._lock:
                recorder.operators += 1
                recorder.write(kind="operator", name=function.name(), results=_prints(result))
        return result


def _draw_shards_on_the_host() -> None:
    """Have a DTensor of every device draw its shard as one of the host does: without the generator of its mesh.

    torch gives each shard a range of a device's generator, and puts the host's generator back as it was before.
    """
    sys.modules["torch.distributed.tensor._random"]._RNGStateTracker.distribute_region_enabled = False


def _drawn(function: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator that draws random numbers on the host, and put its results where they belong."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    device = kwargs.get("device") or next((one.device for one in tensors if one.device.type != "cpu"), None)
    if device is None or torch.device(device).type in ("cpu", "meta"):
        return function(*args, **kwargs)
    host_args, host_kwargs = tree_map(lambda one: one.cpu() if isinstance(one, torch.Tensor) else one, (args, kwargs))
    if host_kwargs.get("device") is not None:
        host_kwargs["device"] = torch.device("cpu")
    result = function(*host_args, **host_kwargs)
    if function._schema.name.endswith("_") and tensors:  # in place
        tensors[0].copy_(result)
        return args[0]
    return tree_map(lambda one: one.to(device) if isinstance(one, torch.Tensor) else one, result)


def _prints(result: Any) -> list[list[Any]]:
    """Return shape, type, sum and sum of magnitudes of each result."""
    found = list[list[Any]]()
    for one in tree_leaves(result)[:64]:
        if (
            isinstance(one, torch.Tensor)
            and one.layout == torch.strided
            and not one.is_complex()
            and one.device.type != "meta"
        ):
            values = one.detach().cpu().reshape(-1)[:_SAMPLED].double()
            found.append(
                [
                    list(one.shape),
                    str(one.dtype).removeprefix("torch."),
                    _finite(values.sum()),
                    _finite(values.abs().sum()),
                ]
            )
    return found


def _finite(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _float(value: torch.Tensor) -> float:
    local = value.to_local() if hasattr(value, "to_local") else value
    return float(local.detach().double().cpu()) if local.numel() == 1 else math.nan


class Dropout(TorchFunctionMode):
    """Dropout with masks that are drawn on the host, so that both programs drop the same."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if (
            name in ("dropout", "dropout_", "feature_dropout", "feature_dropout_")
            and len(args) == 3
            and not kwargs
            and function is not torch.nn.functional.dropout
        ):
            x, p, training = args
            if not training or p in (0, 1):
                return function(*args)
            shape = x.shape if name.startswith("dropout") else (*x.shape[:2], *[1] * (x.dim() - 2))
            mask = ((torch.rand(shape) >= p).to(x.dtype) / (1 - p)).to(x.device)
            return x.mul_(mask) if name.endswith("_") else x * mask
        if function is torch.nn.functional.scaled_dot_product_attention and _dropped(args, kwargs):
            return _attention(*args, **kwargs)
        return function(*args, **kwargs)


def _dropped(args: Any, kwargs: Any) -> bool:
    return bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Attention with dropout as torch's documentation writes it down."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.size(-3) // one.size(-3), -3) for one in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        seen = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril().to(query.device)
        scores = scores.masked_fill(~seen, float("-inf"))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.nn.functional.dropout(scores.softmax(-1), dropout_p) @ value


def begin() -> None:
    """Begin the record of this process: seeds, losses, steps and operators."""
    seed = int(os.environ[SEED])
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)
    recorder = Recorder(Path(os.environ[FOLDER]), int(os.environ[STEPS]))
    backward = torch.autograd.backward

    def recorded(tensors: Any, *args: Any, **kwargs: Any) -> None:
        recorder.backward(tensors)
        backward(tensors, *args, **kwargs)

    torch.autograd.backward = recorded
    scalers: list[Any] = [torch.amp.GradScaler]
    if hasattr(torch, "npu"):
        scalers.append(torch.npu.amp.GradScaler)
    for scaler in scalers:
        if "scale" in vars(scaler):
            scaler.scale = _noted(scaler.scale, recorder)
    torch.compile = _uncompiled
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(lambda optimizer, args, kwargs: recorder.stepped(optimizer))
    Operators(recorder).__enter__()
    Dropout().__enter__()


def keep_modes() -> None:
    """Have layers be recomputed in the modes that they were computed in."""
    torch.utils.checkpoint.checkpoint = with_modes(torch.utils.checkpoint.checkpoint)


def with_modes(checkpoint: Any) -> Any:
    """Return torch's `checkpoint` that recomputes in the function modes of the first pass; torch itself has none of them then."""

    @functools.wraps(checkpoint)
    def changed(function: Any, *args: Any, **kwargs: Any) -> Any:
        modes = _get_current_function_mode_stack()

        def computed(*inputs: Any, **options: Any) -> Any:
            with contextlib.ExitStack() as stack:
                for mode in () if _get_current_function_mode_stack() else modes:
                    stack.enter_context(mode)
                return function(*inputs, **options)

        return checkpoint(computed, *args, **kwargs)

    return changed


def _noted(scale: Any, recorder: Recorder) -> Any:
    """Return a gradient scaler's `scale` that remembers what it was given."""

    def scaled(self: Any, outputs: Any) -> Any:
        result = scale(self, outputs)
        if isinstance(outputs, torch.Tensor) and outputs.numel() == 1:
            recorder.scaled(outputs, result)
        return result

    return scaled


def _uncompiled(model: Any = None, **_: Any) -> Any:
    """Stand for torch.compile: neither side has the compiler of the other."""
    if model is None:
        keep: Callable[[Any], Any] = lambda one: one  # noqa: E731
        return keep
    return model
