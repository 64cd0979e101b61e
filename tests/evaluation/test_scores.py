"""Bits per byte and the lm-eval adapter on models whose scores are known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.errors import ConfigError, DataError
from longcat.evaluation import harness
from longcat.evaluation.perplexity import model_bits, text_bytes
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Likelihood
from longcat.inference.runner import Runner
from longcat.model import LongcatModel


def uniform(tokens):
    return torch.zeros(*tokens.shape, 256)


def test_a_uniform_model_needs_eight_bits_for_a_byte():
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (5, 33)))
    assert model_bits(uniform, rows, batch=2) == pytest.approx(5 * 32 * 8)
    assert text_bytes(rows, np.ones(256, dtype=np.int32)) == 5 * 32


def test_bits_do_not_depend_on_the_batch_size():
    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (7, 17)))
    assert model_bits(lambda t: weights[t], rows, 3) == pytest.approx(model_bits(lambda t: weights[t], rows, 7))


def test_a_model_is_told_of_documents_where_it_learnt_them():
    told = []

    def model(tokens, documents=None):
        told.append(documents)
        return uniform(tokens)

    rows = Batch.of_rows(np.zeros((3, 9), np.int64))
    model_bits(model, rows, 2)
    model_bits(model, rows, 2, mask_documents=True)
    assert told[:2] == [None, None]
    assert [documents.tolist() for documents in told[2:]] == [[[0] * 8] * 2, [[0] * 8]]


@pytest.fixture(scope="module")
def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class Known:
    """A runner of a function from tokens to logits."""

    def __init__(self, model, tokenizer):
        self.model, self.window = model, 2048
        self.checkpoint = OpenCheckpoint(None, None, tokenizer, 2, None, "fp32")

    def likelihoods(self, requests):
        found = []
        for one in requests:
            scores = self.model(torch.tensor([[*one.context, *one.tokens][:-1]]))[0, -len(one.tokens) :].log_softmax(-1)
            wanted = torch.tensor(one.tokens)
            nats = float(scores.gather(1, wanted[:, None]).sum())
            found.append(Likelihood(nats, bool((scores.argmax(-1) == wanted).all()), 0))
        return found


def score(model, tokenizer, names, limit=24):
    return harness.score(Known(model, tokenizer), names, limit=limit, seed=0)


def test_an_oracle_gets_everything_right_and_its_opposite_nothing(byte_tokenizer):
    """A model that knows the right continuations by heart; it sees only the tokens before each one."""
    items = [json.loads(line) for line in harness.TASKS.joinpath("python_completion.jsonl").read_text().splitlines()][
        :24
    ]
    next_token = {}
    for item in items:
        ids = byte_tokenizer.encode(item["prompt"] + item["choices"][item["answer"]]).ids
        for i in range(1, len(ids)):
            next_token[tuple(ids[:i])] = ids[i]

    def oracle(sign):
        def model(tokens):
            logits = torch.zeros(*tokens.shape, 259)
            for b, row in enumerate(tokens.tolist()):
                for i in range(len(row)):
                    if (known := next_token.get(tuple(row[: i + 1]))) is not None:
                        logits[b, i, known] = sign * 20.0
            return logits

        return model

    right = score(oracle(1), byte_tokenizer, ["python_completion"])["python_completion"]
    assert right["acc"] == 1.0
    assert right["documents"] == 24
    assert score(oracle(-1), byte_tokenizer, ["python_completion"])["python_completion"]["acc"] < 0.2


def test_length_alone_is_no_help(byte_tokenizer):
    figures = score(lambda t: torch.zeros(*t.shape, 259), byte_tokenizer, ["python_completion"], limit=None)
    assert figures["python_completion"]["acc"] < 0.45
    assert figures["python_completion"]["acc_stderr"] > 0
    assert math.isfinite(figures["python_completion"]["acc_norm"])


def test_unknown_task_and_broken_items_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown task 'nope'; there are: python_completion"):
        harness.task_files(["nope"])
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n{"prompt":\n')
    monkeypatch.setattr(harness, "TASKS", tmp_path)
    with pytest.raises(DataError, match=r"mine\.jsonl:2: broken JSON"):
        harness.task_files(["mine"])


def test_generation_is_greedy_and_stops(byte_tokenizer):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.3"]).model).eval()
    model.initialize(3)
    adapter = harness.adapter(Runner(OpenCheckpoint(None, model, byte_tokenizer, 2, None, "fp32")))
    ids = byte_tokenizer.encode("ab").ids
    for _ in range(12):
        with torch.inference_mode():
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    whole = byte_tokenizer.decode(ids[2:])

    def text(**options):
        return adapter.generate_until([SimpleNamespace(args=("ab", {"max_gen_toks": 12, **options}))])[0]

    assert text() == whole
    stop = whole[5:7]
    assert text(until=[stop]) == whole[: whole.index(stop)]
