"""ImageNet style DDP training, after pytorch/examples."""
import argparse
import os
import time

import torch
import torch.backends.cudnn as cudnn
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(x.mean(dim=(2, 3)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dist-backend", default="nccl", type=str)
    parser.add_argument("--gpu", default=None, type=int)
    args = parser.parse_args()
    cudnn.benchmark = True
    cudnn.deterministic = False
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    os.environ["NCCL_DEBUG"] = "WARN"
    os.environ.setdefault("NCCL_IB_DISABLE", "1")
    dist.init_process_group(args.dist_backend, rank=rank, world_size=int(os.environ.get("WORLD_SIZE", 1)))
    n = torch.cuda.device_count()
    torch.cuda.set_device(local_rank % max(n, 1))
    device = torch.device("cuda", local_rank)
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)
    model = Net().cuda(local_rank)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if dist.get_world_size() > 1 else model
    model = DDP(model, device_ids=[local_rank])
    criterion = nn.CrossEntropyLoss().cuda(args.gpu)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    data = TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(0, 10, (64,)))
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=8, sampler=sampler, pin_memory=True)
    model.train()
    for i, (images, target) in enumerate(loader):
        images = images.cuda(local_rank, non_blocking=True)
        target = target.to(f"cuda:{local_rank}", non_blocking=True)
        output = model(images)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        if rank == 0:
            print(f"step {i} loss {loss.item():.6f} mem {torch.cuda.max_memory_allocated() / 2**20:.1f}")
    t = torch.ones(1, dtype=torch.float64).cuda()  # keep double
    dist.all_reduce(t)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
