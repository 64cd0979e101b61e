import errno
import os
import subprocess

import pytest

from longcat import disk
from longcat.disk import (
    check_can_be_folder,
    copy_file,
    disk_errors,
    private_folder,
    replacing,
    sync,
    temporary_name,
    trouble,
    write_text,
)
from longcat.errors import ConfigError, StorageError


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user cannot mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    write_text(path, "零")
    with pytest.raises(ZeroDivisionError), replacing(path) as stream:
        stream.write(b"half")
        _ = 1 / 0
    assert path.read_text() == "零"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_temporary_names_cannot_be_foreseen_and_fit(tmp_path):
    names = {temporary_name(tmp_path / "a.json").name for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) >= len(".a.json..tmp") + 16 for name in names)
    write_text(tmp_path / ("n" * 255), "x")


def test_a_link_that_lies_in_the_way_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "guessed").symlink_to(tmp_path / "mine")
    monkeypatch.setattr(disk, "temporary_name", lambda _: tmp_path / "guessed")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a", "x")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_copy_of_a_read_only_file_can_be_replaced(tmp_path, as_ordinary_user):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    source.chmod(0o444)

    def copy_twice():
        copy_file(source, target)
        copy_file(source, target)
        target.chmod(0o444)
        copy_file(source, target)  # over a copy that an older longcat has left
        assert os.access(target, os.W_OK)
        source.chmod(0o444)
        sync(source)

    as_ordinary_user(copy_twice)
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_refusals_are_one_line_for_the_user(tmp_path, code):
    line = f"cannot (read or )?write x: {os.strerror(code)}; make room"
    with pytest.raises(StorageError, match=line) as caught, disk_errors(tmp_path):
        raise OSError(code, os.strerror(code), "x")
    assert str(caught.value).startswith("no space left, ") == (code in (errno.ENOSPC, errno.EDQUOT))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("code", [errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_what_cannot_be_a_file_is_no_matter_of_room(tmp_path, code):
    line = f"^cannot write x: {os.strerror(code)}; choose another --html$"
    with pytest.raises(StorageError, match=line), disk_errors(tmp_path, "another --html"):
        raise OSError(code, os.strerror(code), "x")


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_that_cannot_be_forced_will_do_and_one_that_fails_will_not(tmp_path, monkeypatch, code):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk.os, "fsync", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            write_text(tmp_path / "a", "x")
        assert not list(tmp_path.iterdir())
    else:
        write_text(tmp_path / "a", "x")
        sync(tmp_path)


class TorchFailure(BaseException):
    failures = ()


@pytest.mark.parametrize(
    "error",
    [
        Exception("No space left on device (os error 28)"),  # of a library in Rust
        TorchFailure("OSError: [Errno 28] No space left on device"),
        RuntimeError("Disk quota exceeded"),
        OSError("[Errno 28] No space left on device"),
    ],
)
def test_errors_of_libraries_are_known_by_their_text(tmp_path, error):
    with (
        pytest.raises(StorageError, match=f"no space left, cannot write {tmp_path}.* another --workspace"),
        disk_errors(tmp_path),
    ):
        raise error
    with (
        pytest.raises(StorageError, match="; make room or choose another --html$"),
        disk_errors(tmp_path, "another --html"),
    ):
        raise error


@pytest.mark.parametrize("error", [OSError("4096 requested and 12 written"), RuntimeError("file write failed")])
def test_errors_of_libraries_are_known_by_a_full_disk(small_disk, error):
    fill(small_disk)
    with (
        pytest.raises(StorageError, match="no space left.* choose another --html$"),
        disk_errors(small_disk / "deep" / "file", "another --html"),
    ):
        raise error
    (small_disk / "filler").unlink()
    with pytest.raises(type(error), match=str(error)), disk_errors(small_disk):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ConfigError("x"), FileNotFoundError(2, "x")])
def test_what_the_disk_has_no_part_in_stays_what_it_is(small_disk, error):
    fill(small_disk)
    with pytest.raises(type(error)), disk_errors(small_disk):
        raise error


def test_trouble_is_found_in_the_place_of_who_cannot_say(small_disk):
    assert trouble(small_disk) is None
    fill(small_disk)
    assert "no space left" in str(trouble(small_disk))
    assert [file.name for file in small_disk.iterdir()] == ["filler"]
    (small_disk / "filler").unlink()
    assert trouble(small_disk / "not" / "there") is None
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in str(trouble(small_disk))


@pytest.mark.parametrize(
    ("parent", "made"), [(0o755, 0o700), (0o700, 0o700), (0o775, 0o770), (0o777, 0o700), (0o1777, 0o700)]
)
def test_a_folder_is_private_to_its_user_or_to_the_group_that_writes_there(tmp_path, parent, made):
    before = os.umask(0)
    try:
        tmp_path.chmod(parent)
        assert private_folder(tmp_path / "a").stat().st_mode & 0o777 == made
        (tmp_path / "b").mkdir(mode=0o755)
        assert private_folder(tmp_path / "b").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_what_is_a_file_or_would_lie_in_one_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "nowhere"):
        for path in (tmp_path / name, tmp_path / name / "a" / "b"):
            with pytest.raises(StorageError) as error:
                check_can_be_folder(path, "--output")
            assert str(error.value) == (
                f"{path} cannot be a folder because {tmp_path / name} is a file; choose another --output"
            )
    for path in (tmp_path, tmp_path / "a" / "b"):
        check_can_be_folder(path, "--output")
