"""The fp32 weights of a model that computes in another type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longcat.model.ngram import Tables
from longcat.model.router import Router
from longcat.model.transformer import LongcatModel
from longcat.parallel.holder import holder_at


class MasterWeights(nn.Module):
    """Holds the weights that optimizers move and checkpoints keep, under the model's names.

    The model's own parameters become copies in the type it computes in. Parameters of routers, tables that are read by the
    row, and buffers are fp32 in both and the same tensors.
    """

    def __init__(self, model: LongcatModel, compute: torch.dtype) -> None:
        super().__init__()
        self.config = model.config
        self._pairs: list[tuple[nn.Parameter, nn.Parameter, Tensor]] = []
        """Weight, the model's copy of it, and memory for its gradient."""
        for path, module in list(model.named_modules()):
            holder = holder_at(self, path)
            for name, parameter in list(module.named_parameters(recurse=False)):
                if _has_no_copy(path, model) or parameter.dtype == compute:
                    holder.register_parameter(name, parameter)
                    continue
                weight = nn.Parameter(parameter.detach())
                copy = nn.Parameter(parameter.detach().to(compute))
                holder.register_parameter(name, weight)
                module.register_parameter(name, copy)
                self._pairs.append((weight, copy, torch.empty_like(weight)))
            for name, buffer in module.named_buffers(recurse=False):
                holder.register_buffer(name, buffer)
        self.register_load_state_dict_post_hook(lambda *_: self.write_copies())

    def collect_gradients(self) -> None:
        """Add the gradients of the model's copies to those of the weights, in fp32."""
        for weight, copy, memory in self._pairs:
            gradient, copy.grad = copy.grad, None
            if gradient is None:
                continue
            if weight.grad is None:
                # first use of memory costs page faults: every step reuses the same
                weight.grad = memory.copy_(gradient)
            else:
                weight.grad += gradient

    @torch.no_grad()
    def write_copies(self) -> None:
        """Round the weights into the model's copies, after an optimizer step or the loading of a checkpoint."""
        for weight, copy, _ in self._pairs:
            copy.copy_(weight)


def _has_no_copy(path: str, model: nn.Module) -> bool:
    """Say whether a module has no copy: a part of a router, which computes in fp32, or tables that give single rows."""
    module = model.get_submodule(path)
    if isinstance(module, Tables) and module.source is not None:
        return True
    parts = path.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:end])), Router) for end in range(1, len(parts) + 1))
