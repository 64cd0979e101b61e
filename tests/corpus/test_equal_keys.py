from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.equal_keys import shared

# keys that agree in their upper bits, in their lower bits, in all of them
KEYS = st.integers(0, 3).flatmap(lambda upper: st.integers(0, 5).map(lambda lower: upper << 61 | lower))


@given(st.lists(KEYS, max_size=60))
def test_places_of_equal_keys_come_together_and_in_order(keys):
    places, leads = shared(np.array(keys, np.uint64))
    groups = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    expected = sorted(group for group in groups.values() if len(group) > 1)
    edges = [*np.flatnonzero(leads).tolist(), len(places)]
    found = [places[begin:end].tolist() for begin, end in pairwise(edges)]
    assert sorted(found) == expected


def test_many_keys():
    keys = np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64)
    keys[4321] = keys[17]
    keys[99] = keys[17] ^ np.uint64(1 << 60)  # agrees in what is sorted
    places, leads = shared(keys)
    assert places.tolist() == [17, 4321]
    assert leads.tolist() == [True, False]
