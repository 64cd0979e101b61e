"""What the command line of benchmarks/foreign.py ends with; the programs are not run here."""

import sys
from pathlib import Path

import pytest

from longcat.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAME = {"verdict": "same", "why": "As the test says."}


@pytest.fixture
def foreign(monkeypatch, tmp_path):
    """Runs the command line in an empty folder; `check` takes a program's words, and stands for its run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    import foreign as module

    def main(*arguments, check=lambda _: SAME):
        monkeypatch.setattr(module, "check", lambda _, words, **__: check(words))
        monkeypatch.setattr(sys, "argv", ["foreign.py", *map(str, arguments)])
        return module.main()

    return main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mnist",), "mnist: there is no examples/mnist; --checkouts names the folder that holds examples"),
        (("peft-lora", "nanogpt-fp32", "--checkouts", "here"), "nanogpt-fp32: there is no here/nanoGPT; --checkouts"),
        (("--checkouts", "nowhere"), "--checkouts nowhere: there is none of nanoGPT, examples, pytorch-lightning\n"),
        (("--checkouts", "nowhere", "mnist"), "mnist: there is no nowhere/examples/mnist"),
        (("nothing",), "no program nothing; there are nanogpt-fp32, "),
    ],
)
def test_a_checkout_that_was_named_and_is_not_there_is_an_error(foreign, capsys, arguments, words):
    Path("here/examples").mkdir(parents=True)
    with pytest.raises(SystemExit) as ended:
        foreign(*arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert f"foreign.py: error: {words}" in said.err and said.err.count("error:") == 1


def test_without_names_what_is_absent_is_passed_over(foreign, capsys):
    Path("here/examples/distributed/ddp").mkdir(parents=True)
    assert foreign("--checkouts", "here", "ddp") == 0
    assert foreign("--checkouts", "here") == foreign() == 0
    assert "absent   nanogpt-fp32" in capsys.readouterr().out


@pytest.mark.parametrize("verdict", ["differs", "fails", "unknown"])
def test_what_does_not_agree_fails_unless_the_reason_is_known(foreign, verdict):
    found = SAME | {"verdict": verdict}
    assert foreign("peft-lora", "trainer-fp32", check=lambda _: found) == 1
    assert foreign("trainer-fp16", check=lambda _: found) == 0


def test_a_program_that_cannot_be_run_fails_where_it_is_named_or_no_other_runs(foreign):
    def refuse(words):
        raise UserError(f"{words[0]} does not run here")

    def refuse_lora(words):
        return refuse(words) if "lora.py" in words else SAME

    assert foreign("peft-lora", "trainer-fp32", check=refuse_lora) == 1
    assert foreign(check=refuse_lora) == 0
    assert foreign("--json", check=refuse) == 1
