"""What two runs differ in is said of their settings, curves, figures, cost and bytes."""

import json

import pytest

from longcat.artifact import Recipe, Workspace
from longcat.comparing.differences import POINTS, differences
from longcat.comparing.page import html
from longcat.comparing.printed import print_differences
from longcat.comparing.sides import find_side
from longcat.errors import ConfigError, DataError
from longcat.evaluation.stage import EvaluationFacts
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.tracking.journal import Journal, Sent
from tests.inventory.making import half_made, make

STEPS = 8


def record(step, loss, rate=1e-3):
    return {"step": step, "time": 0.0, "train/loss": loss, "train/tokens": 100.0 * step, "train/learning_rate": rate}


def checkpoint(space, rate, tokens, losses=None, earlier=(), steps=STEPS, weights=b"w", device=None, peak=None):
    """A checkpoint whose loss falls with its learning rate, with the records and facts of a training."""
    losses = losses or [5.0 - rate * 100 * step for step in range(1, steps + 1)]

    def build(directory):
        (directory / "metrics.jsonl").write_text(
            "".join(json.dumps(record(step, loss, rate)) + "\n" for step, loss in enumerate(losses, 1))
        )
        (directory / "weights.bin").write_bytes(weights)
        (directory / "config.json").write_text("{}")
        return CheckpointFacts(
            parameters=10,
            steps=steps,
            tokens=100 * steps,
            final_loss=losses[-1],
            mfu=rate,
            device=device,
            precision="fp32",
            peak_flops=peak,
            processes=2,
            seconds_training=3.0,
        )

    identity = {"seed": 0, "training": {"steps": steps, "optimizer": {"learning_rate": rate}}}
    return space.materialize(Recipe("checkpoint", CheckpointFacts, 1, identity, (tokens, *earlier)), build)


