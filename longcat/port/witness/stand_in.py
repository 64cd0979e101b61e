"""A CUDA that the CPU computes, so that the original program goes its own way on a machine without one.

What a program asks of `torch.cuda` and `torch.accelerator` is answered, tensors that it puts on CUDA stay where they are,
and gloo stands for NCCL. What no CPU can do, such as captured graphs and kernels in CUDA, is refused by name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from typing import Any

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

_TENSORS = ("Float", "Half", "BFloat16", "Double", "Int", "Long", "Short", "Char", "Byte", "Bool")
_NOTHING = (
    "set_device", "synchronize", "empty_cache", "init", "manual_seed", "manual_seed_all", "seed", "seed_all", "ipc_collect",
    "reset_peak_memory_stats", "reset_max_memory_allocated", "reset_max_memory_cached", "reset_accumulated_memory_stats",
    "set_stream", "set_per_process_memory_fraction", "set_sync_debug_mode", "set_rng_state", "set_rng_state_all", "_lazy_init",
)  # fmt: skip
_NO_BYTES = (
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "memory_cached",
    "max_memory_cached",
    "utilization",
)
_VERSION = "12.6"
_MEMORY_BYTES = 64 << 30


def to_cpu(value: Any) -> Any:
    """Return the CPU for a device of CUDA, and anything else as it is."""
    if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
        return "cpu"
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if isinstance(value, str) and value.startswith("torch.cuda."):
        return value.replace("torch.cuda.", "torch.")
    return value


class OnTheCpu(TorchFunctionMode):
    """Sends what goes to CUDA to the CPU."""

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function is torch.device:  # a name of a device is what it says; what is put there goes to the CPU
            return function("cuda", args[0]) if args and isinstance(args[0], int) else function(*args, **kwargs)
        if name in ("cuda", "pin_memory"):
            return args[0]
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.is_cuda:
            return True
        if name == "to" and len(args) > 1 and isinstance(args[1], int) and not isinstance(args[1], bool):
            args = (args[0], "cpu", *args[2:])
        args = tuple(to_cpu(one) if isinstance(one, str | torch.device) else one for one in args)
        for key in ("device", "dtype"):
            if key in kwargs:
                kwargs[key] = "cpu" if key == "device" and isinstance(kwargs[key], int) else to_cpu(kwargs[key])
        if function in (torch.histc, torch.Tensor.histc) and not (counted := args[0]).is_floating_point():
            return function(counted.double(), *args[1:], **kwargs).to(counted.dtype)  # no CPU counts whole numbers
        return function(*args, **kwargs)


class Stream:
    """Stream that does everything when it is asked for."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: True if name == "query" else Event() if name == "record_event" else None


class Event(Stream):
    """Event that has happened."""

    def elapsed_time(self, other: Any) -> float:
        """Return no time that means anything."""
        return 1.0


class _OfTorch(type(torch.Generator)):  # type: ignore[misc]
    """Type of which torch's own generators are instances, too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _GENERATOR)


_GENERATOR = torch.Generator


class Generator(_GENERATOR, metaclass=_OfTorch):
    """Generator of the CPU, whatever device it is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        """Return one of torch's."""
        return _GENERATOR(device=to_cpu(device))


class Here(contextlib.nullcontext[None]):
    """Context of a device or a stream, of which there is one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


class Refused:
    """Something that a CPU cannot stand for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("the original asks for captured CUDA graphs, which a CPU cannot stand for")


