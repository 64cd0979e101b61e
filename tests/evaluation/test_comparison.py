"""Two checkpoints are compared by the items that both were asked, and the page says what is better beyond chance."""

import json

import numpy as np
import pytest

from longcat.artifact import Artifact, Workspace
from longcat.errors import ConfigError, DataError
from longcat.evaluation.comparison import compare, compare_items, curves
from longcat.evaluation.gates import is_score
from longcat.evaluation.stage import EvaluationFacts

ITEMS = 200


def right(share, seed=0):
    return [float(value) for value in np.random.default_rng(seed).random(ITEMS) < share]


def sample(number, value, **fields):
    base = {"document": number, "filter": "none", "prompt": f"q{number}", "target": "x", "answer": "y"}
    return base | {"scores": {"acc": value}} | fields


@pytest.fixture
def made(tmp_path):
    """A function that writes an evaluation: bits of held-out sequences, and samples by task."""

    def make(name, bits=2.0, tasks=None, tokens="t", trained=None, scores=None):
        folder = tmp_path / "evaluation" / name
        (folder / "samples").mkdir(parents=True)
        if bits:
            noise = np.random.default_rng(1).normal(0, 50, 40)
            lines = [{"sequence": f"{tokens}{i}", "bits": bits * 1000 + noise[i], "bytes": 1000} for i in range(40)]
            (folder / "held_out.jsonl").write_text("\n".join(map(json.dumps, lines)))
        for task, samples in (tasks or {}).items():
            (folder / "samples" / f"{task}.jsonl").write_text("\n".join(map(json.dumps, samples)))
        if trained:
            facts = {"parameters": 1, "tokens": trained, "steps": 1}
            manifest = {"kind": "checkpoint", "digest": f"c{name}", "facts": facts}
            (tmp_path / "checkpoint" / f"c{name}").mkdir(parents=True)
            (tmp_path / "checkpoint" / f"c{name}" / "manifest.json").write_text(json.dumps(manifest))
        parents = [{"kind": "tokens", "digest": tokens}, {"kind": "checkpoint", "digest": f"c{name}"}]
        facts = EvaluationFacts(scores=scores or {"held_out": {"bits_per_byte": bits}}, headlines=[])
        return Artifact("evaluation", name, folder, {"parents": parents}, facts)

    return make


def test_better_worse_and_undecided(made, tmp_path):
    def answers(share, seed):
        return [sample(number, value) for number, value in enumerate(right(share, seed))]

    good, bad, same = answers(0.7, 1), answers(0.3, 1), answers(0.5, 2)
    first = made("a", 2.5, {"up": bad, "down": good, "same": same}, trained=1_000_000)
    second = made("b", 2.4, {"up": good, "down": bad, "same": same}, trained=2_000_000)
    found = compare([first, second], Workspace(tmp_path))
    assert found.facts.better == ["held_out/bits_per_byte", "up/acc"]
    assert (found.facts.worse, found.facts.undecided) == (["down/acc"], ["same/acc"])
    assert found.facts.headline == "2 better, 1 worse, 1 without clear difference"
    rows = {row["subject"]: row for row in json.loads((found.path / "result.json").read_text())["rows"]}
    assert rows["held_out"]["second"] - rows["held_out"]["first"] == pytest.approx(-0.1)
    assert rows["held_out"]["effect"].startswith("-3.99 %") or rows["held_out"]["effect"].startswith("-4.0")
    assert rows["up"]["low"] > 0 and rows["up"]["p"] < 0.001
    assert rows["up"]["gained"] > 0 and rows["up"]["lost"] == 0
    assert "percentage points" in rows["up"]["effect"]
    assert (rows["same"]["p"], rows["same"]["gained"], rows["same"]["lost"]) == (1, 0, 0)
    page = (found.path / "report.html").read_text()
    assert "The second is better in held_out/bits_per_byte, up/acc and worse in down/acc; 1 without" in page
    assert "built-in" not in page and '<td class="n" data-label="items">200</td>' in page
    assert page.count("<picture>") == 2  # with curves, as the tokens are known
    assert "| up/acc |" in (found.path / "report.md").read_text().replace("\\_", "_")
    assert compare([first, second], Workspace(tmp_path)).cached


def test_names_of_others_are_text_on_the_page(made, tmp_path):
    task = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    samples = [sample(number, value) for number, value in enumerate(right(0.5))]
    found = compare([made("a", 2, {task: samples}), made("b", 2.1, {task: samples})], Workspace(tmp_path))
    assert "<script>alert" not in (found.path / "report.html").read_text()
    assert "<script>alert" not in (found.path / "report.md").read_text()


