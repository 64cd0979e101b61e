import os

import numpy as np
import pytest

from longcat.corpus.arrays import save


def test_an_array_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save(tmp_path / "a.npy", np.arange(3))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "a.npy", np.arange(9))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
