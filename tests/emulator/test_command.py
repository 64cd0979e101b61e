"""Starting the emulator, as far as it needs neither the wheel nor a compiler."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from longcat.emulator import build as building
from longcat.emulator import command, wheel
from longcat.emulator.build import CANN_VERSION, build, cache_key, stub_source
from longcat.emulator.wheel import Wheel, examine, find_python
from longcat.errors import DeviceError, UserError
from longcat.provenance import ROOT

INSTALLED = Wheel(Path("/env/bin/python"), Path("/env/lib/torch"), "2.13.0+cpu", Path("/env/lib/torch_npu"), "2.13.0")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("ASCEND_EMULAT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)


def python_with(tmp_path, **packages):
    """A Python that says it has these packages."""
    facts = {name: (f"{tmp_path}/{name}/__init__.py", version) for name, version in packages.items()}
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n")
    script.chmod(0o755)
    return script


def longcat(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "longcat.cli", "emulate", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


def test_the_environment_is_found(tmp_path, monkeypatch):
    given, beside = python_with(tmp_path), tmp_path / "beside"
    monkeypatch.setattr(wheel, "BESIDE", beside)
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"no environment with torch_npu: `make emulator`.*ASCEND_EMULATOR_PYTHON"):
        find_python()
    beside.touch()
    assert find_python() == beside
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: object())
    assert find_python() == Path(sys.executable)
    monkeypatch.setenv("ASCEND_EMULATOR_PYTHON", str(given))
    assert find_python() == given
    with pytest.raises(DeviceError, match="--python /nowhere: no such file"):
        find_python("/nowhere")


def test_what_is_installed_is_told_without_importing_it(tmp_path):
    found = examine(python_with(tmp_path, torch="2.13.0+cpu", torch_npu="2.13.0.post2"))
    assert (found.torch, found.torch_npu_version) == (tmp_path / "torch", "2.13.0.post2")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ({"torch": "2.12.1", "torch_npu": "2.13.0"}, "torch 2.12.1 and torch_npu 2.13.0 do not belong together"),
        ({"torch": "2.13.0"}, "has no torch_npu: `make emulator`"),
        ({"torch_npu": "2.13.0"}, "has no torch:"),
    ],
)
def test_an_environment_that_does_not_fit(tmp_path, packages, message):
    python = python_with(tmp_path, **packages)
    with pytest.raises(DeviceError, match=message):
        examine(python)
    run = longcat("--python", python, "--", "python", "train.py")
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_python_that_is_none(tmp_path):
    file = tmp_path / "python"
    file.write_text("no program")
    with pytest.raises(DeviceError, match="does not run as a Python"):
        examine(file)


def test_no_compiler(tmp_path, monkeypatch):
    python = python_with(tmp_path, torch="2.13.0", torch_npu="2.13.0")
    run = longcat("--python", python, "--", "python", PATH="/nowhere")
    assert run.returncode == 2
    assert "g++ was not found: install g++ or set CXX" in run.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("ASCEND_EMULATED_DEVICES", "0"), ("ASCEND_EMULATED_DEVICES", "33"), ("ASCEND_EMULATED_MEMORY_MB", "64GB")],
)
def test_settings_that_make_no_sense(name, value):
    run = longcat("--", "python", **{name: value})
    assert run.returncode == 2
    assert f"{name}={value}: a whole number from 1 to" in run.stderr


def test_a_device_that_torch_npu_does_not_know(tmp_path):
    python = python_with(tmp_path, torch="2.13.0", torch_npu="2.13.0")
    library = tmp_path / "torch_npu" / "lib" / "libtorch_npu.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\0Ascend910B2\0Ascend910B4-1\0AscendC\0Ascend950 is new\0")
    run = longcat("--python", python, "--", "python", ASCEND_EMULATED_SOC="Ascend910B9")
    assert run.returncode == 2
    assert "ASCEND_EMULATED_SOC=Ascend910B9: torch_npu 2.13.0 knows Ascend910B2, Ascend910B4-1\n" in run.stderr
    known = Wheel(python, tmp_path, "2.13.0", tmp_path / "torch_npu", "2.13.0")
    for name in (None, "", "Ascend910B2", "Ascend910B4-1"):
        command.check_device_name(known, name)


def test_no_program(tmp_path, monkeypatch):
    python = python_with(tmp_path, torch="2.13.0", torch_npu="2.13.0")
    monkeypatch.setattr(command, "build", lambda wheel: tmp_path)
    with pytest.raises(UserError, match="nosuchprogram: no such program"):
        command.emulate(["nosuchprogram"], str(python))
    assert longcat().returncode == 2


def test_the_program_gets_the_variables(tmp_path, monkeypatch, capsys):
    python = python_with(tmp_path, torch="2.13.0", torch_npu="2.13.0")
    monkeypatch.setattr(command, "build", lambda wheel: Path("/libraries"))
    monkeypatch.setenv("ASCEND_EMULATED_DEVICES", "2")
    started = []
    monkeypatch.setattr(command.os, "execve", lambda *arguments: started.append(arguments))
    command.emulate(["python", "train.py", "--steps", "3"], str(python))
    program, arguments, variables = started[0]
    assert (program, arguments) == (str(python), ["python", "train.py", "--steps", "3"])
    assert variables["ASCEND_EMULATED_DEVICES"] == "2"
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "longcat emulate: 2 x Ascend910B2 with 64 GB each are emulated on the CPU; "
        "no time measured here says anything about an Ascend"
    ]


def test_variables():
    outer = {"PATH": "/bin", "PYTHONPATH": "/mine", "LD_LIBRARY_PATH": "/cann", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    found = command.environment(INSTALLED, Path("/libraries"), {**outer, "ASCEND_EMULATED_SOC": "Ascend910_9382"})
    assert found["PATH"] == "/env/bin:/bin"
    assert found["PYTHONPATH"] == f"{command.SITE}:/mine"
    assert found["LD_LIBRARY_PATH"] == "/libraries:/cann"
    assert found["ASCEND_EMULATED_SOC"] == "Ascend910_9382"
    assert found["TASK_QUEUE_ENABLE"] == "0"
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in found


def test_a_build_belongs_to_its_sources_and_versions(monkeypatch, tmp_path):
    key = cache_key(INSTALLED)
    assert cache_key(INSTALLED) == key
    assert cache_key(Wheel(INSTALLED.python, INSTALLED.torch, "2.14.0", INSTALLED.torch_npu, "2.14.0")) != key
    changed = tmp_path / "native"
    changed.mkdir()
    for source in building.NATIVE.iterdir():
        (changed / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(building, "NATIVE", changed)
    assert cache_key(INSTALLED) == key
    (changed / "hccl.cpp").write_text("int x;")
    assert cache_key(INSTALLED) != key


def kept():
    return [path.name for path in building.cache_folder().iterdir() if not path.name.startswith(".")]


def test_of_two_that_want_to_build_one_does(monkeypatch, capsys):
    made, waits = [], threading.Event()

    def compiling(compiler, wheel, folder):
        (folder / "library").write_text("made")
        made.append(folder)
        assert waits.wait(timeout=60)

    monkeypatch.setattr(building, "_compile_sources", lambda *arguments: None)
    monkeypatch.setattr(building, "_link_cann", lambda *arguments: None)
    monkeypatch.setattr(building, "_link_kernels", compiling)
    monkeypatch.setattr(building, "_tool", lambda name: name)
    monkeypatch.setattr(building.time, "sleep", lambda seconds: waits.set())
    found = []
    threads = [threading.Thread(target=lambda: found.append(build(INSTALLED))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(made) == 1
    assert kept() == [cache_key(INSTALLED)]
    assert (found[0] / "library").read_text() == "made"
    assert build(INSTALLED) == found[0]
    assert "another process compiles the emulator" in capsys.readouterr().err


def test_nobody_waits_for_ever_for_another_to_build(monkeypatch):
    for step in ("_compile_sources", "_link_cann", "_link_kernels"):
        monkeypatch.setattr(building, step, lambda *arguments: None)
    monkeypatch.setattr(building, "_tool", lambda name: name)
    monkeypatch.setattr(building, "_LONGEST_S", 0.1)
    building.cache_folder().mkdir(parents=True)
    with (building.cache_folder() / ".building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert build(INSTALLED).is_dir()


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    def compiling(compiler, wheel, folder):
        (folder / "library").write_text("made")

    for step in ("_compile_sources", "_link_cann", "_link_kernels"):
        monkeypatch.setattr(building, step, compiling)
    monkeypatch.setattr(building, "_tool", lambda name: name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(building.tempfile, "tempdir", str(tmp_path))
    found = build(INSTALLED)
    assert found.parent == tmp_path / f"longcat-emulator-{os.getuid()}"
    assert (found / "library").read_text() == "made"
    monkeypatch.setattr(building, "_compile_sources", None)
    assert build(INSTALLED) == found, "it is kept"
    found.parent.chmod(0o777)  # somebody else may have put something there
    with pytest.raises(DeviceError, match="cannot be kept in .*set XDG_CACHE_HOME"):
        build(INSTALLED)


def test_a_build_that_fails_leaves_nothing(monkeypatch):
    def failing(*arguments):
        raise DeviceError("building the emulator failed: g++: error")

    monkeypatch.setattr(building, "_compile_sources", failing)
    monkeypatch.setattr(building, "_tool", lambda name: name)
    with pytest.raises(DeviceError, match="failed"):
        build(INSTALLED)
    assert kept() == []


def test_functions_without_a_body_fail_by_name_unless_harmless():
    source = stub_source(["aclmdlRIExecuteAsync", "MsprofReportApi"])
    assert 'emulator_unsupported("aclmdlRIExecuteAsync")' in source
    assert "long MsprofReportApi() { return 0; }" in source


def test_nobody_takes_it_for_an_installed_cann():
    assert "emulated" in CANN_VERSION


def test_neither_a_program_nor_an_operator():
    for arguments in ((), ("--explain", "npu_rms_norm", "python")):
        run = longcat(*arguments)
        assert (run.returncode, run.stderr.strip()) == (
            2,
            "error: emulate takes a program to run, or --explain OPERATOR",
        )
