"""What pretraining asks of the tokens it is handed."""

import json

import pytest

from longcat.artifact import Artifact, Workspace
from longcat.config import load_config
from longcat.errors import ArtifactError
from longcat.training.stage import pretrain


def tokens(folder, **changes):
    config = load_config("smoke")
    index = {
        "sequence_length": config.corpus.sequence_length_tokens,
        "vocabulary_size": config.model.vocabulary,
        "end_of_text": 2,
        "tokenizer_sha256": "",
        "splits": {
            name: {"shards": [], "rows": 0, "tokens": 0, "padding_tokens": 0, "documents": 0, "extra_cuts": 0}
            for name in ("train", "held_out")
        },
    }
    (folder / "index.json").write_text(json.dumps({**index, **changes}))
    return Artifact("tokens", "0" * 32, folder, {}, facts=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end_of_text": 7}, "ends documents with token 7, model.eos_token_id is 2"),
        ({"vocabulary_size": 70_001}, "has token ids up to 70000, model.vocab_size is"),
        ({"sequence_length": 100_000}, "has sequences of 100000 tokens, model.max_position_embeddings is"),
    ],
)
def test_tokens_of_another_corpus_are_refused(tmp_path, changes, message):
    with pytest.raises(ArtifactError, match=message):
        pretrain(load_config("smoke"), tokens(tmp_path, **changes), workspace=Workspace(tmp_path / "workspace"))
    assert not list((tmp_path / "workspace").glob("checkpoint/*"))
