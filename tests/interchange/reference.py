"""A random LongCat-Flash of transformers', to compare with."""

import json

import torch
import transformers


def reference(seed, **changes):
    """A random model of transformers' with every weight random, norms and selection bias included."""
    values = dict(
        vocab_size=97, hidden_size=48, num_layers=2, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=20,
        kv_lora_rank=12, qk_nope_head_dim=10, qk_rope_head_dim=6, head_dim=6, v_head_dim=14, ffn_hidden_size=56,
        expert_ffn_hidden_size=18, n_routed_experts=5, zero_expert_num=3, moe_topk=4, routed_scaling_factor=1.7,
        max_position_embeddings=64, rms_norm_eps=1e-5,
    )  # fmt: skip
    values.update(changes)
    values["num_key_value_heads"] = values["num_attention_heads"]
    values["head_dim"] = values["qk_rope_head_dim"]
    torch.manual_seed(seed)
    model = transformers.LongcatFlashForCausalLM(transformers.LongcatFlashConfig(**values)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.1 if parameter.dim() > 1 else 0.3))
            if "norm" in name:
                parameter.add_(1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.05)
    return model


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def change_config(directory, changes=(), removed=()):
    """Rewrite a folder's config.json, as somebody else's program may have written it."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | dict(changes)
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in removed}))


def opened_by_transformers(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
