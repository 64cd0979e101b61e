"""Two programs side by side: the original on the CPU, the rewrite on the emulated Ascend, stopped after a few steps."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from longcat.artifact import sha256_file
from longcat.emulator.build import build
from longcat.emulator.command import environment
from longcat.emulator.wheel import Wheel, examine, find_python
from longcat.errors import UserError
from longcat.port.comparing_operators import first_difference
from longcat.port.files import RECORD, left_out
from longcat.port.rules import package_rule
from longcat.port.support import Support, read_support
from longcat.port.witness.hook import FOLDER, ORIGINAL, PLAIN, REWRITE, SEED, SIDE, STEPS

_SITE = Path(__file__).resolve().parent / "witness" / "site"
TOLERANCES = {"float32": 1e-4, "half": 0.03}
"""Relative differences of losses that are the same, by the lowest precision that was computed in."""
_LINKED_BYTES = 64 << 20
"""Files from this size on are linked instead of copied."""
_KEPT_BYTES = 4 << 20
_END_S = 5.0
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_SHOWN = re.compile(r"loss|perplex|ppl|acc|error|norm|score|lr|bpb|nll", re.IGNORECASE)
_TIMES = re.compile(
    r"\b(ms|s|sec|seconds?|tok\S*|it/s|samples|mem\w*|gb|mb|time|speed|runtime|per_second)\b", re.IGNORECASE
)
_OPERATOR = re.compile(r"(?:operator|Operator)\s+'?\"?((?:aten|npu|atb)::[\w.]+)|\b((?:aten|npu)::[\w.]+)")
_FALLBACK = re.compile(r"The operator '(aten::[\w.]+)' is not currently supported on the NPU backend")
_ERROR = re.compile(
    r"^(?:\[rank\d+\]:?\s*)?((?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit|NotFound)\w*(?::.*)?)$", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """One program's run."""

    code: int
    seconds: float
    output: str
    errors: str
    timed_out: bool
    records: Mapping[int, list[dict[str, Any]]]
    """Rows by rank."""

    def losses(self) -> dict[int, list[dict[str, Any]]]:
        """Return the losses by rank."""
        return {rank: [row for row in rows if row["kind"] == "loss"] for rank, rows in self.records.items()}

    def steps(self) -> int:
        """Return how many steps every rank has done."""
        return min((sum(row["kind"] == "step" for row in rows) for rows in self.records.values()), default=0)

    def failed(self) -> bool:
        """Whether it ended otherwise than by itself or by having done its steps."""
        stopped = self.records and all(any(row["kind"] == "stopped" for row in rows) for rows in self.records.values())
        return self.timed_out or (self.code != 0 and not stopped)

    def on_host(self) -> list[int]:
        """Return the ranks that have computed nothing on a device."""
        return [rank for rank, rows in self.records.items() if not any(row["kind"] == "device" for row in rows)]

    def error(self, limit_s: float) -> str:
        """Return the line that says why it failed, with the next one where it says nothing itself."""
        if self.timed_out:
            return f"it did not end in {limit_s:g} s"
        found = [
            one for one in _ERROR.finditer(self.errors) if "ChildFailedError" not in one[1] and "SIGTERM" not in one[1]
        ]
        last = next(iter(reversed(self.errors.strip().splitlines())), f"exit code {self.code}")
        if found:
            after = (line.strip() for line in self.errors[found[-1].end() :].splitlines())
            last = found[-1][1] + (f" {next(filter(None, after), '')}" if found[-1][1].rstrip().endswith(":") else "")
        return " ".join(last.split())[:400]


