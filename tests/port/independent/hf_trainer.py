import os
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class D(Dataset):
    def __len__(self): return 64
    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        t = torch.randint(0, 100, (16,), generator=g)
        return {"input_ids": t, "labels": t}


model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=32, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0., resid_pdrop=0., embd_pdrop=0.)).to("cuda")
args = TrainingArguments(output_dir="/tmp/w19/hfout", max_steps=4, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
                         bf16=torch.cuda.is_bf16_supported(),
                         tf32=True,
                         ddp_backend="nccl",
                         optim="adamw_bnb_8bit" if os.environ.get("BNB") else "adamw_torch_fused",
                         dataloader_pin_memory=True)
trainer = Trainer(model=model, args=args, train_dataset=D())
trainer.train()
if torch.cuda.get_device_capability()[0] >= 8:
    print("ampere")
print(torch.cuda.get_device_name(0), torch.version.cuda)
