"""What transformers has for a config.json: its parameters on the meta device, the FLOPs of a step by torch's counter."""

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from longcat.costs.families import from_config
from longcat.errors import ConfigError

TEXT_MODELS = {  # of families that have no model with a head for text alone
    "glm5_next_text": "Glm5NextTextModel",
    "mistral4": "Mistral4Model",
    "qwen3_vl_moe_text": "Qwen3VLMoeTextModel",
    "step3p5": "Step3p7TextModel",
}
SAME = {
    "kimi_k2": "deepseek_v3",
    "minimax_m3": "minimax_m3_vl_text",
    "minimax_m3_vl": "minimax_m3_vl_text",
    "step3p7": "step3p5",
}


def text_of(values):
    """Return the model type and the fields of the text model that a config.json describes."""
    outer = {name: values[name] for name in ("model_type", "tie_word_embeddings") if name in values}
    text = outer | values["text_config"] if "text_config" in values else dict(values)
    return text.pop("model_type"), text


def known(family):
    """Return whether transformers has a class for it."""
    name = SAME.get(family, family)
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or name in TEXT_MODELS


class WithHead(torch.nn.Module):
    """A text model with a head on it."""

    def __init__(self, config):
        super().__init__()
        name = TEXT_MODELS[config.model_type]
        module = __import__(type(config).__module__.replace("configuration", "modeling"), fromlist=[name])
        self.model = getattr(module, name)._from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        )
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens, labels):
        return self.lm_head(self.model(tokens, use_cache=False).last_hidden_state)


def config_of(family, fields):
    return transformers.AutoConfig.for_model(SAME.get(family, family), **fields)


def build(family, fields):
    config = config_of(family, fields)
    torch.manual_seed(0)
    if config.model_type in TEXT_MODELS:
        return config, WithHead(config)
    assert config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return config, transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )


def parameters(family, fields):
    """Return the number of parameters of a model of any size."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(family, fields)[1].parameters())


def training_flops(family, fields, length=32):
    """Return the FLOP of a forward and a backward pass of one sequence, the whole square of attention."""
    config, model = build(family, fields)
    tokens = torch.randint(0, config.vocab_size, (1, length))
    with FlopCounterMode(display=False) as counter:
        if isinstance(model, WithHead):
            model(tokens, tokens).float().logsumexp(-1).sum().backward()
        else:
            model(tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops()


def left_out_one_by_one(family, fields, how):
    """Assert that a file without a field, or with a null there, is counted as transformers' class or refused by name."""
    for name in fields:
        left = {key: value for key, value in fields.items() if key != name} | ({name: None} if how == "null" else {})
        try:
            found = from_config({"model_type": family} | left, "c").total_parameters
        except ConfigError as error:
            assert "do not divide" in str(error) or any(field in str(error) for field in fields)
            continue
        try:
            expected = parameters(family, left)
        except Exception:
            continue
        assert found == expected, name
