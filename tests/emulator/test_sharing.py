"""Memory and devices that are shared: between processes, with the host, by several devices of one process."""

import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

pytestmark = pytest.mark.emulator


def double(inbox, outbox):
    for x in iter(lambda: inbox.get(timeout=100), None):
        outbox.put((str(x.device), x.tolist()))
        x.mul_(2)
        outbox.put(None)
        del x
    outbox.close()


def test_tensors_go_through_a_queue_without_a_copy():
    context = mp.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=double, args=(inbox, outbox), daemon=True)
    process.start()
    whole = torch.arange(12.0, device="npu:1").reshape(3, 4)
    for x in (whole, whole[1:, ::2], torch.ones(1 << 20, dtype=torch.int8, device="npu")[:3]):
        before = x.clone()
        inbox.put(x)
        assert outbox.get(timeout=100) == (str(x.device), before.tolist())
        outbox.get(timeout=100)
        assert torch.equal(x, 2 * before)
    inbox.put(None)
    process.join(100)
    assert process.exitcode == 0


PRODUCER = """
import sys, pickle, torch, torch_npu
from torch.multiprocessing.reductions import reduce_tensor
x = torch.ones(3, device="npu")
function, arguments = reduce_tensor(x)
sys.stdout.buffer.write(pickle.dumps((function.__module__, function.__name__, arguments[1:])))
"""


def test_memory_of_a_process_that_is_gone_is_refused_at_once():
    """What it had shared, as its consumer would open it."""
    import pickle

    run = subprocess.run([sys.executable, "-c", PRODUCER], capture_output=True, timeout=100, check=True)
    module, name, arguments = pickle.loads(run.stdout)
    rebuild = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    with pytest.raises(RuntimeError, match="no longer has the memory that it shared"):
        rebuild(torch.Tensor, *arguments)


def test_data_parallel():
    torch.manual_seed(0)
    single = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).npu().eval()
    x = torch.randn(10, 6, device="npu")
    expected = single(x)
    expected.sum().backward()
    gradients = [parameter.grad.clone() for parameter in single.parameters()]
    for devices in ([0, 1], [0, 3, 2, 5]):
        single.zero_grad()
        found = nn.DataParallel(single, devices)(x)
        assert found.device.index == 0
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        for parameter, gradient in zip(single.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_memory_of_the_program_is_registered():
    runtime, x = torch.npu.npurt(), torch.arange(1024.0)
    assert runtime.npuHostRegister(x.data_ptr(), x.nbytes, 0) == 0
    assert runtime.npuHostRegister(x.data_ptr() + 64, 64, 0) != 0, "it is registered already"
    assert torch.equal(x.npu(non_blocking=True).cpu(), x)
    assert runtime.npuHostUnregister(x.data_ptr()) == 0
    assert runtime.npuHostUnregister(x.data_ptr()) != 0


def test_memory_of_the_host_stands_in_for_the_devices():
    import torch_npu

    x = torch_npu.empty_with_swapped_memory([64, 32], dtype=torch.float32, device="npu:0")
    x.fill_(3)
    assert (x + torch.ones(32, device="npu")).unique().tolist() == [4.0]
    del x


def test_nothing_is_under_way_when_somebody_asks():
    torch.ones(1000, device="npu").sum()
    assert torch.npu.utilization() == 0


def test_cores_that_are_used_are_limited():
    stream = torch.npu.Stream()
    assert torch.npu.get_device_limit(0) == {"cube_core_num": 24, "vector_core_num": 48}
    torch.npu.set_device_limit(0, 8, 16)  # torch_npu lets a process do this once
    for found in (torch.npu.get_device_limit(0), torch.npu.get_stream_limit(stream)):
        assert found == {"cube_core_num": 8, "vector_core_num": 16}
    torch.npu.set_stream_limit(stream, 4, 4)
    assert torch.npu.get_stream_limit(stream) == {"cube_core_num": 4, "vector_core_num": 4}
    torch.npu.reset_stream_limit(stream)
    assert torch.npu.get_stream_limit(stream)["cube_core_num"] == 8
