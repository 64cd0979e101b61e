"""What attention of each kind costs, against sums over the queries."""

import pytest

from longcat.costs.attention import Attention, ChunkedAttention, CompressedAttention, Index
from longcat.costs.residual import StreamMixing

LENGTH = 5000


def mean(keys):
    return sum(keys(position) for position in range(LENGTH)) / LENGTH


@pytest.mark.parametrize(
    ("attention", "keys"),
    [
        (Attention(3, 4, 20, 10), lambda t: t + 1),
        (Attention(3, 4, 20, 10, 600), lambda t: min(t + 1, 600)),
        (ChunkedAttention(3, 4, 20, 10, 1500), lambda t: t % 1500 + 1),
        (ChunkedAttention(3, 4, 20, 10), lambda t: t + 1),
        (CompressedAttention(3, 4, 20, 10, None, 8), lambda t: (t + 1) // 8),
        (CompressedAttention(3, 4, 20, 10, 100, 8), lambda t: min(100, (t + 1) // 8)),
    ],
)
def test_keys_of_the_mean_query(attention, keys):
    found = attention.flops(LENGTH, "causal")
    assert found.forward == pytest.approx(2 * 3 * 4 * 30 * mean(keys), rel=0.003)
    assert found.backward == 2 * found.forward
    most = attention.flops(LENGTH, "full").forward
    assert most == 2 * 3 * 4 * 30 * keys(min(LENGTH, attention.window or LENGTH) - 1) or isinstance(
        attention, CompressedAttention
    )
    assert attention.width == 3 * 4 * 15


def test_a_short_sequence_has_no_compressed_entries():
    assert CompressedAttention(3, 4, 20, 10, None, 128).flops(100, "full").forward == 0
    assert CompressedAttention(3, 4, 20, 10, 5, 8).flops(100, "full").forward == 2 * 3 * 4 * 30 * 5


def test_an_index_has_no_backward_pass():
    found = Index(3, 4, 20, 8).flops(LENGTH, "causal")
    assert found.forward == pytest.approx(2 * 3 * 4 * 20 * mean(lambda t: (t + 1) // 8), rel=0.003)
    assert found.backward == 0


def test_streams_are_mixed_for_each_token():
    found = StreamMixing(connections=6, streams=4, hidden_size=48)
    assert found.flops(10, "causal") == found.flops(10_000, "full")
    assert found.flops(10, "causal").forward == 2 * 6 * 16 * 48
