"""torch's operator tests on the emulated device: what passes, what fails, what it cannot do.

    longcat emulate -- python -m longcat.emulator.conformance [OPERATOR]... [--all] [--json FILE]

torch describes its operators by sample inputs (OpInfo), and torch_npu's wheel says which of these tests an NPU is spared.
Every sample is run on the CPU and on the device, forwards and backwards, and the results are compared. Without names the
operators are those that a training step calls, which is found out by watching one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
"""That training uses."""
MOST_SAMPLES = 12
"""Of an operator and a type."""
OPERATOR_SECONDS = 120.0
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
_DEVICE_TESTS = "TestCommon", "test_compare_cpu"
"""torch's test that this one is like; what cannot be compared there cannot here."""
_TESTED_AS = {"index": "__getitem__", "to_copy": "to", "nll_loss_forward": "nll_loss"}
"""Operators whose tests are under a name of Python's."""


@dataclass(frozen=True)
class Outcome:
    """Of one operator."""

    name: str
    status: str
    """passed, failed, unsupported (the device says that it has no kernel) or untested (no sample of these types)."""
    reason: str = ""
    spared: bool = False
    """torch_npu's wheel leaves out its comparison with the CPU."""


class _Watch(TorchDispatchMode):
    """Names of the operators of aten that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = function._schema.name.split("::")
        if namespace == "aten":
            self.names.add(name)
        return function(*args, **(kwargs or {}))


def called_in_training() -> set[str]:
    """Operators of aten that a training step of a small LongCat-2.0 calls on the device, with Muon and AdamW."""
    import numpy as np

    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.corpus.shards import Batch
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join, leave
    from longcat.training.trainer import Trainer

    config = load_config("tiny-2.0", overrides=["training.optimizer.name=muon", "training.compile=false"])
    accelerator, variables = choose("npu"), {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rows = np.random.default_rng(0).integers(config.model.vocabulary, size=(2, 257))
    try:
        trainer = Trainer(config, join(accelerator, Degrees(), 60), accelerator, "bf16")
        with _Watch() as watch:
            trainer.step(0, Batch.of_rows(rows))
    finally:
        leave()
    return watch.names


def base_name(name: str) -> str:
    """Of an operator's in-place and private forms: `_softmax` and `softmax_` are tested as `softmax`."""
    return name.strip("_").removesuffix("_backward")


def select(wanted: Iterable[str] | None) -> list[str]:
    """Names of the OpInfos for these operators of aten, or of all."""
    from torch.testing._internal.common_methods_invocations import op_db

    if wanted is None:
        return sorted({op.name for op in op_db})
    bases = {base_name(name) for name in wanted}
    bases |= {_TESTED_AS[name] for name in bases & _TESTED_AS.keys()}
    found = set()
    for op in op_db:
        if bases & {
            op.name,
            op.aten_name,
            op.name.removeprefix("nn.functional."),
            *(alias.name for alias in op.aliases),
        }:
            found.add(op.name)
    return sorted(found)


def run(names: list[str]) -> Iterator[Outcome]:
    """Test operators, in a process that is replaced when one of them ends or stalls it."""
    left = list(names)
    while left:
        done = 0
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--worker", *left],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                done += 1
                yield Outcome(**json.loads(line))
        code = process.wait()
        left = left[done:]
        if left and code != 0:
            what = f"took over {OPERATOR_SECONDS:g} s" if code == -14 else f"ended the process ({code})"
            yield Outcome(left.pop(0), "failed", what)


def examine(name: str, device: torch.device) -> Outcome:
    """Test one operator in this process."""
    from torch.testing._internal.common_methods_invocations import op_db

    skips = importlib.import_module("torch_npu.testing._npu_testing_utils").skip_list.get(name, ())
    spared = any((skip.cls_name, skip.test_name) == _DEVICE_TESTS for skip in skips)
    tested = 0
    for op in (op for op in op_db if op.name == name):
        for dtype in DTYPES:
            if dtype not in op.supported_dtypes("cpu"):
                continue
            # random results, or memory nobody has written to, are compared in shape only
            values = not (op.get_decorators(*_DEVICE_TESTS, "cpu", dtype, {}) or _is_random(op.aten_name))
            grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
            try:
                samples = list(_first(op.sample_inputs("cpu", dtype, requires_grad=grad)))
            except (RuntimeError, ImportError, NotImplementedError, TypeError, ValueError):
                continue  # torch cannot make them here
            for number, sample in enumerate(samples):
                status, reason = _compare(op, sample, device, values, grad, dtype)
                if status != "passed":
                    return Outcome(name, status, f"{dtype}, sample {number}: {reason}"[:300], spared)
                tested += 1
    return Outcome(name, "passed" if tested else "untested", "", spared)


