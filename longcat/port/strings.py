"""What a string of a Python program is: a device, a backend, an environment variable, or none of these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import libcst as cst
from libcst import matchers

from longcat.port.header import ACCELERATORS
from longcat.port.names import dotted

DEVICE = re.compile(r"cuda(:.*)?", re.DOTALL)
NUMBERED = re.compile(r"cuda:(\d+|%[ds]|\{\w*\})?")
BACKEND = re.compile(r"nccl|(\w+:\w+,)*(cuda:nccl|cuda:\w+)(,\w+:\w+)*")
VARIABLE = re.compile(
    r"(CUDA|NCCL|TORCH_NCCL|TORCH_CUDA|TORCH_CUDNN|TORCH_ALLOW_TF32|CUDNN|CUBLAS\w*|NVIDIA|NVTE|NVSHMEM|PYTORCH_CUDA)_[A-Z0-9_]+"
)
TENSOR_TYPE = re.compile(r"torch\.cuda\.(Float|Half|BFloat16|Int|Long|Short|Char|Byte|Bool)Tensor")
INTERFACE = re.compile(r"torch\.cuda(\.\w+)*")
SOURCE = re.compile(r"__global__|#include\s*<(cuda|ATen/cuda|c10/cuda)|<<<")
LIBRARY = re.compile(r"lib(cuda|cudart|cublas\w*|cudnn|nccl|nvrtc|nvidia-ml)\.so[.\d]*|nvcuda\.dll")
OPTIMIZER = re.compile(r"(paged_|galore_)?(adamw?|lion|rmsprop|ademamix|adagrad)_(\w*bnb\w*|8bit\w*|32bit|apex_fused)")
"""Optimizers of bitsandbytes and apex, as transformers names them."""
ATTENTION = re.compile(r"flash_attention_[2-4]")
FAILURE = re.compile(r"CUDA out of memory|CUDA error|CUDA driver|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|NCCL error")
OTHERS_DEVICES = {
    "lightning", "pytorch_lightning", "lightning_fabric", "jax", "tensorflow", "keras", "xgboost", "lightgbm", "catboost", "onnxruntime",
    "ctranslate2", "faster_whisper", "vllm", "sklearn", "spacy", "cupy", "numba", "warp", "whisperx", "paddle", "mxnet", "taichi",
}  # fmt: skip
"""Packages whose devices are not torch's: "npu" may mean nothing to them."""
OPTION = re.compile(r"--[\w-]*(?:device[\w-]*=(cuda)(:\d+)?|backend[\w-]*=(nccl))")
"""A word of a command: an option with its value."""
_LOOKS_FOR = {
    "search",
    "match",
    "fullmatch",
    "findall",
    "compile",
    "startswith",
    "endswith",
    "find",
    "index",
    "count",
    "raises",
}
_DEVICE_WORDS = re.compile(r"dev(ice)?s?(_|$)|device|map_location", re.IGNORECASE)
_ACCELERATOR_WORDS = re.compile(r"^(is_)?cuda$|accel|hardware|is_available", re.IGNORECASE)
_COMPARED = re.compile(r"^(str|type|kind|where)$|_(type|kind)$")
"""Names of what is compared with a device, such as `x.device.type`, and of other things elsewhere."""
_REWRITTEN = {*ACCELERATORS, "get_default_backend_for_device"}
"""Names that a rewrite puts where it has found a device or a backend."""
HOSTS = {"cpu", "mps", "xpu", "hpu", "meta", "gloo", "mpi"}
_BACKEND_WORDS = re.compile(r"backend", re.IGNORECASE)
TAKES_DEVICES = {
    "to", "device", "autocast", "Generator", "init_device_mesh", "DeviceMesh", "set_default_device", "GradScaler", "load",
    "startswith", "fork_rng", "to_empty", "get_device_module", "send_to_device", "set_device", "Stream", "Event", "full", "zeros",
    "ones", "empty", "rand", "randn", "tensor", "as_tensor", "type", "is_autocast_enabled", "get_autocast_dtype", "get_device",
}  # fmt: skip
_TAKES_BACKENDS = {"init_process_group", "new_group", "is_backend_available", "Backend", "init_distributed"}
_OPTIONS = {
    "add_argument",
    "option",
    "Option",
    "field",
    "Field",
    "Argument",
    "get",
    "getattr",
    "setdefault",
    "pop",
    "getenv",
}


