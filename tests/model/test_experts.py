"""The mixture: padding costs nothing and counts for nothing."""

import pytest
import torch

from longcat.config import load_config
from longcat.inference.layout import lay_for_few_rows
from longcat.model import LongcatModel


def make(monkeypatch):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2"]).model)
    model.initialize(0)
    mixture = model.blocks[0].mlp
    rows = []
    compute = mixture.experts.compute
    monkeypatch.setattr(mixture.experts, "compute", lambda x, counts: rows.append(len(x)) or compute(x, counts))
    return model, mixture, rows


def test_padding_goes_to_no_routed_expert(monkeypatch):
    _, mixture, rows = make(monkeypatch)
    x = torch.randn(2, 10, 64, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[1, 4:] = True
    whole, asked = mixture(x)
    padded, fewer = mixture(x, padding)
    torch.testing.assert_close(padded[~padding], whole[~padding])
    real, real_only = mixture(x[~padding][None])
    torch.testing.assert_close(real[0], whole[~padding])
    torch.testing.assert_close(fewer.load, real_only.load)
    torch.testing.assert_close(fewer.probability, real_only.probability)
    assert int(asked.load.sum()) == 60
    assert int(fewer.load.sum()) == 42
    assert rows[1] == rows[2] == int(fewer.load[:4].sum()) < rows[0]


def test_padding_changes_nothing_before_it(monkeypatch):
    model, _, _ = make(monkeypatch)
    model.eval()
    tokens = torch.randint(3, 512, (2, 12), generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 12, dtype=torch.bool)
    padding[1, 7:] = True
    with torch.inference_mode():
        with_padding, without = model.logits(tokens, padding=padding), model.logits(tokens)
    torch.testing.assert_close(with_padding[0], without[0])
    torch.testing.assert_close(with_padding[1, :7], without[1, :7])


def test_an_infinite_token_spoils_no_other_experts_gradient(monkeypatch):
    _, mixture, _ = make(monkeypatch)
    upstream = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(1))

    def learn(bad):
        x = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(0))
        x[0, 7, 5] = bad
        mixture.zero_grad()
        out, statistics = mixture(x)
        out.backward(upstream)
        chosen = mixture.router(x[0])[1][7].tolist()
        return out.detach(), mixture.experts.gate_up_proj.grad, mixture.experts.down_proj.grad, chosen, statistics.load

    huge, infinite = learn(1e6), learn(float("inf"))
    others = [expert for expert in range(4) if expert not in {*huge[3], *infinite[3]}]
    assert others
    for number in (1, 2):
        assert huge[number][others].isfinite().all()
        torch.testing.assert_close(infinite[number][others], huge[number][others])
        assert infinite[number][others].abs().sum() > 0
    rows = torch.arange(40) != 7
    torch.testing.assert_close(infinite[0][0, rows], huge[0][0, rows])


def test_inference_mode_leaves_out_statistics_and_says_so_for_losses():
    model = LongcatModel(load_config("smoke").model).eval()
    model.initialize(0)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected, sums = model.logits(tokens), model.sums(tokens, tokens)
    with torch.inference_mode():
        assert torch.equal(model.logits(tokens), expected)
        with pytest.raises(ValueError, match="use torch.no_grad"):
            model.sums(tokens, tokens)
    assert sums.router_load.sum() == 12 * model.config.moe_topk * model.config.num_layers


@pytest.mark.parametrize("padded", [0, 3])
def test_few_tokens_through_every_expert_give_what_their_own_give(monkeypatch, padded):
    model = LongcatModel(load_config("tiny", overrides=["model.initializer_range=0.2"]).model).eval()
    model.initialize(0)
    mixture = model.blocks[0].mlp
    x = torch.randn(16, 1, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    padding = (torch.arange(16) < padded)[:, None] if padded else None
    with torch.inference_mode():
        expected, _ = mixture(x, padding)
        lay_for_few_rows(model)
        assert mixture.experts.prefers_all(16, 3)
        monkeypatch.setattr(mixture.experts, "compute", None)
        found, _ = mixture(x, padding)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_tokens_go_to_their_own_experts_where_that_is_less_work():
    model = LongcatModel(load_config("tiny").model)
    experts = model.blocks[0].mlp.experts
    assert not experts.prefers_all(16, 3)  # its weights would be laid anew in every product
    lay_for_few_rows(model)
    assert [experts.prefers_all(tokens, 3) for tokens in (1, 5, 6, 32, 64)] == [False, False, True, True, False]
