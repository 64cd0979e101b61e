"""Learning of answers alone."""

import json

import numpy as np
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.answers import after_markers
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer
from longcat.local_services.text import CUE, LANGUAGES
from longcat.padding import IGNORE


def by_hand(tokens, documents, markers):
    """The same, token by token."""
    found = np.zeros(tokens.shape, bool)
    for row, numbers in zip(range(len(tokens)), documents, strict=True):
        for number in set(numbers.tolist()):
            places = np.flatnonzero(numbers == number)
            text = tokens[row, places].tolist()
            ends = [
                place + len(marker)
                for marker in markers
                for place in range(len(text))
                if text[place : place + len(marker)] == list(marker)
            ]
            found[row, places[min(ends, default=0) :]] = True
    return found


@pytest.mark.parametrize("seed", range(20))
def test_what_is_after_the_first_marker_of_a_document_is_learnt(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 3, (4, 30))
    documents = np.sort(rng.integers(0, 5, (4, 30)), axis=1)
    documents[:, 27:] = -1
    markers = [[0, 1], [2, 2, 2]] if seed % 2 else [[1]]
    found = after_markers(tokens, documents, markers)
    assert np.array_equal(found, by_hand(tokens, documents, markers))
    assert found.any()
    assert not found.all()


def test_a_marker_does_not_reach_over_the_end_of_a_document_or_a_row():
    tokens, documents = np.array([[5, 6, 7], [6, 9, 9]]), np.array([[0, 1, 1], [0, 0, 0]])
    assert after_markers(tokens, documents, [[5, 6], [7, 6]]).all()
    assert after_markers(tokens, documents, [[6]]).tolist() == [[True, False, True], [False, True, True]]
    assert after_markers(tokens, documents, [[5, 6, 7, 6]]).all()


def test_targets_of_a_corpus_are_the_answers_of_its_questions(tmp_path):
    sources = [
        {"kind": "local_services", "language": language, "count": 60, "forms": "plain"} for language in LANGUAGES
    ]
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": "nobody asks anything here, " * 3}) + "\n", "utf-8")
    settings = [
        f"corpus.sources={json.dumps([*sources, {'kind': 'files', 'path': str(tmp_path / 'prose.jsonl')}])}",
        *(
            "corpus.min_characters=20",
            "corpus.workers=1",
            "corpus.vocabulary_size=600",
            "corpus.sequence_length_tokens=512",
        ),
        "model.max_position_embeddings=512",
    ]
    tokens = preprocess(load_config("smoke", overrides=settings), workspace=Workspace(tmp_path / "workspace"))
    corpus = TokenCorpus.open(tokens.path)
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    learning = corpus.learning_after(list(CUE.values()))
    assert corpus.learning_after([]) is corpus
    assert (len(learning.train), len(learning.held_out)) == (len(corpus.train), len(corpus.held_out))
    batch, whole = (of.train.take(np.arange(len(corpus.train))) for of in (learning, corpus))
    assert np.array_equal(batch.tokens, whole.tokens)
    assert np.array_equal(batch.targets[batch.targets != IGNORE], whole.targets[batch.targets != IGNORE])
    seen = 0
    for row in range(len(batch)):
        for number in range(batch.documents[row].max() + 1):
            of = batch.documents[row] == number
            text, learnt = decode(tokenizer, whole.tokens[row, of]), batch.targets[row, of]
            told = decode(tokenizer, learnt[learnt != IGNORE])
            cue = next((cue for cue in CUE.values() if cue in text), None)
            if cue is not None:
                seen += 1
                answer = text.partition(cue)[2].removesuffix("</longcat_s>")
                assert told.startswith(answer) if answer else told
            else:
                assert len(learnt[learnt != IGNORE]) >= len(learnt) - 1
    assert seen > 80
    assert 0 < batch.learnt < whole.learnt / 4
