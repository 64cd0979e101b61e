"""What tests of layouts share."""

import pytest

from longcat.parallel.axes import Degrees
from tests.parallel.training import train


@pytest.fixture(scope="module")
def one_process(ranks):
    """Trains a case in one process, once."""
    done = {}

    def of(case):
        if case not in done:
            done[case] = ranks.on_mesh(Degrees(1), train, case, stay=True)[0]
        return done[case]

    return of