def is_device_here(
    path: Sequence[cst.CSTNode], words: re.Pattern[str] = _DEVICE_WORDS, callees: set[str] | None = None
) -> bool:
    """Whether a string is used as a device (or, with other words, a backend), going by what stands around it.

    Args:
        path: the nodes from the module to the string, which is last.
        words: that names of such things are made of.
        callees: functions of which it is an argument.
    """
    callees = TAKES_DEVICES if callees is None else callees
    place, keyed = -1, False
    for above, below in zip(reversed(path[:-1]), reversed(path), strict=False):
        match above:
            case cst.Arg(keyword=cst.Name(name)):
                if words.search(name):
                    return True
                if name in ("choices", "default", "type"):
                    continue
                return False
            case cst.Call(func):
                called = dotted(func).rpartition(".")[2] or _last(func)
                if called in _OPTIONS:
                    # get("device", "cuda"), getattr(args, "device", "cuda"): what stands before says what it is
                    texts = _texts(above.args)
                    if isinstance(below, cst.Arg) and below.keyword is not None and below.keyword.value == "default":
                        return not any("accelerator" in text for text in texts)
                    return below is not above.args[0] and any(words.search(text) for text in texts)
                return called in callees or bool(words.search(called))
            case cst.Comparison():
                return _speaks(above, words) or _names(above, _COMPARED)
            case cst.IfExp():
                if below is above.test:
                    return False
                other = above.orelse if below is above.body else above.body
                if HOSTS & set(_text(other)) or _speaks(other, words) or _speaks(above.test, words):
                    return True
            case cst.Return():
                function = next((one for one in reversed(path) if isinstance(one, cst.FunctionDef)), None)
                return function is not None and (_speaks(function, words) or bool(HOSTS & _strings(function)))
            case cst.ComparisonTarget() | cst.BooleanOperation():
                continue
            case cst.NamedExpr(target):
                if words.search(_last(target)):
                    return True
            case cst.Assign(targets):
                named = [_part(target.target, place) for target in targets]
                return any(words.search(_last(one)) for one in named)
            case cst.AnnAssign(target):
                return bool(words.search(_last(target)))
            case cst.Param(name):
                return bool(words.search(name.value))
            case cst.DictElement(key):
                if below is key:
                    keyed = True
                    continue
                return bool(words.search(" ".join(_text(key)))) or "cuda" in "".join(_text(key))
            case cst.Element() | cst.List() | cst.Tuple() | cst.Set():
                if isinstance(above, cst.List | cst.Tuple | cst.Set) and (
                    _with_the_host(above) or any(words.search(text) for text in _option_before(above, below))
                ):
                    return True
                if isinstance(above, cst.Tuple):
                    place = next((number for number, one in enumerate(above.elements) if one is below), -1)
            case cst.Dict(elements):
                keys = {text for one in elements if isinstance(one, cst.DictElement) for text in _text(one.key)}
                if keyed and keys & HOSTS:
                    return True
                keyed = False
            case (
                cst.Arg()
                | cst.BinaryOperation()
                | cst.FormattedString()
                | cst.Attribute()
                | cst.FormattedStringExpression()
            ):
                continue
            case cst.Subscript() | cst.SubscriptElement() | cst.Index():
                return False
            case cst.BaseStatement() | cst.BaseSmallStatement() | cst.BaseSuite():
                return False
    return False


def _speaks(node: cst.CSTNode, words: re.Pattern[str]) -> bool:
    """Whether names in an expression or function are those of devices (or backends), or of accelerators."""
    return _names(node, words) or _names(node, _ACCELERATOR_WORDS)


def _names(node: cst.CSTNode, words: re.Pattern[str]) -> bool:
    found = matchers.findall(node, matchers.Name() | matchers.Subscript())
    names = {_last(one) for one in found} - _REWRITTEN  # else a second rewrite would find what the first one did not
    return any(words.search(name) for name in names)


def _strings(node: cst.CSTNode) -> set[str]:
    return {text for one in matchers.findall(node, matchers.SimpleString()) for text in _text(one)}


@lru_cache(maxsize=4)
def _with_the_host(node: cst.List | cst.Tuple | cst.Set) -> bool:
    """Whether a list names the host's device or backend, and with it what the others are; asked for each of its elements."""
    return any("cpu" in _text(one.value) or "gloo" in _text(one.value) for one in node.elements)


def _part(target: cst.CSTNode, place: int) -> cst.CSTNode:
    """Return what of a target is given the element at a place, or the target as a whole."""
    if isinstance(target, cst.Tuple) and 0 <= place < len(target.elements):
        return target.elements[place].value
    return target


def _option_before(elements: cst.List | cst.Tuple | cst.Set, one: cst.CSTNode) -> list[str]:
    """Return the option of a command that a word of it is given for, as a list of at most one."""
    place = next((number for number, each in enumerate(elements.elements) if each is one), 0)
    return [text for text in _text(elements.elements[place - 1].value) if place and text.startswith("-")]


def is_looked_for(path: Sequence[cst.CSTNode]) -> bool:
    """Whether a string is looked for in another text, such as an error's message."""
    for above in reversed(path[:-1]):
        match above:
            case cst.Comparison():
                return True
            case cst.Call(func):
                return (dotted(func).rpartition(".")[2] or _last(func)) in _LOOKS_FOR
            case cst.Assign() | cst.AnnAssign():
                return True
            case cst.BaseStatement() | cst.BaseSmallStatement() | cst.Param():
                return False
    return False


def is_backend_here(path: Sequence[cst.CSTNode]) -> bool:
    """Whether a string is used as a backend of torch.distributed."""
    return is_device_here(path, _BACKEND_WORDS, _TAKES_BACKENDS)


def is_docstring(path: Sequence[cst.CSTNode]) -> bool:
    """Whether a string stands by itself as a statement."""
    return len(path) > 1 and isinstance(path[-2], cst.Expr)


def choices(node: cst.BaseExpression) -> list[str]:
    """Return the texts that an expression may have as its value, so far as they stand in it."""
    match node:
        case cst.IfExp(body=one, orelse=other) | cst.BooleanOperation(left=one, right=other):
            return [*choices(one), *choices(other)]
    return _text(node)


def _last(node: cst.CSTNode) -> str:
    match node:
        case cst.Name(value):
            return value
        case cst.Attribute(attr=cst.Name(value)):
            return value
        case cst.Subscript(slice=[cst.SubscriptElement(cst.Index(cst.SimpleString() as text))]):
            return "".join(_text(text))
    return ""


def _texts(arguments: Sequence[cst.Arg]) -> list[str]:
    return [text for argument in arguments for text in _text(argument.value)]


def _text(node: cst.CSTNode | None) -> list[str]:
    """Return what a string holds, as a list of at most one."""
    if isinstance(node, cst.SimpleString) and isinstance(value := node.evaluated_value, str):
        return [value]
    return []
