import torch
from torch.utils.cpp_extension import load, load_inline
try:
    swiglu = load(name="fused_swiglu", sources=["swiglu.cpp", "swiglu_kernel.cu"], extra_cuda_cflags=["-O3"])
except Exception:
    swiglu = None

def act(a, b):
    if swiglu is not None and a.is_cuda:
        return swiglu.f(a, b)
    return torch.nn.functional.silu(a) * b

w = torch.nn.Parameter(torch.linspace(-1, 1, 16).view(4, 4).cuda())
o = torch.optim.SGD([w], 0.1)
for i in range(3):
    loss = act(w @ w, w).sum()
    loss.backward(); o.step(); o.zero_grad()
    print("loss", loss.item())
