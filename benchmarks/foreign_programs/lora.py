"""peft's LoRA under transformers' Trainer, with gradient checkpointing."""

from peft import LoraConfig, get_peft_model
from small_llama import model, rows
from transformers import Trainer, TrainingArguments

net = model()
net.enable_input_require_grads()
net = get_peft_model(net, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0))
arguments = TrainingArguments(
    output_dir="out", max_steps=8, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
    gradient_checkpointing=True, seed=0,
)  # fmt: skip
Trainer(model=net, args=arguments, train_dataset=rows(64)).train()
