"""The page that answers: sections are those of the commands, figures follow from one another, and what lacks is said."""

import html
import json
import re

import pytest

from longcat.assess import page
from longcat.assess.assessment import assess
from longcat.assess.request import read_request
from longcat.assess.risks import GRADES
from longcat.benchmark.logs import Recorded
from longcat.errors import ConfigError, UserError
from longcat.provenance import ROOT

PRICES = ["ascend-910b2=12.5 CNY", "a100-80gb=14 CNY"]


@pytest.fixture
def result(workload):
    return assess(read_request(None, workload, PRICES))


def test_a_whole_workload_is_assessed(result):
    assert result["today"]["tokens_per_second"] == pytest.approx(256 * 4096 / 5.2)
    best = result["plan"]["best"][0]
    assert best["fits"] and best["step_seconds_low"] < best["step_seconds"] < best["step_seconds_high"]
    target, today = result["cost"]["target"], result["cost"]["today"]
    tokens_per_second = result["plan"]["global_batch"] * result["plan"]["sequence_length"] / best["step_seconds"]
    assert target["tokens_per_second"][1] == pytest.approx(tokens_per_second)
    assert target["days"][1] == pytest.approx(2e12 / tokens_per_second / 86400)
    assert target["money"][1] == pytest.approx(target["device_hours"][1] * 12.5) and target["currency"] == "CNY"
    assert today["device_hours"][1] == pytest.approx(64 * 2e12 / result["today"]["tokens_per_second"] / 3600)
    assert {row["what"] for row in result["code"]["findings"]} >= {"torch.cuda.synchronize"}
    assert {which: stack["verdict"] for which, stack in result["sovereignty"].items()} == {
        "today": "Partial",
        "target": "Full",
    }
    grades = [GRADES.index(risk["grade"]) for risk in result["risks"]]
    assert grades and grades == sorted(grades)
    assert ["operators of the code" in one for one in result["not_known"]] == [True] * bool(
        result["code"]["no_operators"]
    )


def test_the_figures_are_those_of_the_commands(workload, result, longcat):
    """Nothing is computed twice in two ways."""
    arguments = [
        "--model",
        workload["model"],
        "--device",
        "ascend-910b2",
        "--devices",
        "128",
        "--sequence-length",
        "4096",
    ]
    planned = json.loads(longcat("plan", *arguments, "--tokens", "2e12", "--json").stdout)
    assert planned["best"] == result["plan"]["best"]
    arguments = ["--model", workload["model"], "--device", "a100-80gb", "--devices", "64", "--sequence-length", "4096"]
    found = json.loads(longcat("mfu", *arguments, "--log", str(workload["log"]), "--json").stdout)
    assert found["mfu"] == result["today"]["mfu"]
    assert found["comparison"]["verdict"] == result["today"]["comparison"]["verdict"]


def test_pages_hold_every_section_and_escape_what_others_wrote(workload):
    request = read_request(None, workload | {"name": "<b>bold</b> & so on"}, PRICES)
    found = assess(request)
    text, lines = page.html(found), page.markdown(found)
    assert "<b>bold</b> & so on" not in text and "&lt;b&gt;bold" in text
    for title in (
        "Risks",
        "Today",
        "The plan on 128",
        "Days, device-hours and money",
        "What has to be changed",
        "not be known",
    ):
        assert title in text and title.split(" on ")[0] in lines
    assert "<b>bold" not in lines


def test_what_is_not_given_is_named_and_left_out():
    found = assess(read_request(None, {"to": "ascend-910b2:128"}))
    assert {"today", "plan", "code", "cost"}.isdisjoint(found)
    said = " ".join(found["not_known"])
    assert "--log" in said and "--model" in said and "--code" in said
    assert found["sovereignty"]["target"]["verdict"] == "Full"
    assert page.html(found) and page.markdown(found)


@pytest.mark.parametrize(
    ("example", "verdict", "planned"),
    [("longcat-2.0", "Full", True), ("qwen-max", "Partial", False), ("ernie-4.0", "Partial", False)],
)
def test_the_three_systems(example, verdict, planned):
    found = assess(read_request(ROOT / f"docs/examples/{example}.yaml", {}))
    assert found["sovereignty"]["today"]["verdict"] == verdict
    assert ("plan" in found) is planned
    assert found["known"] and len(found["not_known"]) >= 3
    if planned:  # "a bit over a month" is what its makers say
        low, _, high = found["cost"]["target"]["days"]
        assert low < 40 < high


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": None}, "its MFU needs --device"),
        ({"to": "ascend-910b2"}, "give a device and how many"),
        ({"to": "ascend-9l0b2:8"}, "ascend"),
        ({"to": "ascend-910b2:1", "model": "longcat-2.0", "log": None}, "fit"),
        ({"code": "nowhere"}, "--code nowhere: there is no such file"),
        ({"model": "tini", "log": None}, "tini"),
        ({"devices": 8}, "MFU"),  # the log's speed is more than 8 devices can do
    ],
)
def test_mistakes_are_one_clear_error(workload, changes, said):
    given = {name: value for name, value in (workload | changes).items() if value is not None}
    with pytest.raises(UserError) as caught:
        assess(read_request(None, given))
    assert said in str(caught.value)


