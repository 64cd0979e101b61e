from longcat.corpus.deduplication import Deduplicator, content_hash, is_held_out, sample_key

HASHES = [content_hash(str(number).encode()) for number in range(20_000)]


def test_only_the_first_of_equal_contents_is_new():
    seen = Deduplicator()
    assert [seen.is_new(content_hash(text)) for text in (b"a", b"b", b"a", b"a ", b"b")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_split_has_the_share_asked_for():
    for share in (0.02, 0.1, 0.4):
        held_out = sum(is_held_out(digest, share) for digest in HASHES)
        assert abs(held_out / len(HASHES) - share) < 0.01


def test_a_larger_share_keeps_what_was_held_out():
    small = {digest for digest in HASHES if is_held_out(digest, 0.05)}
    large = {digest for digest in HASHES if is_held_out(digest, 0.2)}
    assert small < large


def test_sampling_order_is_independent_of_the_split():
    order = sorted(HASHES, key=sample_key)[:10_000]
    assert abs(sum(is_held_out(digest, 0.2) for digest in order) / len(order) - 0.2) < 0.02
