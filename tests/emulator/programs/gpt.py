"""A training program as people write it for Ascend: nothing in it knows of the emulator."""

import argparse
import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary=97, hidden=64, layers=2, heads=4, tokens=32):
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, hidden), nn.Embedding(tokens, hidden)
        self.blocks = nn.Sequential(*(Block(hidden, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, vocabulary, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        return F.cross_entropy(self.head(self.norm(self.blocks(x))).flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="npu:0" if hasattr(torch, "npu") and torch.npu.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    npu = device.type == "npu"
    torch.manual_seed(1337)
    text = (torch.arange(64 * 33) ** 2 % 97).reshape(64, 33)
    loader = DataLoader(TensorDataset(text), batch_size=8, num_workers=2, pin_memory=npu)
    model = GPT().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / 16)))
    start, end = (torch.npu.Event(enable_timing=True) for _ in range(2)) if npu else (None, None)
    for _epoch in range(2):
        for (batch,) in loader:
            batch = batch.to(device, non_blocking=True)
            if npu:
                start.record()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.amp):
                loss = model(batch[:, :-1], batch[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if npu:
                end.record()
                torch.npu.synchronize()
                assert start.elapsed_time(end) >= 0
            print(f"loss {loss.item():.6f}", flush=True)
    if options.checkpoint:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, options.checkpoint)
        again = GPT().to(device)
        again.load_state_dict(torch.load(options.checkpoint, map_location=device, weights_only=True)["model"])
        with torch.no_grad():
            print(f"loss {again(batch[:, :-1], batch[:, 1:]).item():.6f}")


if __name__ == "__main__":
    main()