def test_two_prices_of_one_device_are_refused(workload):
    request = read_request(None, workload, ["a100-80gb=14 CNY", "A100 SXM 80GB=15 CNY"])
    with pytest.raises(ConfigError, match="--price A100 SXM 80GB and --price a100-80gb are both of A100 SXM 80GB"):
        assess(request)


def test_what_a_log_does_not_say_can_be_said(workload, tmp_path):
    """A log of nanoGPT has no batch, one of a Trainer not what is trained."""
    log = tmp_path / "nano.log"
    log.write_text("".join(f"iter {step}: loss 3.1234, time 5000.00ms, mfu 35.00%\n" for step in range(30)))
    with pytest.raises(UserError, match="add --batch-tokens"):
        assess(read_request(None, workload | {"log": log}))
    found = assess(read_request(None, workload | {"log": log, "batch_tokens": 1_000_000}))
    assert found["today"]["tokens_per_second"] == pytest.approx(200_000)
    log.write_text("{'train_runtime': 1000.0, 'train_samples_per_second': 40.0, 'train_steps_per_second': 0.625}\n")
    given = workload | {"log": log, "batch_tokens": 4096 * 64}
    assert any("--pre-training" in one for one in assess(read_request(None, given))["today"]["doubts"])
    assert not assess(read_request(None, given | {"fine_tuning": False}))["today"]["doubts"]


def test_code_that_does_not_parse_is_named(workload):
    (workload["code"] / "broken.py").write_text("def f(:\n")
    found = assess(read_request(None, {"code": workload["code"]}))
    for said in (" ".join(found["not_known"]), page.html(found), page.markdown(found)):
        assert "1 file of the code that could not be read" in said and "broken.py, line 1" in said


@pytest.mark.parametrize(
    ("milliseconds", "instead"), [(5200, "holds today's run back"), (3200, "make sure of the inputs")]
)
def test_only_a_run_that_is_slower_than_its_plan_is_held_back(workload, milliseconds, instead):
    workload["log"].write_text(workload["log"].read_text().replace("5200.0", f"{milliseconds}.0"))
    found = assess(read_request(None, workload))
    assert (found["today"]["planner"]["reached"] > 1) == (milliseconds == 3200)
    assert [instead in risk["instead"] for risk in found["risks"] if "the planner gives" in risk["what"]] == [True]


