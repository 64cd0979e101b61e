"""FLOPs against torch's counter on real modules, parameters against real models, and published figures."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from longcat.config import ModelConfig, load_config, target_ffn_experts
from longcat.costs.flops import (
    activated_parameters,
    expected_ffn_experts,
    flops_per_token,
    keys_read,
    matmul_parameters,
    parameters,
    recomputed_fractions,
    training_flops_per_token,
)
from longcat.costs.workload import longcat_workload
from longcat.errors import ConfigError
from longcat.model import LongcatModel
from longcat.model.recomputation import use_recomputation
from longcat.ops import attention, grouped_matmul
from longcat.training.balance import load_metrics

FLASH = {
    "vocab_size": 131072, "hidden_size": 6144, "num_layers": 28, "num_attention_heads": 64, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048, "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12,
}  # fmt: skip


def test_longcat_flash_figures():
    """Worked by hand from the published shapes: 27.149 B weights a token with 8 routed experts, and what follows."""
    flash = ModelConfig(**FLASH)
    assert sum(matmul_parameters(flash, 8).values()) == pytest.approx(27.149e9, rel=1e-4)
    assert sum(training_flops_per_token(flash, 4096, 8).values()) == pytest.approx(1.769849e11, rel=1e-4)
    assert sum(training_flops_per_token(flash, 4096, 8, "full").values()) == pytest.approx(1.910778e11, rel=1e-4)
    assert sum(parameters(flash).values()) == pytest.approx(560e9, rel=0.01)
    assert expected_ffn_experts(flash) == 8


def test_keys_that_a_query_reads():
    """Half the square, or what a window leaves of it; no jump where the sequence outgrows the window."""
    assert keys_read(100, "causal") == 50
    assert keys_read(100, "full") == 100
    mask = [min(query + 0.5, 40) for query in range(100)]
    assert keys_read(100, "causal", 40) == pytest.approx(sum(mask) / 100, rel=1e-3)
    assert [keys_read(length, "full", 40) for length in (39, 40, 41, 100)] == [39, 40, 40, 40]
    for scores in ("causal", "full"):
        assert keys_read(41, scores, 40) == pytest.approx(keys_read(40, scores, 40), rel=0.03)


SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 16, index_topk: 64, index_local_tokens: 8}"


@pytest.mark.parametrize(
    ("preset", "extra"), [("smoke", []), ("tiny", []), ("smoke", ["model.mtp_num_layers=2"]), ("smoke", [SPARSE])]
)
def test_flops_equal_torchs_counter(preset, extra, monkeypatch):
    """torch counts the whole square of scores, as our attention does up to one block of queries."""
    monkeypatch.setattr(grouped_matmul, "ROW_MULTIPLE", 1)  # no rows but the experts' own
    config = load_config(preset, overrides=extra).model
    model = LongcatModel(config)
    model.initialize(0)
    model.train()
    tokens = torch.randint(3, config.vocabulary, (2, 33))
    assert tokens.shape[1] <= attention.QUERY_BLOCK
    # the counter knows the product that makes a new tensor, not the one that adds to a given one
    in_place = {torch.ops.aten.baddbmm_: lambda _, a, b, out_shape=None, **kwargs: bmm_flop(a, b)}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        sums = model.sums(tokens[:, :-1], tokens[:, 1:])
        (sums.language_model + sums.mtp + sums.indexer).backward()
    experts = load_metrics(sums.router_load, config)["moe/ffn_experts_per_token"]
    expected = sum(training_flops_per_token(config, 32, experts, "full").values()) + beyond_the_model(config, 32)
    assert counter.get_total_flops() == pytest.approx(64 * expected, rel=1e-3)


def beyond_the_model(config, keys):
    """What a token costs the indexer's loss besides: the probabilities that it learns from are computed once more in each
    sublayer, and so are its scores in the second one; and the weighting of its heads, in both passes, is not a matrix of the model."""
    if config.sparse_attention is None:
        return 0
    heads, dim = config.sparse_attention.index_n_heads, config.sparse_attention.index_head_dim
    probabilities = 2 * config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim) * keys
    return 2 * probabilities + 3 * 2 * heads * dim * keys + 2 * 3 * 2 * heads * keys


def test_sparse_attention_reads_the_budget():
    config = load_config("smoke", overrides=[SPARSE]).model
    dense = config.model_copy(update={"sparse_attention": None})
    short, same = (training_flops_per_token(model, 64, 2) for model in (config, dense))
    assert short["attention_scores"] == same["attention_scores"]
    long = training_flops_per_token(config, 200, 2)
    read = sum(min(t + 0.5, 64) for t in range(200)) / 200
    assert long["attention_scores"] == pytest.approx(short["attention_scores"] * read / 32, rel=1e-3)
    # scored by the indexer: every key forward, the chosen ones twice backward
    assert long["index_scores"] == pytest.approx(2 * 2 * 16 * (100 + 2 * read), rel=1e-3)
    # cut from the graph, the indexer has gradients of its weights but none to hand on
    assert long["indexer_projections"] == 4 * (32 * 2 * 16 + 64 * (16 + 2))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("extra", [[], ["model.mtp_num_layers=2"], [SPARSE, "model.mtp_num_layers=3"]])
def test_parameters_are_those_of_the_model(bias, extra):
    config = load_config("smoke", overrides=extra).model.model_copy(update={"attention_bias": bias})
    assert sum(parameters(config).values()) == sum(p.numel() for p in LongcatModel(config).parameters())


PUBLISHED = {  # total, n-gram tables, activated least, mean and most: billions, as the papers round them
    "longcat-flash": (560, 0, 18.6, 27.15, 31.3),
    "longcat-flash-lite": (68.5, 31.4, 2.9, 3.99, 4.5),
    "longcat-2.0": (1600, 135, 33, 48.7, 56),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_size(name):
    config = load_config(name)
    with torch.device("meta"):
        model = LongcatModel(config.model)
    total, ngram, least, mean, most = PUBLISHED[name]
    counts = parameters(config.model)
    assert sum(p.numel() for p in model.parameters()) == sum(counts.values())
    assert sum(counts.values()) == pytest.approx(total * 1e9, rel=0.025)
    assert counts.get("ngram_tables", 0) == pytest.approx(ngram * 1e9, rel=0.01)
    wanted = target_ffn_experts(config.model, config.training.balance)
    assert wanted == 8
    assert activated_parameters(config.model, 0) == pytest.approx(least * 1e9, rel=0.02)
    assert activated_parameters(config.model, config.model.moe_topk) == pytest.approx(most * 1e9, rel=0.02)
    workload = longcat_workload(config.model, wanted)
    assert workload.activated_parameters == pytest.approx(mean * 1e9, rel=0.01)
    embedding = config.model.hidden_size * config.model.vocabulary
    rest = workload.formula_parameters - workload.activated_parameters - embedding
    # norms, biases and multi-token prediction; never the n-gram tables
    assert rest == counts["norms_and_biases"] + counts.get("mtp", 0)


def test_a_frozen_weight_costs_two_thirds():
    """Its own gradient is not computed; the scores of attention cost what they do."""
    workload = longcat_workload(load_config("tiny").model, 2.0)
    whole = workload.flops(256, "causal")
    few = workload.trained(workload.total_parameters * 1e-9).flops(256, "causal")
    assert few["attention_scores"] == whole["attention_scores"]
    assert few["attention_projections"].training == pytest.approx(whole["attention_projections"].training * 4 / 6)
    assert workload.trained(workload.total_parameters).training_flops(256) == workload.training_flops(256)
    half = workload.trained(workload.total_parameters / 2)
    assert half.flops(256, "causal")["lm_head"].training == pytest.approx(whole["lm_head"].training * 5 / 6)
    for wrong in (0, -1, 2 * workload.total_parameters):
        with pytest.raises(ConfigError, match="trainable parameters: there must be above 0"):
            workload.trained(wrong)


@pytest.mark.parametrize("recomputation", ["selective", "full"])
def test_recomputed_fractions_are_those_of_torchs_counter(recomputation, monkeypatch):
    monkeypatch.setattr(grouped_matmul, "ROW_MULTIPLE", 1)
    monkeypatch.setattr(attention, "KEPT_LENGTH", 0)  # as on a device: probabilities are not kept anyway
    config = load_config("smoke", overrides=["model.mtp_num_layers=2"]).model
    tokens = torch.randint(3, config.vocabulary, (2, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for mode in ("none", recomputation):
        model = LongcatModel(config)
        model.initialize(0)
        use_recomputation(model.train(), mode)
        with FlopCounterMode(display=False) as counter:
            sums = model.sums(tokens[:, :-1], tokens[:, 1:])
            (sums.language_model + sums.mtp).backward()
        found.append(counter.get_total_flops())
    experts = load_metrics(sums.router_load, config)["moe/ffn_experts_per_token"]
    # a CPU's product of the experts is done before torch finds that nothing needs it; in whole layers the last ones are not done
    fractions = recomputed_fractions(config, recomputation) | {"routed_experts": 1.0}
    parts = flops_per_token(config, 32, experts, "full")
    expected = 64 * sum(fractions.get(name, 0.0) * part.forward for name, part in parts.items())
    assert found[1] - found[0] == pytest.approx(expected, rel=0.1 if recomputation == "full" else 0.02)
