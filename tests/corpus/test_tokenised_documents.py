"""What is decided over all blocks, and what an interruption costs."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.documents import DOCUMENTS
from longcat.corpus.mapping import processes
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer
from longcat.errors import ConfigError, LongcatError
from tests.waiting import all_gone, wait_until

WORDS = [
    "harbour",
    "pier",
    "boat",
    "net",
    "herring",
    "basket",
    "wind",
    "rope",
    "anchor",
    "tide",
    "lamp",
    "bell",
    "crew",
    "deck",
    "sail",
    "storm",
]


def text(number, length=90):
    chooser = np.random.default_rng(number)
    return f"Log {number}. " + " ".join(chooser.choice(WORDS, length)) + "."


TEXTS = [text(number) for number in range(240)]


def write(path, texts=TEXTS):
    path.write_text("".join(json.dumps({"text": item}, ensure_ascii=False) + "\n" for item in texts))
    return path


def configure(source, *overrides):
    return load_config(
        "smoke",
        overrides=[
            f"corpus.sources={source}", "corpus.min_characters=20", "corpus.vocabulary_size=300",
            "corpus.block_bytes=20000", *overrides,
        ],
    )  # fmt: skip


def run(tmp_path, source, *overrides, workspace="workspace"):
    return preprocess(configure(source, "corpus.workers=1", *overrides), workspace=Workspace(tmp_path / workspace))


def folder_of(tokens, kind="documents"):
    return tokens.path.parents[1] / kind / tokens.facts.documents_artifact


def texts_of(tokens):
    """All documents, in their order."""
    folder = folder_of(tokens)
    table, blocks = np.load(folder / DOCUMENTS), json.loads((folder / "blocks.json").read_text())
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    files = [np.load(folder / f"{block}.tokens.npy") for block in blocks]
    spans = zip(table["block"].tolist(), table["begin"].tolist(), table["tokens"].tolist(), strict=True)
    assert all(
        files[block][begin + count - 1] == 2
        for block, begin, count in zip(*(table[n].tolist() for n in ("block", "begin", "tokens")), strict=True)
    )
    return [decode(tokenizer, files[block][begin : begin + count - 1]) for block, begin, count in spans]


def contents(tokens):
    found = {}
    for directory in (tokens.path, folder_of(tokens)):
        found |= {
            str(path.relative_to(directory)): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
    return found


def test_documents_come_back_in_their_order_from_all_blocks(tmp_path):
    tokens = run(tmp_path, write(tmp_path / "a.jsonl"))
    assert len(list(folder_of(tokens).rglob("*.tokens.npy"))) > 5
    assert texts_of(tokens) == TEXTS


def test_of_duplicates_in_other_blocks_the_first_stays(tmp_path):
    near = TEXTS[10].replace("Log 10.", "Log ten.")
    texts = [*TEXTS[:100], TEXTS[3], TEXTS[50], near, *TEXTS[100:], TEXTS[0]]
    tokens = run(tmp_path, write(tmp_path / "a.jsonl", texts), "corpus.near_duplicates={threshold: 0.7}")
    assert texts_of(tokens) == TEXTS
    assert tokens.facts.dropped["duplicate"] == 3
    assert tokens.facts.dropped["near_duplicate"] == 1
    samples = json.loads((folder_of(tokens) / "samples.json").read_text())
    of = {
        reason: [sample["text"] for sample in samples if sample["reason"] == reason]
        for reason in (None, "duplicate", "near_duplicate")
    }
    assert of["near_duplicate"] == [near[:300]]
    assert of["duplicate"] == [TEXTS[3][:300], TEXTS[50][:300], TEXTS[0][:300]]
    by_key = sorted(TEXTS, key=lambda item: hashlib.sha256(item.encode()).digest()[8:16])
    assert of[None] == [item[:300] for item in by_key[:3]]
    assert {sample["source"] for sample in samples} == {0}


def test_paragraphs_of_earlier_documents_are_cut_out(tmp_path):
    notice = "This notice stands at the end of every page and says nothing new. " * 2
    short = "Short and repeated."
    texts = [f"{item}\n\n{notice}\n \n{short}\n\nEnd of {n} 页。" for n, item in enumerate(TEXTS[:60])] + [notice]
    tokens = run(tmp_path, write(tmp_path / "a.jsonl", texts), "corpus.repeated_paragraph_characters=60")
    cut = [f"{item}\n\n{short}\n\nEnd of {n} 页。" for n, item in enumerate(TEXTS[:60])]
    assert texts_of(tokens) == [texts[0], *cut[1:]]
    assert tokens.facts.paragraphs_cut == 59
    assert tokens.facts.dropped["repeated_paragraphs"] == 1
    assert tokens.facts.text_bytes == sum(len(item.encode()) for item in texts_of(tokens))


def test_number_of_processes_does_not_change_a_byte(tmp_path):
    path = write(tmp_path / "a.jsonl", [*TEXTS, TEXTS[7]])
    one = run(tmp_path, path, "corpus.near_duplicates={}", workspace="one")
    two = run(tmp_path, path, "corpus.near_duplicates={}", "corpus.workers=2", workspace="two")
    assert (one.digest, contents(one)) == (two.digest, contents(two))


def test_a_limit_of_documents_holds_across_blocks(tmp_path):
    path = write(tmp_path / "a.jsonl")
    for limit in (30, 31, 100):
        sources = json.dumps([{"kind": "files", "path": str(path), "max_documents": limit}])
        tokens = run(tmp_path, sources, workspace=str(limit))
        assert texts_of(tokens) == TEXTS[:limit]
        assert tokens.facts.sources[0]["documents"] == limit


def test_other_mixtures_start_from_the_same_documents(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    first = run(tmp_path, path)
    monkeypatch.setattr("longcat.corpus.stage.build_documents", lambda *_: pytest.fail("built again"))
    longer = run(tmp_path, path, "corpus.sequence_length_tokens=128")
    fewer = run(tmp_path, path, "corpus.mixture_tokens=2000")
    digests = {tokens.facts.documents_artifact for tokens in (first, longer, fewer)}
    assert len(digests) == 1
    assert len({tokens.digest for tokens in (first, longer, fewer)}) == 3
    assert fewer.facts.train_tokens < 3000 < longer.facts.train_tokens


def test_an_existing_tokenizer_gives_the_same_tokens(tmp_path):
    path = write(tmp_path / "a.jsonl")
    trained = run(tmp_path, path)
    given = run(tmp_path, path, f"corpus.tokenizer={folder_of(trained) / 'tokenizer.json'}")
    assert given.digest != trained.digest
    here, there = contents(trained), contents(given)
    assert {n: here[n] for n in here if n.endswith(".npy")} == {n: there[n] for n in there if n.endswith(".npy")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.end_of_text=<eos>"], "has no special token '<eos>' .*</longcat_s>"),
        (["corpus.vocabulary_size=290"], "has ids up to 299; corpus.vocabulary_size=290 has to be at least 300"),
        (["corpus.tokenizer=nowhere.json"], "cannot read tokenizer nowhere.json: No such file"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(tmp_path, overrides, message):
    path = write(tmp_path / "a.jsonl")
    trained = folder_of(run(tmp_path, path)) / "tokenizer.json"
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, path, f"corpus.tokenizer={trained}", *overrides)


def test_a_function_scores_documents(tmp_path, monkeypatch):
    (tmp_path / "my_quality.py").write_text("def score(text):\n    return float(text.split()[1].rstrip('.')) % 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "a.jsonl")
    tokens = run(tmp_path, path, "corpus.quality={function: 'my_quality:score', minimum: 1}")
    assert texts_of(tokens) == TEXTS[1::2]
    assert tokens.facts.dropped["quality"] == 120
    with pytest.raises(ConfigError, match="my_quality:absent cannot be imported"):
        run(tmp_path, path, "corpus.quality={function: 'my_quality:absent', minimum: 1}")


def test_wrong_decodings_are_left_out_or_mended(tmp_path):
    texts = [*TEXTS[:60], "The captainâ€™s log says that the crew donâ€™t sail in a storm, cafÃ© or not."]
    kept = run(tmp_path, write(tmp_path / "a.jsonl", texts))
    mended = run(tmp_path, tmp_path / "a.jsonl", "corpus.repair_encoding=true")
    assert texts_of(kept) == texts[:-1]
    assert texts_of(mended)[-1] == "The captain’s log says that the crew don’t sail in a storm, café or not."


# ---------------------------------------------------------------------------------------------------- interruptions

HANGING = """
import os, sys, time
from pathlib import Path
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus import block_tasks, stage
from longcat.corpus.mapping import processes

