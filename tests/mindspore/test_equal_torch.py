"""A model that was exported for MindSpore computes there what it computes here, operator by operator and as a graph."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.interchange.convert import export, import_folder
from longcat.interchange.folder import load_huggingface, save_huggingface
from longcat.padding import IGNORE, PADDING
from longcat.training.trainer import Trainer
from tests.mindspore.conftest import PROGRAMS

YARN = "{factor: 4.0, original_max_position_embeddings: 16, mscale: 1.0, mscale_all_dim: 0.8}"
KINDS = {
    "flash": ("model.num_layers=2",),
    "lite": (
        "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
        "model.mtp_num_layers=2",
        "model.attention_bias=true",
        f"model.rope_scaling={YARN}",
    ),
}
COMMON = (
    "model.initializer_range=0.1",
    # AdamW's first step is the sign of a gradient, which rounding decides where it is next to nothing
    "training.optimizer={name: adamw, warmup_steps: 0, max_gradient_norm: 0.5, epsilon: 1.0e-6}",
    "training.balance.bias_update_rate=0.05",
    "training.losses.hidden_z_weight=1e-3",
    "training.losses.balance_groups=2",
)
OPTIMIZER = ("learning_rate", "warmup_steps", "max_gradient_norm", "epsilon", "weight_decay", "beta1", "beta2")
MODES = ("pynative", "graph")
pytestmark = pytest.mark.timeout(1200)


def padded_batch(end_of_text):
    """Rows of which some end in padding, with an end of text between."""
    tokens = np.random.default_rng(0).integers(3, 512, (3, 25))
    tokens[:, 9] = end_of_text
    targets, documents = tokens[:, 1:].copy(), np.zeros((3, 24), np.int64)
    for row, end in enumerate((24, 17, 9)):
        documents[row, end:], targets[row, end - 1 :] = PADDING, IGNORE
    return Batch(tokens[:, :-1].copy(), targets, documents)


def settings_of(config):
    training = config.training
    found = {name: getattr(training.optimizer, name) for name in OPTIMIZER}
    found |= {name: value for name, value in training.losses.model_dump().items() if name != "indexer_weight"}
    return found | {"bias_update_rate": training.balance.bias_update_rate, "steps": training.steps}


@dataclasses.dataclass
class Torch:
    """What torch has computed, and the folder in which MindSpore has."""

    folder: object
    logits: np.ndarray
    losses: list
    load: np.ndarray
    norm: float
    gradients: dict
    weights: dict


@pytest.fixture(params=KINDS)
def both(request, tmp_path, mesh, mindspore):
    config = load_config("smoke", None, (*COMMON, *KINDS[request.param]))
    trainer = Trainer(config, mesh, choose("cpu"), "fp32")
    for layer in trainer.model.blocks:
        layer.mlp.router.e_score_correction_bias.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    save_huggingface(trainer.model, tmp_path / "theirs")
    export(tmp_path / "theirs", tmp_path / "exported", format_="mindspore")
    batch = padded_batch(config.model.end_of_text)
    np.savez(tmp_path / "reference.npz", tokens=batch.tokens, targets=batch.targets, documents=batch.documents)
    (tmp_path / "settings.json").write_text(json.dumps(settings_of(config)))
    mindspore(PROGRAMS / "compute.py", tmp_path)
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model.logits(torch.from_numpy(batch.tokens)).numpy()
    trainer.model.train()
    result = trainer.step(0, batch)
    clipped = config.training.optimizer.max_gradient_norm / result.gradient_norm
    assert clipped < 1
    state = trainer.model.named_parameters()
    gradients = {name: (value.grad / clipped).numpy() for name, value in state}
    weights = {name: value.detach().numpy() for name, value in trainer.model.state_dict().items()}
    losses = [result.loss, *(result.auxiliary[name] for name in ("mtp", "balance", "importance", "hidden_z"))]
    return Torch(tmp_path, logits, losses, result.expert_load.numpy(), result.gradient_norm, gradients, weights)


def test_logits_losses_gradients_and_a_step_of_adamw(both):
    for mode in MODES:
        found = np.load(both.folder / f"{mode}.npz")
        assert np.abs(both.logits).max() > 0.5
        assert np.abs(found["logits"] - both.logits).max() < 1e-4, mode
        np.testing.assert_allclose(found["losses"], both.losses, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found["load"], both.load)
        assert float(found["norm"]) == pytest.approx(both.norm, rel=1e-4)
        for name, gradient in both.gradients.items():
            difference = np.abs(found[f"gradient {name}"] - gradient).max()
            assert difference <= 1e-4 * max(1e-2, np.abs(gradient).max()), (mode, name)
        for name, weight in both.weights.items():
            np.testing.assert_allclose(found[f"weight {name}"], weight, atol=2e-5, err_msg=f"{mode} {name}")
    # and what MindSpore has saved comes back
    checkpoint = import_folder(both.folder / "saved", Workspace(both.folder / "workspace"))
    state = load_huggingface(checkpoint.path / "huggingface").state_dict()
    graph = np.load(both.folder / "graph.npz")
    assert all(np.array_equal(value.numpy(), graph[f"weight {name}"]) for name, value in state.items())