def evaluation(space, of, tokens, bits):
    def build(directory):
        lines = [{"sequence": f"s{i}", "bits": bits * (1000 + i), "bytes": 1000} for i in range(20)]
        (directory / "held_out.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return EvaluationFacts(scores={"held_out": {"bits_per_byte": bits}}, headlines=[f"{bits} bits"])

    return space.materialize(Recipe("evaluation", EvaluationFacts, 1, {"number": bits}, (tokens, of)), build)


@pytest.fixture
def workspace(tmp_path):
    space = Workspace(tmp_path / "w")
    documents = make(space, "documents", 0)
    tokens = make(space, "tokens", 1, identity={"documents": documents.digest, "max_padding": 0.1})
    slow, fast = checkpoint(space, 1e-3, tokens), checkpoint(space, 2e-3, tokens, weights=b"x")
    return space, {"documents": documents, "tokens": tokens, "slow": slow, "fast": fast}


def compared(space, one, other):
    return differences(find_side(one, space), find_side(other, space))


def tracked(space, name, results, ids, settings):
    """The journal of a run that made some results."""
    journal = Journal(space.path / "tracking" / f"{ids[0]}.jsonl")
    journal.append("start", "pipeline", name=name, time=1.0)
    journal.append("params", "pipeline", params=settings)
    for number, result in enumerate(results):
        journal.append("start", f"stage:{number}", name=f"stage {number}", time=1.0)
        journal.append("points", f"stage:{number}", points=[["loss", 1.0, 1, 1]])
        journal.append("tags", f"stage:{number}", tags={"artifact": f"{result.kind}/{result.digest}"})
    journal.close()
    keys = ["pipeline", *(f"stage:{number}" for number in range(len(results)))]
    Sent(0, dict(zip(keys, ids, strict=True))).save(journal.path)


def test_settings_figures_and_cost(workspace):
    space, made = workspace
    found = compared(space, made["slow"].digest, made["fast"].digest[:8])
    assert found["settings"] == [
        {"of": "checkpoint", "setting": "training.optimizer.learning_rate", "first": 1e-3, "second": 2e-3}
    ]
    figures = {row["name"]: row for row in found["figures"]}
    assert figures["MFU while training"]["difference"] == pytest.approx(1e-3)
    assert figures["MFU while training"]["ratio"] == pytest.approx(2)
    assert figures["steps"]["difference"] == 0
    assert found["cost"][0] == {"what": "training, device seconds", "first": 6.0, "second": 6.0}
    assert any("no scores of" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("devices", "peaks", "compared_at_all"),
    [
        (("a CPU", "a CPU"), (0.126e12, 0.404e12), False),
        (("a CPU", "a CPU"), (None, 0.404e12), False),
        (("a CPU", "a CPU"), (0.404e12, 0.404e12), True),
        (("a CPU", "another CPU"), (0.126e12, 0.404e12), True),
        (("Ascend910B2", "a CPU"), (2 * 378e12, 0.404e12), True),
    ],
)
def test_utilisations_of_unlike_peaks_of_a_device_are_not_compared(tmp_path, devices, peaks, compared_at_all):
    space = Workspace(tmp_path)
    tokens = make(space, "tokens", 1)
    made = [
        checkpoint(space, rate, tokens, device=device, peak=peak)
        for rate, device, peak in zip((1e-3, 2e-3), devices, peaks, strict=True)
    ]
    found = compared(space, made[0].digest, made[1].digest)
    (row,) = (row for row in found["figures"] if row["name"] == "MFU while training")
    assert (row["first"], row["second"]) == (1e-3, 2e-3)
    assert row["ratio"] == (pytest.approx(2) if compared_at_all else None)
    said = [note for note in found["notes"] if "MFU" in note]
    assert bool(said) is not compared_at_all
    if said:
        assert "one that is not recorded" in said[0] if None in peaks else "0.126 TFLOP/s and 0.404 TFLOP/s" in said[0]


def test_curves_lie_over_each_other_until_they_part(workspace):
    space, made = workspace
    shared = [4.0, 3.9, 3.8]
    one = checkpoint(space, 3e-3, made["tokens"], [*shared, 3.7, None])  # null: what is not finite
    other = checkpoint(space, 4e-3, made["tokens"], [*shared, 3.6, 3.5])
    found = compared(space, str(one.path), str(other.path))
    assert (found["same_until_step"], found["last_common_step"]) == (3, 5)
    assert found["curves"]["train/loss"]["first"] == [
        [100.0 * step, loss] for step, loss in enumerate([*shared, 3.7], 1)
    ]
    assert found["curves"]["train/loss"]["second"][-1] == [500.0, 3.5]
    assert compared(space, made["slow"].digest, made["fast"].digest)["same_until_step"] is None


def test_a_long_curve_is_thinned_to_its_ends(workspace):
    space, made = workspace
    long = checkpoint(space, 5e-3, made["tokens"], [float(step) for step in range(3000)])
    curve = compared(space, made["slow"].digest, long.digest)["curves"]["train/loss"]["second"]
    assert len(curve) == POINTS
    assert (curve[0], curve[-1]) == ([100.0, 0.0], [300_000.0, 2999.0])


def test_bytes_that_are_the_same_and_that_are_not(workspace):
    space, made = workspace
    rows = {row["kind"]: row for row in compared(space, made["slow"].digest, made["fast"].digest)["bytes"]}
    assert rows["tokens"]["same_digest"] and rows["documents"]["same_digest"]
    assert rows["checkpoint"] == {
        "kind": "checkpoint",
        "same_digest": False,
        "same": ["config.json"],
        "same_bytes": 2,
        "differ": ["metrics.jsonl", "weights.bin"],
        "only_first": [],
        "only_second": [],
    }


def test_scores_are_compared_where_both_have_some(workspace):
    space, made = workspace
    evaluation(space, made["slow"], made["tokens"], 2.0)
    assert "no scores of checkpoint/" in " ".join(compared(space, made["slow"].digest, made["fast"].digest)["notes"])
    evaluation(space, made["fast"], made["tokens"], 1.5)
    found = compared(space, made["slow"].digest, made["fast"].digest)
    [row] = found["scores"]
    assert (row["score"], row["verdict"]) == ("held_out/bits_per_byte", "better")
    assert row["second"] == pytest.approx(0.75 * row["first"])
    same = compared(space, made["fast"].digest, made["fast"].digest)
    assert (same["settings"], same["scores"]) == ([], [])
    assert "both have the same scores" in same["notes"]


def test_what_a_training_goes_on_from_costs_too(workspace):
    space, made = workspace
    longer = checkpoint(space, 1e-3, made["tokens"], earlier=[made["slow"]], steps=12)
    found = compared(space, made["slow"].digest, longer.digest)
    assert found["cost"][0] == {"what": "training, device seconds", "first": 6.0, "second": 12.0}
    assert found["second"]["results"]["checkpoint"]["digest"] == longer.digest


def test_other_code_and_devices_are_told(workspace):
    space, made = workspace
    file = made["fast"].path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["git_commit"], manifest["source"] = "other", {"longcat/model/moe.py": "1"}
    manifest["facts"]["device"] = "Ascend 910B"
    file.write_text(json.dumps(manifest))
    rows = compared(space, made["slow"].digest, made["fast"].digest)["surroundings"]
    found = {row["what"]: row for row in rows}
    assert (found["git_commit"]["of"], found["git_commit"]["second"]) == (["checkpoint"], "other")
    assert found["source files"]["first"] == ["longcat/model/moe.py"]
    assert found["device"] == {"of": ["training"], "what": "device", "first": None, "second": "Ascend 910B"}
    assert len(rows) == len(found) == 3


def test_runs_are_known_by_id_name_and_workspace(workspace):
    space, made = workspace
    for name, of, first in (("one", "slow", "aaaa"), ("two", "fast", "bbbb")):
        settings = {
            "training.optimizer.learning_rate": str(made[of].facts.mfu),
            "training.grace_s": "5",
            "preset": "smoke",
        }
        tracked(space, name, [made["tokens"], made[of]], [f"{first}0", f"{first}1", f"{first}2"], settings)
    by_id, by_name = compared(space, "aaaa0", "bbbb0"), compared(space, "one", "two")
    assert by_id == by_name
    assert by_id["settings"] == [
        {"of": "configuration", "setting": "training.optimizer.learning_rate", "first": 1e-3, "second": 2e-3}
    ]
    assert find_side("aaaa2", space).results["checkpoint"].digest == made["slow"].digest
    assert "checkpoint" not in find_side("aaaa1", space).results
    with pytest.raises(ConfigError, match=r"stage 1: several runs are called so; give the id of one: .*aaaa2"):
        find_side("stage 1", space)
    stages = [{"artifact": {"kind": "checkpoint", "digest": made["slow"].digest}}]
    (space.path / "summary.json").write_text(json.dumps({"stages": stages, "mlflow": {"run_id": "aaaa0"}}))
    last = find_side(str(space.path), space)
    assert last.settings["preset"] == "smoke"
    assert last.results["tokens"].digest == made["tokens"].digest


def test_a_run_whose_results_are_gone_says_so(workspace):
    space, made = workspace
    tracked(space, "one", [made["slow"]], ["aaaa0", "aaaa1"], {})
    (made["slow"].path / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"its checkpoint/\w{12} is not in"):
        find_side("one", space)
    tracked(space, "two", [], ["bbbb0"], {})
    with pytest.raises(ConfigError, match="has finished no stage"):
        find_side("two", space)


@pytest.mark.parametrize("what", ["abcd", "nothing", "", "checkpoint/ffff"])
def test_what_is_not_there_is_told(workspace, what):
    space, _ = workspace
    with pytest.raises(ConfigError, match="nor the beginning of a digest"):
        find_side(what, space)


def test_results_of_another_workspace_and_those_that_lie_by_themselves(workspace, tmp_path):
    space, made = workspace
    elsewhere = Workspace(tmp_path / "elsewhere")
    copied = checkpoint(elsewhere, 1e-3, make(elsewhere, "tokens", 7))
    found = compared(space, made["slow"].digest, str(copied.path))
    assert {row["kind"]: row["same_digest"] for row in found["bytes"]} == {"tokens": False, "checkpoint": False}
    alone = made["fast"].path.rename(tmp_path / "alone")
    assert list(find_side(str(alone), space).results) == ["checkpoint"]
    (alone / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="is unreadable"):
        find_side(str(alone), space)


def test_a_run_in_progress_has_curves_and_nothing_else_yet(workspace, capsys):
    space, made = workspace
    folder = half_made(space, "checkpoint", "0123", [made["tokens"]])
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(record(step, 4.0)) + "\n" for step in (1, 2)) + '{"step": 3'
    )
    found = compared(space, made["slow"].digest, "0123")
    assert found["curves"]["train/loss"]["second"] == [[100.0, 4.0], [200.0, 4.0]]
    print_differences(found, None)
    assert "checkpoint/0123 (half made)" in capsys.readouterr().out


