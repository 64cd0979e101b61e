"""The source of every held-out document is found again in the rows that it was packed into."""

import numpy as np

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.origins import held_out_sources
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer


def test_each_document_has_its_source(tmp_path):
    for name in ("moons", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(60):
            words = " ".join(f"{name} {number * i % 89}" for i in range(30 + 5 * number))
            (tmp_path / name / f"{number}.txt").write_text(f"{name} number {number}: {words}")
    config = load_config(
        "smoke",
        overrides=[
            f"corpus.sources=[{tmp_path / 'moons'}, {tmp_path / 'dogs'}]",
            "corpus.held_out_fraction=0.3",
            "corpus.shard_sequences=8",
            "corpus.block_bytes=4096",
            "corpus.filters=[]",
            "corpus.workers=1",
        ],
    )
    tokens = preprocess(config, workspace=Workspace(tmp_path / "w"))
    corpus = TokenCorpus.open(tokens.path)
    found = held_out_sources(config.corpus, tokens.path)
    rows = corpus.held_out.take(np.arange(len(corpus.held_out)))
    assert len(found) == len(rows) > 8  # several shards
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    seen = set()
    for place, sources in enumerate(found):
        for document, source in enumerate(sources):
            text = decode(tokenizer, rows.tokens[place][rows.documents[place] == document])
            wanted, other = ("moons", "dogs") if "moons" in source else ("dogs", "moons")
            assert other[:4] not in text
            seen.add(wanted)
    assert seen == {"moons", "dogs"}
