"""Where a compiled model leaves its graphs, and what it computes: shared by the tests of each kind of device."""

import copy
import re

import torch
from torch._dynamo.utils import counters

ROUTING = {"MixtureOfExperts.begin", "MixtureOfExperts.compute", "MixtureOfExperts.end"}
"""Shapes in there depend on the tokens."""


def learn(model, tokens):
    """Sum of the losses, and gradients."""
    sums = model.sums(tokens[:, :-1], tokens[:, 1:], phase="dense")
    loss = sums.language_model + sums.mtp
    loss.backward()
    return loss.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def compare_compiled(model, backend):
    """Compare a compiled copy's losses and gradients with the model's; returns the functions that are not in graphs.

    The second batch has more rows, for which torch makes the number a symbol in the graphs.
    """
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
    compiled = None
    for rows in (2, 3):
        tokens = torch.randint(0, model.config.vocabulary, (rows, 33), generator=generator).to(device)
        model.zero_grad()
        expected, gradients = learn(model, tokens)
        if compiled is None:
            compiled = copy.deepcopy(model)  # whose operators have been checked
            torch._dynamo.reset()
            counters.clear()
            for module in (*compiled.blocks, compiled.model.norm):
                module.compile(backend=backend)
        compiled.zero_grad()
        found, found_gradients = learn(compiled, tokens)
        torch.testing.assert_close(found, expected)
        assert gradients.keys() == found_gradients.keys()
        for name, gradient in gradients.items():
            assert (found_gradients[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name
    assert counters["stats"]["unique_graphs"] > 0
    reasons = list(counters["graph_break"])
    named = [re.search(r"<function ([\w.]+)", reason) for reason in reasons]
    assert all(named), reasons
    return {match[1] for match in named}
