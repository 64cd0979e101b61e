"""Fixtures that several rooms share."""

import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback

import pytest

# read when torch is loaded: models of tests are so small that threads would only wait for each other, on a busy machine
# half a second for each operator
os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    from hypothesis import settings
except ImportError:  # the emulator's environment has no property tests
    pass
else:  # a busy machine takes longer over a law, which is no reason to doubt it
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "500")


SHARE_A_PROCESS = {"tests/flows/": "flows", "tests/tasks/": "flows"}
"""Folders whose tests share a Prefect server; elsewhere the tests of a file share a process, and its fixtures."""
ONE_BY_ONE = ("tests/training/test_resume.py",)
"""Files of long tests that share nothing but what `made_once` keeps."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out the tests to processes in the groups above."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::")[0]
            if path in ONE_BY_ONE:
                return nodeid
            return next((group for folder, group in SHARE_A_PROCESS.items() if path.startswith(folder)), path)

    return Scheduler(config, log)


def pytest_collection_modifyitems(items):
    """Begin with the slow tests, flows before all, so that the processes of a test run end at about the same time."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "flows" not in item.nodeid))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """A developer's own server or workspace must not be written to."""
    for name in ("LONGCAT_WORKSPACE", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def as_ordinary_user():
    """Calls a function in a process that may not pass over the modes of files, as root may."""

    def run(function):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    _drop_privileges_over_files()
                function()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    return run


def _drop_privileges_over_files():
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of this thread (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low and high words
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for word in range(3):
        sets[word] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Makes a folder once for all processes of a test run; it may be read, not changed."""
    import filelock

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def get(name, make):
        folder, done = shared / name, shared / f"{name}.done"
        with filelock.FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def corpus_file(made_once):
    """A small corpus of plain text documents, as .jsonl."""
    import random

    def make(folder):
        rng = random.Random(0)
        words = ["order", "rider", "noodle", "kitchen", "address", "minute", "charge", "coupon", "street", "delivery"]
        with (folder / "documents.jsonl").open("w") as stream:
            for _ in range(160):
                text = " ".join(rng.choice(words) for _ in range(rng.randrange(60, 160)))
                stream.write(json.dumps({"text": text + "."}) + "\n")

    return made_once("corpus", make) / "documents.jsonl"


SMOKE = ("training.processes=2", "training.checkpoint_every_steps=4")


@pytest.fixture(scope="session")
def smoke_settings(corpus_file):
    """What `smoke_run` lays over the preset `smoke`."""
    return [f"corpus.sources={corpus_file}", *SMOKE]


@pytest.fixture(scope="session")
def smoke_run(made_once, smoke_settings):
    """A workspace with tokens and a checkpoint of two processes, made by the program itself, and what it said."""

    def make(folder):
        settings = [part for setting in smoke_settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "longcat.cli", "pretrain", "--preset", "smoke", *settings, "--json"]
        done = subprocess.run(
            [*command, "--workspace", str(folder / "workspace")], capture_output=True, text=True, check=False
        )
        said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        (folder / "said.json").write_text(json.dumps(said))

    folder = made_once("smoke", make)
    said = json.loads((folder / "said.json").read_text())
    assert said["returncode"] == 0, said["stderr"]
    return folder / "workspace", said


@pytest.fixture
def smoke_tokens(smoke_run, tmp_path):
    """The test's own folder as a workspace that holds the tokens of `smoke_run`."""
    for kind in ("documents", "tokens"):
        shutil.copytree(smoke_run[0] / kind, tmp_path / kind)
    return tmp_path


@pytest.fixture(scope="session")
def ranks():
    """Runs functions on several ranks: `ranks.on_mesh(degrees, function, *arguments)`, see `tests.parallel.ranks`."""
    from tests.parallel.ranks import Ranks

    with Ranks() as ranks:
        yield ranks


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server for all flows that run in this process.

    The flows wait for MLflow even where a busy machine takes a minute over its first database.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        pytest.MonkeyPatch.context() as patch,
        prefect_test_harness(server_startup_timeout=500),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        for limit in ("START_S", "END_S"):
            patch.setattr(f"longcat.tracking.sender.{limit}", 300.0)
        yield


@pytest.fixture(autouse=True)
def signal_handlers():
    """What a command does with signals ends with the test that ran it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def longcat(monkeypatch):
    """Runs a command as `longcat ARGUMENTS` does, but in this process, and leaves the process as it was."""
    from longcat import cli

    def run(*arguments, **environment):
        variables = dict(os.environ)
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["longcat", *map(str, arguments)])
        os.environ.update(environment)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
                cli.main()
        finally:
            os.environ.clear()
            os.environ.update(variables)
        return subprocess.CompletedProcess(arguments, left.value.code, out.getvalue(), err.getvalue())

    return run
