import json

import numpy as np
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.documents import DOCUMENT, describe_losses
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer

TEXTS = [f"Document {n}: " + " ".join(f"word{(n * m) % 31}" for m in range(20 + n)) for n in range(90)]


def build(tmp_path, lines, *overrides, name="workspace"):
    """The folder of a documents artifact, and the facts."""
    sources = []
    for number, texts in enumerate(lines):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sources.append({"kind": "files", "path": str(path)})
        sources[-1].update(texts.settings if isinstance(texts, Weighted) else {})
    config = load_config(
        "smoke",
        overrides=[
            f"corpus.sources={json.dumps(sources)}", "corpus.min_characters=20", "corpus.vocabulary_size=400",
            "corpus.workers=1", "corpus.block_bytes=5000", *overrides,
        ],
    )  # fmt: skip
    artifact = preprocess(config, workspace=Workspace(tmp_path / name))
    return artifact.path.parents[1] / "documents" / artifact.facts["documents_artifact"], artifact.facts


class Weighted(list):
    def __init__(self, texts, **settings):
        super().__init__(texts)
        self.settings = settings


def read(folder):
    """The table, and the text of each document."""
    table = np.load(folder / "documents.npy")
    blocks = json.loads((folder / "blocks.json").read_text())
    tokens = [np.load(folder / f"{name}.tokens.npy") for name in blocks]
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    texts = []
    for row in table:
        mine = tokens[row["block"]][row["begin"] : row["begin"] + row["tokens"]]
        assert mine[-1] == 2
        assert 2 not in mine[:-1]
        texts.append(decode(tokenizer, mine[:-1]))
    assert table["tokens"].sum() == sum(map(len, tokens))
    return table, texts


def test_the_table_finds_every_document_in_the_order_read(tmp_path):
    folder, facts = build(tmp_path, [TEXTS[:50], [*TEXTS[45:], "short"]])
    table, texts = read(folder)
    assert table.dtype == DOCUMENT
    assert texts == TEXTS
    assert table["source"].tolist() == [0] * 50 + [1] * 40
    assert len(set(table["key"].tolist())) == len(TEXTS)
    assert (facts["documents"], facts["tokens"]) == (90, table["tokens"].sum())
    assert facts["dropped"]["duplicate"] == 5
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "documents.npy", "blocks.json", "samples.json", "tokenizer.json", "token_bytes.npy",
        *(f"{name}.tokens.npy" for name in json.loads((folder / "blocks.json").read_text())),
    }  # fmt: skip


def test_a_document_is_held_out_for_its_own_content(tmp_path):
    first, _ = build(tmp_path, [TEXTS], "corpus.held_out_share=0.2", name="one")
    second, _ = build(
        tmp_path, [["An earlier document of another corpus.", *TEXTS[::-2]]], "corpus.held_out_share=0.2", name="two"
    )
    held_out = {text: row["held_out"] for row, text in zip(*read(first), strict=True)}
    for row, text in zip(*read(second), strict=True):
        assert held_out.get(text, row["held_out"]) == row["held_out"]
    assert 5 < sum(held_out.values()) < 35


def test_more_is_held_out_of_a_larger_share(tmp_path):
    found = []
    for share in (0.05, 0.2, 0.45):
        folder, _ = build(tmp_path, [TEXTS], f"corpus.held_out_share={share}")
        found.append({text for row, text in zip(*read(folder), strict=True) if row["held_out"]})
    assert found[0] < found[1] < found[2]


def test_the_tokenizer_is_trained_on_sources_by_their_weight(tmp_path):
    latin = [f"{text} harbour harbour" for text in TEXTS]
    chinese = [f"{n} " + "混合专家模型把每个词交给几个专家" * 8 for n in range(90)]
    shares = []
    for weight in (0.01, 100):
        sources = [Weighted(latin, tokenizer_weight=1), Weighted(chinese, tokenizer_weight=weight)]
        folder, _ = build(tmp_path, sources, "corpus.tokenizer_sample_bytes=8000", "corpus.vocabulary_size=300")
        tokenizer = open_tokenizer(folder / "tokenizer.json")
        shares.append(len(tokenizer.encode("harbour").ids) - len(tokenizer.encode("混合专家").ids))
    assert shares[0] < shares[1]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_tiny_sample_gives_a_tokenizer_of_little_more_than_bytes(tmp_path, size):
    folder, facts = build(tmp_path, [TEXTS], f"corpus.tokenizer_sample_bytes={size}")
    assert 259 <= facts["vocabulary_size"] < 300
    assert read(folder)[1] == TEXTS


def test_larger_vocabularies_have_wider_tokens(tmp_path):
    folder, _ = build(tmp_path, [TEXTS])
    [dtype] = {np.load(path).dtype for path in folder.glob("*.tokens.npy")}
    assert dtype == np.uint16


def test_losses_are_described_for_a_person():
    facts = {"documents": 3, "dropped": {"empty": 0, "too_short": 2, "repeated_paragraphs": 1}, "bad_lines": 4}
    assert (
        describe_losses(facts) == "of 10 documents read, 3 were kept, 2 too short, 1 repeated paragraphs, 4 unreadable"
    )
