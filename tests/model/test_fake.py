"""The whole model on fake tensors, which have shapes and no numbers: as a dry run computes it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.plan import balanced
from longcat.model.recomputation import use_recomputation
from longcat.ops.chunks import sized_for

EVERYTHING = [
    "model.mtp_num_layers=2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("phase", ["dense", "warmup", "sparse"])
@pytest.mark.parametrize("kind", ["cpu", "npu"])
def test_both_passes_need_no_numbers_but_the_plan(phase, documents, recompute, kind):
    config = load_config("smoke", overrides=EVERYTHING).model
    with FakeTensorMode(), sized_for(kind), balanced(2 / 3):
        model = LongcatModel(config)
        model.train()
        use_recomputation(model, recompute)
        tokens = torch.randint(3, 512, (2, 33))
        rows = torch.zeros(2, 32, dtype=torch.long) if documents else None
        sums = model.sums(tokens[:, :-1], tokens[:, 1:], phase, documents=rows)
        terms = [sums.language_model, sums.mtp, sums.hidden_z, sums.router_probability, sums.indexer]
        total = sum(term.float().sum() for term in terms)
        total.backward()
    for name, parameter in model.named_parameters():
        if "indexer" not in name or phase != "dense":
            assert parameter.grad is not None and parameter.grad.shape == parameter.shape, name