def test_what_cannot_be_paired_is_told(made, tmp_path):
    samples = [sample(number, value) for number, value in enumerate(right(0.5))]
    others = [one | {"target": "z"} for one in samples]
    changed = [one | {"prompt": "!"} if one["document"] < 7 else one for one in samples]
    first = made("a", 2, {"other": samples, "less": samples, "asked": samples, "alone": samples, "none": samples})
    second = made("b", 2, {"other": others, "less": samples[:150], "asked": changed, "none": []})
    rows, notes = compare_items(first, second, tmp_path)
    assert {row.subject: row.items for row in rows} == {"held_out": 40, "less": 150, "asked": 200}
    assert sorted(notes) == [
        "alone: only one of the two was scored by it",
        "asked: 7 of 200 items were asked by another prompt",
        "less: 50 items were asked of one of the two only, and are left out",
        "none: no item was asked of both",
        "other: the two were asked other items under the same numbers",
    ]


def test_scores_that_are_not_right_or_wrong(made, tmp_path):
    def answers(shift):
        return [sample(i, None, scores={"f1": 0.3 + shift + i / 1000, "text": "x"}) for i in range(50)]

    [_, row], _ = compare_items(made("a", 2, {"t": answers(0)}), made("b", 2, {"t": answers(0.1)}), tmp_path)
    assert (row.name, row.gained, row.verdict) == ("t/f1", None, "better")
    assert row.effect == f"{100 * (row.second / row.first - 1):+.2f} %"


def test_five_lost_answers_of_a_hundred_are_no_clear_difference(made, tmp_path):
    first = [sample(i, float(i < 18)) for i in range(100)]
    second = [sample(i, float(i < 13)) for i in range(100)]
    [row], _ = compare_items(made("a", 0, {"t": first}), made("b", 0, {"t": second}), tmp_path)
    assert (row.gained, row.lost, row.p, row.verdict) == (0, 5, 0.0625, "no clear difference")


def test_filters_are_rows_of_their_own(made, tmp_path):
    def answers(value):
        return [sample(i, value, filter=name) for i in range(20) for name in ("strict", "loose")]

    rows, _ = compare_items(made("a", 0, {"t": answers(0.0)}), made("b", 0, {"t": answers(1.0)}), tmp_path)
    assert [(row.name, row.items, row.gained) for row in rows] == [("t/acc.loose", 20, 20), ("t/acc.strict", 20, 20)]


def test_other_tokens_of_another_text_are_not_set_beside_each_other(made, tmp_path):
    with pytest.raises(ConfigError, match="nothing to compare: held_out: the two have other held-out texts"):
        compare_items(made("a"), made("b", tokens="u"), tmp_path)


def test_other_tokens_of_the_same_text_are_drawn_apart(made, tmp_path, monkeypatch):
    monkeypatch.setattr("longcat.evaluation.comparison.held_out_text", lambda *_: "same")
    [row], _ = compare_items(made("a", 2.5), made("b", 2.3, tokens="u"), tmp_path)
    assert (row.paired, row.verdict) == (False, "better")


@pytest.mark.parametrize(
    ("line", "message"), [("{", r"t\.jsonl"), ("[]", "line 1 is no object"), ("{}", "has no document")]
)
def test_damaged_samples_are_named(made, tmp_path, line, message):
    first, second = made("a", 0, {"t": [sample(0, 1.0)]}), made("b", 0, {"t": [sample(0, 1.0)]})
    (second.path / "samples" / "t.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        compare_items(first, second, tmp_path)


def test_curves_are_over_tokens(made, tmp_path):
    values = {"a": (3e6, 2.1), "b": (1e6, 2.6), "c": (2e6, 2.3)}
    some = [
        made(
            name,
            trained=int(tokens),
            scores={"held_out": {"bits_per_byte": bits, "bytes": 7, "unigram_bits_per_byte": 4}},
        )
        for name, (tokens, bits) in values.items()
    ]
    assert curves(some, tmp_path) == {"held_out/bits_per_byte": [[1e6, 2.6], [2e6, 2.3], [3e6, 2.1]]}
    assert curves([*some[:1], made("unknown")], tmp_path) == {}
    assert [
        is_score(name)
        for name in ("t/acc", "intrinsic/bits_per_byte.kind.digits", "t/acc_stderr", "t/acc_chance", "t/documents")
    ] == [True, *[False] * 4]
