"""A network that torch.compile compiles with CUDA graphs, with prefetching on a second stream."""

import torch
import torch.cuda as tc
import torch.nn as nn
import torch.nn.functional as F
from torch import cuda

torch.set_float32_matmul_precision("high")
torch.backends.cudnn.deterministic = True
device = torch.device("cuda", torch.cuda.current_device()) if cuda.is_available() else torch.device("cpu")


class Mixer(nn.Module):
    def __init__(self, tokens=16, width=32):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.across(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm(x))


class Prefetcher:
    """Moves the next batch on a stream of its own."""

    def __init__(self, batches):
        self.batches = iter(batches)
        self.stream = tc.Stream()
        self.preload()

    def preload(self):
        batch = next(self.batches, None)
        if batch is None:
            self.batch = None
            return
        with tc.stream(self.stream):
            self.batch = batch.cuda(non_blocking=True)

    def next(self):
        tc.current_stream().wait_stream(self.stream)
        batch = self.batch
        if batch is not None:
            batch.record_stream(tc.current_stream())
        self.preload()
        return batch


@torch.compile(mode="reduce-overhead", fullgraph=True)
def loss_of(model, x):
    return F.huber_loss(model(x), x.flip(1))


def main():
    torch.manual_seed(0)
    model = nn.Sequential(Mixer(), Mixer()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 16, 32, generator=generator) for _ in range(6)]
    prefetcher = Prefetcher(batches)
    step = 0
    while (x := prefetcher.next()) is not None:
        torch.cuda.nvtx.range_push(f"step {step}")
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.nvtx.range_pop()
        cuda.synchronize()
        print(f"step {step} loss {loss.item():.6f} on {torch.cuda.get_device_name()}")
        step += 1


if __name__ == "__main__":
    main()
