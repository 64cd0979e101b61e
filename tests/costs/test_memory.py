"""Bytes of training, against what a trainer really holds."""

import pytest
import torch

from longcat.config import load_config
from longcat.costs.memory import training_memory
from longcat.model.transformer import LongcatModel
from longcat.parallel.embedding import SpreadTables
from longcat.training.optimizer import build_optimizers


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["smoke", "tiny-2.0"])
def test_states_of_one_process_are_those_of_real_optimizers(name, preset):
    config = load_config(preset, overrides=[f"training.optimizer.name={name}"])
    model = LongcatModel(config.model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers = build_optimizers(model, config.training.optimizer, torch.float32)
    for optimizer in optimizers:
        optimizer.step()
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1)
    memory = training_memory(config.model, config.training, 1, "fp32")
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert memory.weights == memory.gradients == weights
    assert memory.optimizer == pytest.approx(held, rel=0.02)
    assert memory.gathered == 0


def test_what_is_spread_gets_smaller_and_what_is_gathered_does_not():
    config = load_config("longcat-2.0")
    few, many = (training_memory(config.model, config.training, count, "bf16") for count in (64, 4096))
    assert many.weights == pytest.approx(few.weights / 64)
    assert many.gathered > 270e9  # the n-gram tables alone, 135 G numbers in bf16
    assert few.states > many.states


def test_spread_rows_are_neither_gathered_nor_copied():
    config = load_config("longcat-2.0")
    spread, gathered = (
        training_memory(config.model, config.training, 4096, "bf16", one) for one in (config.parallel, None)
    )
    assert gathered.gathered - spread.gathered == pytest.approx(270e9, rel=0.01)
    assert gathered.weights - spread.weights == pytest.approx(135e9 * 2 / 4096, rel=0.01)
    assert gathered.gradients - spread.gradients == pytest.approx(135e9 * 4 / 4096, rel=0.01)


def test_states_of_rows_that_are_moved_late_are_those_of_the_real_optimizer():
    overrides = ["parallel.embedding=true", "training.optimizer.lazy_ngram_moments=true"]
    config = load_config("tiny-2.0", overrides=overrides)
    model = LongcatModel(config.model)
    tables = SpreadTables(model.model.ngram_embeddings.tables, torch.float32, dense=False)
    optimizers = build_optimizers(model, config.training.optimizer, torch.float32, tables)
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1)
    memory = training_memory(config.model, config.training, 1, "fp32", config.parallel)
    assert memory.optimizer == pytest.approx(held, rel=0.001)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert memory.weights == weights
    assert memory.gradients == weights - tables.weight.numel() * 4
