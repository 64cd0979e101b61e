"""Run by torchrun in test_mesh: a thread of gloo still wants the interpreter's lock when the process has done its work."""

import sys
import time

import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave


class SlowToGo:
    """Makes Python's finalization last until the thread is back."""

    def __del__(self, sleep=time.sleep) -> None:
        sleep(1)


slow = SlowToGo()
mesh = join(choose("cpu"), Degrees(2), timeout_s=60)
if mesh.rank:
    time.sleep(0.5)  # so that the other one's collective is not done before its callback is there
last = dist.all_reduce(torch.ones(1), async_op=True).get_future()
last.then(lambda _: time.sleep(0.5))  # on gloo's thread, while this one goes on
last.wait()
print("written before the end")
leave()
if sys.argv[1] == "end_process":
    end_process(int(sys.argv[2]))
