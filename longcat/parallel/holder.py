"""Modules that only hold parameters, under the names of a model's."""

from __future__ import annotations

from torch import nn


def holder_at(root: nn.Module, path: str) -> nn.Module:
    """Return the module at a path of names joined by dots, made with all above it if it is not there."""
    holder = root
    for name in path.split(".") if path else ():
        if name not in dict(holder.named_children()):
            holder.add_module(name, nn.Module())
        holder = holder.get_submodule(name)
    return holder
