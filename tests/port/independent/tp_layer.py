"""Column parallel layer, as Megatron's."""
import os
import torch
import torch.distributed as dist
from torch.nn.parameter import Parameter
import torch.nn.functional as F

try:
    import apex
    from apex.normalization import FusedLayerNorm
except ImportError:
    FusedLayerNorm = torch.nn.LayerNorm

os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        g = g.contiguous()
        dist.all_reduce(g)
        return g


class ColumnParallelLinear(torch.nn.Module):
    def __init__(self, i, o, world):
        super().__init__()
        self.weight = Parameter(torch.empty(o // world, i, device=torch.cuda.current_device(), dtype=torch.float32))
        torch.nn.init.normal_(self.weight, std=0.02)

    def forward(self, x):
        return F.linear(_Copy.apply(x), self.weight)


def set_seed(seed):
    torch.cuda.manual_seed(seed)
    torch.cuda.set_rng_state(torch.cuda.get_rng_state())
    default = torch.cuda.default_generators[torch.cuda.current_device()]


def run():
    dist.init_process_group("nccl")
    torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    torch.manual_seed(11)
    set_seed(5)
    group = dist.new_group(list(range(dist.get_world_size())), backend="nccl")
    pg_options = None
    if os.environ.get("HIGH"):
        pg_options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
    layer = ColumnParallelLinear(16, 32, dist.get_world_size())
    norm = FusedLayerNorm(16).cuda()
    opt = torch.optim.Adam(list(layer.parameters()) + list(norm.parameters()), lr=1e-2)
    for it in range(4):
        x = torch.cuda.FloatTensor(4, 16).fill_(0.5 + it)
        x = x + torch.arange(16, device="cuda")
        y = layer(norm(x))
        loss = (y - 1).pow(2).sum()
        loss.backward()
        opt.step(); opt.zero_grad()
        total = loss.detach().double()
        dist.all_reduce(total, group=group)
        torch.cuda.nvtx.range_push("it")
        torch.cuda.nvtx.range_pop()
        if dist.get_rank() == 0: print("loss:", total.item())


if __name__ == "__main__":
    run()