def _is_random(name: str) -> bool:
    packet = getattr(torch.ops.aten, name or "", None)
    overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)


def _first(samples: Iterable[Any]) -> Iterator[Any]:
    for number, sample in enumerate(samples):
        if number == MOST_SAMPLES:
            return
        yield sample


def _compare(
    op: Any, sample: Any, device: torch.device, values: bool, grad: bool, dtype: torch.dtype
) -> tuple[str, str]:
    own = (sample.input, sample.args, sample.kwargs)
    there = tree_map(lambda value: _moved(value, device), own)
    try:
        torch.manual_seed(0)
        expected = _results(op, sample, own, grad)
    except Exception:  # what the CPU refuses, nobody has to do
        return "passed", ""
    try:
        torch.manual_seed(0)
        found = _results(op, sample, there, grad)
    except NotImplementedError as error:
        return "unsupported", str(error).splitlines()[0]
    except Exception as error:  # whatever it is, it is a finding about this operator
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    reason = _difference(found, expected, TOLERANCE.get(dtype, 0.0) if values else None)
    return ("failed", reason) if reason else ("passed", "")


def _difference(found: list[Any], expected: list[Any], tolerance: float | None) -> str:
    """What differs, nothing if nothing does; without a tolerance shapes and types only."""
    if len(found) != len(expected):
        return f"{len(found)} results instead of {len(expected)}"
    for ours, right in zip(found, expected, strict=True):
        if not isinstance(right, Tensor):
            if tolerance is not None and ours != right and right == right:
                return f"{ours!r} instead of {right!r}"
            continue
        if not isinstance(ours, Tensor) or (ours.shape, ours.dtype) != (right.shape, right.dtype):
            return f"{tuple(right.shape)} of {right.dtype} expected"
        if tolerance is not None and right.layout == torch.strided:
            try:
                torch.testing.assert_close(ours.cpu(), right, atol=tolerance, rtol=tolerance, equal_nan=True)
            except AssertionError as error:
                return " ".join(str(error).split())
    return ""


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return device if isinstance(value, torch.device) or value == "cpu" else value


def _results(op: Any, sample: Any, given: tuple[Any, Any, Any], grad: bool) -> list[Any]:
    """Values, and gradients of the inputs that have one."""
    tensor, args, kwargs = given
    results = op(tensor, *args, **kwargs)
    if sample.output_process_fn_grad is not None:
        results = sample.output_process_fn_grad(results)
    leaves = [value for value in tree_leaves(results) if isinstance(value, (Tensor, int, float, bool))]
    inputs = [value for value in tree_leaves(given) if isinstance(value, Tensor) and value.requires_grad]
    learnt = [value for value in leaves if isinstance(value, Tensor) and value.requires_grad]
    found: list[Any] = []
    if grad and learnt and inputs:
        total = sum(
            value.abs().sum() if value.is_complex() else (value * value.detach().cos()).sum() for value in learnt
        )
        assert isinstance(total, Tensor)
        found = [g for g in torch.autograd.grad(total, inputs, allow_unused=True) if g is not None]
    return [value.detach() if isinstance(value, Tensor) else value for value in [*leaves, *found]]


def summary(outcomes: list[Outcome]) -> str:
    """Counts and shares, then what did not pass."""
    counts = Counter(outcome.status for outcome in outcomes)
    tested = len(outcomes) - counts["untested"]
    lines = [f"{tested} operators tested, {counts['untested']} without a sample of these types"]
    for status in ("passed", "failed", "unsupported"):
        lines.append(f"  {status:<12}{counts[status]:>5}  {counts[status] / max(tested, 1):7.1%}")
    for outcome in outcomes:
        if outcome.status in ("failed", "unsupported"):
            spared = " (torch_npu does not test it either)" if outcome.spared else ""
            lines.append(f"{outcome.status} {outcome.name}{spared}: {outcome.reason}")
    return "\n".join(lines)


def _worker(names: list[str]) -> None:
    import signal

    from longcat.accelerator import choose

    device = choose("npu").device()
    for name in names:
        signal.alarm(int(OPERATOR_SECONDS))
        print(json.dumps(asdict(examine(name, device))), flush=True)
        signal.alarm(0)


def main() -> int:
    """The command; 1 where an operator failed."""
    parser = argparse.ArgumentParser(prog="python -m longcat.emulator.conformance", description=__doc__)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="names of OpInfos; default: those of training")
    parser.add_argument("--all", action="store_true", help="all that torch has tests for")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every outcome")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(options.operators)
        return 0
    if not os.environ.get("ASCEND_EMULATOR_LIBRARIES"):
        parser.error("run it under the emulator: longcat emulate -- python -m longcat.emulator.conformance")
    names = options.operators or select(None if options.all else called_in_training())
    outcomes = list(run(names))
    print(summary(outcomes))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1), encoding="utf-8")
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
