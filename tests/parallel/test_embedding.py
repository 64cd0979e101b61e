"""N-gram tables whose rows are spread over processes: as in one process, to the bit where sums are exact, in every layout."""

import pytest
import torch

from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees
from tests.parallel import embedding

LAYOUTS = {
    "one": Degrees(1),
    "shard": Degrees(2),
    "uneven": Degrees(3),
    "shard x expert": Degrees(4, expert=2),
    "replicate x shard x expert": Degrees(4, expert=2, replicate=2),
}
TABLES = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
SPREAD, LAZY = "parallel.embedding=true", "training.optimizer.lazy_ngram_moments=true"


@pytest.mark.slow
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("rows", [embedding.ROWS, 5])  # with four processes, the last one has one row, or none
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_their_gradients_are_those_of_a_whole_table(ranks, layout, rows, dense):
    ranks.on_mesh(LAYOUTS[layout], embedding.exchange, rows, dense, stay=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "recompute", "dense", "padded"),
    [(1, False, True, False), (4, True, True, True), (1, True, False, True), (4, False, False, True)],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_one_process(ranks, layout, parts, recompute, dense, padded):
    ranks.on_mesh(LAYOUTS[layout], embedding.gradients, parts, recompute, dense, padded, stay=True)


@pytest.mark.slow
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["shard", "shard x expert", "replicate x shard x expert"])
def test_all_else_is_as_with_gathered_tables(ranks, layout, compute):
    ranks.on_mesh(LAYOUTS[layout], embedding.same_as_gathered, compute, stay=True)


@pytest.fixture(scope="module")
def steps(ranks, tmp_path_factory):
    """Runs the steps of a layout once; returns what came of them, and the folder of its checkpoint."""
    done = {}

    def of(layout, lazy, rows=4):
        key = layout, lazy, rows
        if key not in done:
            folder = tmp_path_factory.mktemp("steps")
            done[key] = ranks.on_mesh(LAYOUTS[layout], embedding.steps, folder, lazy, rows, stay=True), folder
        return done[key]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_one_process_lazy_or_not(steps, layout, lazy):
    rows = 3 if layout == "uneven" else 4
    found, _ = steps(layout, lazy, rows)
    assert all(result == found[0] for result in found)
    [expected], _ = steps("one", False, rows)
    assert found[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("saved", "read"),
    [("shard", "one"), ("shard", "shard x expert"), ("replicate x shard x expert", "uneven"), ("one", "shard")],
)
def test_a_checkpoint_is_read_to_the_bit_by_another_layout(ranks, steps, saved, read, lazy):
    ranks.on_mesh(LAYOUTS[read], embedding.resumed, steps(saved, lazy)[1], lazy, stay=True)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([SPREAD], "there are no n-gram tables: model.ngram is not set"),
        ([TABLES, LAZY], "needs the rows' own gradients: parallel.embedding=true"),
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
