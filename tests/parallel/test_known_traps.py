"""What other programs got wrong when they divided rows, or heads: each by itself, in one layout that does both.

Most of it is silent: the loss falls, by another factor or for other tokens than it says.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from longcat.corpus.shards import Batch
from longcat.padding import IGNORE, PADDING
from longcat.parallel.axes import Degrees
from tests.parallel.training import MASKED, TOKENS, Case, error, train

pytestmark = pytest.mark.slow
LAYOUT = Degrees(8, expert=4, context=2, tensor=2)
CASE = dataclasses.replace(MASKED, rows=4)
ROPE = 8
"""Rows of kv_a_proj_with_mqa that make the rotated key; the last ones."""


@pytest.fixture(scope="module")
def outcomes(ranks):
    """What one process and the layout have made of the same batch."""
    return ranks.on_mesh(Degrees(1), train, CASE)[0], ranks.on_mesh(LAYOUT, train, CASE, threads=True)[0]


def rotated_keys(outcome):
    return torch.cat(
        [of[-ROPE:] for name, of in outcome.gradients.items() if name.endswith("kv_a_proj_with_mqa.weight")]
    )


def test_the_rotated_key_which_all_heads_share_has_the_gradient_of_all_heads(ranks, outcomes):
    """Of own heads alone, or counted once more for each process with sequence parallelism."""
    expected, found = map(rotated_keys, outcomes)
    assert error(found, expected) < 1e-5
    own = ranks.on_mesh(LAYOUT, train, dataclasses.replace(CASE, mutation=("keys", "tensor")), threads=True)[0]
    assert error(rotated_keys(own), expected) > 1e-2


@pytest.mark.parametrize(
    "name", ["q_a_proj.weight", "q_a_layernorm.weight", "kv_a_layernorm.weight", "wq_b.weight", "wk.weight"]
)
def test_what_every_process_holds_has_the_gradient_of_all_tokens(outcomes, name):
    expected, found = outcomes
    names = [one for one in expected.gradients if one.endswith(name)]
    assert names
    for one in names:
        assert error(found.gradients[one], expected.gradients[one]) < 1e-5, one


@pytest.mark.parametrize("name", ["balance", "importance", "hidden_z", "mtp", "indexer"])
def test_auxiliary_losses_do_not_depend_on_how_rows_are_divided(outcomes, name):
    """Divided by, or multiplied with, the processes of a row."""
    expected, found = (outcome.losses[0][name] for outcome in outcomes)
    assert expected != 0
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_loss_is_that_of_all_tokens_once(outcomes):
    """Neither divided by the processes of a row nor multiplied; the gradient's scale with it."""
    expected, found = outcomes
    assert found.losses[0]["language_model"] == pytest.approx(expected.losses[0]["language_model"], rel=1e-6)
    assert found.norms == pytest.approx(expected.norms, rel=1e-6)


def test_the_norm_has_each_element_of_experts_and_divided_matrices_once(ranks):
    """Experts are left out, or copies counted, where the grids of experts and of heads differ."""
    loose = ("training.optimizer.max_gradient_norm=1e9",)  # gradients are as they were when the norm was taken
    case = dataclasses.replace(CASE, overrides=(*CASE.overrides, *loose))
    found = ranks.on_mesh(LAYOUT, train, case, threads=True)[0]
    squares = {name: float(of.double().square().sum()) for name, of in found.gradients.items()}
    assert sum(size for name, size in squares.items() if ".experts." in name) > 0
    assert found.norms[0] ** 2 == pytest.approx(sum(squares.values()), rel=1e-5)


LENGTHS = 13, 11, 8
"""Of the documents in a row: chunks of the layout begin at multiples of 8 of 32 tokens."""


@dataclasses.dataclass(frozen=True)
class Documents(Case):
    """Twelve documents, three to a row or each in a row of its own; none predicts what follows it."""

    apart: bool = False

    def batch(self, step):
        texts = np.random.default_rng(step).integers(3, 512, (4, TOKENS))
        starts = np.cumsum((0, *LENGTHS))
        spans = [(start, end) for start, end in itertools.pairwise(starts)]
        targets = np.roll(texts, -1, 1)
        targets[:, starts[1:] - 1] = IGNORE
        numbers = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
        if not self.apart:
            return Batch(texts, targets, np.tile(numbers, (4, 1)))
        rows = [np.zeros((12, TOKENS), np.int64), np.full((12, TOKENS), IGNORE), np.full((12, TOKENS), PADDING)]
        for number, (text, (start, end)) in enumerate(itertools.product(range(4), spans)):
            own = texts[text], targets[text], np.zeros(TOKENS, np.int64)
            for whole, part in zip(rows, own, strict=True):
                whole[number, : end - start] = part[start:end]
        return Batch(*rows)


def test_a_document_is_learnt_as_if_it_were_alone(ranks):
    """Positions, n-grams, later words and the indexer's choice go over the edges of chunks, and not over those of documents."""
    together, apart = (
        ranks.on_mesh(LAYOUT, train, Documents(rows, CASE.overrides, apart=rows > 4), threads=True)[0]
        for rows in (4, 12)
    )
    # that of indexers is a small difference of large numbers, and how large its rounding is depends on the processor
    for name, limit in (("language_model", 1e-5), ("mtp", 1e-5), ("indexer", 1e-4)):
        assert together.losses[0][name] == pytest.approx(apart.losses[0][name], rel=limit), name
    assert together.loads == apart.loads
