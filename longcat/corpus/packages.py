"""Packages of apt or pip as sources of text: fetched with their own client, unpacked once into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from longcat.corpus.archives import unpack_tar, unpack_zip
from longcat.corpus.readers import file_suffix
from longcat.errors import DataError

FETCH_S = 600
_VERSION = "VERSION"


@dataclass(frozen=True)
class Package:
    """An unpacked package."""

    path: Path
    """Folder with those of its files that have a format which is read."""
    name: str
    version: str


def unpack(package: str) -> Package:
    """Find `apt:NAME` or `pip:NAME==VERSION` in the cache, or fetch it.

    Raises:
        DataError: there is no such client or package, or the client does not come to an end.
    """
    manager, _, name = package.partition(":")
    target = cache() / f"{manager}-{name}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fetched, unpacked = Path(scratch, "fetched"), Path(scratch, "unpacked")
            fetched.mkdir()
            unpacked.mkdir()
            version = _fetch_deb(name, fetched, unpacked) if manager == "apt" else _fetch_wheel(name, fetched, unpacked)
            (unpacked / _VERSION).write_text(version, encoding="utf-8")
            try:
                unpacked.rename(target)
            except OSError:  # somebody else was quicker
                if not target.is_dir():
                    raise
    return Package(target, name.split("==")[0], (target / _VERSION).read_text(encoding="utf-8"))


def check_package(package: str) -> None:
    """Refuse a package that is not in the cache yet and that there is no client to fetch with.

    Raises:
        DataError: the client is missing.
    """
    manager, _, name = package.partition(":")
    if not (cache() / f"{manager}-{name}").is_dir():
        _check_client("apt-get" if manager == "apt" else sys.executable, package)


def _check_client(client: str, package: str) -> None:
    if shutil.which(client) is None:
        raise DataError(f"corpus source {package}: there is no {client} on this machine; give the text as files")


def cache() -> Path:
    """Return the folder where packages are unpacked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "longcat/packages"


def _fetch_deb(name: str, fetched: Path, unpacked: Path) -> str:
    _run(["apt-get", "download", "-q", name], fetched, f"apt:{name}")
    [file] = fetched.glob("*.deb")
    where = f"apt:{name}"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        unpack_tar(process.stdout, unpacked, file_suffix, where, file.stat().st_size)
    if process.returncode:
        raise DataError(f"apt:{name}: dpkg-deb cannot unpack {file.name}")
    return _run(["dpkg-deb", "--field", str(file), "Version"], fetched, f"apt:{name}").strip()


def _fetch_wheel(name: str, fetched: Path, unpacked: Path) -> str:
    # wheels only: to fetch a source distribution means to run its code
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", ".", name]
    _run(command, fetched, f"pip:{name}")
    [file] = fetched.glob("*.whl")
    unpack_zip(file, unpacked, file_suffix, f"pip:{name}")
    return file.name.split("-")[1]


def _run(command: list[str], folder: Path, package: str) -> str:
    client = "pip" if "pip" in command else command[0]
    _check_client(command[0], package)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"corpus source {package}: {client} did not come to an end in {FETCH_S} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise DataError(
            f"corpus source {package}: {client} cannot fetch it ({said}); check the name, or run `apt-get update`"
            if client == "apt-get"
            else f"corpus source {package}: {client} cannot fetch it ({said}); check name and version"
        )
    return done.stdout
