import json

import pytest

from longcat.commands.preprocess import preprocess_command
from longcat.errors import ConfigError

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "parquet"}, "--format belongs to --write-text"),
        ({"format": "csv", "write_text": "text"}, "--format=csv is none of parquet, jsonl"),
        ({"write_text": "."}, "holds something else"),
        ({"write_text": "text", "set_": ["corpus.runner=dask"]}, "works on this machine alone"),
    ],
)
def test_mistakes_are_told_at_once(tmp_path, corpus, options, message):
    options = {"set_": [], **options}
    if "write_text" in options:
        options["write_text"] = tmp_path / options["write_text"]
    with pytest.raises(ConfigError, match=message):
        command("smoke", None, [*corpus, *options.pop("set_")], tmp_path / "w", **options)
    assert not (tmp_path / "text").exists()
