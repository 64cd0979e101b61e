"""Documents packed into rows are learnt from as if each had a row of its own; padding counts for nothing."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.padding import IGNORE

NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
# many heads: scores of zero, of which any will do, are rare
SPARSE = "model.sparse_attention={index_n_heads: 8, index_head_dim: 12, index_topk: 8, index_init_tokens: 2, index_local_tokens: 3}"
MTP = "model.mtp_num_layers=2"
LENGTHS = [[5, 19, 4], [11, 14]]
"""Tokens of the documents in each row; some are shorter than the budget of sparse attention, some longer."""
ROW = 30


def make(*overrides):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2", *overrides]).model)
    model.initialize(0)
    return model.train()


def texts():
    """Tokens and targets of each document; a target in the middle is not to be learnt, nor is there one behind the last."""
    generator = torch.Generator().manual_seed(0)
    for length in (length for row in LENGTHS for length in row):
        text = torch.randint(3, 512, (length,), generator=generator)
        targets = torch.cat([text[1:], torch.tensor([IGNORE])])
        targets[2] = IGNORE
        yield text, targets


def packed():
    """Tokens, targets and documents `[rows, ROW]`, padded."""
    rest = iter(texts())
    batch = torch.full((3, len(LENGTHS), ROW), 2)
    batch[1], batch[2] = IGNORE, -1
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths):
            batch[0, row, start : start + length], batch[1, row, start : start + length] = next(rest)
            batch[2, row, start : start + length] = number
            start += length
    return batch


def learnt(model, sums):
    """LossSums and gradients."""
    model.zero_grad()
    loss = sums["language_model"] + 0.5 * sums["mtp"] + 0.1 * sums["indexer"] + 0.01 * sums["hidden_z"]
    (loss + (sums["router_probability"] ** 2).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in sums.items()}, gradients


@pytest.mark.parametrize(
    ("overrides", "phase"),
    [
        ([], "dense"),
        ([NGRAM], "dense"),
        ([MTP], "dense"),
        ([SPARSE], "warmup"),
        ([SPARSE], "sparse"),
        ([SPARSE, "model.sparse_attention.index_topk=40", "model.sparse_attention.index_pages=1024"], "sparse"),
        ([SPARSE, NGRAM, MTP], "warmup"),
        ([SPARSE, NGRAM, MTP], "sparse"),
    ],
)
def test_packed_documents_equal_each_alone(overrides, phase):
    model = make(*overrides)
    tokens, targets, documents = packed()
    together = learnt(model, model.sums(tokens, targets, phase, documents)._asdict())
    each = [model.sums(text[None], target[None], phase)._asdict() for text, target in texts()]
    alone = learnt(model, {name: sum(sums[name] for sums in each) for name in each[0]})
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=1e-4, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )
    with torch.no_grad():
        logits = model.eval()(tokens, documents=documents)[documents >= 0]
        expected = torch.cat([model(text[None])[0] for text, _ in texts()])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("overrides", [[], [SPARSE, NGRAM, MTP]])
def test_without_a_mask_documents_see_what_is_before_them(overrides):
    model = make(*overrides).eval()
    tokens, _, documents = packed()
    with torch.no_grad():
        masked, plain = model(tokens, documents=documents), model(tokens)
    first = documents == 0
    torch.testing.assert_close(masked[first], plain[first], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(masked[documents > 0], plain[documents > 0], atol=0.1)


@pytest.mark.parametrize("phase", ["dense", "warmup", "sparse"])
def test_padding_counts_for_nothing(phase):
    """Neither with documents nor without, whatever its tokens are."""
    model = make(SPARSE, NGRAM, MTP)
    tokens, targets, documents = packed()
    padding = documents < 0
    for options in ({"documents": documents}, {"padding": padding}):
        sums, gradients = learnt(model, model.sums(tokens, targets, phase, **options)._asdict())
        assert sums["router_load"].sum() == 3 * (~padding).sum()
        torch.testing.assert_close(sums["router_probability"].sum(), (~padding).sum().float())
        other = tokens.masked_fill(padding, 77)
        others, other_gradients = learnt(model, model.sums(other, targets, phase, **options)._asdict())
        for name in sums:
            torch.testing.assert_close(sums[name], others[name], msg=name)
        for name in gradients:
            torch.testing.assert_close(gradients[name], other_gradients[name], rtol=1e-4, atol=1e-4, msg=name)


def test_a_row_that_is_one_document_is_as_without():
    model = make(SPARSE, NGRAM, MTP)
    tokens = torch.randint(3, 512, (2, 25), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    one = model.sums(inputs, targets, "sparse", torch.zeros_like(inputs))
    none = model.sums(inputs, targets, "sparse")
    unpadded = model.sums(inputs, targets, "sparse", padding=torch.zeros_like(inputs, dtype=torch.bool))
    for name in none._fields:
        assert torch.equal(getattr(one, name), getattr(none, name)), name
        assert torch.equal(getattr(unpadded, name), getattr(none, name)), name


def test_documents_do_not_go_with_a_cache():
    model = make().eval()
    tokens = torch.randint(3, 512, (1, 4))
    with pytest.raises(ValueError, match="cache"):
        model(tokens, cache=model.new_cache(), documents=torch.zeros_like(tokens))


@pytest.mark.slow
def test_compiled_layers_are_the_same():
    model = make(SPARSE, NGRAM, MTP)
    tokens, targets, documents = packed()
    eager = learnt(model, model.sums(tokens, targets, "sparse", documents)._asdict())
    for module in (*model.blocks, model.model.norm, model.hidden_z):
        module.compile()
    compiled = learnt(model, model.sums(tokens, targets, "sparse", documents)._asdict())
    for ours, theirs in zip(compiled, eager, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-3, msg=name)
