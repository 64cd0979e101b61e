"""Collectives, and what is built on them, through torch_npu's ProcessGroupHCCL."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.emulator.launch import machines, torchrun

pytestmark = pytest.mark.emulator
RANKS = Path(__file__).with_name("ranks.py")

CHECKS = {
    2: [
        "check_all_reduce", "check_a_sum_is_the_same_on_all_ranks_to_the_bit", "check_gather_and_scatter",
        "check_gather_of_every_type", "check_objects", "check_all_to_all_with_uneven_splits_and_gradients", "check_messages", "check_ddp",
        "check_fsdp", "check_fsdp_in_bf16_with_clipping", "check_tensor_parallel", "check_pipeline",
        "check_attention_of_distributed_tensors",
        "check_checkpoints", "check_receives_posted_before_what_is_sent", "check_coalesced",
        "check_synchronized_batch_norm", "check_graphs", "check_formats", "check_torch_npu_refuses_what_hccl_has_not",
        "check_products_with_communication", "check_products_with_quantised_communication",
        "check_experts_on_other_ranks", "check_tokens_and_their_experts",
    ],
    4: ["check_all_reduce", "check_all_to_all_with_uneven_splits_and_gradients", "check_groups", "check_hsdp"],
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of all checks: a group of processes is started once for all of them."""
    found = {}
    for processes, checks in CHECKS.items():
        folder = tmp_path_factory.mktemp(f"ranks{processes}")
        code, output = torchrun(processes, RANKS, folder, *checks)
        file = folder / "results.json"
        found[processes] = json.loads(file.read_text()) if file.exists() else {}
        found[processes]["rest"] = f"exit code {code}\n{output[-3000:]}"
    return found


@pytest.mark.parametrize(("processes", "check"), [(n, check) for n, checks in CHECKS.items() for check in checks])
def test_ranks(results, processes, check):
    outcome = results[processes].get(check, "not run\n" + results[processes]["rest"])
    assert outcome == "passed", outcome


PROLOGUE = """
import os, sys, time, datetime, torch, torch.distributed as dist
rank = int(os.environ["RANK"])
torch.npu.set_device(rank % int(os.environ.get("USED_DEVICES", 8)))
dist.init_process_group("hccl")
x = torch.ones(4 + (rank if "sizes" in sys.argv else 0), device="npu")
if "sizes" not in sys.argv:
    dist.all_reduce(x)
"""


def failing(tmp_path, program, *arguments, processes=2, **variables):
    file = tmp_path / "program.py"
    file.write_text(PROLOGUE + program)
    start = time.monotonic()
    code, output = torchrun(processes, file, *arguments, seconds=60, **variables)
    assert code != 0
    return output, time.monotonic() - start


def test_a_peer_that_dies_is_noticed(tmp_path):
    output, seconds = failing(tmp_path, "if rank: os.kill(os.getpid(), 9)\ntime.sleep(1)\ndist.all_reduce(x)")
    # torchrun may be first to end the survivor
    assert "the process of rank 1 is gone" in output or "SIGKILL" in output
    assert seconds < 40


def test_a_survivor_says_who_is_gone(tmp_path):
    program = "if rank: os._exit(0)\ndist.all_reduce(x)"  # torchrun takes an exit with 0 for the end of its work
    output, _ = failing(tmp_path, program)
    assert "all-reduce: the process of rank 1 is gone" in output


def test_a_peer_that_does_not_come_is_given_up(tmp_path):
    program = "time.sleep(15) if rank else dist.all_reduce(x)"
    output, _ = failing(tmp_path, program, HCCL_EXEC_TIMEOUT="3")
    assert "all-reduce: peers did not come in 3 s (HCCL_EXEC_TIMEOUT)" in output


def test_different_sizes_are_refused(tmp_path):
    output, _ = failing(tmp_path, "dist.all_reduce(x)", "sizes")
    assert "all-reduce: size, type or root differ from rank" in output


def test_different_collectives_are_refused(tmp_path):
    output, _ = failing(tmp_path, "dist.broadcast(x, 0) if rank else dist.all_reduce(x)")
    assert "is in broadcast" in output


def test_two_processes_on_one_device_are_refused(tmp_path):
    output, _ = failing(tmp_path, "", USED_DEVICES="1")
    assert "is on device 0 as well; each process sets its own" in output


def test_each_process_may_see_one_device_only(tmp_path):
    seen = "import os\nos.environ['ASCEND_RT_VISIBLE_DEVICES'] = os.environ['LOCAL_RANK']\n"
    file = tmp_path / "program.py"
    file.write_text(seen + PROLOGUE + "assert (x.tolist(), torch.npu.device_count()) == ([2.0] * 4, 1)")
    code, output = torchrun(2, file, USED_DEVICES="1")
    assert code == 0, output


def test_more_processes_than_devices_are_refused(tmp_path):
    output, _ = failing(tmp_path, "", ASCEND_EMULATED_DEVICES="1")
    assert "device 1 was asked for, 1 are emulated: set ASCEND_EMULATED_DEVICES" in output


INTERRUPTED = """
if rank:
    time.sleep(50)
try:
    import threading, signal
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    dist.all_reduce(x)
except (KeyboardInterrupt, RuntimeError) as error:
    print("ended by", type(error).__name__, flush=True)
    os._exit(3)
"""


def test_a_wait_can_be_interrupted(tmp_path):
    output, seconds = failing(tmp_path, INTERRUPTED)
    assert "ended by" in output
    assert "all-reduce: interrupted" in output
    assert seconds < 50


SIXTY_FOUR = """
import ctypes, os, threading
ranks = 64
hccl = ctypes.CDLL(os.path.join(os.environ["ASCEND_EMULATOR_LIBRARIES"], "libcann_emulator.so"))
communicators = (ctypes.c_void_p * ranks)()
assert hccl.HcclCommInitAll(ranks, (ctypes.c_int32 * ranks)(*range(ranks)), communicators) == 0
found = [None] * ranks

def sum_up(rank):
    send, receive = (ctypes.c_float * 3)(rank, 1, 0), (ctypes.c_float * 3)()
    float32, sum_ = 4, 0
    code = hccl.HcclAllReduce(send, receive, ctypes.c_uint64(3), float32, sum_, ctypes.c_void_p(communicators[rank]), None)
    found[rank] = code, list(receive)

threads = [threading.Thread(target=sum_up, args=[rank]) for rank in range(ranks)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found == [(0, [2016, 64, 0])] * ranks, found
"""


def test_sixty_four_ranks():
    """Without torch, which takes most of what so many processes need."""
    environment = {**os.environ, "ASCEND_EMULATED_DEVICES": "64"}
    subprocess.run([sys.executable, "-c", SIXTY_FOUR], timeout=150, check=True, env=environment)


def test_agents_of_torchrun_stand_for_machines(tmp_path):
    program = "dist.barrier(); print('machine', os.environ['GROUP_RANK'], x.tolist(), flush=True)"
    file = tmp_path / "program.py"
    file.write_text(PROLOGUE + program)
    codes, output = machines(2, file, USED_DEVICES="1")
    assert codes == [0, 0], output
    assert all(f"machine {machine} [2.0, 2.0, 2.0, 2.0]" in output for machine in range(2))


def test_nothing_is_left_in_shared_memory(tmp_path):
    before = set(Path("/dev/shm").iterdir())
    failing(tmp_path, "os.kill(os.getpid(), 9)")
    assert not [path for path in set(Path("/dev/shm").iterdir()) - before if "hccl" in path.name]
