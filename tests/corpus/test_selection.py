import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.block_arrays import ArraysBuilder
from longcat.corpus.block_tasks import without
from longcat.corpus.selection import DUPLICATE, KEPT, REPEATED_PARAGRAPHS, select


class Block:
    """A judged block that was never written."""

    def __init__(self, texts, corpus):
        self.texts = texts
        builder = ArraysBuilder(corpus.repeated_paragraph_characters)
        for text in texts:
            builder.add(text)
        self._arrays = builder.build()

    def arrays(self):
        return self._arrays


class Blocks(list):
    @property
    def begins(self):
        return np.cumsum([0, *(len(block.texts) for block in self)], dtype=np.int64)


def one_process(function, items):
    return map(function, items)


def choose(blocks, **settings):
    corpus = CorpusConfig.model_validate({"min_characters": 0, **settings})
    judged = Blocks(Block(texts, corpus) for texts in blocks)
    with tempfile.TemporaryDirectory() as folder:
        selection = select(judged, corpus, Path(folder), one_process)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["cuts.npy", "state.npy"]
        again = select(judged, corpus, Path(folder), None)  # which asks for nothing to be done
    assert (again.state == selection.state).all() and (again.cuts == selection.cuts).all()
    return selection, [text for texts in blocks for text in texts]


def kept(selection):
    return selection.state == KEPT


def remaining(selection, blocks):
    """Texts of the documents kept, without what is cut out."""
    found = []
    for number, texts in enumerate(blocks):
        cuts = selection.cuts_of(number)
        for place, (text, keep) in enumerate(zip(texts, kept(selection)[selection.of(number)], strict=True)):
            if keep:
                found.append(without(text.encode(), cuts[cuts[:, 0] == place, 1:]).decode())
    return found


some_blocks = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "専門", "a ", "d" * 50]), max_size=6), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=40)
@given(some_blocks)
def test_the_first_of_equal_documents_stays(blocks):
    selection, texts = choose(blocks)
    assert kept(selection).tolist() == [text not in texts[:place] for place, text in enumerate(texts)]
    assert ((selection.state == DUPLICATE) == ~kept(selection)).all()
    assert selection.count()["duplicate"] == len(texts) - len(set(texts))
    assert remaining(selection, blocks) == list(dict.fromkeys(texts))


@settings(deadline=None, max_examples=40)
@given(some_blocks)
def test_documents_are_counted_through_all_blocks(blocks):
    selection, texts = choose(blocks)
    assert [len(range(*selection.of(number).indices(len(texts)))) for number in range(len(blocks))] == list(
        map(len, blocks)
    )


paragraphs = st.sampled_from(
    ["short", "Terms of use apply to all of this.", "零专家" * 12, "Another long enough paragraph."]
)
documents = st.lists(paragraphs, min_size=1, max_size=4).map("\n\n".join)


def cut_slowly(texts, least, min_characters=0):
    """What `repeated_paragraph_characters` leaves of documents, one after another, in the words of its description."""
    seen, left = set(), []
    for text in texts:
        before, kept = set(seen), []
        for paragraph in re.findall(r"(?:(?!\n\s*\n).)+(?:\n\s*\n)?", text, re.S):
            if len(paragraph.strip()) >= least and paragraph.strip() in seen:
                continue
            kept.append(paragraph)
            seen.add(paragraph.strip())
        left.append("".join(kept))
        if left[-1] != text and len(left[-1]) < min_characters:  # nothing of it is in the corpus
            seen = before
    return left


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(documents, max_size=4), min_size=1, max_size=4))
def test_paragraphs_that_came_before_are_cut_out(blocks):
    selection, texts = choose(blocks, repeated_paragraph_characters=20)
    distinct = list(dict.fromkeys(texts))
    by_text = dict(zip(distinct, cut_slowly(distinct, 20), strict=True))
    left = [by_text[text] for text, keep in zip(texts, kept(selection), strict=True) if keep]
    assert remaining(selection, blocks) == left
    whole = [text for text, keep in zip(texts, kept(selection), strict=True) if keep]
    assert sum(map(len, whole)) - selection.cuts[:, 3].sum() == sum(map(len, left))
    assert not any(by_text[texts[number]] for number in np.flatnonzero(selection.state == REPEATED_PARAGRAPHS))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(documents, max_size=4), min_size=1, max_size=4), st.integers(0, 120))
