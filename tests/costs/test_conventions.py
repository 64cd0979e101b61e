"""The formulas of others, against figures worked out with their own code or printed in their papers."""

import pytest

from longcat.config import ModelConfig, load_config
from longcat.costs.conventions import llm_foundry, megatron_2021, palm, side_by_side, six_n
from longcat.costs.families import from_config
from longcat.costs.workload import longcat_workload

LLAMA2_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "intermediate_size": 11008,
}  # fmt: skip
LLAMA3_8B = LLAMA2_7B | {"vocab_size": 128256, "num_key_value_heads": 8, "intermediate_size": 14336}
MIXTRAL = LLAMA3_8B | {"model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
GPT3 = {"model_type": "gpt2", "vocab_size": 51200, "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}


@pytest.mark.parametrize(
    ("config", "length", "megatron", "torchtitan"),
    [
        (LLAMA2_7B, 4096, 4.286369e10, 4.608651e10),
        (LLAMA3_8B, 8192, 5.147040e10, 5.791445e10),
        (MIXTRAL, 4096, 7.970646e10, None),
        (GPT3, 2048, 1.061947e12, None),
    ],
)
def test_megatron_and_torchtitan_as_their_own_code_gives(config, length, megatron, torchtitan):
    """Figures printed by `num_floating_point_operations` and `num_flops_per_token` for these shapes."""
    found = side_by_side(from_config(config), length)
    assert found["megatron"] == pytest.approx(megatron, rel=1e-6)
    if torchtitan:
        assert found["torchtitan"] == pytest.approx(torchtitan, rel=1e-6)


def test_six_n_of_llama():
    """6.738 billion parameters (arXiv 2302.13971, table 2: 6.7B), of them 131 million of embedding."""
    workload = from_config(LLAMA2_7B)
    assert workload.total_parameters == 6_738_415_616
    assert six_n(workload.total_parameters) == pytest.approx(4.043049e10, rel=1e-6)
    assert side_by_side(workload, 4096)["six_n"] == 6 * (6_738_415_616 - 32000 * 4096)


def test_megatron_2021_counts_the_forward_pass_twice():
    """Equation 3 of arXiv 2104.04473 for 175B: 1.43 PFLOP a token with recomputation, a quarter less without."""
    with_recomputation = megatron_2021(96, 12288, 51200, 2048, recomputation=True)
    without = megatron_2021(96, 12288, 51200, 2048, recomputation=False)
    assert with_recomputation == pytest.approx(1.4340e12, rel=1e-4)
    # the head is never computed twice, so it is a little more than three quarters
    assert without == pytest.approx(1.0764e12, rel=1e-4)
    # and the sum over the matrices with the whole square of scores
    assert without == pytest.approx(side_by_side(from_config(GPT3), 2048)["longcat_full_attention"], rel=1e-6)


def test_megatron_2021_gives_the_papers_training_time():
    """Section 5.1, equation 4: 1T parameters, 450B tokens on 3072 GPUs at 163 TFLOP/s take 84 days; 175B, 300B tokens
    on 1024 at 140 take 34. The paper rounds to 8 FLOP a parameter and leaves scores and head out."""
    runs = ((128, 25600, 450e9, 3072, 163, 84), (96, 12288, 300e9, 1024, 140, 34))
    for layers, hidden, tokens, gpus, tflops, days in runs:
        flops = tokens * megatron_2021(layers, hidden, 51200, 2048, recomputation=True)
        assert flops / (gpus * tflops * 1e12) / 86400 == pytest.approx(days, rel=0.03)


def test_palm_540b():
    """Appendix B of arXiv 2204.02311: 118 layers, 48 heads of 256, 2048 tokens: scores are 1.1 % on top of 6N."""
    width = 118 * 48 * 256
    assert palm(540.35e9, width, 2048) / six_n(540.35e9) == pytest.approx(1.011, abs=5e-4)


def test_llm_foundry_mpt_7b():
    """MPT-7b at 2048 tokens, 4641 tokens/s on an A100: MFU 64.23 % in its README."""
    assert llm_foundry(6658859008, 32, 4096, 2048) * 4641 / 312e12 == pytest.approx(0.6423, abs=5e-4)


def test_longcat_side_by_side():
    """A token of LongCat-Flash: what is published as activated, and that its two attentions a layer are seen."""
    model = load_config("longcat-flash").model
    workload = longcat_workload(model, 8)
    found = side_by_side(workload, 4096)
    assert workload.attention_width == 56 * 64 * (192 + 128) / 2
    assert found["longcat"] < found["torchtitan"] < found["palm"]
    assert found["longcat"] == pytest.approx(1.769849e11, rel=1e-3)
    assert workload.activated_parameters == pytest.approx(27.149e9, rel=1e-3)
    assert longcat_workload(model).assumptions
    assert ModelConfig is type(model)
