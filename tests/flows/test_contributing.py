"""The stage that CONTRIBUTING.md makes as an example is a stage."""

import re
import sys

import pytest

from docs.build import ROOT
from longcat.flows.dag import STAGES, Stage

BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_stage_of_the_example_runs(finished, monkeypatch, tmp_path):
    from longcat.flows.pipeline import make_flow

    code = dict(BLOCKS)
    assert list(code) == ["longcat/lengths.py", "tasks/lengths.py", "flows/dag.py"]
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in code.items():  # beside longcat, not in it
        outside = text.replace("longcat.tasks.lengths", "lengths_task").replace("longcat.lengths", "lengths_library")
        code[name] = outside
    (tmp_path / "lengths_library.py").write_text(code["longcat/lengths.py"])
    (tmp_path / "lengths_task.py").write_text(code["tasks/lengths.py"])
    line = eval(code["flows/dag.py"], {"Stage": Stage})
    _, options, first, _ = finished
    row = make_flow("lengths", line.title, (*STAGES, line))(**options)["stages"][-1]
    for name in ("lengths_library", "lengths_task"):
        sys.modules.pop(name)
    facts = first["stages"][0]["facts"]
    assert row["facts"] == {"tokens_per_document": facts["tokens"] / facts["documents"]}
    assert row["headline"].endswith(" tokens a document") and row["mlflow_run_id"]