def install() -> None:
    """Install the stand-in in this process."""
    cuda = torch.cuda
    local = int(os.environ.get("LOCAL_RANK", "0"))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LONGCAT_PORT_DEVICES", "1")))
    properties = types.SimpleNamespace(
        name="stand-in for CUDA",
        total_memory=_MEMORY_BYTES,
        major=8,
        minor=0,
        multi_processor_count=108,
        is_integrated=False,
    )
    answers: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "device_count": count, "current_device": local, "is_bf16_supported": True,
        "get_device_name": properties.name, "get_device_properties": properties, "get_device_capability": (8, 0),
        "mem_get_info": (_MEMORY_BYTES, _MEMORY_BYTES), "memory_summary": "", "memory_stats": {}, "get_arch_list": ["sm_80"],
        "can_device_access_peer": True, "is_current_stream_capturing": False, "initial_seed": 0, "memory_snapshot": [],
        "is_tf32_supported": True, "current_stream": Stream(), "default_stream": Stream(),
        **dict.fromkeys(_NOTHING), **dict.fromkeys(_NO_BYTES, 0),
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, _answer=answer, **__: _answer)
        if hasattr(cuda.memory, name):
            setattr(cuda.memory, name, getattr(cuda, name))
    accelerator = {
        "is_available": True, "current_accelerator": torch.device("cuda"), "current_device_index": local,
        "current_device_idx": local, "get_memory_info": answers["mem_get_info"],
        **dict.fromkeys(("set_device_index", "set_device_idx", "empty_host_cache")),
    }  # fmt: skip
    for name in torch.accelerator.__all__:
        if name in answers or name in accelerator:
            answer = accelerator.get(name, answers.get(name))
            setattr(torch.accelerator, name, lambda *_, _answer=answer, **__: _answer)
    torch.accelerator.device_index = Here  # type: ignore[misc,assignment]
    state = torch.get_rng_state
    cuda.get_rng_state = lambda *_: state()
    cuda.get_rng_state_all = lambda: [state()]
    cuda.default_generators = (torch.default_generator,) * count  # type: ignore[assignment]
    for name in ("_record_memory_history", "_dump_snapshot"):
        setattr(cuda.memory, name, lambda *_, **__: None)
    cuda.memory._snapshot = lambda *_, **__: {"segments": [], "device_traces": []}
    torch.version.cuda = _VERSION  # what asks for TF32 looks at it
    cuda.Stream, cuda.Event, cuda.ExternalStream = Stream, Event, Stream  # type: ignore[misc,assignment]
    cuda.stream = cuda.StreamContext = Here  # type: ignore[misc,assignment]
    cuda.device = cuda.device_of = Here  # type: ignore[misc,assignment]
    cuda.CUDAGraph = cuda.graph = cuda.make_graphed_callables = Refused  # type: ignore[misc,assignment]
    for kind in _TENSORS:
        setattr(cuda, f"{kind}Tensor", getattr(torch, f"{kind}Tensor"))
    for name in ("range_push", "range_pop", "range_start", "range_end", "mark"):
        setattr(cuda.nvtx, name, lambda *_, **__: 0)
    cuda.nvtx.range = Here  # type: ignore[assignment]
    torch.nn.DataParallel.__init__ = _of_one_device  # type: ignore[method-assign]
    torch.Tensor.record_stream = lambda *_: None  # type: ignore[method-assign] # takes no stream of ours
    torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign] # in threads, which have no mode
    _patch_devices()
    _patch_distributed()
    OnTheCpu().__enter__()


def _of_one_device(self: Any, module: Any, *_: Any, **__: Any) -> None:
    """Make a DataParallel that hands everything to its module."""
    torch.nn.Module.__init__(self)
    self.module, self.device_ids, self.dim = module, [], 0


def _patch(owner: Any, name: str, change: Any) -> None:
    """Replace a function by one whose arguments are changed first."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def changed(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = change(args, kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, changed)


def _mapped(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Map every device among the arguments."""
    return tuple(map(to_cpu, args)), {name: to_cpu(value) for name, value in kwargs.items()}


def _placed(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Map a device that is a mere number, for which torch looks for an accelerator by itself."""
    number = len(args) > 1 and type(args[1]) is int
    return (args[0], "cpu", *args[2:]) if number else args, {
        name: "cpu" if name == "device" and type(value) is int else value for name, value in kwargs.items()
    }


def _patch_devices() -> None:
    for owner, name in (
        (torch.autocast, "__init__"), (torch.amp.GradScaler, "__init__"), (torch, "set_default_device"),
        (torch, "is_autocast_enabled"), (torch, "get_autocast_dtype"), (torch.random, "fork_rng"),
    ):  # fmt: skip
        _patch(owner, name, _mapped)
    _patch(torch.nn.Module, "to", _placed)
    torch.Generator = Generator  # type: ignore[misc]
    torch.random.fork_rng = _without(torch.random.fork_rng, "devices", "device_type")

    def load(args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args[:1], {**dict(zip(("map_location",), args[1:2], strict=False)), **kwargs, "map_location": "cpu"}

    _patch(torch, "load", load)
    _patch(torch, "set_default_tensor_type", _mapped)


def _without(function: Any, *names: str) -> Any:
    @functools.wraps(function)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{name: value for name, value in kwargs.items() if name not in names})

    return changed


def _batch_norm_of_all(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Normalise by the mean and variance of all ranks' batches, as Ioffe and Szegedy (2015) define them for one."""
    from torch.distributed.nn.functional import all_reduce

    group = self.process_group or (dist.group.WORLD if dist.is_initialized() else None)
    training = self.training or self.running_mean is None
    if not training or group is None or dist.get_world_size(group) == 1:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1.0 / max(float(self.num_batches_tracked or 1), 1.0)
        return torch.nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, factor, self.eps
        )
    others, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    count = torch.tensor(float(x.numel() // x.size(1)))
    dist.all_reduce(count, group=group)
    mean = all_reduce(x.sum(others), group=group) / count
    apart = x - mean.view(shape)
    variance = all_reduce(apart.square().sum(others), group=group) / count
    if self.track_running_stats and self.running_mean is not None:
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance * count / (count - 1), factor)
    y = apart * (variance + self.eps).rsqrt().view(shape)
    return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)


