"""The command line: what it prints where, and what it ends with."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import typer

from longcat import cli
from longcat.artifact import Workspace
from longcat.best_effort import SERVERS
from longcat.config import load_config
from longcat.corpus.tokenizer import train_tokenizer
from longcat.errors import TrainingError
from longcat.flows.dag import STAGES
from longcat.interchange import save_huggingface
from longcat.model import LongcatModel
from longcat.parallel.axes import Degrees
from longcat.progress import Progress
from longcat.tables import next_steps, print_summary
from longcat.terminal import Display, redirected_output
from longcat.training.job import Job
from longcat.training.layout import ParallelLayout


def process(*arguments, **options):
    """Run the command line in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "longcat.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def one_error(result, code=2):
    """The single line on standard error that a failed command leaves."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# ---------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "tny"], ["'tny'", "did you mean 'tiny'"]),
        (["--set", "training.stpes=3"], ["'training.stpes'", "'training.steps'"]),
        (["--set", "training.steps"], ["KEY=VALUE"]),
        (["--set", "training.steps=-1"], ["training.steps", "-1"]),
        (["--set", "training.steps=many"], ["training.steps", "valid integer", "many"]),
        (["--config", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["--preset", "longcat-2.0"], ["does not fit", "GiB"]),
        (["--preset", "smoke", "--set", "training.processes=3"], ["training.processes=3", "take training.processes=2"]),
        (
            ["--preset", "smoke", "--set", "training.processes=4", "--set", "parallel.replicate=3"],
            ["parallel.replicate=3 does not divide training.processes=4; parallel.replicate=4 would fit"],
        ),
        (
            ["--preset", "smoke", "--set", "training.processes=4", "--set", "parallel={replicate: 2, shard: 4}"],
            ["parallel.replicate=2 x parallel.shard=4 is 8, not training.processes=4; parallel.replicate=1 would fit"],
        ),
        (["--set", "training.expert_parallel=2"], ["'training.expert_parallel'", "did you mean 'parallel.expert'"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_wrong_setting_is_one_line_and_leaves_nothing(longcat, command, arguments, words, tmp_path):
    line = one_error(longcat(command, *arguments, "--workspace", tmp_path / "workspace"))
    assert all(word in line for word in words)
    assert not (tmp_path / "workspace").exists()


def test_a_workspace_in_use_is_refused_at_once(tmp_path):
    with Workspace(tmp_path).lease():
        assert "in use by process" in one_error(process("run", "--preset", "smoke", "--workspace", tmp_path))


def test_a_file_in_the_place_of_the_workspace(longcat, tmp_path):
    (tmp_path / "file").touch()
    assert f"because {tmp_path / 'file'} is a file" in one_error(longcat("run", "--workspace", tmp_path / "file"))


LAYOUT = ParallelLayout("cpu", Degrees(1), "fp32")


def test_what_interrupted_runs_have_left_is_listed_and_removed(longcat, tmp_path):
    partial, finished = tmp_path / "checkpoint/.0123.partial", tmp_path / "checkpoint/4567"
    for folder in (partial, finished):
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(bytes(3_000_000))
    listed = longcat("clean", "--workspace", tmp_path)
    assert listed.returncode == 0
    assert f"{partial}: 3.0 MB, last written 20" in listed.stdout
    assert "--yes removes them" in listed.stdout
    assert partial.exists()
    with Workspace(tmp_path).lease():
        code = "in use by process"
        assert code in one_error(process("clean", "--workspace", tmp_path, "--yes"))
    assert partial.exists()
    local = tmp_path / "fast/0123"
    (local / "step-00000004").mkdir(parents=True)
    job = Job({"training": {"checkpoint_local": str(tmp_path / "fast")}}, LAYOUT, "tokens", str(partial), run="0123")
    job.write()
    assert str(local) in longcat("clean", "--workspace", tmp_path).stdout
    assert local.exists()
    removed = json.loads(longcat("clean", "--workspace", tmp_path, "--yes", "--json").stdout)
    assert [row["local"] for row in removed["half_made"]] == [str(local)]
    assert not local.exists()
    assert [row["path"] for row in removed["half_made"]] == [str(partial)]
    assert removed["removed"]
    assert not partial.exists()
    assert finished.exists()
    assert longcat("clean", "--workspace", tmp_path).stdout == "nothing to remove\n"
    assert "no such folder" in one_error(longcat("clean", "--workspace", tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("call", ["read-only", "full"])
def test_a_workspace_that_takes_no_files_is_one_line(longcat, tmp_path, call):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    try:
        if call == "full":
            with (tmp_path / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while stream.write(bytes(4096)):
                    pass
        if call == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        line = one_error(longcat("pretrain", "--preset", "smoke", "--workspace", tmp_path))
        expected = {"read-only": "Read-only file system", "full": "no space left"}[call]
        assert expected in line
        assert "choose another --workspace" in line
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_log_that_the_disk_does_not_take_is_no_reason_to_stop(capfd):
    with redirected_output(Path("/dev/full"), lambda _: None):
        print("of a library")
        logging.getLogger("longcat").warning("of ours")
        subprocess.run([sys.executable, "-c", "print('of a child')"], stdout=sys.stdout, stderr=subprocess.DEVNULL)
    assert capfd.readouterr().err == ""


def test_a_full_disk_outside_of_stages_is_one_line(longcat, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr("longcat.interchange.convert.export", full)
    (tmp_path / "config.json").touch()
    line = one_error(longcat("export", "--checkpoint", tmp_path, "--output", tmp_path / "out"))
    assert line.startswith("error: no space left, cannot write report.html")


def test_an_unknown_option_ends_with_2(longcat):
    result = longcat("run", "--prest", "smoke")
    assert result.returncode == 2
    assert "--prest" in result.stderr
    assert "Traceback" not in result.stderr


def test_pages_of_an_unused_workspace(longcat, tmp_path):
    assert "nothing has been run" in one_error(longcat("ui", "--workspace", tmp_path))


# ---------------------------------------------------------------------------------------------------- quick answers


def test_presets_as_json_and_resolved(longcat):
    rows = json.loads(longcat("presets", "--json").stdout)
    assert {"smoke", "tiny", "small"} <= {row["name"] for row in rows}
    assert all(0 < row["activated_parameters"] < row["total_parameters"] for row in rows)
    shown = json.loads(longcat("presets", "--show", "tiny", "--json").stdout)
    assert shown["preset"] == "tiny"
    assert shown["model"]["vocab_size"] == shown["corpus"]["vocabulary_size"]


def test_presets_show_the_size_of_the_model(longcat):
    shown = json.loads(longcat("presets", "--show", "longcat-flash", "--json").stdout)
    assert shown["ngram_parameters"] == 0
    assert shown["total_parameters"] == sum(shown["parameters"].values())
    least, most = shown["activated_parameters_range"]
    assert least < shown["activated_parameters"] < most < shown["total_parameters"]
    assert shown["activated_parameters"] == pytest.approx(27.15e9, rel=1e-3)
    assert f"{shown['total_parameters']:,}" in longcat("presets", "--show", "longcat-flash").stdout


def test_generate_continues_a_text(longcat, tmp_path):
    config = load_config("smoke").model
    model = LongcatModel(config)
    model.initialize(0)
    save_huggingface(model, tmp_path)
    assert "tokenizer.json" in one_error(longcat("generate", "--checkpoint", tmp_path))
    train_tokenizer(["some words to learn from, " * 50], 300).save(str(tmp_path / "tokenizer.json"))
    command = ("generate", "--checkpoint", tmp_path, "--prompt", "some words", "--max-tokens", "9")
    greedy = longcat(*command)
    assert greedy.returncode == 0
    assert greedy.stdout.startswith("some words")
    assert longcat(*command).stdout == greedy.stdout
    assert longcat(*command, "--temperature", "2", "--seed", "3").stdout != greedy.stdout
    assert "256 positions" in one_error(longcat(*command[:-1], "300"))
    (tmp_path / "prompts.txt").write_text("some words\nto learn\n")
    several = longcat(*command, "--prompt", "from", "--prompts", tmp_path / "prompts.txt", "--json")
    found = [json.loads(line) for line in several.stdout.splitlines()]
    assert [one["prompt"] for one in found] == ["some words", "from", "some words", "to learn"]
    assert found[0] == found[2]
    assert found[0]["prompt"] + found[0]["text"] == greedy.stdout.removesuffix("\n")


def test_export_and_import_go_around(longcat, tmp_path):
    model = LongcatModel(load_config("smoke").model)
    model.initialize(0)
    save_huggingface(model, tmp_path / "ours")
    train_tokenizer(["some words to learn from, " * 50], 300).save(str(tmp_path / "ours/tokenizer.json"))
    command = ("export", "--checkpoint", tmp_path / "ours", "--format", "huggingface", "--output", tmp_path / "theirs")
    assert longcat(*command, "--dtype", "bfloat16", "--shard-gb", "0.001").stdout.strip() == str(tmp_path / "theirs")
    assert (tmp_path / "theirs/tokenizer_config.json").is_file()
    assert "not empty" in one_error(longcat(*command))
    other = ("export", "--checkpoint", tmp_path / "ours", "--output", tmp_path / "other", "--format", "gguf")
    assert "'gguf' is not supported; there are huggingface and mindspore" in one_error(longcat(*other))
    result = longcat("import", tmp_path / "theirs", "--workspace", tmp_path / "workspace")
    folder = Path(result.stdout.strip())
    by_digest = ("export", "--checkpoint", folder.name[:6], "--workspace", tmp_path / "workspace")
    longcat(*by_digest, "--output", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").is_file()
    unknown = one_error(longcat(*by_digest[:2], "0123", *by_digest[3:], "--output", tmp_path / "third"))
    assert "no checkpoint in" in unknown
    assert folder.parent == tmp_path / "workspace/checkpoint"
    generated = [
        longcat("generate", "--checkpoint", place, "--prompt", "some") for place in (folder, tmp_path / "theirs")
    ]
    assert generated[0].returncode == 0
    assert generated[0].stdout == generated[1].stdout
    assert "config.json" in one_error(longcat("import", tmp_path, "--workspace", tmp_path / "workspace"))


QUICK = [["presets"], ["--help"], ["run", "--help"], ["run", "--preset", "tny"]]
LOADED = """
import contextlib, io, json, sys
from longcat.flows.dag import STAGES
from longcat import cli

