"""transformers' Trainer, in the precision that is named."""

import sys

from small_llama import model, rows
from transformers import Trainer, TrainingArguments

precision = sys.argv[1]
arguments = TrainingArguments(
    output_dir="out", max_steps=8, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
    bf16=precision == "bf16", fp16=precision == "fp16", seed=0, dataloader_num_workers=0,
)  # fmt: skip
Trainer(model=model(), args=arguments, train_dataset=rows(64)).train()
