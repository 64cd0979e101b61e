"""Compilation of the emulated CANN and the CPU kernels, once for each pair of torch and torch_npu."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from longcat.emulator.wheel import Wheel
from longcat.errors import DeviceError

NATIVE = Path(__file__).resolve().parent / "native"
CANN = "libcann_emulator.so"
CANN_VERSION = "8.5.0.emulated"
KERNELS = "libcpu_kernels.so"
_KERNELS_SOURCES = ("kernels.cpp", "attention.cpp")
"""Sources of the kernels' library, which are compiled with torch's headers: the longest first."""

_BUILD_S = 900
"""Most seconds of a call of the compiler."""
_IN_WHEEL = ("lib/*.so", "_C*.so", "dynamo/torchair/core/*.so")
"""torch_npu's own libraries, of which torchair's are loaded when a program compiles for the device."""
_OURS_TO_DEFINE = re.compile(r"acl|Hccl|Msprof|rt[A-Z]|[a-z]+_s$|_ZNK?(3atb|2ge|4gert)")
"""Name patterns of CANN's symbols. The wheel is bound at load time, so every symbol it needs must be defined."""
_LOADED_LATER = {
    "libopapi.so": [],
    "libhcomm.so": ["HcommMemAlloc", "HcommMemFree"],
    "libmspti.so": [
        "msptiActivityDisable", "msptiActivityEnable", "msptiActivityFlushAll", "msptiActivityGetNextRecord",
        "msptiActivityPopExternalCorrelationId", "msptiActivityPushExternalCorrelationId",
        "msptiActivityRegisterCallbacks", "msptiSubscribe", "msptiUnsubscribe",
    ],
}  # fmt: skip
"""Libraries that torch_npu opens on first use (operators, coalesced collectives, torch's profiler), and stubs in them."""
_HARMLESS = re.compile(
    r"Msprof|mspti|aclprof|aclAppLog|aclmdl(Init|Finalize|Set)Dump|acl(op)?(Set|Create|Destroy)(Attr|Tensor)"
)
"""Stub functions that may do nothing: profiling, dumps, attributes of operators that are not run here."""


_LONGEST_S = 1800
"""Seconds that a process waits for another one's build."""


def cache_folder() -> Path:
    """Return the folder for built libraries: `longcat/emulator` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longcat" / "emulator"


def _folders() -> list[Path]:
    """List where libraries may be kept: the user's cache, and where it cannot be written, a folder of temporary files."""
    return [cache_folder(), Path(tempfile.gettempdir()) / f"longcat-emulator-{os.getuid()}"]


def cache_key(wheel: Wheel) -> str:
    """Return a key that changes with the sources, this file, the versions and the kind of machine."""
    digest = hashlib.sha256()
    for source in [*sorted(NATIVE.iterdir()), Path(__file__)]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    digest.update(f"{wheel.torch_version} {wheel.torch_npu_version} {platform.machine()}".encode())
    return digest.hexdigest()[:20]


def build(wheel: Wheel) -> Path:
    """Return the folder with the libraries, building them first if needed; of several processes one builds.

    Raises:
        DeviceError: no compiler, or it failed; carries what it said first.
    """
    key = cache_key(wheel)
    if (built := _built(key)) is not None:
        return built
    compiler = _tool(os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), "g++"))
    temporary = _new_folder()
    try:
        with _alone(temporary.parent / ".building"):
            return _built(key) or _build(compiler, wheel, temporary, key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _built(key: str) -> Path | None:
    return next((kept / key for kept in _folders() if (kept / key).is_dir() and _is_ours(kept)), None)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process builds, but no longer than a build may take; one that is killed holds nobody up."""
    until = time.monotonic() + _LONGEST_S
    with lock.open("w") as stream:
        said = False
        while time.monotonic() < until:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    print("longcat emulate: another process compiles the emulator", file=sys.stderr, flush=True)
                said = True
                time.sleep(0.2)
        yield


def _build(compiler: str, wheel: Wheel, temporary: Path, key: str) -> Path:
    """Build in a temporary folder, and return where the result has been put."""
    folder = temporary.parent / key
    print("longcat emulate: compiling the emulator, once, about half a minute", file=sys.stderr, flush=True)
    _compile_sources(compiler, wheel, temporary)
    _link_cann(compiler, wheel, temporary)
    _link_kernels(compiler, wheel, temporary)
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    return folder


def _new_folder() -> Path:
    """Make a folder to build in, in the first place that can be written."""
    found: OSError | None = None
    for parent in _folders():
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _is_ours(parent):
                return Path(tempfile.mkdtemp(prefix="building-", dir=parent))
        except OSError as error:
            found = found or error
    raise DeviceError(f"the emulator cannot be kept in {cache_folder()} ({found}): set XDG_CACHE_HOME")


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put libraries there: folders of temporary files are everybody's."""
    status = folder.stat()
    return folder == cache_folder() or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _compile_sources(compiler: str, wheel: Wheel, folder: Path) -> None:
    """Compile all sources at once, the longest of which takes most of the time."""
    npu = wheel.torch_npu / "include"
    cann = [f"-I{npu}", f"-I{npu / 'third_party/acl/inc'}", f"-I{npu / 'third_party/hccl/inc'}"]
    torch = [f"-I{wheel.torch / 'include'}", f"-I{wheel.torch / 'include/torch/csrc/api/include'}", "-std=c++20"]

    def compile_source(source: Path) -> None:
        flags = [*cann, *torch] if source.name in _KERNELS_SOURCES else [*cann, "-std=c++17"]
        _compile(compiler, ["-c", *flags, str(source)], folder)

    sources = sorted(NATIVE.glob("*.cpp"), key=lambda source: source.name not in _KERNELS_SOURCES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_source, sources))


