import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.block_tasks import DOCUMENT
from longcat.corpus.mixture import mix
from longcat.corpus.table import DocumentsTable, write_table
from longcat.errors import ConfigError


@pytest.fixture(scope="module")
def settle(tmp_path_factory):
    """Settle the mixture of a table in memory."""
    path = tmp_path_factory.mktemp("table") / "documents.npy"

    def settle(documents, config, piece_documents=64):
        write_table(path, [documents[:30], documents[30:]], len(documents))
        return mix(DocumentsTable(path, piece_documents), config)

    return settle


@pytest.fixture(scope="module")
def choose(settle):
    """Choose the documents to train on, by number."""

    def choose(documents, config, **options):
        mixture = settle(documents, config, **options)
        chosen = [np.empty(0, DOCUMENT), *mixture.chosen("train")]
        numbers = np.concatenate(chosen)["begin"]
        assert mixture.documents["train"] == len(numbers)
        assert mixture.tokens["train"] == documents["tokens"][numbers].sum()
        return numbers

    return choose


def table(sizes, seed=0):
    """Documents of some sources, by source and tokens; every tenth is held out, and each begins at its number."""
    made = np.zeros(sum(map(len, sizes)), DOCUMENT)
    made["source"] = np.repeat(np.arange(len(sizes)), [len(tokens) for tokens in sizes])
    made["tokens"] = np.concatenate(sizes)
    made["key"] = np.random.default_rng(seed).permutation(len(made))
    made["held_out"] = np.arange(len(made)) % 10 == 9
    made["begin"] = np.arange(len(made))
    return made


def corpus(sources, **fields):
    return CorpusConfig(sources=[{"kind": "files", "path": "x", **source} for source in sources], **fields)


@pytest.fixture(scope="module")
def mixed(choose):
    """Return the tokens taken, by source."""

    def mixed(documents, config):
        chosen = choose(documents, config)
        assert not documents["held_out"][chosen].any()
        return np.bincount(documents["source"][chosen], documents["tokens"][chosen], len(config.sources))

    return mixed


SIZES = [np.full(200, 50), np.full(100, 90)]


def test_without_weights_everything_is_taken_once(choose):
    documents = table(SIZES)
    chosen = choose(documents, corpus([{}, {}]))
    assert chosen.tolist() == np.flatnonzero(~documents["held_out"]).tolist()


@given(
    st.lists(st.lists(st.integers(2, 99), min_size=20, max_size=60), min_size=2, max_size=4),
    st.lists(st.floats(0.1, 9), min_size=4, max_size=4),
)
def test_sources_have_their_weights_to_within_a_document(mixed, sizes, weights):
    documents = table([np.array(tokens) for tokens in sizes])
    weights = np.array(weights[: len(sizes)])
    taken = mixed(documents, corpus([{"weight": weight} for weight in weights]))
    available = np.bincount(documents["source"], documents["tokens"] * ~documents["held_out"])
    total = (available / (weights / weights.sum())).min()
    assert np.abs(taken - weights / weights.sum() * total).max() < 100
    assert (taken <= available).all()


@given(st.integers(2000, 30_000), st.floats(0.2, 5))
def test_documents_are_repeated_in_whole_rounds_first(choose, mixed, tokens, weight):
    documents = table(SIZES)
    config = corpus([{"weight": 1}, {"weight": weight}], mixture_tokens=tokens, max_repeats=100)
    assert abs(mixed(documents, config).sum() - tokens) < 2 * 100
    times = np.bincount(choose(documents, config), minlength=len(documents))
    for source in range(2):
        mine = times[(documents["source"] == source) & ~documents["held_out"]]
        assert mine.max() - mine.min() <= 1


def test_too_many_repeats_are_refused(settle):
    with pytest.raises(ConfigError, match=r"corpus.mixture_tokens=90000.*corpus.sources\[0\] 5.0 times"):
        settle(table(SIZES), corpus([{"weight": 1}, {"weight": 1}], mixture_tokens=90_000))


def test_a_source_is_capped(mixed):
    assert mixed(table(SIZES), corpus([{"max_tokens": 1049}, {}])).tolist() == [1000, 90 * 90]


@given(st.floats(0.05, 0.95), st.integers(10, 60))
def test_long_documents_have_their_fraction(choose, fraction, minimum):
    documents = table([np.arange(2, 80).repeat(3)] * 2)
    config = corpus([{}, {}], long_documents={"min_tokens": minimum, "fraction": fraction})
    chosen = choose(documents, config)
    tokens = documents["tokens"][chosen]
    assume(tokens.sum() > 1000)
    assert tokens[tokens >= minimum].sum() / tokens.sum() == pytest.approx(fraction, abs=4 * 80 / tokens.sum())


