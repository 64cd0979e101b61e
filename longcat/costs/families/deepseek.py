"""Families of the DeepSeek kind: latent attention, shared and routed experts."""

from __future__ import annotations

from dataclasses import replace

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import gated, read_experts
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _deepseek(f: Fields, family: str) -> Workload:
    """Latent attention, shared and routed experts (arXiv 2405.04434, section 2)."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    q_rank, kv_rank = f.count("q_lora_rank", 0), f.size("kv_lora_rank")
    rope, nope, value = f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim"), f.size("v_head_dim")
    key = rope + nope
    queries = h * q_rank + q_rank * heads * key if q_rank else h * heads * key
    weights = queries + h * (kv_rank + rope) + kv_rank * heads * (nope + value) + heads * value * h
    biases = (q_rank + kv_rank + rope + h) * f.flag("attention_bias", False)
    experts, sparse, ffn = read_experts(f, h, layers)
    depths = f.count("num_nextn_predict_layers", 0)
    vectors = layers * (2 * h + q_rank + kv_rank + biases) + h
    shape = gated(
        f,
        family,
        hidden=h,
        layers=layers,
        dense=(layers - sparse, ffn),
        mixture=(sparse, experts),
        attention_weights=weights,
        mixers=(Attention(layers, heads, key, value),),
        norm_and_bias_parameters=vectors,
        assumptions=(f"num_nextn_predict_layers={depths} is not counted; --mtp does",) if depths and not f.mtp else (),
    )
    if not f.mtp:
        return shape.workload()
    if not depths or experts is None:
        raise ConfigError(f"{f.source}: no layers of multi-token prediction, but --mtp")
    # each depth joins the hidden state with the next token's embedding and has one layer; the head is the model's own
    # (DeepSeek-V3, arXiv 2412.19437, section 2.2)
    layer = weights + experts.router + experts.chosen * experts.expert + experts.shared
    head = h * shape.vocabulary
    return replace(
        shape,
        matrices={**shape.matrices, "mtp": depths * (2 * h * h + layer + head)},
        mixers=(Attention(layers + depths, heads, key, value),),
        norm_and_bias_parameters=vectors + depths * (2 * h + q_rank + kv_rank + biases + 3 * h),
        inactive_expert_parameters=shape.inactive_expert_parameters
        + depths * (experts.number - experts.chosen) * experts.expert,
        shared_parameters=depths * head,
    ).workload()


_MLA = {
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
FAMILIES = {
    "deepseek_v2": Family(
        lambda f: _deepseek(f, "deepseek_v2"),
        ("DeepseekV2ForCausalLM",),
        {
            "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407, "first_k_dense_replace": 0,
            **_MLA,
        },
        mtp=True,
    ),
    "deepseek_v3": Family(
        lambda f: _deepseek(f, "deepseek_v3"),
        ("DeepseekV3ForCausalLM",),
        {
            "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
            "num_experts_per_tok": 8, **_MLA,
        },
        mtp=True,
    ),
}  # fmt: skip