loaded = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["longcat", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    loaded.append(sorted(sys.modules))
print(json.dumps(loaded))
"""


def test_quick_commands_import_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(QUICK)], capture_output=True, text=True, check=True
    )
    after = json.loads(result.stdout)
    assert len(after) == len(QUICK)
    for arguments, loaded in zip(QUICK, after, strict=True):
        assert "longcat.errors" in loaded
        assert not set(loaded) & {"torch", "prefect", "mlflow", "datasets", "transformers"}, arguments


def test_doctor_ends_with_2_when_something_is_missing(monkeypatch, capsys):
    facts = {
        "environment": {"packages": {"torch": None}},
        "accelerator": {"npu": "no [npu]"},
        **{name: {} for name in ("machine", "workspace")},
        "network": {"cards": {}, "variables": {}},
        "conclusion": "nothing runs",
        "notes": [],
    }
    for problems, code in (([], 0), (["torch is not installed: run make setup"], 2)):
        monkeypatch.setattr("longcat.doctor.examine", lambda _, found=problems: facts | {"problems": found})
        monkeypatch.setattr(sys, "argv", ["longcat", "doctor"])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == code
        out = capsys.readouterr().out
        assert "no [npu]" in out and ("problem: torch" in out) == bool(problems)


def test_doctor_prints_only_json(tmp_path):
    """As a program: standard output is what a pipe gets."""
    result = process("doctor", "--json", "--workspace", tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)["environment"]["python"].startswith("3.")


# ---------------------------------------------------------------------------------------------------- exit codes


def leave_with(monkeypatch, error):
    """Exit code of a command whose work raises `error`."""

    def work(*_, **__):
        raise error

    monkeypatch.setattr("longcat.commands.run.run_flow", work)
    monkeypatch.setattr(sys, "argv", ["longcat", "run"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_failures_end_with_1(monkeypatch, capsys):
    monkeypatch.delenv("LONGCAT_DEBUG", raising=False)
    assert leave_with(monkeypatch, TrainingError("rank 1: lost")) == 1
    assert capsys.readouterr().err == "error: rank 1: lost\n"
    unforeseen = ValueError("odd\nand more")
    unforeseen.add_note("details are in run.log")
    assert leave_with(monkeypatch, unforeseen) == 1
    assert capsys.readouterr().err == "error: ValueError: odd (details are in run.log)\n"
    monkeypatch.setenv("LONGCAT_DEBUG", "1")
    assert leave_with(monkeypatch, ValueError("odd")) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [(["presets"], 0), (["presets", "nothing-of-the-kind"], 2)])
def test_a_process_ends_with_the_code_of_its_command_after_its_exit_handlers(arguments, code):
    program = (
        "import atexit, sys; from longcat import cli; main = cli.main; "
        "cli.main = lambda: (atexit.register(print, 'handled'), main()); "
        f"sys.argv = ['longcat', *{arguments}]; cli.program()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "handled"
    assert bool(done.stderr) == bool(code)
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    assert leave_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "last checkpoint" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- the terminal


def test_lines_where_there_is_no_terminal(capsys):
    with Display(quiet=False) as display:
        for step in range(100):
            display(Progress("pretrain", step, 100, f"[step {step}]"))
        display(Progress("benchmark", 0, 0, "timing"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["pretrain     0% [step 0]", "pretrain    99% [step 99]", "benchmark  timing"]


def test_what_was_the_last_line_is_not_said_again(capsys, monkeypatch):
    monkeypatch.setattr("longcat.terminal.LINE_EVERY_S", 0)
    with Display(quiet=False) as display:
        for message in ("starting", "starting", "step 1", "step 1", "starting"):
            display(Progress("pretrain", 0, 100, message))
    said = [line.split("% ")[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["starting", "step 1", "starting"]


class Terminal(io.StringIO):
    """A terminal of any width, and what it shows at the end."""

    def isatty(self):
        return True

    @property
    def lines(self):
        """Lines of the last drawing, as they are seen."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue().rpartition("\x1b[2K")[2])
        return [line.rstrip() for line in plain.splitlines() if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    def of(columns):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"COLUMNS": str(columns), "LINES": "50", "TERM": "xterm"}.items():
            monkeypatch.setenv(name, value)
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        monkeypatch.setattr(sys, "stdout", made)
        return made

    return of


LINE = "step 20 of 100, loss 3.250, held-out loss 3.750, 12,346 tokens/s, MFU 2.1%, 8 min left"


@pytest.mark.parametrize("columns", [80, 40])
def test_bars_keep_what_each_stage_said_last(terminal, columns):
    shown = terminal(columns)
    with Display(quiet=False) as display:
        display(Progress("pretrain", 0, 100, "starting processes"))
        display(Progress("pretrain", 20, 100, LINE))
        display(Progress("benchmark", 1, 4, "timing"))
        display(Progress("benchmark", 4, 4, "MFU 1.2%"))
    assert max(map(len, shown.getvalue().splitlines())) < 1000
    text = " ".join(" ".join(shown.lines).split())
    assert all(word in text for word in LINE.split())
    assert text.count("100%") == 2
    assert "MFU 1.2%" in text and "starting" not in text


def test_bars_of_what_fails_stay_where_they_were(terminal):
    shown = terminal(80)
    with contextlib.suppress(ValueError), Display(quiet=False) as display:
        display(Progress("pretrain", 20, 100, LINE))
        raise ValueError
    assert " 20%" in "".join(shown.lines) and "100%" not in "".join(shown.lines)


def test_no_colour_where_none_is_wanted(terminal, monkeypatch):
    shown = terminal(80)
    monkeypatch.setenv("NO_COLOR", "1")
    with Display(quiet=False) as display:
        display.warn("odd")
        display(Progress("pretrain", 20, 100, LINE))
    assert not re.findall(r"\x1b\[(?:\d+;)*(?:3\d|9\d|38|48)(?:;\d+)*m", shown.getvalue())


def test_what_was_decided_is_shown_unless_quiet(terminal, capsys):
    Display(quiet=True).show({"device": "cpu"})
    Display(quiet=False).show({"device": "a [cpu]", "kernels": "none"})
    captured = capsys.readouterr()
    assert captured.err == "device   a [cpu]\nkernels  none\n"
    shown = terminal(40)
    Display(quiet=False).show({"device": LINE})
    assert len(shown.getvalue().splitlines()) == 3


def test_chatter_goes_to_the_log_and_warnings_to_people(tmp_path, capsys):
    import logging

    warned = []
    with (
        pytest.raises(ValueError, match="odd") as caught,
        redirected_output(tmp_path / "logs" / "run.log", warned.append),
    ):
        print("said by a library")
        print("complained by a library", file=sys.stderr)
        logging.getLogger("some.library").warning("not for people")
        logging.getLogger("prefect.task_runs").warning("for people")
        raise ValueError("odd")
    log = (tmp_path / "logs" / "run.log").read_text()
    for text in ("said by", "complained by", "not for people", "for people", "Traceback"):
        assert text in log
    assert warned == ["for people"]
    assert str(tmp_path) in caught.value.__notes__[0]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


SUMMARY = {
    "flow": "pipeline",
    "preset": "tiny",
    "seconds": 3,
    "workspace": "/w of mine",
    "stages": [
        {
            "stage": "pretrain",
            "status": "cached",
            "headline": "loss 3.5",
            "remarks": [],
            "seconds": 1.25,
            "mlflow_run_id": "0" * 32,
            "artifact": {"kind": "checkpoint", "path": "/w of mine/checkpoint/d"},
        },
        {
            "stage": "benchmark",
            "status": "run",
            "headline": "MFU [1%]",
            "remarks": ["Verdict: [all] well."],
            "seconds": 1.25,
            "mlflow_run_id": None,
            "artifact": {"kind": "benchmark", "path": "/w of mine/benchmark/d"},
        },
    ],
    "mlflow": {"warning": None},
}


@pytest.fixture(autouse=True)
def no_servers(monkeypatch):
    for variable in SERVERS.values():
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("columns", [None, 110, 80, 40])
def test_summary_table(capsys, terminal, columns):
    shown = terminal(columns) if columns else None
    print_summary(SUMMARY)
    out = shown.getvalue() if shown else capsys.readouterr().out
    out = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "cached" in out and "MFU [1%]" in out and "0" * 32 in out and "not sent yet" in out
    assert "Verdict: [all] well." in out
    assert "reused" not in out
    assert "…" not in out
    tables = [line for line in out.splitlines() if line[0] in "│┃┏└"]
    assert bool(tables) == (columns != 40)
    assert all(len(line) <= (columns or 140) for line in tables)


def test_the_title_has_what_the_user_waited(capsys):
    print_summary(SUMMARY, 25.46)
    assert ", 25.5 s" in capsys.readouterr().out


def test_the_next_commands_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/my env/longcat"])
    checkpoint, after, generate, ui = next_steps(SUMMARY)
    assert checkpoint == "Checkpoint: /w of mine/checkpoint/d"
    assert after == "Next:"
    words = shlex.split(generate)
    assert words[0] == "/opt/my env/longcat"
    typer.main.get_command(cli.app).commands["generate"].make_context("generate", words[2:])
    assert words[1:4] == ["generate", "--checkpoint", "/w of mine/checkpoint/d"]
    assert shlex.split(ui, comments=True) == ["/opt/my env/longcat", "ui", "--workspace", "/w of mine"]
    monkeypatch.setattr(sys, "argv", ["/x/cli.py"])
    assert shlex.split(next_steps(SUMMARY)[2])[:3] == [sys.executable, "-m", "longcat"]


def test_pages_of_own_servers_are_named_instead(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@curves:5000/")
    (_, named, *_, ui) = next_steps(SUMMARY)
    assert named.startswith("MLflow: http://") and "curves:5000" in named and "secret" not in named
    assert "ui --workspace" in ui
    monkeypatch.setenv("PREFECT_API_URL", "http://flows:4200/api")
    lines = next_steps(SUMMARY)
    assert "Prefect: http://flows:4200" in lines
    assert not [line for line in lines if " ui " in line]
    tokens = {**SUMMARY, "stages": [{**SUMMARY["stages"][0], "artifact": {"kind": "tokens", "path": "/t"}}]}
    assert not [line for line in next_steps(tokens) if "Next" in line or "generate" in line]


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_run_prints_only_json(smoke_run):
    workspace, said = smoke_run
    assert said["stderr"] == ""
    rows = json.loads(said["stdout"])["stages"]
    assert [(row["stage"], row["status"]) for row in rows] == [("preprocess", "run"), ("pretrain", "run")]
    assert not (workspace / ".lease").exists()


@pytest.mark.slow
def test_sigterm_ends_every_process(smoke_tokens, smoke_settings):
    settings = [part for setting in (*smoke_settings, "training.steps=100000") for part in ("--set", setting)]
    command = [sys.executable, "-m", "longcat.cli", "pretrain", "--preset", "smoke", *settings]
    with subprocess.Popen(
        [*command, "--workspace", str(smoke_tokens)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        family = wait_for_ranks(process)
        process.terminate()
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert out == ""
    assert err.splitlines()[-1].startswith("error: stopped by SIGTERM")
    assert "Traceback" not in err
    assert [member for member in family if member.is_running() and member.status() != "zombie"] == []
    assert not (smoke_tokens / ".lease").exists()


def wait_for_ranks(process):
    """All descendants once two ranks have reported a step."""
    assert process.stderr is not None
    said = []
    while line := process.stderr.readline():
        if "loss" in line:
            return psutil.Process(process.pid).children(recursive=True)
        said.append(line)
    raise AssertionError(f"it ended before a step of training was reported:\n{''.join(said)}")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_what_fails_because_of_a_signal_is_told_as_the_signal(monkeypatch, capsys, number, said):
    """As a module whose import it cut short, and that others find half made."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def work(*_, **__):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except BaseException:
            raise NameError("name 'base_events' is not defined") from None

    monkeypatch.setattr("longcat.commands.run.run_flow", work)
    monkeypatch.setattr(sys, "argv", ["longcat", "run"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 128 + number
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and "NameError" not in err and err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [["presets"], ["presets", "nothing-of-the-kind"]])
def test_a_signal_after_the_command_ends_the_process_without_a_word(number, arguments):
    """As a second one, while Python takes the process down, or while the reason of the end is told."""
    code = (
        "import atexit, os, signal, sys; from longcat import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell's background began the tests
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))\n"
        f"sys.argv = ['longcat', *{arguments}]\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -number
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("command", ["run", *(stage.name for stage in STAGES)])
def test_every_flow_can_be_told_to_read_everything_again(command):
    parameters = {parameter.name for parameter in typer.main.get_command(cli.app).commands[command].params}
    assert {"preset", "config", "set_", "workspace", "as_json", "rehash"} <= parameters


@pytest.mark.parametrize(
    "arguments",
    [
        ["presets", "--json"],
        ["presets"],
        ["mfu", "--help"],
        ["doctor"],
        ["doctor", "--json"],
        ["dispatch", "--example"],
        ["--help"],
        [],
    ],
)
def test_a_reader_that_has_gone_is_no_error(arguments):
    """As after `| head -1`."""
    command = [sys.executable, "-m", "longcat.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 128 + signal.SIGPIPE


def test_output_that_cannot_be_written_is_an_error_of_its_own(tmp_path):
    """As on a full disk; `longcat presets > FILE` would else seem to have worked, or the workspace would be blamed."""
    command = [sys.executable, "-B", "-m", "longcat.cli", "presets"]
    with (tmp_path / "presets.txt").open("wb") as file:
        result = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8)),
        )
    assert result.returncode == 2
    assert result.stderr == "error: standard output cannot be written: File too large\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_without_standard_streams_works(closed):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "longcat.cli", "presets", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert bool(result.stdout) == (">&-" not in closed.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "a", "b", "--html"],
        [
            "mfu",
            "--model",
            "tiny",
            "--device",
            "a100-80gb",
            "--sequence-length",
            256,
            "--tokens-per-second",
            9,
            "--html",
        ],
        ["plan", "--model", "tiny", "--device", "ascend-910b2", "--devices", 8, "--html"],
        ["assess", "--model", "tiny", "--to", "ascend-910b2:8", "--html"],
        ["assess", "--model", "tiny", "--to", "ascend-910b2:8", "--markdown"],
        ["port", "scan", ".", "--html"],
    ],
)
def test_a_file_of_an_answer_is_refused_before_the_work_for_it(longcat, tmp_path, arguments):
    option, typo = arguments[-1], tmp_path / "typo"
    assert f"{option} {tmp_path}: that is a folder" in one_error(longcat(*arguments, tmp_path))
    assert f"there is no folder {typo}" in one_error(longcat(*arguments, typo / "page.html"))
    assert list(tmp_path.iterdir()) == []


def test_bounds_are_written_out(longcat):
    line = one_error(longcat("plan", "--model", "tiny", "--device", "ascend-910b2", "--devices", 0))
    assert "--devices must be above 0 and at most 1,048,576, found 0" in line


def test_a_narrow_list_of_presets_cuts_nothing(longcat):
    text = longcat("presets", COLUMNS="40").stdout
    assert "…" not in text
    assert {f"training tokens: {row}" for row in ("0.66 M", "1,677.72 B")} <= {row.strip() for row in text.splitlines()}
