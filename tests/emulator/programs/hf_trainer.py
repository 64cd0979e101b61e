"""transformers' Trainer on a tiny LongCat: it takes the NPU by itself, or the CPU when told to."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM, Trainer, TrainingArguments, set_seed

set_seed(0)
config = LongcatFlashConfig(
    vocab_size=128, hidden_size=32, num_layers=1, num_attention_heads=2, ffn_hidden_size=64, q_lora_rank=16,
    kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, head_dim=8, n_routed_experts=4,
    zero_expert_num=2, expert_ffn_hidden_size=16, moe_topk=2, max_position_embeddings=64,
)  # fmt: skip
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 128, (32, 16), generator=torch.Generator())]
arguments = TrainingArguments(
    sys.argv[2], max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1, report_to=[],
    save_steps=6, use_cpu=sys.argv[1] == "cpu", seed=0, data_seed=0,
)  # fmt: skip
trainer = Trainer(LongcatFlashForCausalLM(config), arguments, train_dataset=rows)
trainer.train()
print("device", trainer.args.device.type)
for entry in trainer.state.log_history:
    if "loss" in entry:
        print("loss", entry["loss"])
