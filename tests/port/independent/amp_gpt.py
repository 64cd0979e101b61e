# nanoGPT-like, AMP and GradScaler
import contextlib, math, os
import torch
import torch.nn as nn
from torch.cuda.amp import GradScaler, autocast
from torch.nn import functional as F

device = 'cuda' if torch.cuda.is_available() else 'cpu'
device_type = 'cuda' if 'cuda' in device else 'cpu'
dtype = 'bfloat16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else 'float16'
torch.backends.cuda.matmul.allow_tf32 = True   # allow tf32 on matmul
torch.backends.cudnn.allow_tf32 = True
torch.set_float32_matmul_precision("high")
ptdtype = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}[dtype]
ctx = contextlib.nullcontext() if device_type == 'cpu' else torch.amp.autocast(device_type=device_type, dtype=ptdtype)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.ln = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.o = nn.Linear(d, d)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.qkv(self.ln(x)).split(C, dim=2)
        q, k, v = (t.view(B, T, self.h, C // self.h).transpose(1, 2) for t in (q, k, v))
        with torch.backends.cuda.sdp_kernel(enable_flash=True, enable_math=True):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.o(y.transpose(1, 2).reshape(B, T, C))


class GPT(nn.Module):
    def __init__(self, V=64, d=32):
        super().__init__()
        self.wte = nn.Embedding(V, d)
        self.b = Block(d, 4)
        self.head = nn.Linear(d, V, bias=False)

    def forward(self, i, t):
        x = self.head(self.b(self.wte(i)))
        return F.cross_entropy(x.view(-1, x.size(-1)), t.view(-1))


torch.manual_seed(1337)
model = GPT().to(device)
scaler = torch.cuda.amp.GradScaler(enabled=(dtype == 'float16'))
use_fused = True
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
data = torch.randint(0, 64, (4096,))


def get_batch():
    ix = torch.randint(len(data) - 17, (4,))
    x = torch.stack([data[i:i + 16] for i in ix])
    y = torch.stack([data[i + 1:i + 17] for i in ix])
    if device_type == 'cuda':
        # pin arrays x,y
        x, y = x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
    else:
        x, y = x.to(device), y.to(device)
    return x, y


for it in range(5):
    x, y = get_batch()
    with autocast(dtype=torch.bfloat16):
        loss = model(x, y)
    scaler.scale(loss).backward()
    scaler.unscale_(opt)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad(set_to_none=True)
    print(f"iter {it}: loss {loss.item():.4f}, peak {torch.cuda.memory_reserved() >> 20}MB")
torch.cuda.reset_peak_memory_stats()