def test_broken_records_are_named(workspace):
    space, made = workspace
    (made["fast"].path / "metrics.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"cannot read .*metrics\.jsonl"):
        compared(space, made["slow"].digest, made["fast"].digest)


def test_a_page_and_a_terminal_say_the_same(workspace, capsys):
    space, made = workspace
    found = compared(space, made["slow"].digest, made["fast"].digest)
    found["first"]["label"] = "<b>bold</b>\x1b[31m"
    page = html(found)
    print_differences(found, "page.html")
    text = capsys.readouterr().out
    for said in ("1 setting differs.", "training.optimizer.learning_rate", "0.10 %", "+0.10 points", "at 200 tokens"):
        assert said in page.replace("&#43;", "+")
        assert said in text
    assert "<b>bold" not in page and "\x1b" not in text
    assert page.count("data:image/svg+xml") == 2
    assert text.endswith("page.html\n")


def test_what_has_no_curves_has_no_picture(workspace):
    space, made = workspace
    found = compared(space, made["tokens"].digest, make(space, "tokens", 8).digest)
    assert (found["curves"], found["figures"], found["notes"]) == ({}, [], [])
    assert "<img" not in html(found)


@pytest.mark.parametrize(("broken", "why"), [("no JSON", "Expecting value"), ("{}", "it has no 'files'")])
def test_a_manifest_that_cannot_be_read_is_told(tmp_path, capsys, broken, why):
    """Else all of it seems to be the same: no setting differs of what is not there."""
    space = Workspace(tmp_path)
    tokens = make(space, "tokens", 1)
    first, second = checkpoint(space, 1e-3, tokens), checkpoint(space, 2e-3, tokens)
    manifest = second.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(broken)
    result = differences(find_side(first.digest, space), find_side(second.digest, space))
    [note] = (note for note in result["notes"] if "manifest" in note)
    assert note.startswith(f"the manifest of checkpoint/{second.digest[:12]} is unreadable ({why}")
    print_differences(result, None)
    assert f"Note: {note}" in capsys.readouterr().out
