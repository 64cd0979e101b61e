"""A workload with a program, a model and a log, as somebody on A100s has it."""

import json

import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
LINE = (
    " iteration {step:8d}/   10000 | consumed samples: {samples:12d} | elapsed time per iteration (ms): 5200.0 | learning rate: "
    "1.0E-04 | global batch size:   256 | lm loss: 2.5E+00 | loss scale: 1.0 | grad norm: 0.5 | number of skipped iterations:   0 |\n"
)


@pytest.fixture
def workload(tmp_path):
    """Options that name its files."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text(
        "import torch\nimport flash_attn\n\nmodel = torch.nn.Linear(4, 4).cuda()\ntorch.cuda.synchronize()\n"
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    lines = [LINE.format(step=10 * one, samples=2560 * one) for one in range(1, 60)]
    (tmp_path / "train.log").write_text("".join(lines))
    return {
        "code": tmp_path / "src",
        "model": str(tmp_path / "config.json"),
        "log": tmp_path / "train.log",
        "device": "a100-80gb",
        "devices": 64,
        "sequence_length": 4096,
        "tokens": 2e12,
        "to": "ascend-910b2:128",
    }
