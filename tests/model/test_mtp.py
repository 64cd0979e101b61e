"""Multi-token prediction: what each depth predicts, from what, and where documents end."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.mtp import mtp_targets
from longcat.ops.documents import find_document_starts
from longcat.padding import IGNORE


@settings(deadline=None)
@given(text=st.lists(st.integers(1, 4), min_size=2, max_size=12), depth=st.integers(1, 3),
       end_of_text=st.integers(1, 4))  # fmt: skip
def test_targets_stop_at_ends_of_documents(text, depth, end_of_text):
    """words[i] is seen at i, words[i + 1] is the main target."""
    targets = mtp_targets(torch.tensor([text[1:]]), depth, end_of_text)[0].tolist()
    for i, found in enumerate(targets):
        inputs = text[i + 1 : i + 1 + depth]
        target = text[i + 1 + depth] if i + 1 + depth < len(text) else IGNORE
        assert found == (IGNORE if end_of_text in inputs else target)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), depth=st.integers(1, 3))
def test_targets_stay_in_their_document(lengths, depth):
    """A row of documents has the targets that each would have alone."""
    texts = [torch.arange(10 * n, 10 * n + length) + 3 for n, length in enumerate(lengths)]
    document_starts = find_document_starts(torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None])
    alone = torch.cat([mtp_targets(text[None], depth, 2) for text in texts], dim=1)
    assert torch.equal(mtp_targets(torch.cat(texts)[None], depth, 2, document_starts), alone)


def make(depths):
    config = load_config("smoke", overrides=["model.initializer_range=0.2", f"model.mtp_num_layers={depths}"]).model
    model = LongcatModel(config)
    model.initialize(0)
    return model.train()


def test_depths_chain_one_module():
    """Worked out depth by depth with the module of a model of one depth."""
    model, tokens = make(3), torch.randint(3, 512, (2, 21), generator=torch.Generator().manual_seed(0))
    tokens[0, 7] = 2
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    module = model.model.mtp
    context = model.model.context(inputs, None, None, "sparse")
    hidden = model.model(inputs, context).hidden
    expected = torch.zeros(())
    for depth in range(1, 4):
        later = torch.cat([tokens[:, depth:-1], torch.zeros(2, depth, dtype=torch.long)], dim=1)
        words = model.model.embed_tokens(later)
        x = module.eh_proj(torch.cat([module.enorm(words), module.hnorm(hidden)], dim=-1))
        x = x + module.self_attn(module.input_layernorm(x), context, 0)[0]
        hidden = module.norm(x + module.mlp(module.post_attention_layernorm(x)))
        logits = model.lm_head(hidden).float()
        expected = expected + F.cross_entropy(
            logits.flatten(0, 1), mtp_targets(targets, depth, 2).flatten(), ignore_index=IGNORE, reduction="sum"
        )
    torch.testing.assert_close(model.sums(inputs, targets).mtp, expected, rtol=1e-4, atol=1e-2)


def test_what_comes_later_does_not_change_what_is_predicted():
    """Depth k at position i may see words up to i + k only."""
    model = make(2)
    tokens = torch.randint(3, 512, (1, 21), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[0, 15:] = 7
    states = []
    for text in (tokens, other):
        context = model.model.context(text[:, :-1], None, None, "sparse")
        hidden = model.model(text[:, :-1], context).hidden
        states.append(model.model.mtp(hidden, model.model.embed_tokens(text[:, 1:]), context)[0])
    for depth, (first, second) in enumerate(zip(*states, strict=True), 1):
        same = 15 - depth
        torch.testing.assert_close(first[:, :same], second[:, :same])
        assert not torch.allclose(first[:, same], second[:, same])


def test_the_main_prediction_does_not_depend_on_the_module():
    with_module, without = make(2).eval(), make(0).eval()
    without.load_state_dict({k: v for k, v in with_module.state_dict().items() if ".mtp." not in k})
    tokens = torch.randint(3, 512, (1, 9))
    with torch.inference_mode():
        assert torch.equal(with_module.logits(tokens), without.logits(tokens))
    assert without.train().sums(tokens[:, :-1], tokens[:, 1:]).mtp == 0


@pytest.mark.parametrize("sparse", ["null", "{index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_local_tokens: 3, index_init_tokens: 1}"])  # fmt: skip
def test_the_module_learns(sparse):
    config = load_config(
        "smoke", overrides=["model.mtp_num_layers=2", f"model.sparse_attention={sparse}", "model.initializer_range=0.1"]
    ).model
    model = LongcatModel(config)
    model.initialize(0)
    tokens = torch.arange(3, 27).repeat(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.sums(tokens[:, :-1], tokens[:, 1:]).mtp
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