def test_paragraphs_of_documents_too_short_for_the_rest_stay_in_the_next(blocks, min_characters):
    selection, texts = choose(blocks, repeated_paragraph_characters=20, min_characters=min_characters)
    distinct = list(dict.fromkeys(texts))
    cut = [(text, left) for text, left in zip(distinct, cut_slowly(distinct, 20, min_characters), strict=True)]
    assert remaining(selection, blocks) == [
        left for text, left in cut if left == text or len(left) >= max(1, min_characters)
    ]


LONG = "This notice is printed below every article of the newspaper."
OTHER = "A second notice, which is about the use of cookies on this page."


def test_repeated_paragraphs_are_cut_wherever_they_stand():
    blocks = [
        [f"One begins.\n\n{LONG}\n\nOne ends.", f"{LONG}\n\nTwo ends."],
        [f"Three begins.\n \t\n  {LONG}  \n\n\n{OTHER}", f"{OTHER}\n\nFour, with the other notice in front."],
    ]
    selection, _ = choose(blocks, repeated_paragraph_characters=40)
    assert kept(selection).all()
    assert remaining(selection, blocks) == [
        blocks[0][0],
        "Two ends.",
        f"Three begins.\n \t\n{OTHER}",
        "Four, with the other notice in front.",
    ]
    assert selection.cuts[:, 0].tolist() == [1, 2, 3]


def test_shorter_and_slightly_different_paragraphs_stay():
    blocks = [[LONG, f"{LONG[:39]}\n\nx", f"{LONG[:39]}\n\ny", f"{LONG.lower()}\n\nz", f"{LONG}\nnot alone"]]
    selection, texts = choose(blocks, repeated_paragraph_characters=40)
    assert remaining(selection, blocks) == texts


def test_least_characters_are_characters_not_bytes():
    blocks = [["零专家" * 5, "零专家" * 5 + "\n\nmore"]]
    for least, left in ((15, "more"), (16, blocks[0][1])):
        selection, _ = choose(blocks, repeated_paragraph_characters=least)
        assert remaining(selection, blocks)[-1] == left


def test_paragraphs_of_duplicates_do_not_count_and_those_of_the_first_stay():
    blocks = [[LONG], [LONG], [f"{LONG}\n\nmore than that"]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40)
    assert kept(selection).tolist() == [True, False, True]
    assert remaining(selection, blocks) == [LONG, "more than that"]


def test_documents_left_nearly_empty_are_left_out():
    blocks = [[LONG], [f"{LONG}\n\nabc", f"{LONG}\n\n" + "enough " * 5]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40, min_characters=30)
    assert np.flatnonzero(selection.state == REPEATED_PARAGRAPHS).tolist() == [1]
    assert remaining(selection, blocks) == [LONG, "enough " * 5]
    assert selection.cuts.tolist() == [[2, 0, len(LONG) + 2, len(LONG) + 2]]


def test_a_document_of_one_repeated_paragraph_is_left_out():
    selection, _ = choose([[f"{LONG}\n\nx", LONG]], repeated_paragraph_characters=40)
    assert kept(selection).tolist() == [True, False]


@pytest.mark.parametrize("text", [f"{LONG}\n\n{OTHER}", f"  {LONG}", f"{LONG}\n\n"])
def test_documents_of_nothing_but_repeated_paragraphs_are_left_out(text):
    selection, _ = choose([[f"{LONG}\n\n{OTHER}\n\nfirst", text]], repeated_paragraph_characters=40)
    assert kept(selection).tolist() == [True, False]


def test_characters_are_those_of_what_remains():
    blocks = [[LONG, f"{LONG}\n\nThe rest."]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40)
    whole = sum(map(len, blocks[0]))
    assert whole - selection.cuts[:, 3].sum() == sum(map(len, remaining(selection, blocks)))


def test_every_paragraph_is_left_somewhere():
    middle = f"{LONG}\n\n{OTHER}"
    blocks = [[f"{LONG}\n\n{'one ' * 30}", middle, f"{OTHER}\n\n{'two ' * 30}"]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40, min_characters=100)
    assert any(OTHER in text for text in remaining(selection, blocks))


def test_nothing_read_selects_nothing():
    selection, _ = choose([[]], repeated_paragraph_characters=40)
    assert (len(kept(selection)), len(selection.cuts), selection.begins.tolist()) == (0, 0, [0, 0])
