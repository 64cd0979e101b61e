import json

import pytest
from typer.testing import CliRunner

from longcat.cli import app
from longcat.commands.dispatch import PAGE, RESULT
from longcat.errors import DataError, UserError
from longcat.local_services import solver
from longcat.provenance import ROOT

EXAMPLE = ROOT / "data/dispatch/orders.json"


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch):
    monkeypatch.setattr(solver, "EFFORT", 0.05)


def run(*arguments):
    return CliRunner().invoke(app, ["dispatch", *map(str, arguments)])


def changed(tmp_path, change):
    document = json.loads(EXAMPLE.read_text("utf-8"))
    change(document)
    path = tmp_path / "orders.json"
    path.write_text(json.dumps(document))
    return path


def test_the_shipped_example_is_what_is_printed():
    assert run("--example").stdout == EXAMPLE.read_text("utf-8")


def test_greedy_beside_exact_as_json_and_as_a_page(tmp_path):
    made = run(EXAMPLE, "--json", "--output", tmp_path / "new" / "folder")
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    greedy, exact = found["dispatchers"]["greedy"], found["dispatchers"]["exact"]
    assert list(found["dispatchers"]) == ["greedy", "exact"]
    assert exact["best_decisions"] == found["orders"] == len(exact["decisions"])
    for row in (greedy, exact):
        assert row["cost"] == row["driven_minutes"] + row["late_minutes"] >= found["hindsight"]["bound"]
        assert sum(decision["added_minutes"] for decision in row["decisions"]) == row["driven_minutes"]
    assert found["verdict"].startswith(f"Greedy costs {greedy['cost']} minutes")
    assert json.loads((tmp_path / "new" / "folder" / RESULT).read_text("utf-8")) == found
    page = (tmp_path / "new" / "folder" / PAGE).read_text("utf-8")
    assert page.count("<svg") == 2
    assert page.count("<circle") >= 2 * found["orders"]
    assert found["verdict"] in page


def test_names_of_others_are_text_on_the_page(tmp_path):
    path = changed(tmp_path, lambda d: d["couriers"][0].update(id="<script>alert(1)</script>"))
    assert run(path, "--output", tmp_path).exit_code == 0
    page = (tmp_path / PAGE).read_text("utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["orders"][2].update(due=d["orders"][2]["ready"] - 1), r"orders\[2\] \(id 'o3'\)\.due"),
        (lambda d: d["orders"][2].update(merchant="nobody"), r"orders\[2\] \(id 'o3'\)\.merchant"),
        (lambda d: d["orders"][2].update(placed=-5), r"orders\[2\] \(id 'o3'\)\.placed"),
        (lambda d: d["orders"][2].update(id="o1"), r"orders\[2\]\.id: 'o1' is that of orders\[0\]"),
        (lambda d: d.update(couriers=[]), "there is none who could carry order 'o1'"),
        (lambda d: d["couriers"][1].update(capacity=0), r"couriers\[1\] \(id 'c2'\)\.capacity"),
        (lambda d: d.update(orders=[]), "orders: there is none"),
    ],
)
def test_orders_that_contradict_one_another_are_one_line(tmp_path, change, message):
    error = run(changed(tmp_path, change)).exception
    assert isinstance(error, DataError)
    assert "\n" not in str(error)
    with pytest.raises(DataError, match=message):
        raise error


def test_other_mistakes_say_what_would_be_right(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for arguments, message in (
        ([], "give the orders"),
        ([EXAMPLE, "--example"], "takes no ORDERS.json"),
        ([EXAMPLE, "--language", "fr"], "there are zh, en"),
        ([tmp_path / "none.json"], "No such file"),
        ([broken], "not JSON"),
        ([EXAMPLE, "--output", broken], f"because {broken} is a file; choose another --output"),
        ([EXAMPLE, "--output", broken / "a" / "b"], f"because {broken} is a file; choose another --output"),
        ([EXAMPLE, "--checkpoint", tmp_path / "none"], "no such folder"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, UserError), arguments
        assert message in str(error)
