"""What is said, and recorded, of a run that goes on in another layout."""

import pytest

from longcat.config import load_config
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.parallel.axes import Degrees
from longcat.training.layout import ParallelLayout
from longcat.training.layouts import change, going_on, layout_since


def since(step, degrees, *settings, device="one"):
    config = load_config("smoke", None, settings)
    return layout_since(config, ParallelLayout("cpu", degrees, "fp32"), device, step)


TWO, ONE = Degrees(2), Degrees(1)


def test_the_same_layout_is_one_entry_whatever_happened():
    first = since(0, TWO)
    assert going_on((), first) == (first,)
    assert going_on((first,), since(5, TWO)) == (first,)
    assert change(first, since(5, TWO)) is None


def test_each_change_is_an_entry_and_what_was_done_again_is_none():
    first, second = since(0, TWO), since(5, ONE)
    assert going_on((first,), second) == (first, second)
    third = since(9, TWO)
    assert going_on((first, second), third) == (first, second, third)
    # back to a checkpoint before the second layout began, whose record knows only the first
    assert going_on((first,), since(3, ONE)) == (first, since(3, ONE))
    # nothing was trained in it
    assert going_on((first, since(5, ONE)), since(5, Degrees(4))) == (first, since(5, Degrees(4)))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (since(0, Degrees(2)), since(20, ONE), "trained on 2 processes (shard 2); now on 1 process: "),
        (since(0, ONE), since(4, ONE, device="other"), "trained on 1 process, one; now on 1 process, other: "),
        (since(0, TWO), since(4, TWO, "parallel.chunks=2"), "; now with parallel.chunks=2: "),
        (
            since(0, Degrees(2, expert=2)),
            since(4, Degrees(4, expert=4)),
            "trained on 2 processes (shard 2, expert 2); now on 4 processes (shard 4, expert 4): ",
        ),
    ],
)
def test_a_change_is_told_with_what_it_means(before, now, told):
    said = change(before, now)
    assert told in said
    assert "numbers equal within rounding, not to the bit" in said


def test_other_micro_batches_are_told_as_they_change_a_loss():
    said = change(since(0, TWO), since(4, ONE))
    assert "balance loss, which is a mean over micro-batches: of 4 rows then, of 8 now" in said
    fixed = "training.micro_batch_sequences=2"
    assert "balance loss" not in change(since(0, TWO, fixed), since(4, ONE, fixed))


def test_nodes_are_no_part_of_the_numbers():
    assert change(since(0, TWO), since(4, TWO, "parallel.devices_per_node=2")) is None


def test_facts_hold_the_history():
    from longcat.interchange.checkpoint_facts import CheckpointFacts

    facts = CheckpointFacts(parameters=1, layouts=(since(0, TWO), since(5, ONE)))
    again = CheckpointFacts.model_validate(facts.model_dump(mode="json"))
    assert again.layouts == facts.layouts
    assert isinstance(again.layouts[0], LayoutSince)
