"""TRL's supervised fine-tuning."""

from datasets import Dataset
from small_llama import lines, model, tokenizer
from trl import SFTConfig, SFTTrainer

arguments = SFTConfig(
    output_dir="out", max_steps=8, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
    max_length=32, seed=0, bf16=False,
)  # fmt: skip
SFTTrainer(
    model=model(), args=arguments, processing_class=tokenizer(), train_dataset=Dataset.from_dict({"text": lines(64)})
).train()
