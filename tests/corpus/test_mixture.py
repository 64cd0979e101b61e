from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.documents import DOCUMENT
from longcat.corpus.mixture import choose, groups
from longcat.errors import ConfigError, LongcatError


def table_of(*sources, held_out=()):
    """Documents with some numbers of tokens, a list for each source, in an arbitrary order of keys."""
    rows = [(number, tokens) for number, source in enumerate(sources) for tokens in source]
    table = np.zeros(len(rows), DOCUMENT)
    table["source"], table["tokens"] = np.array(rows, np.int64).reshape(-1, 2).T
    table["key"] = np.random.default_rng(len(rows)).permutation(len(rows)) * 1000
    table["held_out"][list(held_out)] = True
    return table


def configure(*sources, **settings):
    return CorpusConfig.model_validate(
        {"sources": [{"kind": "files", "path": "x.jsonl", **source} for source in sources], **settings}
    )


def mixed(table, corpus):
    return choose(table, groups(table, corpus))


def tokens_by_source(table, chosen):
    return np.bincount(table["source"][chosen], table["tokens"][chosen], table["source"].max() + 1)


lengths = st.lists(st.integers(1, 500), min_size=1, max_size=60)
weights = st.floats(0.01, 100)
some_sources = st.lists(st.tuples(lengths, weights), min_size=1, max_size=4)


@given(lengths, lengths)
def test_without_weights_everything_is_taken_once_and_in_order(one, other):
    table = table_of(one, other)
    assert mixed(table, configure({}, {})).tolist() == list(range(len(table)))


@given(some_sources)
def test_weights_share_out_the_tokens_to_within_a_document(sources):
    table = table_of(*(source for source, _ in sources))
    corpus = configure(*({"weight": weight} for _, weight in sources))
    chosen = mixed(table, corpus)
    assert len(np.unique(chosen)) == len(chosen)
    tokens = tokens_by_source(table, chosen)
    shares = np.array([weight for _, weight in sources]) / sum(weight for _, weight in sources)
    total = min(sum(source) / share for (source, _), share in zip(sources, shares, strict=True))
    longest = np.array([max(source) for source, _ in sources])
    assert (tokens <= shares * total + 1e-6).all()
    assert (tokens > shares * total - longest - 1e-6).all()
    assert any(taken == sum(source) for taken, (source, _) in zip(tokens, sources, strict=True))


@given(some_sources, st.floats(0.01, 3.99))
def test_repeated_documents_differ_by_one_round_at_most(sources, rounds):
    sizes = [sum(source) for source, _ in sources]
    table = table_of(*(source for source, _ in sources))
    wanted = max(1, int(rounds * sum(sizes)))
    corpus = configure(*({"weight": size} for size in sizes), mixture_tokens=wanted)
    chosen = mixed(table, corpus)
    times = np.bincount(chosen, minlength=len(table))
    repeats = wanted / sum(sizes)
    assert set(times.tolist()) <= {int(repeats + 1e-9), int(repeats + 1e-9) + 1}
    slack = sum(max(source) for source, _ in sources)
    assert wanted - slack - 1e-6 < table["tokens"][chosen].sum() <= wanted + 1e-6


def test_rounds_come_one_after_another_each_in_the_order_of_the_table():
    table = table_of([10] * 4, [10] * 8)
    corpus = configure({"weight": 5}, {"weight": 3}, mixture_tokens=160)  # 2.5 rounds of one, 0.75 of the other
    chosen = mixed(table, corpus).tolist()
    first, second, third = chosen[:10], chosen[10:14], chosen[14:]
    assert first == sorted(first)
    assert first[:4] == second == [0, 1, 2, 3]
    assert len(set(first)) == 10
    assert len(third) == 2
    assert third == sorted(third)
    assert set(third) <= {0, 1, 2, 3}


def test_a_partial_round_takes_the_first_by_key():
    table = table_of([10] * 50)
    chosen = mixed(table, configure({}, mixture_tokens=200))
    assert set(chosen) == set(np.argsort(table["key"])[:20])
    more = mixed(table, configure({}, mixture_tokens=250))
    assert set(chosen) < set(more)


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=40), st.randoms())
def test_order_of_arrival_does_not_count(documents, rng):
    assume(any(second for _, second in documents) and not all(second for _, second in documents))
    table = np.zeros(len(documents), DOCUMENT)
    table["tokens"], table["source"] = np.array(documents, np.int64).T
    table["key"] = np.arange(len(documents)) * 7919 % 65537
    order = list(range(len(documents)))
    rng.shuffle(order)
    corpus = configure({"weight": 2}, {"weight": 1, "max_tokens": 10_000})
    assert set(table["key"][mixed(table, corpus)]) == set(table["key"][order][mixed(table[order], corpus)])


def test_ties_of_keys_go_to_the_first():
    table = table_of([10] * 6)
    table["key"] = 5
    assert mixed(table, configure({}, mixture_tokens=30)).tolist() == [0, 1, 2]


@given(lengths, st.integers(1, 5000))
def test_max_tokens_takes_the_first_documents_by_key(source, limit):
    table = table_of(source, [7])
    chosen = mixed(table, configure({"max_tokens": limit}, {}))
    assert chosen[-1] == len(source)
    ordered = np.argsort(table["key"][:-1])
    fitting = ordered[np.cumsum(table["tokens"][ordered]) <= limit]
    assert sorted(chosen[:-1]) == sorted(fitting)
    assert table["tokens"][chosen[:-1]].sum() <= limit


