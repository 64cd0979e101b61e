"""Fine-tune a tiny GPT-2 with transformers' Trainer; it finds its device itself."""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_LAUNCH_BLOCKING"] = "0"

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

set_seed(42)


class RandomText(Dataset):
    def __init__(self, count=64, length=24):
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(0, 128, (count, length), generator=generator)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class MemoryCallback(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            self.peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()


class LoggedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        logits, labels = outputs.logits[:, :-1], inputs["labels"][:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)), labels.reshape(-1))
        if torch.isnan(loss).any() and loss.is_cuda:
            torch.cuda.empty_cache()
        return (loss, outputs) if return_outputs else loss


def main():
    config = GPT2Config(
        vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    )
    model = GPT2LMHeadModel(config)
    if torch.cuda.device_count() > 1:
        print(f"{torch.cuda.device_count()} GPUs")
    arguments = TrainingArguments(
        output_dir="out",
        per_device_train_batch_size=8,
        max_steps=6,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=True,
        optim="adamw_torch",
    )
    trainer = LoggedTrainer(model=model, args=arguments, train_dataset=RandomText(), callbacks=[MemoryCallback()])
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    print("norm of the weights", weights.norm().item())


if __name__ == "__main__":
    main()
