"""`tiny` learns with MindSpore what it learns with torch: the same batches, and the losses of its first steps."""

import json

import numpy as np
import pytest

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.loader import Loader
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.interchange.convert import export
from longcat.interchange.folder import save_huggingface
from longcat.training.trainer import Trainer
from tests.mindspore.conftest import PROGRAMS

STEPS = 50
pytestmark = pytest.mark.timeout(1200)
ADAMW = (
    "corpus.sources=[{kind: stdlib, max_documents: 80}]",
    "training.optimizer={name: adamw, learning_rate: 1.0e-3, warmup_steps: 20}",
)


@pytest.fixture
def exported(tmp_path, mesh):
    """A trainer of torch, a folder with its first weights, and the tokens that both train on."""
    config = load_config("tiny", None, ADAMW)
    corpus = TokenCorpus.open(preprocess(config, workspace=Workspace(tmp_path / "workspace")).path)
    trainer = Trainer(config, mesh, choose("cpu"), "fp32")
    save_huggingface(trainer.model, tmp_path / "theirs")
    export(tmp_path / "theirs", tmp_path / "exported", format_="mindspore")
    return trainer, tmp_path / "exported", corpus


def test_first_steps_of_tiny(exported, mindspore, tmp_path):
    trainer, folder, corpus = exported
    config = trainer.config
    loader = Loader(corpus.train, config.seed, config.training.global_batch_sequences)
    optimizer = config.training.optimizer
    metrics = tmp_path / "metrics.jsonl"
    mindspore(
        folder / "train_mindspore.py", corpus.path, "--steps", config.training.steps, "--stop-after", STEPS,
        "--learning-rate", optimizer.learning_rate, "--warmup-steps", optimizer.warmup_steps, "--seed", config.seed,
        "--bias-update-rate", config.training.balance.bias_update_rate,
        "--final-bias-update-fraction", config.training.balance.final_bias_update_fraction,
        "--metrics", metrics, "--output", tmp_path / "trained",
    )  # fmt: skip
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    steps = [0, 7, len(corpus.train) // loader.batch_sequences + 1]  # the last one is of the next epoch
    mindspore(
        PROGRAMS / "batches.py", folder, corpus.path, config.seed, loader.batch_sequences, tmp_path / "b.npy", *steps
    )
    for found, step in zip(np.load(tmp_path / "b.npy"), steps, strict=True):
        batch = loader.batch(step)
        for array, wanted in zip(found, (batch.tokens, batch.targets, batch.documents), strict=True):
            np.testing.assert_array_equal(array, wanted)
    expected = [trainer.step(step, loader.batch(step)) for step in range(STEPS)]
    np.testing.assert_allclose([record["train/loss"] for record in records], [of.loss for of in expected], atol=1e-3)
    rates = [record["train/learning_rate"] for record in records]
    np.testing.assert_allclose(rates, [of.learning_rate for of in expected], rtol=1e-6)
    assert records[-1]["train/loss"] < records[0]["train/loss"] - 1
    assert (tmp_path / "trained" / "tokenizer.json").exists() == (folder / "tokenizer.json").exists()
