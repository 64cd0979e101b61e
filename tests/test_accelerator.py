import ast
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from longcat import accelerator as module
from longcat.accelerator import Accelerator, choose, environment, npu_problem
from longcat.errors import DeviceError
from longcat.provenance import ROOT

OWNER = ROOT / "longcat" / "accelerator.py"
OF_OTHERS = ROOT / "longcat" / "port"
"""About the device APIs that programs of others use."""
FILES = [
    path
    for room in ("longcat", "tasks", "flows")
    for path in sorted((ROOT / room).rglob("*.py"))
    if path != OWNER and not path.is_relative_to(OF_OTHERS)
]
DEVICE_MODULES = {"npu", "cuda", "mps", "xpu"}
BACKENDS = {"gloo", "nccl", "hccl", "mpi", "xccl"}


def device_words(source):
    """Uses of a device API or of a collective backend by name: attributes of torch, imports, strings."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="torch"), attr=name) if name in DEVICE_MODULES:
                yield f"line {node.lineno}: torch.{name}"
            case ast.Attribute(attr=name) if name in {"npu", "cuda"} and not isinstance(node.ctx, ast.Store):
                yield f"line {node.lineno}: .{name}"
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.partition(".")[0] == "torch_npu" or alias.name.split(".")[:2] in _modules():
                        yield f"line {node.lineno}: import {alias.name}"
            case ast.ImportFrom(module=str(name), names=names):
                whole = [name, *(f"{name}.{alias.name}" for alias in names)]
                if any(part.partition(".")[0] == "torch_npu" or part.split(".")[:2] in _modules() for part in whole):
                    yield f"line {node.lineno}: from {name}"
            case ast.Constant(value=str(text)) if text in BACKENDS or text.split(":")[0] in BACKENDS:
                yield f"line {node.lineno}: {text!r}"


def _modules():
    return [["torch", name] for name in DEVICE_MODULES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_names_a_device_api(path):
    assert list(device_words(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.cuda.synchronize()",
        "x = torch.npu",
        "tensor.cuda()",
        "import torch_npu",
        "import torch.cuda as c",
        "from torch import cuda",
        "from torch.npu import Stream",
        "from torch_npu.contrib import x",
        "dist.init_process_group('gloo')",
        "dist.init_process_group(backend='cpu:gloo'.split(':')[1] or 'nccl')",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert list(device_words(source))


def test_the_search_lets_facts_pass():
    assert not list(device_words("if accelerator.kind == 'cuda': torch.device(accelerator.kind)"))


def test_cpu():
    cpu = choose("cpu")
    assert (cpu.kind, cpu.backend, cpu.device(3), cpu.activate(1)) == (
        "cpu",
        "gloo",
        torch.device("cpu"),
        torch.device("cpu"),
    )
    assert cpu.count in (1, 2)
    assert cpu.name
    assert cpu.memory_bytes > 2**28
    assert 2**20 < cpu.peak_memory_bytes() < cpu.memory_bytes
    cpu.synchronize()


def test_a_cpu_has_the_rest_of_the_interface():
    cpu = choose("cpu")
    begin = cpu.mark()
    with cpu.stream():
        torch.ones(3)
    with cpu.autocast(torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with cpu.profiler() as profile:
        torch.ones(8, 8) @ torch.ones(8, 8)
    assert "aten::mm" in {event.key for event in profile.key_averages()}
    assert 0 < cpu.seconds(begin, cpu.mark()) < 60


def test_unknown_kind_is_refused():
    with pytest.raises(DeviceError, match="there are auto, npu, cuda and cpu"):
        choose("tpu")


@pytest.fixture
def no_npu(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch_npu" else find(name))
    npu_problem.cache_clear()
    yield
    npu_problem.cache_clear()


@pytest.fixture
def npu(monkeypatch):
    """torch_npu, as far as it is asked for facts."""
    current = []
    runtime = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 8,
        get_device_name=lambda index: "Ascend910B2",
        get_device_properties=lambda index: SimpleNamespace(total_memory=64 << 30),
        is_bf16_supported=lambda: True,
        set_device=current.append,
        synchronize=lambda: current.append("wait"),
        max_memory_allocated=lambda: 12345,
        config=SimpleNamespace(allow_internal_format=True),
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace())
    monkeypatch.setattr(torch, "npu", runtime, raising=False)
    monkeypatch.setattr(Accelerator, "device", lambda self, rank=0: f"{self.kind}:{rank}")
    npu_problem.cache_clear()
    yield current
    npu_problem.cache_clear()


def test_missing_devices_say_what_is_missing(no_npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"torch_npu is not installed.*longcat doctor"):
        choose("npu")
    with pytest.raises(DeviceError, match="this torch sees no CUDA device"):
        choose("cuda")
    assert choose("auto").kind == "cpu"


def test_cuda_comes_before_the_cpu(no_npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    found = choose("auto")
    assert (found.kind, found.backend, found.count, found.name) == ("cuda", "nccl", 4, "NVIDIA A100-SXM4-80GB")
    assert found.device(2) == torch.device("cuda", 2)
    assert not found.repeats_bits
    assert choose("cpu").kind == "cpu"


def test_an_npu_comes_first_and_is_driven(npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = choose("auto")
    assert (found.kind, found.backend, found.count, found.memory_bytes) == ("npu", "hccl", 8, 64 << 30)
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *args, **kwargs: asked.append((args, kwargs)))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    assert found.activate(3) == "npu:3"
    assert asked == []
    found.compute_repeatably()
    assert asked == [((True,), {"warn_only": True})]
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert found.repeats_bits
    found.synchronize()
    assert npu == [3, "wait"]
    assert found.peak_memory_bytes() == 12345


def test_npu_whose_driver_is_missing(npu, monkeypatch):
    def broken(kind):
        raise OSError("libascendcl.so: cannot open shared object file")

    monkeypatch.setattr(module, "_runtime", broken)
    with pytest.raises(DeviceError, match=r"CANN or the driver may be missing \(libascendcl\.so"):
        choose("npu")


def test_environment_shares_cores_and_asks_for_determinism(monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    assert environment("cpu", 2) == {"OMP_NUM_THREADS": "4"}
    assert environment("cpu", 16) == {"OMP_NUM_THREADS": "1"}
    assert environment("npu", 8)["HCCL_DETERMINISTIC"] == "true"
    assert "CUBLAS_WORKSPACE_CONFIG" in environment("cuda", 8)
