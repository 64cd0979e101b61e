"""Which files a path names."""

import pytest

from longcat.corpus.listing import list_path
from longcat.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.txt",
        "p-1.jsonl",
        "p-2.jsonl",
        "p-2.pdf",
        "deep/p-3.jsonl",
        "deep/er/p-4.jsonl.gz",
        "deep/b.txt",
        "[x].txt",
    ):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    return tmp_path / "tree"


def names(tree, pattern):
    listing = list_path(tree / pattern, "source")
    return [path.relative_to(tree).as_posix() for path in listing.files], dict(listing.left_out)


@pytest.mark.parametrize(
    ("pattern", "files", "left_out"),
    [
        ("p-*.jsonl", ["p-1.jsonl", "p-2.jsonl"], {}),
        ("p-*", ["p-1.jsonl", "p-2.jsonl"], {".pdf": 1}),
        ("**/p-*.jsonl*", ["deep/er/p-4.jsonl.gz", "deep/p-3.jsonl", "p-1.jsonl", "p-2.jsonl"], {}),
        ("deep/**/*.gz", ["deep/er/p-4.jsonl.gz"], {}),
        ("p-[13].jsonl", ["p-1.jsonl"], {}),
        ("p-?.jsonl", ["p-1.jsonl", "p-2.jsonl"], {}),
        ("d*", ["deep/b.txt", "deep/er/p-4.jsonl.gz", "deep/p-3.jsonl"], {}),
        ("[x].txt", ["[x].txt"], {}),
    ],
)
def test_patterns(tree, pattern, files, left_out):
    assert names(tree, pattern) == (files, left_out)


def test_patterns_are_relative_to_the_working_folder(tree, monkeypatch):
    monkeypatch.chdir(tree / "deep")
    assert [path.name for path in list_path(type(tree)("*.txt"), "source").files] == ["b.txt"]


def test_patterns_that_match_nothing(tree):
    with pytest.raises(DataError, match="source matches no file that can be read; formats are"):
        names(tree, "*.parquet")
    with pytest.raises(DataError, match=r"source matches no file that can be read; there are 1 \.pdf; formats"):
        names(tree, "*.pdf")
    with pytest.raises(DataError, match="source matches nothing: there is no folder .*absent"):
        names(tree, "absent/*.txt")


def test_links_to_files_and_folders_are_followed(tree, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.txt").touch()
    (tree / "linked").symlink_to(tmp_path / "elsewhere")
    (tree / "also.txt").symlink_to(tmp_path / "elsewhere" / "z.txt")
    files, _ = names(tree, "")
    assert "linked/z.txt" in files
    assert "also.txt" in files
    assert files == sorted(files)


def test_broken_links_and_loops_are_refused(tree, tmp_path):
    link = tree / "deep" / "link"
    link.symlink_to(tree / "absent.jsonl")
    for pattern in ("", "**/*.jsonl"):
        with pytest.raises(DataError, match=r"deep/link is a broken link to .*absent\.jsonl"):
            names(tree, pattern)
    with pytest.raises(DataError, match="source is a broken link"):
        list_path(link, "source")
    link.unlink()
    link.symlink_to(tree)
    with pytest.raises(DataError, match=rf"{link} is a link to the folder {tree}, which it lies in"):
        names(tree, "")
