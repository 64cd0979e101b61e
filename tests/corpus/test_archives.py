"""Hostile archives: names that lead out of the folder, links, devices, bombs, and headers that fill the memory."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from longcat import unpacking
from longcat.corpus import archives
from longcat.corpus.archives import unpack_tar, unpack_zip
from longcat.corpus.readers import file_suffix
from longcat.corpus.readers.compression import chunks
from longcat.errors import DataError

OUTSIDE = ["../outside.txt", "a/../../outside.txt", "/tmp/outside.txt", "a/./../../outside.txt", "..\\outside.txt"]
SPECIAL = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "around" / "folder").mkdir(parents=True)
    (tmp_path / "around" / "secret.txt").write_text("secret")
    return tmp_path / "around" / "folder"


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path):
    yield
    around = tmp_path / "around"
    if around.exists():
        assert sorted(path.name for path in around.iterdir()) == ["folder", "secret.txt"]
        assert (around / "secret.txt").read_text() == "secret"
        assert all(path.is_dir() or (path.is_file() and not path.is_symlink()) for path in around.rglob("*"))


def tar(*members):
    """A tar file of members: a name with its text, or a header that is taken as it is."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isfile() else None)
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                archive.addfile(header, io.BytesIO(member[1]))
    content.seek(0)
    return content


def special(name, kind, target="../secret.txt"):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zipped(path, *members, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            member = zipfile.ZipInfo(name)
            member.filename = name  # as it is
            member.external_attr = mode << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, text)
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_the_folder(name, folder, tmp_path):
    with pytest.raises(DataError, match=r"apt:x cannot be unpacked: .*lies outside the destination"):
        unpack_tar(tar(("good.txt", b"1"), (name, b"2")), folder, file_suffix, "apt:x", 10_000)
    with pytest.raises(DataError, match=r"pip:x cannot be unpacked: .*lies outside the destination"):
        unpack_zip(zipped(tmp_path / "a.zip", ("good.txt", "1"), (name, "2")), folder, file_suffix, "pip:x")
    assert not Path("/tmp/outside.txt").exists()


@pytest.mark.parametrize("kind", SPECIAL)
def test_links_devices_and_pipes_are_left_out(kind, folder):
    stream = tar(special("a.txt", kind), special("d", kind, ".."), ("d/b.txt", b"2"), ("a.txt", b"3"))
    unpack_tar(stream, folder, file_suffix, "apt:x", 10_000)
    assert names(folder) == ["a.txt", "d/b.txt"]
    assert (folder / "a.txt").read_bytes() == b"3"


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO | 0o600])
def test_links_of_a_zip_file_are_left_out(mode, folder, tmp_path):
    unpack_zip(zipped(tmp_path / "a.zip", ("a.txt", "../secret.txt"), mode=mode), folder, file_suffix, "pip:x")
    assert names(folder) == []


def test_a_link_that_is_there_already_is_not_followed(folder):
    (folder / "a.txt").symlink_to("../secret.txt")
    with pytest.raises(OSError, match=r"symbolic links|a\.txt"):
        unpack_tar(tar(("a.txt", b"1")), folder, file_suffix, "apt:x", 10_000)
    (folder / "a.txt").unlink()


@pytest.mark.parametrize("pair", [("a.txt", "a.txt/b.txt"), ("a.txt/b.txt", "a.txt"), ("a.txt", "b" * 300 + ".txt")])
def test_names_that_cannot_be_are_one_line(pair, folder, tmp_path):
    members = [(name, b"1") for name in pair]
    with pytest.raises(DataError, match="apt:x cannot be unpacked: "):
        unpack_tar(tar(*members), folder, file_suffix, "apt:x", 10_000)
    with pytest.raises(DataError, match="pip:x cannot be unpacked: "):
        unpack_zip(zipped(tmp_path / "a.zip", *members), folder, file_suffix, "pip:x")


