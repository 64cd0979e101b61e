"""Uses the fused kernel where it was built, and plain torch elsewhere."""

import torch
import torch.nn as nn
import torch.nn.functional as F

try:
    import fused_bias_gelu_cuda
except ImportError:
    fused_bias_gelu_cuda = None


class BiasGelu(torch.autograd.Function):
    @staticmethod
    @torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
    def forward(ctx, x, bias):
        ctx.save_for_backward(x, bias)
        if fused_bias_gelu_cuda is not None and x.is_cuda:
            return fused_bias_gelu_cuda.forward(x.contiguous(), bias)
        return F.gelu(x + bias)

    @staticmethod
    @torch.cuda.amp.custom_bwd
    def backward(ctx, grad):
        x, bias = ctx.saved_tensors
        with torch.enable_grad():
            v = (x + bias).detach().requires_grad_()
            F.gelu(v).backward(grad)
        return v.grad, v.grad.flatten(0, -2).sum(0)


class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width)
        self.bias = nn.Parameter(torch.zeros(4 * width))

    def forward(self, x):
        return self.down(BiasGelu.apply(self.up(x), self.bias))


def main():
    torch.manual_seed(3)
    dev = "cuda:0"
    net = Net().to(dev)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(6):
        x = torch.randn(16, 32).to(device=dev)
        loss = F.mse_loss(net(x), torch.sin(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss={loss.item():.6f}, {torch.cuda.memory_allocated('cuda:0') >> 10} KiB")


if __name__ == "__main__":
    main()
