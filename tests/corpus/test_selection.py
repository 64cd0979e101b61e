import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.block_arrays import ArraysBuilder, content_hash
from longcat.corpus.block_tasks import without
from longcat.corpus.selection import select


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


def choose(blocks, **settings):
    corpus = CorpusConfig.model_validate({"min_characters": 0, **settings})
    judged = [Block(texts, corpus) for texts in blocks]
    return select(judged, corpus), [text for texts in blocks for text in texts]


def remaining(selection, blocks):
    """Texts of the documents kept, without what is cut out."""
    found = []
    for number, texts in enumerate(blocks):
        cuts = selection.cuts_of(number)
        for place, (text, keep) in enumerate(zip(texts, selection.keep[selection.of(number)], strict=True)):
            if keep:
                found.append(without(text.encode(), cuts[cuts[:, 0] == place, 1:]).decode())
    return found


some_blocks = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "専門", "a ", "d" * 50]), max_size=6), min_size=1, max_size=5
)


@given(some_blocks)
def test_the_first_of_equal_documents_stays(blocks):
    selection, texts = choose(blocks)
    assert selection.keep.tolist() == [text not in texts[:place] for place, text in enumerate(texts)]
    assert selection.dropped["duplicate"].tolist() == np.flatnonzero(~selection.keep).tolist()
    assert selection.sizes.tolist() == [len(text.encode()) for text in texts]
    assert selection.characters.tolist() == list(map(len, texts))
    assert remaining(selection, blocks) == list(dict.fromkeys(texts))


@given(some_blocks)
def test_documents_are_found_in_their_block(blocks):
    selection, texts = choose(blocks)
    content = ["".join(block).encode() for block in blocks]
    for number, text in enumerate(texts):
        begin, end = selection.bytes_of(number)
        assert content[selection.block_of(number)][begin:end].decode() == text
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


@settings(max_examples=200)
@given(st.lists(st.lists(documents, max_size=4), min_size=1, max_size=4))
def test_paragraphs_that_came_before_are_cut_out(blocks):
    selection, texts = choose(blocks, repeated_paragraph_characters=20)
    distinct = list(dict.fromkeys(texts))
    by_text = dict(zip(distinct, cut_slowly(distinct, 20), strict=True))
    kept = [by_text[text] for text, keep in zip(texts, selection.keep, strict=True) if keep]
    assert remaining(selection, blocks) == kept
    assert selection.sizes[selection.keep].tolist() == [len(text.encode()) for text in kept]
    assert not any(by_text[texts[number]] for number in selection.dropped["repeated_paragraphs"])


@settings(max_examples=200)
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
    assert selection.keep.all()
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
    assert selection.keep.tolist() == [True, False, True]
    assert remaining(selection, blocks) == [LONG, "more than that"]


def test_documents_left_nearly_empty_are_left_out():
    blocks = [[LONG], [f"{LONG}\n\nabc", f"{LONG}\n\n" + "enough " * 5]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40, min_characters=30)
    assert selection.dropped["repeated_paragraphs"].tolist() == [1]
    assert remaining(selection, blocks) == [LONG, "enough " * 5]
    assert selection.cuts.tolist() == [[2, 0, len(LONG) + 2]]


def test_a_document_of_one_repeated_paragraph_is_left_out():
    selection, _ = choose([[f"{LONG}\n\nx", LONG]], repeated_paragraph_characters=40)
    assert selection.keep.tolist() == [True, False]


@pytest.mark.parametrize("text", [f"{LONG}\n\n{OTHER}", f"  {LONG}", f"{LONG}\n\n"])
def test_documents_of_nothing_but_repeated_paragraphs_are_left_out(text):
    selection, _ = choose([[f"{LONG}\n\n{OTHER}\n\nfirst", text]], repeated_paragraph_characters=40)
    assert selection.keep.tolist() == [True, False]


def test_characters_are_those_of_what_remains():
    blocks = [[LONG, f"{LONG}\n\nThe rest."]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40)
    assert selection.characters.tolist() == [len(text) for text in remaining(selection, blocks)]


def test_every_paragraph_is_left_somewhere():
    middle = f"{LONG}\n\n{OTHER}"
    blocks = [[f"{LONG}\n\n{'one ' * 30}", middle, f"{OTHER}\n\n{'two ' * 30}"]]
    selection, _ = choose(blocks, repeated_paragraph_characters=40, min_characters=100)
    assert any(OTHER in text for text in remaining(selection, blocks))


def test_nothing_read_selects_nothing():
    selection, _ = choose([[]], repeated_paragraph_characters=40)
    assert (len(selection.keep), len(selection.cuts), selection.begins.tolist()) == (0, 0, [0, 0])


def test_digests_stand_for_content():
    selection, texts = choose([["one", "two"]])
    expected = [int.from_bytes(content_hash(text.encode())[:8], "big") for text in texts]
    assert selection.digests[:, 0].tolist() == expected
