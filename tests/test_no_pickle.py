"""Nothing is unpickled: a pickle runs what whoever wrote it liked."""

import ast
import pickle

import pytest

from longcat.provenance import ROOT
from longcat.tasks import cluster

PICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
EXCEPTIONS = {"longcat/training/checkpoint_reader.py"}
"""Reads torch's table of contents into objects without behaviour."""


def imported(text):
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module.split(".")[0]


def test_no_module_knows_a_pickle():
    found = {
        str(file.relative_to(ROOT))
        for folder in ("longcat", "tasks", "flows")
        for file in (ROOT / folder).rglob("*.py")
        if PICKLES & set(imported(file.read_text(encoding="utf-8")))
    }
    assert found == EXCEPTIONS


class Evil:
    def __reduce__(self):
        return pytest.fail, ("the item has run code",)


class Runner:
    """A task runner that runs a task at once, with the parameters that a cluster would be sent."""

    def submit(self, task, parameters):
        self.parameters = parameters
        return task.fn(**parameters)


def test_an_item_of_a_cluster_is_handed_over_as_it_is():
    runner, item = Runner(), pickle.dumps(Evil())
    assert cluster._submit(runner, len, item) == len(item)
    assert not any(isinstance(value, bytes | dict | list | tuple) for value in runner.parameters.values())
