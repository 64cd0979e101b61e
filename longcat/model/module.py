"""The base of the model's modules, which know how their model computes operators."""

from __future__ import annotations

from torch import nn

from longcat.ops.registry import STANDARD, OperatorSettings


class Module(nn.Module):
    """A part of a model, with the settings of its operators."""

    operators: OperatorSettings = STANDARD
    """Settings of the model that the module is a part of; see `use_operators`."""


def use_operators(model: nn.Module, settings: OperatorSettings) -> None:
    """Let every part of a model compute its operators by these settings."""
    for module in model.modules():
        if isinstance(module, Module):
            module.operators = settings
