"""Rows that are moved late end where AdamW's end, and are read there at every step between."""

import pytest
import torch
from torch import nn

from longcat.model.ngram import Tables
from longcat.parallel.embedding import SpreadTables
from longcat.training.lazy_adamw import LazyAdamW

ROWS, WIDTH = 7, 4


def pair(betas, steps, epsilon=1e-16):
    """A table with AdamW of torch in fp64, and the same one with rows that are moved late."""
    plain = nn.Embedding(ROWS, WIDTH, dtype=torch.float64)
    tables = Tables(ROWS, WIDTH)
    tables.weight.data = plain.weight.data.float()
    spread = SpreadTables(tables, torch.float32, dense=False)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1.0, betas=betas, eps=epsilon, weight_decay=0.0)
    return plain, adamw, tables, spread, LazyAdamW(spread, 1.0, betas, epsilon, steps=steps)


def lookups(step):
    """Rows of a step: 0 always, 1 often, 2 twice far apart, 3 at first only, 4 with gradients of other sizes, 6 never."""
    rows = [0, 0] + [1] * (step % 3 == 0) + [2] * (step in (5, 390)) + [3] * (step == 0) + [4] * (step % 11 == 7)
    return torch.tensor(rows + [5] * (step == 399))


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.95)])
@pytest.mark.parametrize("steps", [400, 100])  # a run may be longer than it was said to be
def test_rows_are_those_of_adamw_at_every_step(betas, steps):
    plain, adamw, tables, spread, lazy = pair(betas, steps)
    generator = torch.Generator().manual_seed(0)
    far = 0.0
    for step in range(400):
        rate = 0.01 * (1 + step % 5) if step < 200 else 0.001
        for optimizer in (adamw, lazy):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        spread.drop_gradient()
        rows = lookups(step)
        factor = torch.randn(len(rows), WIDTH, generator=generator) * 10.0 ** (-(step % 4) * (rows == 4))[:, None]
        (plain(rows) * factor).sum().backward()
        (tables.start(rows)() * factor).sum().backward()
        spread.finish()
        adamw.step()
        lazy.step()
        if step % 7 == 0 or step > 380:
            now = tables.start(torch.arange(ROWS))()
            torch.testing.assert_close(now.double(), plain.weight, atol=2e-5, rtol=1e-5)
        far = max(far, float((tables.weight.double() - plain.weight).detach().abs().max()))
    assert far > 0.01 or betas[0] == 0.0  # what lies in memory is late
    lazy.settle()
    torch.testing.assert_close(tables.weight.double(), plain.weight, atol=2e-5, rtol=1e-5)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            lazy.state[tables.weight][name].double(), adamw.state[plain.weight][name], atol=1e-7, rtol=1e-4
        )
    settled = tables.weight.detach().clone()
    lazy.settle()
    assert torch.equal(tables.weight, settled)


def test_tables_without_a_gradient_rest():
    """As an AdamW of torch leaves a parameter without one alone, and does not count the step."""
    plain, adamw, tables, spread, lazy = pair((0.9, 0.95), 9)
    for step in range(6):
        for optimizer in (adamw, lazy):
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.zero_grad()
        spread.drop_gradient()
        if step not in (2, 3):
            rows = torch.tensor([step % 2, 3])
            plain(rows).square().sum().backward()
            tables.start(rows)().square().sum().backward()
            spread.finish()
        adamw.step()
        lazy.step()
    assert float(lazy.state[tables.weight]["step"]) == 4
    torch.testing.assert_close(tables.start(torch.arange(ROWS))().double(), plain.weight, atol=1e-5, rtol=1e-5)


def test_settling_goes_over_all_rows(monkeypatch):
    monkeypatch.setattr("longcat.training.lazy_adamw._SETTLED_ROWS", 2)
    test_rows_are_those_of_adamw_at_every_step((0.9, 0.95), 400)
