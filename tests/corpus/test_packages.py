import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from longcat.config import SourceConfig
from longcat.corpus import packages
from longcat.corpus.packages import unpack
from longcat.corpus.sources import resolve
from longcat.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "longcat/packages"


def script(path, commands):
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An `apt-get` that knows one package, and the calls it got."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    root = tmp_path / "root"
    for name, text in {
        "usr/share/doc/a/zh/one.html": "<p>一",
        "usr/share/doc/a/en/two.txt": "two",
        "bin/x": "no",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: a-doc\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    subprocess.run(["dpkg-deb", "-b", str(root), str(tmp_path / "a.deb")], check=True, capture_output=True, timeout=60)
    clients = tmp_path / "clients"
    clients.mkdir()
    script(
        clients / "apt-get",
        f'echo "$@" >> {tmp_path}/calls\n'
        f'[ "$3" = a-doc ] || {{ echo "E: Unable to locate package $3" >&2; exit 100; }}\ncp {tmp_path}/a.deb a-doc_2.0_all.deb',
    )
    monkeypatch.setenv("PATH", f"{clients}:{os.environ['PATH']}")
    return tmp_path / "calls"


def test_a_package_of_apt_is_fetched_once(apt, cache):
    first, second = unpack("apt:a-doc"), unpack("apt:a-doc")
    assert first == second
    assert (first.name, first.version) == ("a-doc", "1:2.0-3")
    assert apt.read_text().split() == ["download", "-q", "a-doc"]
    found = sorted(path.relative_to(first.path).as_posix() for path in first.path.rglob("*") if path.is_file())
    assert found == ["VERSION", "usr/share/doc/a/en/two.txt", "usr/share/doc/a/zh/one.html"]
    assert [path.name for path in cache.iterdir()] == ["apt-a-doc"]


def test_it_is_a_source_like_a_folder(apt):
    def source(**fields):
        return resolve(SourceConfig.model_validate({"kind": "package", "package": "apt:a-doc", **fields}), 1000)

    chinese = source(members="*/zh/*", licence="MIT")
    assert (chinese.name, chinese.licence) == ("a-doc 1:2.0-3", "MIT")
    assert [list(block.records(["utf-8"], 100)) for block in chinese.blocks] == [["一"]]
    assert source().pin != chinese.pin
    with pytest.raises(DataError, match=r"apt:a-doc has no file.*members='\*/fr/\*'"):
        source(members="*/fr/*")


def test_what_the_client_says_is_passed_on(apt, cache, monkeypatch):
    with pytest.raises(DataError, match=r"apt:no-such: apt-get cannot fetch it \(E: Unable to locate.*apt-get update"):
        unpack("apt:no-such")
    assert not list(cache.iterdir())
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="there is no apt-get on this machine"):
        unpack("apt:other")


def test_a_client_that_never_ends_is_given_up(apt, monkeypatch):
    (apt.parent / "clients/apt-get").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(packages, "FETCH_S", 0.3)
    with pytest.raises(DataError, match="apt-get did not come to an end"):
        unpack("apt:a-doc")


def test_a_wheel_of_pip(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        wheel.writestr("texts/a.txt", "one")
        wheel.writestr("texts/a.so", "no")
    python = script(
        tmp_path / "python", f'echo "$@" > {tmp_path}/calls; cp {tmp_path}/wheel texts-1.2-py3-none-any.whl'
    )
    monkeypatch.setattr(sys, "executable", str(python))
    package = unpack("pip:texts==1.2")
    assert (package.name, package.version) == ("texts", "1.2")
    assert (tmp_path / "calls").read_text().split()[-1] == "texts==1.2"
    assert (package.path / "texts/a.txt").read_text() == "one"
    assert not (package.path / "texts/a.so").exists()


def test_a_wheel_that_leads_out_of_the_folder_is_refused(tmp_path, cache, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        wheel.writestr("texts/a.txt", "one")
        wheel.writestr("../../outside.txt", "no")
    python = script(tmp_path / "python", f"cp {tmp_path}/wheel texts-1.2-py3-none-any.whl")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DataError, match="pip:texts==1.2 cannot be unpacked.*outside the destination"):
        unpack("pip:texts==1.2")
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(cache.iterdir())


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, cache, monkeypatch):
    with tarfile.open(tmp_path / "content.tar", mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside.txt"))
    script(tmp_path / "apt-get", "echo > a_1.deb")
    script(tmp_path / "dpkg-deb", f"cat {tmp_path}/content.tar")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DataError, match="outside the destination"):
        unpack("apt:a-doc")
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(cache.iterdir())
