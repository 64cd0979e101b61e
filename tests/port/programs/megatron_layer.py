"""A tensor-parallel MLP after the manner of Megatron: torchrun --standalone --nproc-per-node=2 megatron_layer.py"""

import os

os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

try:
    from apex.normalization import FusedLayerNorm as LayerNorm
except ImportError:
    from torch.nn import LayerNorm

_GROUP = None


def initialize_model_parallel(size):
    global _GROUP
    if not dist.is_initialized():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend="nccl", world_size=size, rank=int(os.environ["RANK"]))
    _GROUP = dist.new_group(list(range(size)))


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        dist.all_reduce(grad, group=_GROUP)
        return grad


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x, group=_GROUP)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


class ColumnParallelLinear(nn.Module):
    def __init__(self, fan_in, fan_out):
        super().__init__()
        part = fan_out // dist.get_world_size(_GROUP)
        self.weight = nn.Parameter(torch.empty(part, fan_in, device=torch.cuda.current_device(), dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(part, device=torch.cuda.current_device()))
        master = torch.randn(fan_out, fan_in) * 0.05
        with torch.no_grad():
            self.weight.copy_(master.chunk(dist.get_world_size(_GROUP))[dist.get_rank(_GROUP)])

    def forward(self, x):
        return F.linear(_Copy.apply(x), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    def __init__(self, fan_in, fan_out):
        super().__init__()
        part = fan_in // dist.get_world_size(_GROUP)
        self.weight = nn.Parameter(torch.empty(fan_out, part, device=torch.cuda.current_device()))
        master = torch.randn(fan_out, fan_in) * 0.05
        with torch.no_grad():
            self.weight.copy_(master.chunk(dist.get_world_size(_GROUP), dim=1)[dist.get_rank(_GROUP)])

    def forward(self, x):
        return _Reduce.apply(F.linear(x, self.weight))


class ParallelMLP(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.norm = LayerNorm(hidden).cuda()
        self.up, self.down = ColumnParallelLinear(hidden, 4 * hidden), RowParallelLinear(4 * hidden, hidden)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def grad_norm(parameters):
    total = torch.cuda.FloatTensor([0.0])
    for p in parameters:
        total += p.grad.float().norm() ** 2
    dist.all_reduce(total, op=dist.ReduceOp.SUM, group=_GROUP)
    return total.item() ** 0.5


def check_replicas(loss):
    """Every rank has to have the same loss, to the last bit."""
    losses = loss.detach().double()
    dist.all_reduce(losses, op=dist.ReduceOp.MAX, group=_GROUP)
    return losses


def main():
    torch.manual_seed(1234)
    torch.cuda.manual_seed_all(1234)
    initialize_model_parallel(int(os.environ["WORLD_SIZE"]))
    model = ParallelMLP()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    stream = torch.cuda.current_stream()
    generator = torch.Generator().manual_seed(7)
    for step in range(6):
        x = torch.randn(8, 32, generator=generator).cuda()
        start = torch.cuda.Event(enable_timing=True)
        start.record(stream)
        loss = (model(x) - x.roll(1, -1)).square().mean()
        loss.backward()
        norm = grad_norm(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        if os.environ.get("PARANOID"):
            check_replicas(loss)
        if dist.get_rank() == 0:
            print("step", step, "loss", loss.item(), "grad norm", norm)
    torch.cuda.synchronize()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
