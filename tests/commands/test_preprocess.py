import json

import pytest

from longcat.commands.preprocess import preprocess_command
from longcat.errors import UserError

command = preprocess_command("help")


@pytest.fixture
def corpus(tmp_path):
    rows = [{"text": f"Document {n} about the harbour and its boats.", "id": n} for n in range(9)] + [{"text": "x"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"corpus.sources={tmp_path / 'a.jsonl'}", "corpus.min_characters=5", "corpus.workers=1"]


def test_text_is_written_and_counted(tmp_path, corpus, capsys):
    folder = tmp_path / "text"
    command("smoke", None, corpus, tmp_path / "w", as_json=True, write_text=folder)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["folder"], answer["kept"], answer["dropped"]) == (str(folder), 9, 1)
    assert [path.suffix for path in (folder / "kept").iterdir()] == [".parquet"]
    assert not (tmp_path / "w" / "tokens").exists()


def test_what_is_not_read_is_said(tmp_path, corpus, capsys):
    path = tmp_path / "corpus" / "a.jsonl"
    path.parent.mkdir()
    path.write_text((tmp_path / "a.jsonl").read_text() + '{"id": 10}\n{broken\n')
    (path.parent / "figure.pdf").write_bytes(b"%PDF")
    sources = [*corpus, f"corpus.sources={path.parent}", "corpus.max_bad_fraction=0.5"]
    folder = tmp_path / "new" / "folder" / "text"
    for _ in range(2):  # the second time the text is there
        command("smoke", None, sources, tmp_path / "w", write_text=folder)
        said = capsys.readouterr()
        assert said.out == f"{folder}: 9 documents kept, 1 left out, 2 unreadable\n"
        warned = [line for line in said.err.splitlines() if "pdf" in line or "Warning" in line]
        assert warned == [f"warning: corpus source {path.parent}: files that are not read: 1 .pdf"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "parquet"}, "--format belongs to --write-text"),
        ({"format": "csv", "write_text": "text"}, "--format=csv is none of parquet, jsonl"),
        ({"write_text": "."}, "holds something else"),
        ({"write_text": "a.jsonl/text"}, "a.jsonl is a file; choose another --write-text"),
        ({"write_text": "text", "set_": ["corpus.runner=dask"]}, "works on this machine alone"),
    ],
)
def test_mistakes_are_told_at_once(tmp_path, corpus, options, message):
    options = {"set_": [], **options}
    if "write_text" in options:
        options["write_text"] = tmp_path / options["write_text"]
    with pytest.raises(UserError, match=message):
        command("smoke", None, [*corpus, *options.pop("set_")], tmp_path / "w", **options)
    assert not (tmp_path / "text").exists()
