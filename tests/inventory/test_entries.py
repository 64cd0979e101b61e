"""What is in a workspace is known from manifests alone, and leads both ways."""

import json
import os
import time

import pytest

from longcat.artifact import Recipe, Workspace
from longcat.errors import ConfigError
from longcat.inventory.entries import Inventory, in_use
from tests.inventory.making import Figures, grown, half_made, make, name


@pytest.fixture
def workspace(tmp_path):
    return grown(tmp_path / "w")


def test_entries_say_what_they_are_oldest_first(workspace):
    space, made = workspace
    entries = list(Inventory.read(space).entries.values())
    assert [one.name for one in entries] == [name(one) for one in made.values()]
    assert [one.headline for one in entries] == [one.facts.said for one in made.values()]
    assert {one.bytes for one in entries} == {1000}
    assert entries[-1].created == pytest.approx(time.time() - 60, abs=5 * 60)


def test_results_of_one_second_are_in_the_order_in_which_they_were_made(tmp_path):
    space = Workspace(tmp_path)
    made = [make(space, "checkpoint", number) for number in range(8)]
    assert [one.digest for one in made] != sorted(one.digest for one in made)
    assert list(Inventory.read(space).entries) == [name(one) for one in made]


@pytest.mark.parametrize("written", ["2026-11-27T04:39:34+0100", "2026-11-27T03:39:34.000000+00:00"])
def test_times_are_read_as_every_version_writes_them(workspace, written):
    space, made = workspace
    file = made["first"].path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"created": written}))
    assert Inventory.read(space).entries[name(made["first"])].created == 1795750774


def test_lineage_leads_both_ways_and_tokens_to_their_documents(workspace):
    space, made = workspace
    inventory = Inventory.read(space)
    assert list(inventory.made_from([name(made["scores of second"])])) == [
        name(made[of]) for of in ("tokens", "second", "documents", "first")
    ]
    assert set(inventory.made_of([name(made["documents"])])) == {
        name(one) for key, one in made.items() if key != "documents"
    }
    assert list(inventory.made_of([name(made["scores of first"])])) == []


def test_no_file_of_a_result_is_read(workspace):
    space, made = workspace
    (made["tokens"].path / "data.bin").unlink()
    assert Inventory.read(space).entries[name(made["tokens"])].bytes == 1000


def test_results_are_named_by_digest_kind_or_folder(workspace, monkeypatch):
    space, made = workspace
    inventory, digest = Inventory.read(space), made["first"].digest
    folder = str(made["first"].path)
    for what in (digest, digest[:8], f"checkpoint/{digest[:8]}", folder, folder.replace(digest, digest[:8])):
        assert inventory.find(what).digest == digest
    monkeypatch.chdir(space.path)
    assert inventory.find(f"checkpoint/{digest}").digest == digest
    for what in ("abc", "nothing", f"tokens/{digest}", "", "../x", str(space.path)):
        with pytest.raises(ConfigError, match="no result"):
            inventory.find(what)


def test_a_beginning_of_several_names_them(tmp_path):
    space = Workspace(tmp_path)
    for digest in ("abcd1", "abcd2"):
        half_made(space, "checkpoint", digest)
    with pytest.raises(ConfigError, match=r"several results begin so: checkpoint/abcd1, checkpoint/abcd2"):
        Inventory.read(space).find("abcd")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"kind": 1}', '{"parents": [{}], "files": {}}', '{"parents": [], "files": []}']
)
def test_a_damaged_manifest_hides_no_other_result(workspace, content):
    space, made = workspace
    (made["second"].path / "manifest.json").write_text(content)
    entries = Inventory.read(space).entries
    assert len(entries) == len(made)
    assert [one.name for one in entries.values() if one.problem is not None] == [name(made["second"])]


def test_a_manifest_of_an_older_version_has_no_headline(workspace):
    space, made = workspace
    file = made["first"].path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["headline"], manifest["created"]
    file.write_text(json.dumps(manifest))
    found = Inventory.read(space).entries[name(made["first"])]
    assert (found.headline, found.problem) == (None, None)
    assert found.created == file.stat().st_mtime


def test_what_is_being_made_is_in_use_with_its_parents(workspace):
    space, made = workspace
    old = half_made(space, "evaluation", "0123", [made["first"]])
    os.utime(old / ".parents.json", (1, 1))  # interrupted long ago
    assert in_use(Inventory.read(space)) == (None, set())
    seen = []

    def build(directory):
        seen.append(in_use(Inventory.read(space)))
        return made["first"].facts

    recipe = Recipe("evaluation", Figures, 2, {}, (made["second"],))
    space.materialize(recipe, build)
    [(user, names)] = seen
    assert f"process {os.getpid()}" in user
    assert names == {f"evaluation/{recipe.digest}", name(made["second"])}
    assert not (space.path / "evaluation" / recipe.digest / ".parents.json").exists()
    assert in_use(Inventory.read(space)) == (None, set())


def test_manifests_that_name_each_other_end(tmp_path):
    space = Workspace(tmp_path)
    one, other = make(space, "things", 1), make(space, "things", 2)
    for own, parent in ((one, other), (other, one)):
        file = own.path / "manifest.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"parents": [{"kind": "things", "digest": parent.digest}]})
        )
    inventory = Inventory.read(space)
    assert list(inventory.made_from([name(one)])) == [name(other)]
    assert list(inventory.made_of([name(one)])) == [name(other)]
