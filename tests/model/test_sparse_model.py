"""Sparse attention inside the model: when it is dense, what learns from what, and in which phase."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.generation import continue_greedily

SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"


def make(*overrides):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2", SPARSE, *overrides]).model)
    model.initialize(0)
    return model


def tokens(length, seed=0):
    return torch.randint(3, 512, (2, length), generator=torch.Generator().manual_seed(seed))


def test_within_the_budget_attention_is_dense_exactly():
    sparse = make().eval()
    dense = LongcatModel(sparse.config.model_copy(update={"sparse_attention": None})).eval()
    dense.load_state_dict({name: value for name, value in sparse.state_dict().items() if ".indexer." not in name})
    with torch.inference_mode():
        assert torch.equal(sparse.logits(tokens(8)), dense.logits(tokens(8)))
        assert not torch.allclose(sparse.logits(tokens(30)), dense.logits(tokens(30)))
        # positions within the budget do not change when the sequence goes on
        torch.testing.assert_close(
            sparse.logits(tokens(30))[:, :8], dense.logits(tokens(30))[:, :8], atol=1e-4, rtol=1e-4
        )


def test_a_budget_of_everything_equals_dense_attention():
    """The sparse path itself, with every key chosen."""
    sparse = make().eval()
    dense = LongcatModel(sparse.config.model_copy(update={"sparse_attention": None})).eval()
    dense.load_state_dict({name: value for name, value in sparse.state_dict().items() if ".indexer." not in name})
    for layer in sparse.blocks:
        wide = layer.self_attn[0].indexer.sparse.model_copy(update={"index_topk": 29})
        layer.self_attn[0].indexer.sparse = wide
    with torch.inference_mode():
        # one key, of the last position only, is left out
        expected, found = dense.logits(tokens(30))[:, :29], sparse.logits(tokens(30))[:, :29]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [7, 24])
@pytest.mark.parametrize("phase", ["warmup", "sparse"])
def test_the_indexer_learns_from_its_own_loss_alone(length, phase):
    model = make("model.mtp_num_layers=2").train()
    text = tokens(length + 1)

    def learners(loss):
        model.zero_grad()
        loss.backward()
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    sums = model.sums(text[:, :-1], text[:, 1:], phase)
    assert sums.indexer > 0
    indexers = {name for name, _ in model.named_parameters() if ".indexer." in name}
    assert learners(sums.indexer) == indexers
    sums = model.sums(text[:, :-1], text[:, 1:], phase)
    assert not learners(sums.language_model + sums.mtp) & indexers
    assert all(".self_attn.0.indexer." in name or ".mtp.self_attn.indexer." in name for name in indexers)


def test_the_indexer_rests_while_attention_is_dense():
    model = make().train()
    text = tokens(25)
    sums = model.sums(text[:, :-1], text[:, 1:], "dense")
    assert sums.indexer == 0
    warm = model.sums(text[:, :-1], text[:, 1:], "warmup")
    assert sums.language_model == warm.language_model


def test_learning_brings_the_indexer_to_attention():
    torch.manual_seed(0)
    model = make("model.initializer_range=0.5").train()
    text = tokens(25)
    indexers = [p for name, p in model.named_parameters() if ".indexer." in name]
    optimizer = torch.optim.Adam(indexers, lr=3e-2)
    losses = []
    for _ in range(120):
        loss = model.sums(text[:, :-1], text[:, 1:], "warmup").indexer
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("pieces", [[1] * 24, [5, 1, 18], [24]])
@pytest.mark.parametrize("pages", ["", "model.sparse_attention.hierarchical_from_tokens=10"])
def test_cached_logits_equal_the_whole_pass(pieces, pages):
    whole_budget = [
        "model.sparse_attention.index_page_tokens=4",
        "model.sparse_attention.index_block_tokens=2",
        "model.sparse_attention.index_pages=6",  # all of them
        "model.sparse_attention.hierarchical_after_layers=0",
    ]
    model = make(*whole_budget, *([pages] if pages else [])).eval()
    cache = model.new_cache()
    text = tokens(24)
    with torch.inference_mode():
        whole = model.logits(text)
        parts = torch.cat([model.logits(part, cache=cache) for part in text.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    assert cache.lengths == [24, 24]


def test_greedy_text_equals_the_uncached_one():
    model = make().eval()
    expected = [5, 2, 9, 11]
    with torch.inference_mode():
        for _ in range(20):
            expected.append(int(model.logits(torch.tensor([expected]))[0, -1].argmax()))
    assert continue_greedily(model, [5, 2, 9, 11], 20) == expected[4:]