def hang_behind(blocks, function):
    def call(self, *arguments):
        while len(list(Path(os.environ["WORKSPACE"]).glob("documents/.*/scratch/0*/*/*.json"))) >= blocks:
            time.sleep(1)
        return function(self, *arguments)
    return call

block_tasks.Judge.verdict = hang_behind(int(os.environ["BLOCKS"]), block_tasks.Judge.verdict)
if __name__ == "__main__":
    config = load_config("smoke", overrides=sys.argv[2:])
    with processes(config.corpus.workers) as mapper:
        stage.preprocess(config, workspace=Workspace(sys.argv[1]), mapper=mapper)
"""


def start(tmp_path, path, workers, blocks):
    """A run that does not go on when so many blocks are judged."""
    script, workspace = tmp_path / "hanging.py", str(tmp_path / "workspace")
    script.write_text(HANGING)
    environment = {**os.environ, "WORKSPACE": workspace, "BLOCKS": str(blocks)}
    overrides = configure_overrides(path, workers)
    return subprocess.Popen([sys.executable, str(script), workspace, *overrides], env=environment)


def configure_overrides(path, workers):
    return [
        f"corpus.sources={path}", "corpus.min_characters=20", "corpus.vocabulary_size=300",
        "corpus.block_bytes=20000", f"corpus.workers={workers}",
    ]  # fmt: skip


def finished_blocks(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("workspace/documents/.*/scratch/0*/*/*.json")}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "blocks"), [(1, 1), (1, 4), (2, 3)])
def test_after_a_kill_only_the_blocks_in_work_are_done_again(tmp_path, workers, blocks):
    path = write(tmp_path / "a.jsonl")
    expected = contents(run(tmp_path, path, workspace="whole"))
    process = start(tmp_path, path, workers, blocks)
    try:
        wait_until(lambda: len(finished_blocks(tmp_path)) >= blocks, process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert all_gone(children)
    before = finished_blocks(tmp_path)
    assert blocks <= len(before) < 7
    judged = []

    def spying(tasks):
        for task in tasks:
            if not (task.scratch / f"{task.name}.json").exists():
                judged.append(task.name)
            yield task

    def mapper(function, items):
        yield from map(function, spying(items) if function.__name__ == "judge_block" else items)

    again = preprocess(configure(path), workspace=Workspace(tmp_path / "workspace"), mapper=mapper)
    assert not {f"{name}.json" for name in judged} & set(before)
    assert contents(again) == expected


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_clear_error(tmp_path):
    path = write(tmp_path / "a.jsonl")
    with processes(2) as mapper, pytest.raises(LongcatError, match="was killed by SIGKILL.*corpus.workers"):
        list(mapper(kill_oneself, range(4)))
    assert texts_of(run(tmp_path, path)) == TEXTS


def kill_oneself(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_other_code_are_not_used(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    expected = contents(run(tmp_path, path, workspace="whole"))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("longcat.corpus.documents.select", stop)
        run(tmp_path, path)
    [scratch] = tmp_path.glob("workspace/documents/.*/scratch")
    for file in scratch.glob("*.text"):
        file.write_bytes(b"x" * file.stat().st_size)
    (scratch.parent / ".code.json").write_text("{}")
    assert contents(run(tmp_path, path)) == expected


def test_a_mapper_keeps_the_order_and_takes_no_more_than_it_needs():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with processes(2) as mapper:
        results = mapper(abs, items())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert len(taken) < 20
        assert list(mapper(abs, [-5])) == [5]
        with pytest.raises(ZeroDivisionError):
            list(mapper(reciprocal, [1, 0, 2]))


def reciprocal(number):
    return 1 / number
