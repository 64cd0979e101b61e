"""The runner of upstream's test files, with a small suite that contains everything that can become of a test."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest

from longcat.emulator import upstream
from longcat.emulator.fork import classify_text
from longcat.emulator.upstream import Result, group_of, subject, used_by_training
from longcat.errors import UserError
from longcat.processes.child import free_port

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = """
import ctypes, multiprocessing, os, subprocess, sys, time, unittest

def child(name):
    print("a child of", name)

def unsupported():
    raise NotImplementedError("the emulated Ascend has no kernel for npu::npu_iou; on a real device it may run")

def spawn(target, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0

class TestAll(unittest.TestCase):
    def test_a_pass(self): assert __name__ == "__main__" and sys.argv == [__file__]
    def test_b_fail(self): self.assertEqual(1, 2)
    def test_c_unsupported(self): unsupported()
    def test_d_crash(self): ctypes.string_at(0)
    def test_e_hang(self): subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"])
    def test_f_spawn(self): spawn(child, "f")
    def test_g_spawn_of_unsupported(self): spawn(unsupported)
    def test_h_refused(self): raise RuntimeError("dtype not implemented")
    def test_i_exit(self): os._exit(3)
    def test_j_environment(self): import no_such_module
    def test_k_skip(self): self.skipTest("only on an Atlas")
    def test_l_parts(self):
        for number in range(3):
            with self.subTest(number): self.assertNotEqual(number, 1)
    @unittest.expectedFailure
    def test_m_fails_as_expected(self): self.fail()
    def test_n_end(self): pass

class TestSetUp(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ValueError("no device")
    def test_a(self): pass
    def test_b(self): pass

class TestSkipped(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("not here")
    def test_a(self): pass

if __name__ == "__main__":
    unittest.main()
"""


def make(folder, **files):
    for name, text in files.items():
        path = folder / "test" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(folder, *chosen, seconds=60.0, jobs=2):
    root, files = upstream.find(folder, chosen)
    return [result for found in upstream.run(root, files, seconds=seconds, jobs=jobs) for result in found]


def statuses(results):
    return {result.test.rpartition(".")[2]: result.status for result in results}


def test_everything_that_can_become_of_a_test(tmp_path):
    before = set(tmp_path.iterdir())
    results = run(make(tmp_path, nn__test_all=EVERYTHING), seconds=4.0)
    found = {result.test.removeprefix("__main__."): result for result in results}
    assert {name: result.status for name, result in found.items()} == {
        "TestAll.test_a_pass": "passed",
        "TestAll.test_b_fail": "wrong",
        "TestAll.test_c_unsupported": "unsupported",
        "TestAll.test_d_crash": "crash",
        "TestAll.test_e_hang": "hang",
        "TestAll.test_f_spawn": "passed",
        "TestAll.test_g_spawn_of_unsupported": "unsupported",
        "TestAll.test_h_refused": "refused",
        "TestAll.test_i_exit": "crash",
        "TestAll.test_j_environment": "environment",
        "TestAll.test_k_skip": "skipped",
        "TestAll.test_l_parts": "wrong",
        "TestAll.test_m_fails_as_expected": "passed",
        "TestAll.test_n_end": "passed",
        "TestSetUp.test_a": "refused",
        "TestSetUp.test_b": "refused",
        "TestSkipped.test_a": "skipped",
    }
    assert "SIGSEGV in" in found["TestAll.test_d_crash"].reason
    assert "test_d_crash" in found["TestAll.test_d_crash"].reason
    assert found["TestAll.test_e_hang"].reason.startswith("took over 4 s in subprocess.py")
    assert found["TestAll.test_i_exit"].reason.startswith("ended with exit code 3")
    assert "npu_iou" in found["TestAll.test_g_spawn_of_unsupported"].reason
    assert set(tmp_path.iterdir()) - before == {tmp_path / "test"}
    assert not list(tmp_path.rglob("__pycache__"))


SPAWNED = """
import multiprocessing, os, signal, sys, unittest
context = multiprocessing.get_context("spawn")

def look(queue):
    queue.put((os.getppid(), os.environ["SET_LATE"], os.getcwd(), __name__, hasattr(sys.modules["__main__"], "outside")))

def interpreter(queue):
    queue.put((os.getpid(), "spawn_main" in open("/proc/self/cmdline").read()))

def again(queue):
    start(interpreter, queue)

def fail(): raise ValueError("in a child")
def leave(): sys.exit(3)
def die(): os.kill(os.getpid(), signal.SIGKILL)

def start(target, *arguments):
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(50)
    return process.exitcode

class T(unittest.TestCase):
    def test_a_parent_variables_folder(self):
        os.environ["SET_LATE"] = "1"
        os.mkdir("here")
        os.chdir("here")
        queue, outside = context.Queue(), True
        self.assertEqual(start(look, queue), 0)
        self.assertEqual(queue.get(timeout=50), (os.getpid(), "1", os.getcwd(), "__mp_main__", False))
    def test_b_exit_codes(self):
        self.assertEqual([start(target) for target in (fail, leave, die)], [1, 3, -9])
    def test_c_without_an_interpreter_of_its_own_but_for_what_a_child_spawns(self):
        queue = context.Queue()
        self.assertEqual(start(interpreter, queue), 0)
        self.assertFalse(queue.get(timeout=50)[1])
        self.assertEqual(start(again, queue), 0)
        self.assertTrue(queue.get(timeout=50)[1])
    def test_d_pool(self):
        with context.Pool(3) as pool: self.assertEqual(pool.map(abs, [-1, 2, -3]), [1, 2, 3])
    def test_e_folder_of_the_runner_is_there(self): self.assertTrue(os.path.isdir(os.getcwd()))

if __name__ == "__main__": unittest.main()
"""


def test_what_a_test_spawns_is_its_child_with_its_variables_and_folder(tmp_path):
    results = run(make(tmp_path, test_spawned=SPAWNED))
    assert [(result.status, result.reason) for result in results] == [("passed", "")] * 5


WITHOUT_ITS_COPY = """
import multiprocessing, psutil, signal
from longcat.emulator.spawning import fork_what_is_spawned

def child():
    print("a child")

if __name__ == "__main__":
    try:
        fork_what_is_spawned()
    except BaseException:
        print("the copy goes on as the process that it is a copy of")
    [copy] = psutil.Process().children()
    for _ in range(50):
        copy.send_signal(signal.SIGINT)  # one that comes amid what Python does after a fork is lost
        try:
            copy.wait(1)
            break
        except psutil.TimeoutExpired:
            pass
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join(50)
    print(process.exitcode)
"""


def test_where_the_copy_is_gone_what_is_spawned_has_an_interpreter_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_ITS_COPY)
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=100, check=True, env=variables
    )
    assert done.stdout == "a child\n0\n", done.stderr


AT_ITS_END = """
import atexit, concurrent.futures, multiprocessing, pathlib, signal, unittest, weakref
context = multiprocessing.get_context("spawn")
ended = pathlib.Path("ended")

def register():
    atexit.register(ended.write_text, "atexit")

def finalise():
    weakref.finalize(unittest, ended.write_text, "finalize")

def leave_threads():
    executor = concurrent.futures.ThreadPoolExecutor()
    executor.submit(ended.write_text, "threads")
    globals()["left"] = executor

def terminate():
    ended.write_text("SIGUSR1")
    signal.raise_signal(signal.SIGUSR1)

class T(unittest.TestCase):
    def check(self, target, expected, code=0):
        process = context.Process(target=target)
        process.start()
        process.join(50)
        self.assertEqual((process.exitcode, ended.read_text()), (code, expected))
    def test_a_atexit(self): self.check(register, "atexit")
    def test_b_finalize(self): self.check(finalise, "finalize")
    def test_c_threads_that_wait_for_work_end(self): self.check(leave_threads, "threads")
    def test_d_a_signal(self): self.check(terminate, "SIGUSR1", -signal.SIGUSR1)

if __name__ == "__main__": unittest.main()
"""


def test_what_a_test_spawns_ends_by_what_it_has_registered_and_not_by_what_the_runner_has(tmp_path):
    lost = tmp_path / "lost"

    def fail() -> None:
        lost.write_text("by a child")
        raise ValueError("of the runner")

    atexit.register(fail)
    threading._register_atexit(fail)
    before = signal.signal(signal.SIGUSR1, lambda *_: fail())
    finalizer = weakref.finalize(fail, fail)
    try:
        found = run(make(tmp_path, test_end=AT_ITS_END))
        assert [(result.status, result.reason) for result in found] == [("passed", "")] * 4
    finally:
        signal.signal(signal.SIGUSR1, before)
        threading._threading_atexits.pop()
        atexit.unregister(fail)
        finalizer.detach()
    assert not lost.exists()


FETCHED = """
import multiprocessing, time, unittest
context = multiprocessing.get_context("spawn")

def share(queue, waits):
    reading, writing = context.Pipe(duplex=False)
    writing.send("there")
    queue.put(reading)
    time.sleep(waits)

class T(unittest.TestCase):
    def test_a(self):
        queue = context.Queue()
        processes = [context.Process(target=share, args=(queue, waits)) for waits in (0, 0, 0.3, 0.3)]
        for process in processes: process.start()
        time.sleep(1)
        self.assertEqual([queue.get(timeout=50).recv() for _ in processes], ["there"] * 4)
        for process in processes: process.join(50)
        self.assertEqual([process.exitcode for process in processes], [0] * 4)
    def test_b_nobody_wants_it(self):
        queue = context.Queue()
        process = context.Process(target=share, args=(queue, 0))
        process.start()
        process.join(50)
        self.assertEqual(process.exitcode, 0)

if __name__ == "__main__": unittest.main()
"""


def test_what_a_test_spawns_stays_until_what_it_shares_is_fetched(tmp_path):
    """At once or once its queue is flushed, which is where the socket for fetching is there before it ends, or made as it ends."""
    assert [(result.status, result.reason) for result in run(make(tmp_path, test_fetch=FETCHED))] == [
        ("passed", "")
    ] * 2


def test_what_a_hanging_test_has_started_ends_with_it(tmp_path):
    pid = tmp_path / "pid"
    hang = f"""
import subprocess, sys, unittest
class T(unittest.TestCase):
    def test_a(self):
        code = "import os, time, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(1000)"
        subprocess.run([sys.executable, "-c", code], start_new_session=True)
"""
    assert statuses(run(make(tmp_path, test_hang=hang), seconds=4.0)) == {"test_a": "hang"}
    status = Path(f"/proc/{pid.read_text()}/status")
    assert not status.exists() or "zombie" in status.read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n", {"test_a": "passed"}),
        ("def test_a(): pass\ndef test_b(x): pass\n", {"test_a": "passed"}),
        ("if __name__ == '__main__':\n    assert 1 == 2\n", {"(file)": "wrong"}),
        ("import sys\nif __name__ == '__main__':\n    sys.exit(0)\n", {"(file)": "passed"}),
        ("import sys\nsys.exit(0)\n", {"(file)": "skipped"}),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n"
         "if __name__ == '__main__':\n    if 'here' == 'Ascend910A': unittest.main()\n", {"(file)": "skipped"}),
        ("import no_such_module\n", {"(file)": "environment"}),
        ("import os\nos.abort()\n", {"(file)": "crash"}),
        ("import pytest\n@pytest.mark.parametrize('x', [1, 2])\ndef test_a(x): assert x == 1\n",
         {"py::test_a[1]": "passed", "py::test_a[2]": "wrong"}),
    ],
)  # fmt: skip
def test_files_of_other_forms(tmp_path, text, expected):
    assert statuses(run(make(tmp_path, test_form=text))) == expected


def test_files_that_run_at_the_same_time_have_ports_of_their_own(tmp_path):
    """Each listens on the same port until the other does, too."""
    if subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no network namespaces")
    text = f"""
import pathlib, socket, time
def test_a():
    folder = pathlib.Path({str(tmp_path)!r})
    with socket.create_server(("127.0.0.1", {free_port()})) as one, socket.create_connection(one.getsockname()):
        (folder / "ME").touch()
        end = time.monotonic() + 50
        while not (folder / "OTHER").exists() and time.monotonic() < end: time.sleep(0.01)
        assert (folder / "OTHER").exists()
"""
    one, two = text.replace("ME", "x").replace("OTHER", "y"), text.replace("ME", "y").replace("OTHER", "x")
    found = run(make(tmp_path, test_one=one, test_two=two))
    assert [result.status for result in found] == ["passed", "passed"], found


@pytest.mark.parametrize("where", ["", "    "])
def test_what_the_system_kills_is_run_once_more(tmp_path, where):
    """A test, and a file while it is read; what is killed twice has crashed."""
    kill = f"""
import os, pathlib, signal, unittest
tries = pathlib.Path({str(tmp_path)!r}) / "tries"
def die(most):
    count = len(tries.read_text()) if tries.exists() else 0
    if count < most:
        tries.write_text("x" * (count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
class T(unittest.TestCase):
    def test_a(self): TEST
    def test_b(self): pass
READ
"""
    once = kill.replace("TEST", "die(1)" if where else "pass").replace("READ", "" if where else "die(1)")
    assert statuses(run(make(tmp_path, test_kill=once))) == {"test_a": "passed", "test_b": "passed"}
    (tmp_path / "tries").unlink()
    found = statuses(run(make(tmp_path, test_kill=once.replace("die(1)", "die(9)"))))
    assert found == ({"test_a": "crash", "test_b": "passed"} if where else {"(file)": "crash"})


def test_files_import_one_another(tmp_path):
    make(tmp_path, test_one="import two\nfrom sub.test_three import y\ndef test_a(): assert two.x + y == 3\n", two="x = 1\n",
         sub__test_three="y = 2\n")  # fmt: skip
    assert statuses(run(tmp_path, "test_one.py")) == {"test_a": "passed"}


def test_a_list_of_disabled_tests_for_torchs_release_comes_before_the_general_one(tmp_path):
    folder = tmp_path / "unsupported_test_cases"
    folder.mkdir()
    assert upstream.disabled_tests(tmp_path, "2.13.0+cpu") is None
    (folder / ".pytorch-disabled-tests.json").touch()
    assert upstream.disabled_tests(tmp_path, "2.13.0+cpu").name == ".pytorch-disabled-tests.json"
    (folder / ".pytorch-disabled-tests-2.13.json").touch()
    assert upstream.disabled_tests(tmp_path, "2.13.0+cpu").name == ".pytorch-disabled-tests-2.13.json"


def test_files_are_chosen_by_name_and_folder(tmp_path):
    make(tmp_path, nn__test_a="", nn__test_b="", optim__test_c="", nn__helper="")
    names = [path.name for path in upstream.find(tmp_path, ["nn"])[1]]
    assert names == ["test_a.py", "test_b.py"]
    assert len(upstream.find(tmp_path / "test", [])[1]) == 3
    assert len(upstream.find(tmp_path, ["test/nn/test_a.py", "nn/test_b.py"])[1]) == 2


@pytest.mark.parametrize(("suite", "chosen"), [("nowhere", []), (".", ["nothing"]), (".", ["empty"]), (".", ["/"])])
def test_what_is_not_there_is_refused_by_name(tmp_path, suite, chosen):
    (make(tmp_path, test_a="") / "test" / "empty").mkdir()
    with pytest.raises(UserError, match=chosen[0] if chosen else suite):
        upstream.find(tmp_path / suite, chosen)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nn/test_linear.py", "nn"), ("test_optim.py", "optim"), ("test_autocast.py", "amp"), ("npu/test_amp.py", "amp"),
        ("npu/test_random_sampling.py", "npu"), ("test_base_ops/test_amp_foreach.py", "op-plugin base ops"),
        ("test_custom_ops/test_npu_iou.py", "op-plugin custom ops"), ("distributed/fsdp/test_x.py", "distributed"),
        ("jit/test_x.py", "other"), ("test_torch.py", "other"),
    ],
)  # fmt: skip
def test_groups(name, group):
    assert group_of(name) == group
    assert group in upstream.GROUPS


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Traceback\nRuntimeError: Process 0 exited:\nTraceback\nAssertionError: not equal\n", "wrong"),
        ("Traceback\nRuntimeError: Failed to find function HcclCommInitAll\n", "unsupported"),
        ("Traceback\nNotImplementedError: Operator has no sharding strategy\n", "unsupported"),
        ("Traceback\ntorch.OutOfMemoryError: NPU out of memory\n", "refused"),
        ("Traceback\nModuleNotFoundError: No module named 'torchair'\n", "environment"),
        ("AssertionError: ImportError not raised\n", "wrong"),
    ],
)
def test_classes_of_failures(text, status):
    assert classify_text(text)[0] == status


def test_a_file_is_about_the_operator_it_is_named_after(tmp_path):
    known = {"npu_iou", "npu_giou", "npu_format_cast", "npu_silu"}
    path = tmp_path / "test_giou.py"
    path.write_text("import torch_npu\ntorch_npu.npu_silu(torch_npu.npu_format_cast(x, 2))\n")
    assert subject(path, known) == {"npu_giou"}
    assert subject(path.rename(tmp_path / "test_other.py"), known) == {"npu_silu"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("npu_rms_norm", True), ("npu_rms_norm_backward", True), ("npu_fusion_attention_grad_v2", True),
        ("npu_apply_adam_w", True), ("npu_clear_float_status", True), ("npu_moe_init_routing", True),
        ("npu_iou", False), ("npu_moe_init_routing_quant", False), ("npu_paged_cache_load", False),
        ("npu_deformable_conv2dbk", True),
    ],
)  # fmt: skip
def test_operators_of_training(name, expected):
    assert used_by_training(name, lambda name: name == "npu_rms_norm") == expected


def test_a_file_is_a_line_and_each_failure_another():
    results = [Result("nn/test_a.py", "t", "passed"), Result("nn/test_a.py", "u", "hang", "took over 3 s")]
    assert upstream.progress(results) == "nn/test_a.py: 1 passed, 1 hang\n  hang u: took over 3 s"


def test_the_table_has_groups_files_and_a_line_for_the_docs():
    results = [
        Result("nn/test_a.py", "t", "passed"), Result("nn/test_a.py", "u", "hang", "took over 3 s"),
        Result("custom_ops/test_b.py", "t", "unsupported", "no kernel"), Result("custom_ops/test_c.py", "t", "passed"),
        Result("custom_ops/test_c.py", "u", "skipped"), Result("nn/test_a.py", "v", "disabled"),
    ]  # fmt: skip
    text = upstream.table(results, {"custom_ops/test_c.py"})
    assert text.endswith(
        "Passed, skips left out: nn 50.0% of 2, custom_ops 50.0% of 2, custom_ops of training 100.0% of 1, all 50.0% of 4."
    )


@pytest.mark.emulator
def test_the_command_runs_a_suite_on_the_device(tmp_path):
    """With a process that is spawned, which uses the device as well."""
    test = """
import torch
import torch.multiprocessing as mp
from torch.testing._internal import common_utils
from torch_npu.testing.testcase import TestCase, run_tests
def child(rank): assert torch.ones(2).npu(rank).sum().item() == 2
class T(TestCase):
    def test_a(self): self.assertEqual(torch.ones(2).npu().sum().item(), 2)
    def test_b(self): mp.spawn(child, (), 2)
    def test_c(self): torch.ops.npu.npu_dtype_cast(torch.ones(2).npu(), 290)  # torch has no such type
class Known(common_utils.TestCase):
    def test_d(self): self.fail("upstream knows that")
if __name__ == "__main__": run_tests()
"""
    make(tmp_path, nn__test_a=test)
    disabled = tmp_path / "test" / "unsupported_test_cases" / ".pytorch-disabled-tests.json"
    disabled.parent.mkdir()
    disabled.write_text(json.dumps({"test_d (__main__.Known)": ["", [""]]}))
    command = [
        sys.executable,
        "-m",
        "longcat.emulator.conformance",
        "--suite",
        tmp_path,
        "nn",
        "--json",
        tmp_path / "out.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=ROOT, env=os.environ)
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert Counter(result["status"] for result in results) == {
        "passed": 2,
        "unsupported": 1,
        "disabled": 1,
    }, results
    assert "Passed, skips left out: nn 66.7% of 3" in done.stdout
