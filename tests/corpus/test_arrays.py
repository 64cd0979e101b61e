import os

import numpy as np
import pytest

from longcat.corpus.arrays import save
from longcat.errors import WorkspaceBusyError
from longcat.lease import lease


def test_an_array_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save(tmp_path / "a.npy", np.arange(3))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "a.npy", np.arange(9))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]


def test_a_process_whose_workspace_was_taken_writes_no_more(tmp_path):
    with lease(tmp_path / ".lease"):
        save(tmp_path / "a.npy", np.arange(3))
        (tmp_path / ".lease").write_text('{"token": "theirs", "pid": 1}')
        with pytest.raises(WorkspaceBusyError, match="taken by process 1"):
            save(tmp_path / "a.npy", np.arange(9))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
