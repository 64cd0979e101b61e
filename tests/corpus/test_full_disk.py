"""A disk that fills up at any moment of preprocessing is one line, and the same command goes on when there is room."""

import subprocess

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import StorageError

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own; called with a size, it gets that one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False
        )

    if mount("-o", "size=64m").returncode:
        pytest.skip("this user cannot mount a small file system")

    def resize(size):
        assert not mount("-o", f"remount,size={size}").returncode
        return folder

    yield resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_disk_that_fills_up_while_a_corpus_is_read(disk, tmp_path, corpus_file):
    config = load_config(
        "smoke", overrides=[f"corpus.sources={corpus_file}", "corpus.workers=2", "corpus.block_bytes=20000"]
    )
    whole = preprocess(config, workspace=Workspace(tmp_path / "whole"))
    need = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*"))
    refusals = 0
    for percent in (1, 20, 40, 60, 80, 95, 110, 300):
        folder = disk(f"{max(8, need * percent // 100 // 1024)}k")
        try:
            made = preprocess(config, workspace=Workspace(folder / "workspace"))
        except StorageError as error:
            assert "no space left" in str(error)
            assert "\n" not in str(error)
            refusals += 1
    assert refusals >= 4
    assert contents(made.path) == contents(whole.path)
    assert not [path for path in (folder / "workspace").rglob(".*") if path.name not in (".metadata", ".hashes.db")]
