"""What is kept, and that nothing is half removed."""

import json
import subprocess
import sys

import pytest

from longcat.artifact import Workspace
from longcat.errors import ArtifactError, ConfigError, WorkspaceBusyError
from longcat.inventory import removal
from longcat.inventory.entries import Inventory
from longcat.inventory.pins import pin, pins, pins_held, unpin
from longcat.inventory.removal import keeping, refuse_what_is_needed, removable, remove_entries
from tests.inventory.making import grown, half_made, name


@pytest.fixture
def workspace(tmp_path):
    return grown(tmp_path / "w")


def may_go(space, champions=None, unsent=()):
    inventory = Inventory.read(space)
    return [one.name for one in removable(inventory, keeping(inventory, champions or {}, unsent))]


def test_without_anything_kept_all_may_go_oldest_first(workspace):
    space, made = workspace
    assert may_go(space) == [name(one) for one in made.values()]


@pytest.mark.parametrize("why", ["pinned", "champion", "unsent", "last run", "half made"])
def test_what_is_kept_keeps_all_that_it_is_made_from(workspace, why):
    space, made = workspace
    first = name(made["first"])
    champions, unsent = {}, []
    if why == "pinned":
        pin(space.path, lambda: [first])
    elif why == "champion":
        champions = {first: "the champion of m"}
    elif why == "unsent":
        unsent = [first]
    elif why == "last run":
        artifact = {"kind": "checkpoint", "digest": made["first"].digest}
        (space.path / "summary.json").write_text(json.dumps({"stages": [{"artifact": artifact}]}))
    else:
        half_made(space, "evaluation", "0123", [made["first"]])
    assert may_go(space, champions, unsent) == [
        name(made[of]) for of in ("second", "scores of first", "scores of second")
    ]


def test_what_is_needed_is_refused_unless_told(workspace):
    space, made = workspace
    inventory = Inventory.read(space)
    kept = keeping(inventory, {})
    tokens, scores = (inventory.entries[name(made[of])] for of in ("tokens", "scores of first"))
    refuse_what_is_needed(inventory, [scores], kept, force=False)
    with pytest.raises(ConfigError, match=r"checkpoint/\w{12}, checkpoint/.* are made from tokens/\w{12}; .*--force"):
        refuse_what_is_needed(inventory, [tokens, scores], kept, force=False)
    refuse_what_is_needed(inventory, [tokens], kept, force=True)
    refuse_what_is_needed(inventory, inventory.entries.values(), kept, force=False)


def test_nothing_removes_what_is_pinned_or_a_champion_or_what_it_is_made_from(workspace):
    space, made = workspace
    pin(space.path, lambda: [name(made["first"])])
    inventory = Inventory.read(space)
    kept = keeping(inventory, {name(made["second"]): "the champion of m"})
    for of, words in (
        ("first", "kept: pinned; longcat unpin"),
        ("tokens", "which is pinned; longcat unpin"),
        ("documents", "made from it"),
        ("second", "kept: the champion of m$"),
    ):
        with pytest.raises(ConfigError, match=words):
            refuse_what_is_needed(inventory, [inventory.entries[name(made[of])]], kept, force=True)
    unpin(space.path, [name(made["first"])])
    assert pins(space.path) == {}


def test_a_half_made_result_is_left_to_clean(workspace):
    space, _ = workspace
    half_made(space, "evaluation", "0123")
    inventory = Inventory.read(space)
    with pytest.raises(ConfigError, match="longcat clean"):
        refuse_what_is_needed(inventory, [inventory.find("0123")], keeping(inventory, {}), force=True)
    assert "evaluation/0123" not in may_go(space)


def test_what_an_unreadable_manifest_may_need_is_not_guessed(workspace):
    space, made = workspace
    (made["second"].path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=rf"does not say what it was made from.*rm {name(made['second'])}"):
        may_go(space)


def test_unreadable_pins_stop_everything(workspace):
    space, _ = workspace
    (space.path / "pins.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"pins\.json is unreadable"):
        may_go(space)


def test_those_made_from_others_go_first_and_lose_their_names_before_their_files(workspace, monkeypatch):
    space, made = workspace
    gone = []

    def seen(path):
        gone.append(f"{path.parent.name}/{path.name}")
        remove_whole(path)

    remove_whole = removal.remove_whole
    monkeypatch.setattr(removal, "remove_whole", seen)
    with space.lease():
        remove_entries(space, Inventory.read(space).entries.values())
    order = {one: place for place, one in enumerate(gone)}
    for child, parent in (
        ("scores of first", "first"),
        ("second", "first"),
        ("first", "tokens"),
        ("tokens", "documents"),
    ):
        assert order[name(made[child])] < order[name(made[parent])]
    assert Workspace(space.path).finished() == []


def test_a_removal_that_is_cut_short_leaves_nothing_half(workspace, monkeypatch):
    """The name is gone at once; what is left goes with the next one who works there."""
    space, made = workspace
    [scores] = [one for one in Inventory.read(space).entries.values() if one.name == name(made["scores of first"])]

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("longcat.disk.remove", killed)
    with pytest.raises(KeyboardInterrupt), space.lease():
        remove_entries(space, [scores])
    monkeypatch.undo()
    assert not scores.path.exists()
    assert len(list(scores.path.parent.glob(".*.tmp"))) == 1
    assert len(Inventory.read(space).entries) == len(made) - 1
    with space.lease():
        assert list(scores.path.parent.glob(".*.tmp")) == []


def test_a_pin_waits_for_no_run_but_is_not_set_while_somebody_removes(workspace):
    space, made = workspace
    with space.lease():
        pin(space.path, lambda: [name(made["first"])])
    assert list(pins(space.path)) == [name(made["first"])]
    code = f"from longcat.inventory.pins import pin; from pathlib import Path; pin(Path({str(space.path)!r}), lambda: ['x/y'])"
    with pins_held(space.path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert WorkspaceBusyError.__name__ in other.stderr
    assert list(pins(space.path)) == [name(made["first"])]
