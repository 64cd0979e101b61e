"""What is killed at any moment leaves nothing behind that a second run does not pick up or clear away."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

import longcat.corpus.shards
import longcat.corpus.tokenizer
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import LongcatError

FOLDER = Path(__file__).parent
SLOW = os.environ.get("SLOW", "")
FATAL = os.environ.get("FATAL", "")


def score(text):
    if SLOW == "judging":
        time.sleep(0.01)
    if FATAL == "judging" and text.startswith("Document 47:"):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


encode, pack, replace = longcat.corpus.tokenizer.encode, longcat.corpus.shards.pack, os.replace


def slow_encode(*arguments):
    if SLOW == "tokenising":
        time.sleep(0.3)
    return encode(*arguments)


def slow_pack(*arguments):
    if SLOW == "packing":
        time.sleep(0.3)
    return pack(*arguments)


def fatal_replace(source, target):
    if FATAL and FATAL in str(target) and not FATAL.startswith("judging"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)


longcat.corpus.tokenizer.encode, longcat.corpus.shards.pack, os.replace = slow_encode, slow_pack, fatal_replace


def files(folder):
    return {str(path.relative_to(folder)): [path.stat().st_ino, path.stat().st_mtime_ns] for path in folder.rglob("*.*")
            if path.is_file()}


def report(progress):
    if progress.message == "training the tokenizer":
        [partial] = Path(sys.argv[1]).glob("documents/.*.partial")
        (FOLDER / "judged.json").write_text(json.dumps(files(partial)))


if __name__ == "__main__":
    config = load_config("smoke", overrides=[
        f"corpus.sources={FOLDER / 'a.jsonl'}", "corpus.min_characters=20", "corpus.vocabulary_size=400",
        "corpus.block_bytes=2000", f"corpus.workers={sys.argv[2]}", "corpus.shard_sequences=16",
        "corpus.quality={function: 'work:score', minimum: 0}",
    ])
    try:
        print(preprocess(config, workspace=Workspace(sys.argv[1]), report=report).path)
    except LongcatError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""
LIMIT_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restart")
    texts = [f"Document {n}: " + " ".join(f"word{(n * m) % 31}" for m in range(60)) + "\n" for n in range(80)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "work.py").write_text(SCRIPT)
    return folder


def start(folder, workspace, workers=2, **environment):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{root}", **environment}
    command = [sys.executable, str(folder / "work.py"), str(workspace), str(workers)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, workspace, **options):
    process = start(folder, workspace, **options)
    output, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, output.strip(), errors


def complete(folder, workspace, **options):
    code, path, errors = finish(folder, workspace, **options)
    assert code == 0, errors
    tokens = Path(path)
    [documents] = (workspace / "documents").glob("[!.]*")
    assert not list(workspace.glob("*/.*"))
    return contents(tokens), contents(documents)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.name != "manifest.json"
    }


def places(folder):
    """Inode and time of each finished file."""
    return {
        path.name: [path.stat().st_ino, path.stat().st_mtime_ns] for path in folder.rglob("[!.]*") if path.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    return complete(folder, tmp_path_factory.mktemp("uninterrupted"), workers=1)


def wait_until(condition, process):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process):
    """Kill a run the hard way; its workers have to follow."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=LIMIT_S)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    return workers


MOMENTS = [
    ("judging", "documents/.*.partial/scratch/0*.json", 5),
    ("tokenising", "documents/.*.partial/scratch/*.lengths.npy", 3),
    ("packing", "tokens/.*.partial/*.spans.npy", 3),
]


@pytest.mark.parametrize(("step", "pattern", "count"), MOMENTS)
def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, uninterrupted, step, pattern, count):
    process = start(folder, tmp_path, SLOW=step)
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
        judged = {path.stem for path in (partial / "scratch").glob("0*.json")}
        judged_files = {name: place for name, place in scratch.items() if name.split(".")[0] in judged}
        tokenised = {path.name.split(".")[0] for path in (partial / "scratch").glob("*.lengths.npy")}
        finished = {
            name: place for name, place in places(partial).items() if name.removesuffix(".tokens.npy") in tokenised
        }
    (folder / "judged.json").unlink(missing_ok=True)

    assert complete(folder, tmp_path, workers=1) == uninterrupted

    if step == "packing":
        [tokens] = tmp_path.glob("tokens/[!.]*")
        [documents] = tmp_path.glob("documents/[!.]*")
        assert places(documents) == before
        assert finished.items() <= places(tokens).items()
        assert len(finished) >= 2 * count
        assert not (folder / "judged.json").exists()
    else:
        again = {Path(name).name: place for name, place in json.loads((folder / "judged.json").read_text()).items()}
        assert len(judged) >= count if step == "judging" else len(judged) > 10
        assert judged_files.items() <= again.items()
        if step == "tokenising":
            [documents] = tmp_path.glob("documents/[!.]*")
            assert len(finished) >= count
            assert finished.items() <= places(documents).items()


def test_a_killed_worker_is_one_clear_error_and_the_next_run_finishes(folder, tmp_path, uninterrupted):
    code, _, errors = finish(folder, tmp_path, FATAL="judging")
    assert code == 1
    assert errors.strip().splitlines()[-1].startswith("LongcatError: a worker process was killed")
    assert "Traceback" not in errors
    assert list(tmp_path.glob("documents/.*.partial/scratch/0*.json"))
    assert complete(folder, tmp_path, workers=1) == uninterrupted


@pytest.mark.parametrize("target", ["000-00003.tokens.npy", "train-00001.npy"])
def test_a_run_killed_while_it_writes_leaves_no_temporary_file_in_the_artifact(folder, tmp_path, uninterrupted, target):
    code, *_ = finish(folder, tmp_path, workers=1, FATAL=target)
    assert code == -signal.SIGKILL
    assert complete(folder, tmp_path, workers=1) == uninterrupted


@pytest.mark.parametrize("target", ["manifest.json", "000-00003.json"])
def test_a_run_killed_at_other_files_is_picked_up(folder, tmp_path, uninterrupted, target):
    code, *_ = finish(folder, tmp_path, workers=1, FATAL=target)
    assert code == -signal.SIGKILL
    assert not list(tmp_path.glob("*/[!.]*/"))
    assert complete(folder, tmp_path, workers=1) == uninterrupted
