"""N-gram tables whose rows are spread over processes: as in one process, to the bit where sums are exact, in every layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.config import load_config
from longcat.errors import ConfigError

LAYOUTS = {"one": (1, 1), "data": (2, 1), "uneven": (3, 1), "data x expert": (4, 2)}
CHECKS = [
    "exchange 13 dense", "exchange 13 rows", "exchange 5 dense", "exchange 5 rows",
    "gradients", "gradients, accumulated", "gradients, rows alone", "gradients, rows alone, accumulated",
    "same as gathered", "same as gathered, bf16", "steps", "steps, lazy", "resumed",
]  # fmt: skip
TABLES = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
SPREAD, LAZY = "training.embedding_parallel=true", "training.optimizer.lazy_ngram_moments=true"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a layout once, for all of its checks; all but the first read its checkpoints."""
    done = {}

    def of(layout):
        if layout not in done:
            before = [] if layout == "data" else [str(of("data")[0])]
            processes, expert_parallel = LAYOUTS[layout]
            folder = tmp_path_factory.mktemp("layout")
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                str(Path(__file__).with_name("embedding.py")), str(folder), str(expert_parallel), *before,
            ]  # fmt: skip
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=400)
            done[layout] = folder, result
        return done[layout]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("check", CHECKS)
def test_layout(run, layout, check):
    folder, result = run(layout)
    file = folder / "outcomes.json"
    outcomes = json.loads(file.read_text()) if file.exists() else {}
    assert set(outcomes) <= set(CHECKS)
    assert outcomes.get(check, f"not run\n{result.stderr[-3000:]}") == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one", "uneven", "data x expert"])
def test_steps_are_those_of_any_layout_lazy_or_not(run, layout):
    expected = json.loads((run("data")[0] / "steps-False.json").read_text())
    for lazy in (False, True):
        found = json.loads((run(layout)[0] / f"steps-{lazy}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([SPREAD], "there are no n-gram tables: model.ngram is not set"),
        ([TABLES, LAZY], "needs the rows' own gradients: training.embedding_parallel=true"),
        (
            [TABLES, SPREAD, LAZY, "training.optimizer.beta1=0.98"],
            "needs beta1 squared below beta2, so that a row that gets no gradient comes to rest; they are 0.9604 and 0.95",
        ),
        ([TABLES, SPREAD, LAZY, "training.optimizer.epsilon=1e-8"], "1e-12 at most; training.optimizer.epsilon=1e-08"),
    ],
)
def test_settings_without_a_meaning_are_refused(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config("smoke", None, overrides)
