import torch
from torch import nn

dev = torch.device("cuda:0")
net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)).to(device=dev)
fast = torch.compile(net, mode="max-autotune")
torch._inductor.config.triton.cudagraphs = True
static_in = torch.zeros(4, 8, device='cuda')
s = torch.cuda.Stream()
s.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(s):
    for _ in range(3):
        out = net(static_in)
torch.cuda.current_stream().wait_stream(s)
g = torch.cuda.CUDAGraph()
with torch.cuda.graph(g):
    static_out = net(static_in)
static_in.copy_(torch.ones(4, 8))
g.replay()
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
start.record()
for _ in range(2):
    static_in.record_stream(torch.cuda.current_stream())
    loss = fast(static_in).sum()
    loss.backward()
end.record()
torch.cuda.synchronize(dev)
print("ms", start.elapsed_time(end))
prof = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA])
idx = torch.nonzero(static_in > 0)
mask = static_in[static_in > 0.5]
if loss.device.type == "cuda":
    print(torch.cuda.memory_summary())
torch.cuda.memory._record_memory_history()
torch.cuda.ipc_collect()
