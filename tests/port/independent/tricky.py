"""Comments on cuda and nccl here are no finding."""
import torch as th
from functools import partial
import torch.nn as nn
import os, subprocess

DEVICE = "cuda"
BACKENDS = {"gpu": "nccl", "cpu": "gloo"}
class Cfg:
    device: str = "cuda:0"
    dist_backend = "nccl"
def pick(dev="cuda"):
    return th.device(dev)
def f(x, use_cuda=True):
    if use_cuda and th.cuda.is_available():
        x = x.cuda()
    cuda = getattr(th, "cuda")
    cuda.synchronize()
    return x
class Wrapper:
    def cuda(self): return self
w = Wrapper().cuda()  # own class
msg = "please install cuda" 
if "cuda" in str(th.device("cpu")):
    pass
devs = ["cuda:%d" % i for i in range(2)]
devs2 = ["cuda:{}".format(i) for i in range(2)]
devs3 = ["cuda:" + str(i) for i in range(2)]
state = th.load("x.pt", map_location="cuda:0") if os.path.exists("x.pt") else None
state2 = th.load("x.pt", map_location=lambda s, l: s.cuda(0)) if os.path.exists("x.pt") else None
mk = partial(th.zeros, device="cuda")
th.set_default_device("cuda") if os.environ.get("DD") else None
th.set_default_tensor_type("torch.cuda.FloatTensor") if os.environ.get("DD") else None
t = th.zeros(1).type("torch.cuda.HalfTensor") if os.environ.get("DD") else None
isinstance(t, th.cuda.FloatTensor) if os.environ.get("DD") else None
@th.amp.custom_fwd(device_type="cuda")
def fwd(ctx, x): return x
@th.cuda.amp.custom_bwd
def bwd(ctx, g): return g
with th.autocast("cuda", dtype=th.bfloat16):
    pass
with th.random.fork_rng(devices=["cuda"], device_type="cuda") if os.environ.get("DD") else th.no_grad():
    pass
gen = th.Generator(device="cuda")
print(subprocess.run(["nvidia-smi", "--query-gpu=memory.used"], capture_output=True) if os.environ.get("DD") else "")
nccl_v = th.cuda.nccl.version() if os.environ.get("DD") else 0
arch = os.environ.get("TORCH_CUDA_ARCH_LIST")
d2 = th.bincount(th.tensor([1, 2]))
u = th.unique(th.tensor([1, 1]))
m = nn.Linear(2, 2, device="cuda", dtype=th.float64)
val = th.linalg.eigh(th.eye(2))
pooled = nn.AdaptiveAvgPool3d(1)
th.use_deterministic_algorithms(True)
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