def test_page_and_markdown_say_the_same_and_each_figure_has_its_source(workload, result):
    published = assess(read_request(ROOT / "docs/examples/longcat-2.0.yaml", {}))
    for found in (result, published):
        text, lines = html.unescape(page.html(found)), page.markdown(found).replace("\\", "")
        for value, label, formula in page.cards(found):
            assert f'<b>{value}</b><span>{label} <a href="#formula-{formula}">' in text
            assert f'id="formula-{formula}"' in text
            assert f"| **{value}** | {label} | {formula} |" in lines
        sources = [
            part["source"] for stack in found["sovereignty"].values() for part in stack["parts"] if part["source"]
        ]
        said = [*sources, *found["not_known"], *(one["what"] for one in found["known"]), found["plan"]["fitted_on"]]
        said += [risk["why"] for risk in found["risks"]] + list(found["formulas"].values())
        today = found.get("today")
        said += [today["peak_source"], f"{today['tokens_per_second']:,.0f}", "reading"] if today else []
        for cost in found["cost"].values():
            said += [f"{cost['device_hours'][1]:,.0f}", f"{cost['tokens_per_second'][1]:,.0f}"]
        assert [one for one in said if one not in text] == [one for one in said if one not in lines] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--html", "."), "--html .: that is a folder; name a file in it"),
        (("--markdown", "absent/page.md"), "--markdown absent/page.md: there is no folder absent"),
        (("--html", "page", "--markdown", "./page"), "one would replace the other"),
    ],
)
def test_pages_that_cannot_be_written(longcat, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    done = longcat("assess", "--device", "a100-80gb", *options)
    assert done.returncode == 2 and re.search(said, done.stderr) and not list(tmp_path.iterdir())


def test_a_run_of_mlflow_needs_somebody_who_reads_it(workload):
    given = {name: value for name, value in workload.items() if name != "log"} | {"mlflow_run": "0" * 32}
    with pytest.raises(ConfigError, match="--mlflow-run needs"):
        assess(read_request(None, given))


def recorded(workload, **params):
    own = {"facts.processes": "64", "corpus.sequence_length_tokens": "4096"}
    return lambda run, names: Recorded({"perf/tokens_per_second": [200_000.0] * 5}, own | params)


def test_a_run_of_ours_tells_its_devices_and_its_sequences(workload):
    asked = {name: value for name, value in workload.items() if name not in ("log", "devices", "sequence_length")}
    found = assess(read_request(None, asked | {"mlflow_run": "r"}, PRICES), recorded(workload))
    assert (found["today"]["devices"], found["today"]["sequence_length"]) == (64, 4096)
    assert found["plan"]["sequence_length"] == 4096


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"facts.processes": "2"}, "facts.processes 2, not 64 devices"),
        ({"corpus.sequence_length_tokens": "64"}, "64, not 4,096 sequence length"),
        ({"facts.parameters": "2696928"}, "facts.parameters 2,696,928, not"),
    ],
)
def test_a_run_that_was_another_one_is_refused(workload, params, said):
    asked = {name: value for name, value in workload.items() if name != "log"} | {"mlflow_run": "r"}
    with pytest.raises(UserError, match=said):
        assess(read_request(None, asked, PRICES), recorded(workload, **params))


def test_a_price_of_a_device_that_plays_no_part_is_refused(workload):
    with pytest.raises(ConfigError, match="--price b200: neither --device nor --to is it"):
        assess(read_request(None, workload, [*PRICES, "b200=3 CNY"]))
    with pytest.raises(UserError, match="foo"):
        assess(read_request(None, workload, ["foo=3 CNY"]))


def test_today_is_compared_with_what_the_planner_gives_for_the_same_devices(workload, result, longcat):
    arguments = ["--model", workload["model"], "--device", "a100-80gb", "--devices", "64", "--sequence-length", "4096"]
    planned = json.loads(longcat("plan", *arguments, "--json").stdout)["best"][0]["tokens_per_second"]
    planner = result["today"]["planner"]
    assert planner["tokens_per_second"] == planned
    assert planner["reached"] == pytest.approx(result["today"]["tokens_per_second"] / planned)
    [risk] = [one for one in result["risks"] if "of what the planner gives" in one["what"]]
    assert f"{planner['reached']:.0%}" in risk["what"]
    days = result["cost"]["target"]["days"][1] / planner["reached"]
    assert f"{days:,.3g} days instead of" in risk["instead"]


def test_what_the_plan_assumes_and_where_figures_come_from_stand_on_the_page(result):
    text, lines = page.html(result), page.markdown(result)
    assert result["plan"]["assumptions"]
    for one in result["plan"]["assumptions"]:
        assert f"Assumed: {one}." in text.replace("&#39;", "'") and "Assumed: " in lines
    for name in ("today", "plan", "cost", "code"):
        assert f'href="#formula-{name}"' in text and f'id="formula-{name}"' in text


def test_an_option_to_be_pasted_stays_in_one_line_and_nothing_in_it_is_markup(result):
    risk = dict(result["risks"][0]) | {"instead": "longcat plan --calibration <RUN>, --dry-run"}
    text = page.html({**result, "risks": [risk]})
    assert '<span class="option">--calibration</span> &lt;RUN&gt;, <span class="option">--dry-run</span>' in text
    assert ".option { white-space: nowrap; }" in text


def test_links_and_batch_of_the_target_change_the_plan(workload, result):
    found = assess(read_request(None, workload | {"link": "between=400GB/s", "global_batch": 512}, PRICES))
    assert found["plan"]["global_batch"] == 512 != result["plan"]["global_batch"]
    assert any("--link" in one for one in result["plan"]["assumptions"])
    assert not any("--link" in one for one in found["plan"]["assumptions"])


def test_what_has_no_equivalent_is_counted_as_the_scan_counts_it(result):
    none = [row for row in result["code"]["findings"] if row["kind"] == "none"]
    said = [risk["what"] for risk in result["risks"] if "without an equivalent" in risk["what"]]
    assert [text.split()[0] for text in said] == ([str(len(none))] if none else [])
