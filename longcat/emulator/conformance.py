"""torch's operator tests on the emulated device: which pass, which fail, which are unsupported.

    longcat emulate -- python -m longcat.emulator.conformance [OPERATOR]... [--all] [--json FILE]
    longcat emulate -- python -m longcat.emulator.conformance --suite DIR [FILE or FOLDER]... [--jobs N] [--seconds S]

torch describes its operators by sample inputs (OpInfo), and torch_npu's wheel says which of these tests an NPU is spared.
Every sample is run on the CPU and on the device, forwards and backwards, and the results are compared. Without names the
operators are those that a training step calls, which is found out by watching one.

With `--suite` the tests are those of torch_npu's makers, from a checkout of theirs (see `longcat.emulator.upstream`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from longcat import disk
from longcat.errors import UserError

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
"""Types that training uses."""
MOST_SAMPLES = 12
"""Maximum number of samples per operator and type."""
OPERATOR_SECONDS = 120.0
_START_S, _END_S = 300.0, 60.0
"""Most seconds that the process which tests takes to start and to end."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
_DEVICE_TESTS = "TestCommon", "test_compare_cpu"
"""torch's test that this one follows; operators that it excludes are excluded here."""
_TESTED_AS = {"index": "__getitem__", "to_copy": "to", "nll_loss_forward": "nll_loss"}
"""Operators whose OpInfo has another name."""


@dataclass(frozen=True)
class Outcome:
    """Test result of one operator."""

    name: str
    status: str
    """passed, failed, unsupported (the device says that it has no kernel) or untested (no sample of these types)."""
    reason: str = ""
    spared: bool = False
    """Whether torch_npu's own test list skips its comparison with the CPU."""


class _Watch(TorchDispatchMode):
    """Dispatch mode that records the names of the aten operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = function._schema.name.split("::")
        if namespace == "aten":
            self.names.add(name)
        return function(*args, **(kwargs or {}))


def called_in_training() -> set[str]:
    """Return the aten operators that a training step of a small LongCat-2.0 calls, with Muon and AdamW.

    Both with torch_npu's fused operators and with the plain references, by which those are checked on first use.
    """
    import numpy as np

    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.corpus.shards import Batch
    from longcat.ops.operators import OPERATORS
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join, leave
    from longcat.training.trainer import Trainer

    fused = load_config("tiny-2.0", overrides=["training.optimizer.name=muon", "training.compile=false"])
    plain = fused.training.model_copy(update={"reference_operators": list(OPERATORS)})
    accelerator, variables = choose("npu"), {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rows = np.random.default_rng(0).integers(fused.model.vocabulary, size=(2, 257))
    try:
        mesh, watch = join(accelerator, Degrees(), 60), _Watch()
        for config in (fused, fused.model_copy(update={"training": plain})):
            trainer = Trainer(config, mesh, accelerator, "bf16")
            with watch:
                for step in (0, config.training.steps - 1):  # with dense attention, and with sparse
                    trainer.step(step, Batch.of_rows(rows))
    finally:
        leave()
    return watch.names


def base_name(name: str) -> str:
    """Return the public name of an operator's in-place and private forms: `softmax` for `_softmax` and `softmax_`."""
    return name.strip("_").removesuffix("_backward")


def select(wanted: Iterable[str] | None) -> list[str]:
    """Return the names of the OpInfos of these aten operators, or of all."""
    from torch.testing._internal.common_methods_invocations import op_db

    if wanted is None:
        return sorted({op.name for op in op_db})
    bases = {base_name(name) for name in wanted}
    bases |= {_TESTED_AS[name] for name in bases & _TESTED_AS.keys()}
    selected = set()
    for op in op_db:
        if bases & {
            op.name,
            op.aten_name,
            op.name.removeprefix("nn.functional."),
            *(alias.name for alias in op.aliases),
        }:
            selected.add(op.name)
    return sorted(selected)


def run(names: list[str]) -> Iterator[Outcome]:
    """Test operators in a child process, which is replaced if an operator ends or stalls it."""
    left = list(names)
    while left:
        done = 0
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--worker", *left],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        # it ends itself when an operator takes too long, but not if a signal has stopped it
        limit = _end_after(process)
        for line in process.stdout:
            limit.cancel()
            limit = _end_after(process)
            if line.startswith("{"):
                done += 1
                yield Outcome(**json.loads(line))
        code = process.wait(_END_S)
        limit.cancel()
        left = left[done:]
        if left and code != 0:
            what = f"took over {OPERATOR_SECONDS:g} s" if code == -14 else f"ended the process ({code})"
            yield Outcome(left.pop(0), "failed", what)


