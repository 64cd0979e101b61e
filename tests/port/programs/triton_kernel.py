"""A softmax in Triton, used in attention."""

import torch
import torch.nn as nn
import triton
import triton.language as tl

DEVICE = triton.runtime.driver.active.get_active_torch_device()


@triton.jit
def softmax_kernel(out, x, stride, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + offsets, mask=offsets < n, other=-float("inf"))
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + offsets, values / tl.sum(values, axis=0), mask=offsets < n)


def softmax(x):
    rows, n = x.shape
    out = torch.empty_like(x)
    softmax_kernel[(rows,)](out, x, x.stride(0), n, BLOCK=triton.next_power_of_2(n))
    return out


class Attention(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x, keep):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / x.size(-1) ** 0.5
        weights = softmax(scores.flatten(0, 1)).view_as(scores)
        return (weights @ v)[keep]


def main():
    torch.manual_seed(0)
    model = Attention().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        x = torch.randn(4, 16, 32, device="cuda")
        chosen = torch.nonzero(x.mean((1, 2)) > 0).squeeze(1)
        loss = model(x, chosen).square().mean() + torch.lgamma(x.abs() + 1).mean()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


if __name__ == "__main__":
    main()
