"""What is killed at any moment leaves nothing behind that a second run does not pick up or clear away."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.progress import no_progress
from tests.waiting import all_gone, wait_until

pytestmark = pytest.mark.slow

SCRIPT = '''
import itertools, os, signal, sys, time

import longcat.corpus.shards
import longcat.corpus.tokenizer
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import LongcatError

HANG = os.environ.get("HANG", "")
FATAL = os.environ.get("FATAL", "")


def hang_at_third(step, function):
    """Each process finishes two blocks or shards of the step and never the third."""
    calls = itertools.count(1)

    def call(*arguments):
        if step == HANG and next(calls) > 2:
            time.sleep(3600)
        return function(*arguments)

    return call


replace = os.replace


def fatal_replace(source, target):
    if FATAL and FATAL in str(target) and not FATAL.startswith("judging"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)


os.replace = fatal_replace
longcat.corpus.tokenizer.encode = hang_at_third("tokenising", longcat.corpus.tokenizer.encode)
longcat.corpus.shards.pack = hang_at_third("packing", longcat.corpus.shards.pack)


if __name__ == "__main__":
    try:
        preprocess(load_config("smoke", overrides=sys.argv[2:]), workspace=Workspace(sys.argv[1]))
    except LongcatError as error:
        sys.exit(f"{type(error).__name__}: {error}")
'''
# asked about every document, in the processes that are killed and in this one
SCORE = """
import os, signal, time


def score(text):
    if os.environ.get("HANG") == "judging" and int(text.split()[1].rstrip(":")) >= 40:
        time.sleep(3600)
    if os.environ.get("FATAL") == "judging" and text.startswith("Document 47:"):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""


@pytest.fixture(scope="session")
def folder(made_once):
    def make(folder):
        texts = [f"Document {n}: " + " ".join(f"word{(n * m) % 31}" for m in range(60)) + "\n" for n in range(80)]
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (folder / "work.py").write_text(SCRIPT)
        (folder / "scored_by.py").write_text(SCORE)

    return made_once("restart", make)


@pytest.fixture(autouse=True)
def quality(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))


def settings(folder, workers):
    return [
        f"corpus.sources={folder / 'a.jsonl'}", "corpus.min_characters=20", "corpus.vocabulary_size=400",
        "corpus.block_bytes=2000", f"corpus.workers={workers}", "corpus.shard_sequences=16",
        "corpus.quality={function: 'scored_by:score', minimum: 0}",
    ]  # fmt: skip


def start(folder, workspace, workers=2, **environment):
    """A run in another process, which dies or hangs where `environment` says."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{root}", **environment}
    command = [sys.executable, str(folder / "work.py"), str(workspace), *settings(folder, workers)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, workspace, **options):
    process = start(folder, workspace, **options)
    _, errors = process.communicate()
    return process.returncode, errors


def complete(folder, workspace, report=no_progress):
    """The content of both artifacts, when a run in this process has finished them."""
    config = load_config("smoke", overrides=settings(folder, workers=1))
    tokens = preprocess(config, workspace=Workspace(workspace), report=report).path
    [documents] = (workspace / "documents").glob("[!.]*")
    assert not list(workspace.glob("*/.*"))
    return contents(tokens), contents(documents)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def places(folder):
    """Inode and time of each finished file."""
    return {
        path.name: [path.stat().st_ino, path.stat().st_mtime_ns] for path in folder.rglob("[!.]*") if path.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return complete(folder, tmp_path_factory.mktemp("uninterrupted"))


def kill(process):
    """Kill a run the hard way; its workers have to follow."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert all_gone(workers)
    return workers


MOMENTS = [
    ("judging", "documents/.*.partial/scratch/0*/*/*.json", 5),
    ("tokenising", "documents/.*.partial/scratch/0*/*/*.rows.npy", 3),
    ("packing", "tokens/.*.partial/*.spans.npy", 3),
]


@pytest.mark.parametrize(("step", "pattern", "count"), MOMENTS)
def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, uninterrupted, step, pattern, count):
    process = start(folder, tmp_path, HANG=step)
    wait_until(lambda: len(list(tmp_path.glob(pattern))) >= count, process)
    assert kill(process)
    if step == "packing":
        [partial] = tmp_path.glob("tokens/.*.partial")
        [documents] = tmp_path.glob("documents/[!.]*")
        before = places(documents)
        done = {path.name.removesuffix(".spans.npy") for path in partial.glob("*.spans.npy")}
        finished = {name: place for name, place in places(partial).items() if name.split(".")[0] in done}
    else:
        [partial] = tmp_path.glob("documents/.*.partial")
        scratch = places(partial / "scratch")
        judged = {path.stem for path in (partial / "scratch").glob("0*/*/*.json")}
        judged_files = {name: place for name, place in scratch.items() if name.split(".")[0] in judged}
        tokenised = {path.name.split(".")[0] for path in (partial / "scratch").glob("0*/*/*.rows.npy")}
        finished = {
            name: place for name, place in places(partial).items() if name.removesuffix(".tokens.npy") in tokenised
        }
    judged_again = {}

    def report(progress):
        if progress.message == "training the tokenizer":
            [partial] = tmp_path.glob("documents/.*.partial")
            judged_again.update(places(partial))

    assert complete(folder, tmp_path, report) == uninterrupted

    if step == "packing":
        [tokens] = tmp_path.glob("tokens/[!.]*")
        [documents] = tmp_path.glob("documents/[!.]*")
        assert places(documents) == before
        assert finished.items() <= places(tokens).items()
        assert len(finished) >= 2 * count
        assert not judged_again
    else:
        assert len(judged) >= count if step == "judging" else len(judged) > 10
        assert judged_files.items() <= judged_again.items()
        if step == "tokenising":
            [documents] = tmp_path.glob("documents/[!.]*")
            assert len(finished) >= count
            assert finished.items() <= places(documents).items()


def test_a_killed_worker_is_one_clear_error_and_the_next_run_finishes(folder, tmp_path, uninterrupted):
    code, errors = finish(folder, tmp_path, FATAL="judging")
    assert code == 1
    assert re.match(
        r"WorkLostError: worker process \d+ was killed by SIGKILL .*in block 000/", errors.strip().splitlines()[-1]
    )
    assert "Traceback" not in errors
    assert list(tmp_path.glob("documents/.*.partial/scratch/0*/*/*.json"))
    assert complete(folder, tmp_path) == uninterrupted


@pytest.mark.parametrize("target", ["000/0000/0000003.tokens.npy", "train-00001.npy"])
def test_a_run_killed_while_it_writes_leaves_no_temporary_file_in_the_artifact(folder, tmp_path, uninterrupted, target):
    code, _ = finish(folder, tmp_path, workers=1, FATAL=target)
    assert code == -signal.SIGKILL
    assert complete(folder, tmp_path) == uninterrupted


@pytest.mark.parametrize("target", ["manifest.json", "0000003.json"])
def test_a_run_killed_at_other_files_is_picked_up(folder, tmp_path, uninterrupted, target):
    code, _ = finish(folder, tmp_path, workers=1, FATAL=target)
    assert code == -signal.SIGKILL
    assert not list(tmp_path.glob("*/[!.]*/"))
    assert complete(folder, tmp_path) == uninterrupted