def test_a_fraction_of_what_is_not_there_is_refused(settle):
    with pytest.raises(ConfigError, match="min_tokens=1000: no document is long"):
        settle(table(SIZES), corpus([{}, {}], long_documents={"min_tokens": 1000, "fraction": 0.5}))
    with pytest.raises(ConfigError, match="min_tokens=2: no document is short"):
        settle(table(SIZES), corpus([{}, {}], long_documents={"min_tokens": 2, "fraction": 0.5}))


def test_which_documents_are_taken_follows_from_their_keys(choose):
    documents = table(SIZES)
    config = corpus([{"weight": 1}, {"weight": 3}])
    keys = set(documents["key"][choose(documents, config)].tolist())
    shuffled = np.random.default_rng(1).permutation(documents)
    shuffled["begin"] = np.arange(len(shuffled))
    assert set(shuffled["key"][choose(shuffled, config)].tolist()) == keys


def by_definition(documents, config):
    """Choose with every document in memory: cap the sources, share the tokens out, take whole rounds and what is left."""
    members = {}
    for number, source in enumerate(config.sources):
        own = np.flatnonzero(~documents["held_out"] & (documents["source"] == number))
        own = own[np.argsort(documents["key"][own], kind="stable")]
        if source.max_tokens is not None:
            own = own[np.cumsum(documents["tokens"][own]) <= source.max_tokens]
        long = documents["tokens"][own] >= (config.long_documents.min_tokens if config.long_documents else 0)
        members |= {(number, True): own[long], (number, False): own[~long]}
    members = {kind: own for kind, own in members.items() if len(own)}
    tokens = {kind: documents["tokens"][own].sum() for kind, own in members.items()}
    weights = {number: source.weight for number, source in enumerate(config.sources)}
    if None in weights.values():
        weights = {number: sum(count for kind, count in tokens.items() if kind[0] == number) for number in weights}
    shares = {}
    for is_long in (True, False):
        present = {kind: weights[kind[0]] for kind in members if kind[1] == is_long}
        part = 1.0
        if config.long_documents:
            part = config.long_documents.fraction if is_long else 1 - config.long_documents.fraction
        shares |= {kind: part * weight / sum(present.values()) for kind, weight in present.items()}
    total = config.mixture_tokens or min(tokens[kind] / share for kind, share in shares.items())
    rounds = {}
    for kind, own in members.items():
        whole = int(shares[kind] * total / tokens[kind] + 1e-9)
        left = own[np.cumsum(documents["tokens"][own]) <= shares[kind] * total - whole * tokens[kind]]
        for number, taken in enumerate([own] * whole + [left]):
            rounds.setdefault(number, []).append(taken)
    return [number for _, taken in sorted(rounds.items()) for number in np.sort(np.concatenate(taken)).tolist()]


KEYS = st.sampled_from([0, 1, 2**40, 2**40 + 1, 2**63, 2**63 + 5, 2**64 - 1])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.booleans(), KEYS), min_size=30, max_size=120),
    st.one_of(st.none(), st.lists(st.floats(0.1, 9), min_size=3, max_size=3)),
    st.one_of(st.none(), st.integers(1, 400)),
    st.one_of(st.none(), st.integers(2100, 8000)),
    st.one_of(st.none(), st.floats(0.1, 0.9)),
    st.integers(1, 50),
)
def test_the_choice_is_that_by_definition_however_the_table_is_read(choose, rows, weights, cap, tokens, long, piece):
    documents = np.zeros(len(rows), DOCUMENT)
    documents["source"], documents["tokens"], documents["held_out"], documents["key"] = zip(*rows, strict=True)
    documents["held_out"][:6], documents["tokens"][:6] = False, [30, 5, 31, 6, 32, 7]
    documents["source"][:6] = [0, 0, 1, 1, 2, 2]
    documents["key"][:6] = 0  # so that a cap leaves some of each kind
    documents["begin"] = np.arange(len(documents))
    sources = [{"weight": weight, "max_tokens": None} for weight in weights or [None] * 3]
    sources[1]["max_tokens"] = cap and cap + 100
    config = corpus(
        sources,
        mixture_tokens=tokens,
        max_repeats=1e6,
        long_documents=long and {"min_tokens": 20, "fraction": long},
    )
    assert choose(documents, config, piece_documents=piece).tolist() == by_definition(documents, config)