def test_too_many_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    members = [(f"{number}.bin", b"") for number in range(4)]
    for unpack in (
        lambda: unpack_tar(tar(*members), folder, file_suffix, "apt:x", 10_000),
        lambda: unpack_zip(zipped(tmp_path / "a.zip", *members), folder, file_suffix, "pip:x"),
    ):
        with pytest.raises(DataError, match=r"has more than 3 files"):
            unpack()


def test_too_many_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 3_000)
    members = [(f"{number}.txt", os.urandom(1000)) for number in range(4)]
    for unpack in (
        lambda: unpack_tar(tar(*members), folder, file_suffix, "apt:x", 10_000),
        lambda: unpack_zip(zipped(tmp_path / "a.zip", *members), folder, file_suffix, "pip:x"),
    ):
        with pytest.raises(DataError, match=r"unpacks to more than 3,000 bytes"):
            unpack()


def test_a_bomb_is_refused_by_its_ratio(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    bomb = zipped(tmp_path / "a.zip", ("a.txt", bytes(8 << 20)))
    with pytest.raises(DataError, match=r"pip:x unpacks to more than 250 times its size"):
        unpack_zip(bomb, folder, file_suffix, "pip:x")
    assert (folder / "a.txt").stat().st_size <= 3 << 20
    with pytest.raises(DataError, match=r"apt:x unpacks to more than 250 times its size"):
        unpack_tar(tar(("b.txt", bytes(8 << 20))), folder, file_suffix, "apt:x", 10_000)
    assert not (folder / "b.txt").exists()


def test_a_header_that_would_fill_the_memory_is_refused(folder):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
        header.type = kind
        stream = io.BytesIO(header.tobuf() + bytes(10_240))
        with pytest.raises(DataError, match="announces 1,073,741,824 bytes that are no file"):
            unpack_tar(stream, folder, file_suffix, "apt:x", 10_000)


def test_long_names_of_honest_archives_are_fine(folder):
    name = "/".join(["deep" * 20] * 5) + "/a.txt"
    unpack_tar(tar(("./" + name, b"1")), folder, file_suffix, "apt:x", 10_000)
    assert names(folder) == [name]


def test_damaged_and_encrypted_archives_are_one_line(folder, tmp_path):
    whole = zipped(tmp_path / "a.zip", ("a.txt", b"text" * 1000)).read_bytes()
    directory = whole.index(b"PK\1\2")
    cases = {
        "cut": whole[: len(whole) // 2],
        "none": b"no zip file",
        "damaged": whole[:45] + bytes(byte ^ 0xFF for byte in whole[45:50]) + whole[50:],
        "encrypted": whole[:6] + b"\1" + whole[7 : directory + 8] + b"\1" + whole[directory + 9 :],
        "method": whole[:8] + struct.pack("<H", 99) + whole[10 : directory + 10] + struct.pack("<H", 99) + whole[directory + 12 :],
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="pip:x cannot be unpacked: "):
            unpack_zip(tmp_path / name, folder, file_suffix, "pip:x")
    packed = tar(("a.txt", b"text" * 1000)).getvalue()
    for content in (packed[:1000], b"no tar file" * 100):
        with pytest.raises(DataError, match="apt:x cannot be unpacked: "):
            unpack_tar(io.BytesIO(content), folder, file_suffix, "apt:x", 10_000)


def zstandard_of(content):
    return pytest.importorskip("zstandard").ZstdCompressor(level=19).compress(content)


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".zst", zstandard_of)])
def test_a_compressed_corpus_file_is_no_bomb(suffix, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(bytes(64 << 20)))
    read = 0
    with (
        path.open("rb") as stream,
        pytest.raises(DataError, match=r"a\.jsonl.* unpacks to more than 250 times its size"),
    ):
        for chunk in chunks(stream, path):
            assert len(chunk) <= 64 << 20
            read += len(chunk)
    assert read < 32 << 20
    text = b"".join(b'{"text": "%d %d"}\n' % (number, zlib.crc32(bytes(number))) for number in range(100_000))
    path.write_bytes(pack(text) + pack(text))
    with path.open("rb") as stream:
        assert b"".join(chunks(stream, path)) == text * 2
