import os
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy

def main():
    rank = int(os.environ["RANK"])
    dist.init_process_group(backend="cpu:gloo,cuda:nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh("cuda", (dist.get_world_size(),))
    torch.manual_seed(3)
    m = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    m = m.cuda()
    fully_shard(m[0], mesh=mesh); fully_shard(m, mesh=mesh)
    opt = torch.optim.AdamW(m.parameters(), lr=1e-2, foreach=True)
    dev = torch.device(f"cuda:{torch.cuda.current_device()}")
    for step in range(4):
        x = torch.randn(8, 16, device=dev)
        loss = m(x).pow(2).mean()
        loss.backward()
        opt.step(); opt.zero_grad()
        with torch.no_grad():
            dist.all_reduce(loss, op=dist.ReduceOp.AVG)
        free, total = torch.cuda.mem_get_info()
        if rank == 0: print("step", step, "loss", round(float(loss), 6))
    assert next(m.parameters()).is_cuda
    dist.barrier(device_ids=[torch.cuda.current_device()])
    dist.destroy_process_group()

main()