def _patch_distributed() -> None:
    if not dist.is_available():
        return
    import torch.distributed.device_mesh as meshes
    from torch.nn.parallel import DistributedDataParallel

    def gloo(args: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs = {name: value for name, value in kwargs.items() if name not in ("device_id", "pg_options", "backend")}
        return ("gloo", *args[1:]), kwargs

    def group(args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, {
            name: value for name, value in kwargs.items() if name not in ("backend", "pg_options", "device_id")
        }

    def alone(args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args[:2], {name: value for name, value in kwargs.items() if name not in ("device_ids", "output_device")}

    # torch's own refuse a CPU
    torch.nn.SyncBatchNorm.forward = _batch_norm_of_all  # type: ignore[method-assign,assignment]
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None  # type: ignore[method-assign]
    from torch.distributed.fsdp import FullyShardedDataParallel

    FullyShardedDataParallel.__init__ = _without(FullyShardedDataParallel.__init__, "device_id")  # type: ignore[method-assign]
    _patch(dist, "init_process_group", gloo)
    _patch(dist, "new_group", group)
    _patch(DistributedDataParallel, "__init__", alone)
    dist.barrier = _without(dist.barrier, "device_ids")
    for owner in (dist, meshes):
        if hasattr(owner, "init_device_mesh"):
            _patch(owner, "init_device_mesh", _mapped)
    _patch(meshes.DeviceMesh, "__init__", _mapped)
    dist.is_nccl_available = lambda: True
    dist.get_default_backend_for_device = lambda *_: "gloo"
    reduce = dist.all_reduce

    @functools.wraps(reduce)
    def reduced(tensor: Any, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Any:
        if op == dist.ReduceOp.PREMUL_SUM:  # gloo has neither this nor a mean
            tensor.mul_(_factor(op))
            op = dist.ReduceOp.SUM
        if op != dist.ReduceOp.AVG or async_op:
            return reduce(tensor, op, group, async_op)
        reduce(tensor, dist.ReduceOp.SUM, group)
        tensor.div_(dist.get_world_size(group))
        return None

    dist.all_reduce = reduced
    for name in ("reduce_scatter_tensor", "reduce_scatter_single"):
        if hasattr(dist, name):
            _patch(dist, name, _scaled_before)
    _shard_attention()


def _factor(op: Any) -> float:
    """Return the factor of a sum of multiplied terms."""
    return float(op.__getstate__()[1])


def _scaled_before(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Multiply what is reduced and scattered, where its sum has a factor, which gloo knows nothing of."""
    given = dict(zip(("output", "input", "op", "group", "async_op"), args, strict=False)) | kwargs
    if given.get("op") == dist.ReduceOp.PREMUL_SUM:
        given |= {"input": given["input"] * _factor(given["op"]), "op": dist.ReduceOp.SUM}
    return (), given


def _shard_attention() -> None:
    """Have DTensors attend apart by rows or heads, as they do on CUDA; torch gathers nothing for its kernel of the CPU."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.experimental import register_sharding

    def placements(results: int, *args: Any, attn_mask: Any = None, **kwargs: Any) -> Any:
        inputs = (*args, attn_mask, *kwargs.values())
        return [
            ([place] * results, [place if hasattr(one, "placements") else None for one in inputs])
            for place in ((Replicate(),) if attn_mask is not None else (Replicate(), Shard(0), Shard(1)))
        ]

    for operator, results in (
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, 2),
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, 3),
    ):
        register_sharding(operator.default)(functools.partial(placements, results))