def check(
    folder: Path,
    command: Sequence[str],
    *,
    original: Path | None = None,
    steps: int = 5,
    tolerance: float | None = None,
    seed: int = 0,
    limit_s: float = 600.0,
    python: str | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Run a program as it was and as it was rewritten, and compare what they compute.

    Both run in copies of their folders, with the same Python, seeds and dropout masks. `torch.compile` compiles nothing.

    Args:
        folder: what `longcat port rewrite` made.
        command: the program with its arguments, as it is called in the folder.
        original: the folder it was made from, if it is not where it was.
        steps: of the first optimizer, after which both are stopped.
        tolerance: relative difference of losses that is the same; by default as precision allows.
        seed: set before the program begins.
        limit_s: seconds that each may take.
        python: as for `scan`.
        say: gets a line before each run.

    Returns:
        `verdict` (same, differs, fails, or unknown: nothing was compared, or not on the device), `why`, `losses`, `printed`, `operator`, `notes`.

    Raises:
        UserError: a folder or the program is missing, or the original does not run by itself.
        DeviceError: there is no environment with torch_npu.
    """
    notes = list[str]()
    first = _original(folder, original, notes)
    wheel = examine(find_python(python))
    variables = environment(wheel, build(wheel), os.environ)
    if shutil.which(command[0], path=variables["PATH"]) is None:
        raise UserError(f"{command[0]}: no such program, neither in {wheel.python.parent} nor on PATH")
    for word in command[1:]:
        if word.endswith(".py") and not Path(word).is_absolute() and not (folder / word).is_file():
            raise UserError(f"{word}: there is no such file in {folder}")
    devices = str(_processes(command))
    with tempfile.TemporaryDirectory(prefix="longcat-port-") as scratch:
        place = Path(scratch)
        say(f"original, on the CPU: {' '.join(command)}")
        common = {
            SEED: str(seed),
            STEPS: str(steps),
            "LONGCAT_PORT_DEVICES": devices,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PYTHONHASHSEED": "0",
        }
        before = _run(command, first, place / ORIGINAL, _host(wheel, common | {SIDE: ORIGINAL}), limit_s)
        if before.failed() and not before.steps():
            why = before.error(limit_s)
            plain = _run(command, first, place / PLAIN, _host(wheel, common | {SIDE: PLAIN}), limit_s)
            if plain.failed() and not plain.steps():
                raise UserError(
                    f"the original does not run on this machine, so there is nothing to compare with: {why}{_known(why)}"
                )
            before = plain
            notes.append(f"the original ran without a stand-in for CUDA, with which it fails ({why})")
        say(f"rewrite, on the emulated Ascend: {' '.join(command)}")
        emulated = (
            variables
            | common
            | {SIDE: REWRITE, "ASCEND_EMULATED_DEVICES": os.environ.get("ASCEND_EMULATED_DEVICES") or devices}
        )
        emulated["PYTHONPATH"] = _path(emulated.get("PYTHONPATH"))
        after = _run(command, folder, place / REWRITE, emulated, limit_s)
    return _judge(before, after, tolerance, limit_s, read_support(python), notes) | {
        "command": list(command), "original": str(first), "rewrite": str(folder), "steps": steps,
    }  # fmt: skip


def _known(why: str) -> str:
    """Return what replaces a package that is missing, if it is one of CUDA's."""
    found = re.search(r"No module named '([\w.]+)'", why)
    rule = package_rule(found[1]) if found else None
    return f" ({rule.why}; instead: {rule.instead})" if rule else ""


def _original(folder: Path, given: Path | None, notes: list[str]) -> Path:
    """Return the folder that a rewrite was made from; notes if it has changed since."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; longcat port rewrite makes one")
    record = folder / RECORD
    made: dict[str, Any] = {}
    if record.is_file():
        try:
            made = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{record}: not the record of longcat port rewrite ({error})") from error
    elif given is None:
        raise UserError(f"{folder}: no {RECORD} in it says what it was made from; name the original by --original")
    root = given or Path(made["root"])
    if not root.exists():
        raise UserError(f"the original {root} is not there any more; name it by --original")
    base = root if root.is_dir() else root.parent
    changed = [
        name
        for name, digest in made.get("files", {}).items()
        if not (base / name).is_file() or sha256_file(base / name) != digest
    ]
    if changed:
        notes.append(f"changed since the rewrite: {', '.join(changed[:5])}")
    return root


def _host(wheel: Wheel, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the original: the same Python, and no Ascend."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("ASCEND", "LD_LIBRARY_PATH"))
    }
    beside = str(wheel.python.parent)
    return variables | {
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYTHONPATH": _path(_without_emulator(variables.get("PYTHONPATH"))),
        "PATH": os.pathsep.join([beside, variables.get("PATH", "")]), **extra,
    }  # fmt: skip


def _without_emulator(path: str | None) -> str | None:
    from longcat.emulator.command import SITE

    return os.pathsep.join(one for one in (path or "").split(os.pathsep) if one and Path(one) != SITE) or None


def _path(others: str | None) -> str:
    return os.pathsep.join(filter(None, [str(_SITE), others]))


def _processes(command: Sequence[str]) -> int:
    """Return how many processes torchrun is asked for on this machine."""
    text = " ".join(command)
    found = re.search(r"--nproc[-_]per[-_]node[= ](\d+)", text) or re.search(r"--num_processes[= ](\d+)", text)
    return int(found[1]) if found else 1


def _run(command: Sequence[str], root: Path, place: Path, variables: Mapping[str, str], limit_s: float) -> Run:
    """Run a program in a copy of its folder, and end all that it has started."""
    work, records = place / "work", place / "records"
    records.mkdir(parents=True)
    _copy(root, work)
    begun, timed_out = time.monotonic(), False
    with (place / "out").open("wb") as out, (place / "err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=work, env={**variables, FOLDER: str(records)}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
            executable=shutil.which(command[0], path=variables["PATH"]),
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code, timed_out = -1, True
        finally:
            _end(process)
    rows: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(records.glob("rank*.jsonl")):
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        if any(row["kind"] == "loss" for row in found) or not rows:
            rows[int(re.findall(r"\d+", file.name)[0])] = found
    output, errors = ((place / name).read_bytes()[-_KEPT_BYTES:].decode("utf-8", "replace") for name in ("out", "err"))
    return Run(code, time.monotonic() - begun, output, errors, timed_out, rows)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program with all its processes."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        pass
    for one in family:
        if one.is_running():
            one.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _copy(root: Path, work: Path) -> None:
    """Copy a program's folder; large files are linked, environments and histories left out."""
    if root.is_file():
        work.mkdir()
        shutil.copy2(root, work)
        return

    def copy(source: str, target: str) -> None:
        if Path(source).stat().st_size >= _LINKED_BYTES:
            Path(target).symlink_to(Path(source).resolve())
        else:
            shutil.copy2(source, target)

    def unwanted(where: str, names: list[str]) -> list[str]:
        paths = [Path(where) / name for name in names]
        return [
            one.name
            for one in paths
            if (one.is_dir() and left_out(one, vendored=True))
            or not (one.is_symlink() or one.is_dir() or one.is_file())
        ]

    shutil.copytree(root, work, symlinks=True, ignore=unwanted, copy_function=copy)


def _judge(
    before: Run, after: Run, tolerance: float | None, limit_s: float, support: Support, notes: list[str]
) -> dict[str, Any]:
    """Compare two runs."""
    half = any(
        "float16" in str(row)
        for rows in (*before.records.values(), *after.records.values())
        for row in rows
        if row["kind"] in ("loss", "operator")
    )
    allowed = tolerance if tolerance is not None else TOLERANCES["half" if half else "float32"]
    losses = _pairs(before.losses(), after.losses())
    printed = _printed(before.output, after.output)
    fallen = sorted(set(_FALLBACK.findall(after.errors)))
    if fallen:
        notes.append(f"computed on the host, as {support.version} registers no kernel: {', '.join(fallen)}")
    if half:
        notes.append("computed in half precision: rounding of the two differs")
    operator = first_difference(before.records, after.records, allowed, half)
    result: dict[str, Any] = {
        "losses": losses,
        "printed": printed,
        "operator": operator,
        "notes": notes,
        "tolerance": allowed,
        "seconds": [round(before.seconds, 1), round(after.seconds, 1)],
    }
    if after.failed() and after.steps() < max(1, before.steps()):
        why = f"The rewrite fails on the emulated Ascend: {after.error(limit_s)}."
        missing = _missing(after, support)
        return result | {"verdict": "fails", "why": why + (f" {missing}" if missing else ""), "missing": missing}
    if not losses and not printed:
        return result | {
            "verdict": "unknown" if not after.failed() else "fails",
            "why": "Both end, but neither calls backward() nor prints a figure: nothing was compared.",
        }
    apart = [row for row in losses if not _same(row, allowed)] or (
        [] if losses else [row for row in printed if not _same(row, allowed)]
    )
    if apart:
        row = apart[0]
        where = f"step {row['step']} of rank {row['rank']}" if "step" in row else f"line {row['line']}"
        first = (
            f" First operator that differs: {operator['said']}."
            if operator
            else " No operator that was recorded differs by more than its precision explains."
        )
        return result | {
            "verdict": "differs",
            "why": f"Losses differ from {where} on: {row['original']} and {row['rewrite']}.{first}",
        }
    worst = max((row["difference"] or 0.0 for row in losses or printed), default=0.0)
    if idle := after.on_host():
        ranks = f" of rank {', '.join(map(str, idle))}" if len(after.records) > 1 else ""
        return result | {
            "verdict": "unknown",
            "why": f"The figures agree, but no operator{ranks} ran on the emulated Ascend: the program kept to the host, which "
            "shows nothing of the device. Have it put its model and data on the accelerator.",
        }
    count = f"{len(losses)} losses" if losses else f"{len(printed)} printed figures"
    return result | {
        "verdict": "same",
        "why": f"{count} of {before.steps()} steps agree to {worst:.1e} (allowed {allowed:g}).",
    }


def _pairs(
    before: Mapping[int, list[dict[str, Any]]], after: Mapping[int, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    rows = []
    for rank in sorted(before.keys() | after.keys()):
        one, other = before.get(rank, []), after.get(rank, [])
        for number in range(max(len(one), len(other))):
            first = one[number]["value"] if number < len(one) else None
            second = other[number]["value"] if number < len(other) else None
            step = (one if number < len(one) else other)[number]["step"]
            rows.append(
                {
                    "step": step + 1,
                    "rank": rank,
                    "original": first,
                    "rewrite": second,
                    "difference": relative(first, second),
                }
            )
    return rows


def relative(one: float | None, other: float | None) -> float | None:
    """Return the relative difference of two numbers; None if one is missing or not finite."""
    if one is None or other is None:
        return None
    return abs(one - other) / max(abs(one), abs(other), 1e-12) if one != other else 0.0


def _same(row: Mapping[str, Any], allowed: float) -> bool:
    if row["original"] is None and row["rewrite"] is None:
        return True  # neither is finite
    return row["difference"] is not None and row["difference"] <= allowed


def _printed(before: str, after: str) -> list[dict[str, Any]]:
    """Return the figures in lines that both have printed, line by line; times and memory are left out."""
    rows = list[dict[str, Any]]()
    others = after.splitlines()
    for number, line in enumerate(before.splitlines()):
        if number >= len(others) or not _SHOWN.search(line):
            continue
        pieces, other = _NUMBER.split(line), _NUMBER.split(others[number])
        if pieces != other:
            continue
        for index, (one, second) in enumerate(zip(_NUMBER.findall(line), _NUMBER.findall(others[number]), strict=True)):
            word, behind = pieces[index], pieces[index + 1]
            if (
                _SHOWN.search(word[-24:])
                and not _TIMES.match(behind.strip())
                and not re.search(r"time|mem", word[-12:])
                and math.isfinite(float(one))
            ):
                rows.append(
                    {
                        "line": number + 1,
                        "what": re.split(r"[][(){},;|]", word.rstrip(" :=,|'\"{(["))[-1].strip(" :='\"")[-24:],
                        "original": float(one),
                        "rewrite": float(second),
                        "difference": relative(float(one), float(second)),
                    }
                )
    return rows[:200]


def _missing(run: Run, support: Support) -> str:
    """Return a sentence about the operator that a failed run lacks; empty if it is none."""
    for rows in run.records.values():
        for row in rows:
            if row["kind"] == "missing":
                return f"Missing operator: {row['name']}; {support.says(row['name'])}, the emulator has no body for it."
    if (found := _OPERATOR.search(run.error(0) if not run.timed_out else "")) is not None:
        name = found[1] or found[2]
        return f"Missing operator: {name}; {support.says(name)}."
    return ""
