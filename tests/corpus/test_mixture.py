import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.documents import DOCUMENT
from longcat.corpus.mixture import choose, groups
from longcat.errors import ConfigError


def table(sizes, seed=0):
    """Documents of some sources, by source and tokens; every tenth is held out."""
    made = np.zeros(sum(map(len, sizes)), DOCUMENT)
    made["source"] = np.repeat(np.arange(len(sizes)), [len(tokens) for tokens in sizes])
    made["tokens"] = np.concatenate(sizes)
    made["key"] = np.random.default_rng(seed).permutation(len(made))
    made["held_out"] = np.arange(len(made)) % 10 == 9
    return made


def corpus(sources, **fields):
    return CorpusConfig(sources=[{"kind": "files", "path": "x", **source} for source in sources], **fields)


def mixed(documents, config):
    """Tokens taken, by source."""
    chosen = choose(documents, groups(documents, config))
    assert not documents["held_out"][chosen].any()
    return np.bincount(documents["source"][chosen], documents["tokens"][chosen], len(config.sources))


SIZES = [np.full(200, 50), np.full(100, 90)]


def test_without_weights_everything_is_taken_once():
    documents = table(SIZES)
    chosen = choose(documents, groups(documents, corpus([{}, {}])))
    assert chosen.tolist() == np.flatnonzero(~documents["held_out"]).tolist()


@given(
    st.lists(st.lists(st.integers(2, 99), min_size=20, max_size=60), min_size=2, max_size=4),
    st.lists(st.floats(0.1, 9), min_size=4, max_size=4),
)
def test_sources_have_their_weights_to_within_a_document(sizes, weights):
    documents = table([np.array(tokens) for tokens in sizes])
    weights = np.array(weights[: len(sizes)])
    taken = mixed(documents, corpus([{"weight": weight} for weight in weights]))
    available = np.bincount(documents["source"], documents["tokens"] * ~documents["held_out"])
    total = (available / (weights / weights.sum())).min()
    assert np.abs(taken - weights / weights.sum() * total).max() < 100
    assert (taken <= available).all()


@given(st.integers(2000, 30_000), st.floats(0.2, 5))
def test_documents_are_repeated_in_whole_rounds_first(tokens, weight):
    documents = table(SIZES)
    config = corpus([{"weight": 1}, {"weight": weight}], mixture_tokens=tokens, max_repeats=100)
    assert abs(mixed(documents, config).sum() - tokens) < 2 * 100
    times = np.bincount(choose(documents, groups(documents, config)), minlength=len(documents))
    for source in range(2):
        mine = times[(documents["source"] == source) & ~documents["held_out"]]
        assert mine.max() - mine.min() <= 1


def test_too_many_repeats_are_refused():
    with pytest.raises(ConfigError, match=r"corpus.mixture_tokens=90000.*corpus.sources\[0\] 5.0 times"):
        groups(table(SIZES), corpus([{"weight": 1}, {"weight": 1}], mixture_tokens=90_000))


def test_a_source_is_capped():
    assert mixed(table(SIZES), corpus([{"max_tokens": 1049}, {}])).tolist() == [1000, 90 * 90]


@given(st.floats(0.05, 0.95), st.integers(10, 60))
def test_long_documents_have_their_fraction(fraction, minimum):
    documents = table([np.arange(2, 80).repeat(3)] * 2)
    config = corpus([{}, {}], long_documents={"min_tokens": minimum, "fraction": fraction})
    chosen = choose(documents, groups(documents, config))
    tokens = documents["tokens"][chosen]
    assume(tokens.sum() > 1000)
    assert tokens[tokens >= minimum].sum() / tokens.sum() == pytest.approx(fraction, abs=4 * 80 / tokens.sum())


def test_a_fraction_of_what_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="min_tokens=1000: no document is long"):
        groups(table(SIZES), corpus([{}, {}], long_documents={"min_tokens": 1000, "fraction": 0.5}))
    with pytest.raises(ConfigError, match="min_tokens=2: no document is short"):
        groups(table(SIZES), corpus([{}, {}], long_documents={"min_tokens": 2, "fraction": 0.5}))


def test_which_documents_are_taken_follows_from_their_keys():
    documents = table(SIZES)
    config = corpus([{"weight": 1}, {"weight": 3}])
    keys = set(documents["key"][choose(documents, groups(documents, config))].tolist())
    shuffled = np.random.default_rng(1).permutation(documents)
    assert set(shuffled["key"][choose(shuffled, groups(shuffled, config))].tolist()) == keys