def _end_after(process: subprocess.Popen[str]) -> threading.Timer:
    """Kill a process if it says nothing for longer than it takes to start and to test an operator."""
    limit = threading.Timer(OPERATOR_SECONDS + _START_S, process.kill)
    limit.daemon = True
    limit.start()
    return limit


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
            # random or uninitialised results are compared in shape only
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
    moved = tree_map(lambda value: _moved(value, device), own)
    try:
        torch.manual_seed(0)
        expected = _results(op, sample, own, grad)
    except Exception:  # inputs that the CPU refuses need not work
        return "passed", ""
    try:
        torch.manual_seed(0)
        actual = _results(op, sample, moved, grad)
    except NotImplementedError as error:
        return "unsupported", str(error).splitlines()[0]
    except Exception as error:  # any exception is a failure of this operator
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    reason = _difference(actual, expected, TOLERANCE.get(dtype, 0.0) if values else None)
    return ("failed", reason) if reason else ("passed", "")


def _difference(actual: list[Any], expected: list[Any], tolerance: float | None) -> str:
    """Describe the first difference, empty if there is none; without a tolerance compare shapes and types only."""
    if len(actual) != len(expected):
        return f"{len(actual)} results instead of {len(expected)}"
    for result, right in zip(actual, expected, strict=True):
        if not isinstance(right, Tensor):
            if tolerance is not None and result != right and right == right:
                return f"{result!r} instead of {right!r}"
            continue
        if not isinstance(result, Tensor) or (result.shape, result.dtype) != (right.shape, right.dtype):
            return f"{tuple(right.shape)} of {right.dtype} expected"
        if tolerance is not None and right.layout == torch.strided:
            try:
                torch.testing.assert_close(result.cpu(), right, atol=tolerance, rtol=tolerance, equal_nan=True)
            except AssertionError as error:
                return " ".join(str(error).split())
    return ""


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return device if isinstance(value, torch.device) or value == "cpu" else value


def _results(op: Any, sample: Any, given: tuple[Any, Any, Any], grad: bool) -> list[Any]:
    """Compute the results of a sample, and the gradients of the inputs that have one."""
    tensor, args, kwargs = given
    results = op(tensor, *args, **kwargs)
    if sample.output_process_fn_grad is not None:
        results = sample.output_process_fn_grad(results)
    leaves = [value for value in tree_leaves(results) if isinstance(value, (Tensor, int, float, bool))]
    inputs = [value for value in tree_leaves(given) if isinstance(value, Tensor) and value.requires_grad]
    differentiable = [value for value in leaves if isinstance(value, Tensor) and value.requires_grad]
    gradients: list[Any] = []
    if grad and differentiable and inputs:
        total = sum(
            value.abs().sum() if value.is_complex() else (value * value.detach().cos()).sum()
            for value in differentiable
        )
        assert isinstance(total, Tensor)
        gradients = [g for g in torch.autograd.grad(total, inputs, allow_unused=True) if g is not None]
    return [value.detach() if isinstance(value, Tensor) else value for value in [*leaves, *gradients]]


def summary(outcomes: list[Outcome]) -> str:
    """Format counts and fractions by status, then the operators that did not pass."""
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
    from longcat.accelerator import choose

    device = choose("npu").device()
    for name in names:
        signal.alarm(int(OPERATOR_SECONDS))
        print(json.dumps(asdict(examine(name, device))), flush=True)
        signal.alarm(0)


def _run_suite(options: argparse.Namespace) -> int:
    from longcat.emulator import upstream

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # its forks end, and their folders go
    try:
        root, files = upstream.find(options.suite, options.names)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if disabled := upstream.disabled_tests(root, torch.__version__):
        os.environ.setdefault("DISABLED_TESTS_FILE", str(disabled))
    sys.argv[1:] = []  # torch's test classes read them when they are imported
    importlib.import_module("torch_npu.testing.testcase")  # what all files import: once, for all forks
    results: list[upstream.Result] = []
    for found in upstream.run(root, files, seconds=options.seconds, jobs=options.jobs):
        results += found
        print(upstream.progress(found), flush=True)
        if options.json:  # as a whole after each file, so that a run that is interrupted keeps its results
            disk.write_text(options.json, json.dumps([asdict(result) for result in results], indent=1))
    print(upstream.table(results, upstream.files_of_training(root, {result.file for result in results})))
    return int(any(result.status in upstream.FAILURES for result in results))


def main() -> int:
    """Run the command line; returns 1 if an operator failed."""
    parser = argparse.ArgumentParser(prog="python -m longcat.emulator.conformance", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="names of OpInfos, default those of training; with --suite files and folders of it, default all",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all operators that torch has tests for")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every outcome; of a suite after each file"
    )
    parser.add_argument(
        "--suite", type=Path, metavar="DIR", help="checkout of Ascend/pytorch or Ascend/op-plugin to run"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="files of the suite that run at the same time")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="limit of one of the suite's tests")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(options.names)
        return 0
    if not os.environ.get("ASCEND_EMULATOR_LIBRARIES"):
        parser.error("run it under the emulator: longcat emulate -- python -m longcat.emulator.conformance")
    if options.suite:
        return _run_suite(options)
    names = options.names or select(None if options.all else called_in_training())
    outcomes = list(run(names))
    print(summary(outcomes))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1), encoding="utf-8")
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    from longcat.parallel.mesh import end_process

    end_process(main())