def _link_cann(compiler: str, wheel: Wheel, folder: Path) -> None:
    """Make one library with all of CANN and link it under every name; the loader opens the file once."""
    libraries = [path for pattern in _IN_WHEEL for path in wheel.torch_npu.glob(pattern)]
    objects = sorted(folder / f"{source.stem}.o" for source in NATIVE.glob("*.cpp") if source.name not in _KERNELS_SOURCES)
    defined = {name for file in objects for name in _symbols(file, "--defined-only")}
    needed = {name for library in libraries for name in _symbols(library, "-D", "--undefined-only")}
    later = {name for names in _LOADED_LATER.values() for name in names}
    missing = {*filter(_OURS_TO_DEFINE.match, needed), *later} - defined
    (folder / "stubs.cpp").write_text(stub_source(sorted(missing)))
    _compile(compiler, ["-shared", "stubs.cpp", *map(str, objects), "-o", CANN, "-lpthread"], folder)
    for file in objects:
        file.unlink()
    for name in ("runtime", "compiler", "opp"):  # torch_npu looks for these where CANN is installed
        (folder / name).mkdir()
    (folder / "lib64").symlink_to(".")  # where C++ extensions look for what they link
    (folder / "runtime" / "ascend_toolkit_install.info").write_text(f"version={CANN_VERSION}\n")
    for name in [*_missing_libraries(compiler, wheel, libraries), *_LOADED_LATER]:
        (folder / name).symlink_to(CANN)


def stub_source(names: list[str]) -> str:
    """Return C++ source of stub functions: some do nothing, the others report that they are missing and fail."""
    lines = ['extern "C" {', "long emulator_unsupported(const char*);"]
    for name in names:
        body = "return 0;" if _HARMLESS.match(name) else f'return emulator_unsupported("{name}");'
        lines.append(f"long {name}() {{ {body} }}")
    return "\n".join([*lines, "}", ""])


def _missing_libraries(compiler: str, wheel: Wheel, libraries: list[Path]) -> list[str]:
    """List the libraries that the wheel needs and that neither torch, the wheel nor the system has."""
    wanted = {
        name
        for library in libraries
        for name in re.findall(r"NEEDED.*\[(.+?)\]", _output(_tool("readelf"), "-d", str(library)))
    }
    present = {path.name for folder in (wheel.torch, wheel.torch_npu) for path in folder.glob("lib/*.so*")}
    present |= {library.name for library in libraries}
    return sorted(
        name
        for name in wanted - present
        if not Path(_output(compiler, f"-print-file-name={name}").strip()).is_absolute()
    )


def _link_kernels(compiler: str, wheel: Wheel, folder: Path) -> None:
    libraries = [
        f"-L{wheel.torch / 'lib'}",
        "-lc10",
        "-ltorch_cpu",
        "-ltorch",
        f"-L{wheel.torch_npu / 'lib'}",
        "-ltorch_npu",
    ]
    compiled = [folder / Path(source).with_suffix(".o") for source in _KERNELS_SOURCES]
    unresolved = "-Wl,--allow-shlib-undefined"  # of what torch_npu itself needs
    _compile(compiler, ["-shared", *map(str, compiled), *libraries, unresolved, CANN, "-o", KERNELS], folder)
    for file in compiled:
        file.unlink()


def _compile(compiler: str, arguments: list[str], folder: Path) -> None:
    _output(compiler, "-O3", "-fPIC", "-w", *arguments, folder=folder)


def _symbols(file: Path, *options: str) -> list[str]:
    lines = _output(_tool("nm"), *options, str(file)).splitlines()
    return [line.split()[-1].partition("@")[0] for line in lines if line.strip()]


def _tool(name: str) -> str:
    compiler = shutil.which(name)
    if compiler is None:
        raise DeviceError(f"the emulator is compiled on first use, but {name} was not found: install g++ or set CXX")
    return compiler


def _output(*command: str, folder: Path | None = None) -> str:
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"building the emulator failed: {Path(command[0]).name} was ended after {_BUILD_S} s; a machine with less to do helps"
        ) from None
    if run.returncode:
        lines = (
            [line for line in run.stderr.splitlines() if "error" in line] or run.stderr.splitlines() or ["no message"]
        )
        raise DeviceError(f"building the emulator failed: {Path(command[0]).name}: {lines[0]}")
    return run.stdout
