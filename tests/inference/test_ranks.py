"""Likelihoods divided among processes."""

import random

import pytest

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.errors import DataError, TrainingError
from longcat.inference import ranks
from longcat.inference.opening import open_checkpoint
from longcat.inference.requests import Continuation
from longcat.inference.runner import Runner
from longcat.interchange import save_huggingface
from longcat.model import LongcatModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer):
    directory = tmp_path_factory.mktemp("folder")
    overrides = [
        "corpus.vocabulary_size=259",
        "model.vocab_size=259",
        "model.initializer_range=0.2",
        "model.eos_token_id=2",
    ]
    model = LongcatModel(load_config("smoke", overrides=overrides).model)
    model.initialize(0)
    save_huggingface(model, directory)
    byte_tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture
def opened(folder):
    return open_checkpoint(folder, None, choose("cpu"))


def requests():
    draw = random.Random(0)
    contexts = [[draw.randrange(3, 259) for _ in range(draw.randrange(1, 60))] for _ in range(20)]
    return [
        Continuation(context, [draw.randrange(3, 259) for _ in range(n)]) for context in contexts for n in (0, 1, 4)
    ]


def test_two_processes_find_what_one_does(opened):
    told = []
    one = Runner(opened, batch_sequences=3).likelihoods(requests())
    two = Runner(opened, batch_sequences=3, processes=2).likelihoods(requests(), told.append)
    assert [of.nats for of in two] == pytest.approx([of.nats for of in one], abs=1e-5)
    assert [(of.greedy, of.dropped) for of in two] == [(of.greedy, of.dropped) for of in one]
    assert told[-1] == 60


def test_a_process_that_dies_is_one_line(opened, monkeypatch):
    monkeypatch.setattr(ranks, "__name__", "tests.inference.dying")
    with pytest.raises(TrainingError, match="rank 1 was killed by SIGKILL") as caught:
        Runner(opened, processes=2).likelihoods(requests())
    assert "\n" not in str(caught.value)


def test_a_mistake_of_the_user_is_one_of_all_processes(opened, folder, monkeypatch):
    runner = Runner(opened, processes=2)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"broken")
    try:
        with pytest.raises(DataError, match="cannot read the weights"):
            runner.likelihoods(requests())
    finally:
        weights.write_bytes(whole)