def test_max_tokens_limits_what_is_repeated():
    table = table_of([10] * 10, [10] * 10)
    corpus = configure({"weight": 1, "max_tokens": 20}, {"weight": 1}, mixture_tokens=120)
    counted = Counter(mixed(table, corpus).tolist())
    assert sorted(counted[document] for document in range(10)) == [0] * 8 + [3] * 2


def test_held_out_documents_are_not_mixed():
    table = table_of([10] * 10, [20] * 10, held_out=[0, 3, 12])
    corpus = configure({}, {}, mixture_tokens=500)
    assert not {0, 3, 12} & set(mixed(table, corpus).tolist())
    assert [group.tokens for group in groups(table, corpus)] == [80, 180]


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.05, 0.95))
def test_long_documents_have_their_share(long, short, share):
    table = table_of([100] * long + [10] * short)
    corpus = configure({}, long_documents={"min_tokens": 50, "share": share})
    chosen = mixed(table, corpus)
    assert len(np.unique(chosen)) == len(chosen)
    total = min(100 * long / share, 10 * short / (1 - share))
    found = Counter(table["tokens"][chosen].tolist())
    assert total * share - 100 - 1e-6 < 100 * found[100] <= total * share + 1e-6
    assert total * (1 - share) - 10 - 1e-6 < 10 * found[10] <= total * (1 - share) + 1e-6


def test_a_document_of_just_min_tokens_is_long():
    table = table_of([49, 50, 51])
    found = groups(table, configure({}, long_documents={"min_tokens": 50, "share": 0.5}))
    assert {group.long: sorted(group.members.tolist()) for group in found} == {True: [1, 2], False: [0]}


def test_sources_keep_their_weights_among_long_and_among_short_documents():
    table = table_of([100] * 90 + [10] * 900, [100] * 90 + [10] * 900, [10] * 900)
    corpus = configure({"weight": 3}, {"weight": 1}, {"weight": 4}, long_documents={"min_tokens": 50, "share": 0.25})
    found = {(group.source, group.long): group.wanted for group in groups(table, corpus)}
    total = sum(found.values())
    shares = {key: wanted / total for key, wanted in found.items()}
    assert shares == pytest.approx(
        {
            (0, True): 0.25 * 3 / 4,
            (1, True): 0.25 / 4,
            (0, False): 0.75 * 3 / 8,
            (1, False): 0.75 / 8,
            (2, False): 0.75 * 4 / 8,
        }
    )


def test_the_same_table_gives_the_same_mixture():
    table = table_of(range(1, 90), range(1, 50))
    corpus = configure({"weight": 1}, {"weight": 2}, mixture_tokens=6000)
    assert mixed(table, corpus).tolist() == mixed(table.copy(), corpus).tolist()


def test_a_source_without_documents_leaves_its_share_to_the_others():
    table = table_of([10] * 10, [], [10] * 10)
    table["source"][10:] = 2
    corpus = configure({"weight": 1}, {"weight": 5}, {"weight": 1})
    assert len(mixed(table, corpus)) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mixture_tokens": 500},
            r"mixture_tokens=500 would repeat the documents of corpus\.sources\[0\] 5\.0 times: they have 100 tokens; "
            r"lower it, or raise corpus\.max_repeats",
        ),
        (
            {"mixture_tokens": 200, "max_repeats": 1.5},
            r"the documents of corpus\.sources\[0\] 2\.0 times",
        ),
        (
            {"mixture_tokens": 900, "long_documents": {"min_tokens": 20, "share": 0.5}},
            r"the long documents of corpus\.sources\[0\] 9\.0 times: they have 50 tokens",
        ),
        (
            {"mixture_tokens": 900, "long_documents": {"min_tokens": 20, "share": 0.1}},
            r"the shorter documents of corpus\.sources\[0\] 16\.2 times: they have 50 tokens",
        ),
        ({"long_documents": {"min_tokens": 2000, "share": 0.5}}, "min_tokens=2000: no document is long"),
        ({"long_documents": {"min_tokens": 2, "share": 0.5}}, "min_tokens=2: no document is short"),
    ],
)
def test_what_cannot_be_mixed_is_told(settings, message):
    table = table_of([50, 10, 10, 10, 10, 10])
    with pytest.raises(ConfigError, match=message):
        groups(table, configure({}, **settings))


def test_as_many_repeats_as_allowed_are_made():
    table = table_of([10] * 10)
    assert Counter(mixed(table, configure({}, mixture_tokens=400)).tolist()) == dict.fromkeys(range(10), 4)


def test_numbers_of_tokens_beyond_32_bits_are_added_up():
    table = table_of([3_000_000_000] * 5)
    corpus = configure({}, mixture_tokens=30_000_000_000)
    [group] = groups(table, corpus)
    assert group.tokens == 15_000_000_000
    assert len(mixed(table, corpus)) == 10


@pytest.mark.xfail(strict=True, raises=ConfigError, reason="share * (tokens / share) may be a little more than tokens")
def test_what_is_not_repeated_needs_no_leave_to_be_repeated():
    groups(table_of([3], [1000]), configure({"weight": 7}, {"weight": 12}, max_repeats=1))


@pytest.mark.xfail(strict=True, raises=TypeError, reason="nobody looks whether any document is left to mix")
def test_max_tokens_below_every_document_is_told():
    with pytest.raises(LongcatError, match="max_tokens"):
        groups(table_of([10, 20]), configure({"max_tokens": 5}))
