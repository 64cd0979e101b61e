"""Made-up text about local services as a source of a corpus."""

import hashlib
import itertools
import json
import re

import pytest

from longcat.artifact import Workspace
from longcat.config import SourceConfig, load_config
from longcat.corpus import sources
from longcat.corpus.checks import check_corpus
from longcat.corpus.sources import resolve
from longcat.corpus.stage import preprocess
from longcat.errors import ConfigError
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import CUE, OPTIONS, REASON
from longcat.local_services.training_text import VERSION
from longcat.provenance import ROOT

ITEMS = ROOT / "data/evaluation/local_services/broken_window_en.jsonl"
KNOWN = {
    1: {
        "zh": "d569d9cc7405c8b1ba57edcf96c6b01a6856906f3d1b6ed94f50512e29cd5b62",
        "en": "44cf0fc8be5700103536a25b12c4c196d130c4fc9ec30e14ad06a6390fe6236f",
    }
}
"""SHA-256 of the first 90 texts of seed 0, by version."""


def source(language="en", count=20, seed=0, **more):
    settings = {"kind": "local_services", "language": language, "count": count, "seed": seed, **more}
    return resolve(SourceConfig.model_validate(settings), 1 << 24)


def texts(source):
    return [record for block in source.blocks for record in block.records([], 1 << 24)]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_another_text_needs_another_version(language):
    content = json.dumps(texts(source(language, 90)), ensure_ascii=False)
    assert hashlib.sha256(content.encode()).hexdigest() == KNOWN[VERSION][language]


def test_what_is_made_follows_language_count_and_seed_and_so_does_the_pin():
    variants = [
        *(source(), source("zh"), source(count=21), source(seed=1)),
        *(source(tasks=["intent", "dispatch"]), source(tasks=["dispatch", "intent"]), source(forms=["plain"])),
    ]
    assert len({str(one.pin) for one in variants}) == len({str(texts(one)) for one in variants}) == 7
    assert [len(texts(one)) for one in variants] == [20, 20, 21, 20, 20, 20, 20]
    assert source().pin == source().pin
    assert texts(source()) == texts(source())


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_recipe_chooses_tasks_and_forms(language):
    cue, reason = CUE[language], REASON[language]
    of_task = {name: texts(source(language, 12, tasks=[name], forms=["plain"])) for name in TASKS}
    for found in of_task.values():
        assert len(set(found)) == 12
        assert all(text.count(cue) == 1 and reason not in text and text.count("\n") == 1 for text in found)
    mixed = texts(source(language, 12, tasks=["intent", "dispatch"], forms=["plain"]))
    assert mixed[::2] == of_task["intent"][:6]
    assert mixed[1::2] == of_task["dispatch"][:6]
    for text in texts(source(language, 12, forms=["explained"])):
        assert text.index(cue) < text.index(reason)
    for text in texts(source(language, 12, forms=["reasoned"])):
        assert text.index(reason) < text.index(cue)
    for text in texts(source(language, 12, tasks=["intent"], forms=["listed"])):
        assert OPTIONS[language][0] in text


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("tasks", "intents", "no task 'intents'; did you mean 'intent'?; there are: dispatch, "),
        ("tasks", "qqq", "no task 'qqq'; there are: dispatch, "),
        ("forms", "plane", "no form 'plane'; did you mean 'plain'?; there are: plain, listed, explained, reasoned"),
    ],
)
def test_names_that_there_are_not_are_refused_before_anything_starts(field, name, message):
    settings = {"kind": "local_services", "language": "en", "count": 9, field: [name]}
    config = load_config("smoke", overrides=[f"corpus.sources={json.dumps([settings])}"])
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_corpus(config)
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(config.corpus.sources[0], 1 << 24)


def test_blocks_have_different_texts_and_their_own_seeds(monkeypatch):
    monkeypatch.setattr(sources, "_TEXTS_OF_BLOCK", 8)
    found = source(count=20)
    blocks = [list(block.records([], 1 << 24)) for block in found.blocks]
    assert [len(block) for block in blocks] == [8, 8, 4]
    for one, other in itertools.combinations(
        blocks + [list(block.records([], 1)) for block in source(seed=1).blocks], 2
    ):
        assert set(one).isdisjoint(other)


def test_items_that_were_mixed_into_training_text_are_taken_out(tmp_path):
    items = [json.loads(line) for line in ITEMS.read_text("utf-8").splitlines()[:30]]
    leak = [{"text": f"{item['question']}\nAnswer: {item['choices'][item['answer']]}"} for item in items]
    (tmp_path / "leak.jsonl").write_text("".join(json.dumps(one) + "\n" for one in leak))
    made = {"kind": "local_services", "language": "en", "count": 400}
    settings = [
        f"corpus.sources={json.dumps([made, {'kind': 'files', 'path': str(tmp_path / 'leak.jsonl')}])}",
        f"corpus.decontaminate=[{ITEMS}]",
        "corpus.min_characters=20",
        "corpus.workers=1",
    ]
    tokens = preprocess(load_config("smoke", overrides=settings), workspace=Workspace(tmp_path / "workspace"))
    assert [one["documents"] for one in tokens.facts.sources] == [400, 30]
    assert tokens.facts.dropped["contaminated"] >= 30
    assert 200 < tokens.facts.documents <= 400
    card = (tokens.path / "card.md").read_text("utf-8")
    assert "local services (en)" in card
    assert f"{VERSION}-en-0-400" in card
