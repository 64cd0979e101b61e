"""Ranks for tests: real processes, two to four of them in seconds, or up to 16 threads of one process.

    def total(mesh, factor):  # at the top of a module, so that a rank can import it
        return float(mesh.sum({"losses": torch.tensor(factor)})["losses"])

    def test_total(ranks):
        assert ranks.on_mesh(Degrees(4), total, 2.0) == [8.0] * 4

The fixture `ranks` is a `Ranks` for the whole test session. Processes are the judge; threads are there for breadth.
"""

import json
import os
import pickle
import select
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from longcat.provenance import ROOT

LIMIT_S = 300.0
"""Limit of a case; for what never ends, not for a slow machine."""
COLLECTIVE_S = 120.0
"""Limit of each collective of `on_mesh`."""
STARTING_S = 200.0
TAIL = 4000
"""Characters of a failed rank's output that are shown."""
MESHES = {}
"""Layouts that this process has joined as a rank, with the limit of their collectives."""


class RanksFailed(AssertionError):
    """Some ranks of a case failed; says which ones, how, and what they wrote.

    Attributes:
        codes: of each rank: its exit code, negative for a signal, or "hung".
    """

    def __init__(self, codes, folder):
        self.codes = codes
        failed = [rank for rank, code in enumerate(codes) if code]
        parts = [f"{len(failed)} of {len(codes)} ranks failed"]
        for rank in failed:
            how = "did not end and was killed" if codes[rank] == "hung" else f"ended with {codes[rank]}"
            file = folder / f"rank-{rank}.txt"
            parts.append(f"--- rank {rank} {how}\n{file.read_text(errors='replace')[-TAIL:] if file.exists() else ''}")
        super().__init__("\n".join(parts))


class Ranks:
    """Runs functions on several ranks; its process server starts with the first one."""

    def __init__(self):
        self._server = None
        self._store = None
        self._staying = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def run(self, processes, function, *arguments, limit_s=LIMIT_S, environment=(), stay=False):
        """Call a function in that many processes, with the environment that torchrun would give them.

        Args:
            processes: number of ranks.
            function: at the top of a module.
            arguments: of the function, the same for each rank.
            limit_s: after it, the ranks are killed.
            environment: variables for the ranks, besides those of this test session when it began.
            stay: whether the processes stay for the next call that says so, if all goes well.

        Returns:
            What each rank's call returned, in the order of ranks.

        Raises:
            RanksFailed: one of them raised, ended otherwise, or did not end.
        """
        with tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            (folder / "call.pickle").write_bytes(pickle.dumps((function, arguments)))
            request = {
                "folder": name,
                "processes": processes,
                "limit_s": limit_s,
                "environment": {**self._rendezvous(processes, stay), **dict(environment)},
                "stay": stay,
            }
            try:
                codes = self._ask(request, limit_s)
            except BaseException:
                self._stop()  # and so the ranks; its answer would be taken for the next one's
                raise
            if any(codes):
                if stay:  # they have all ended
                    del self._staying[processes]
                raise RanksFailed(codes, folder)
            return [pickle.loads((folder / f"rank-{rank}.pickle").read_bytes()) for rank in range(processes)]

    def on_mesh(
        self, degrees, function, *arguments, threads=False, stay=False, limit_s=LIMIT_S, timeout_s=COLLECTIVE_S
    ):
        """Call `function(mesh, *arguments)` on every rank of a layout, and return what each call returned.

        Args:
            degrees: of the layout.
            function: at the top of a module.
            arguments: of the function, besides the `ProcessMesh`.
            threads: whether the ranks are threads of one process, on torch's own groups for tests.
            stay: whether the ranks are processes that have joined for another such call, of any layout: quicker, for a
                function that leaves nothing behind.
            limit_s: as for `run`.
            timeout_s: limit of each collective between processes.
        """
        if threads:
            return self.run(1, in_threads, degrees, function, arguments, limit_s, limit_s=limit_s)[0]
        join = in_process_that_stays if stay else in_process
        return self.run(degrees.processes, join, degrees, function, arguments, timeout_s, limit_s=limit_s, stay=stay)

    def _rendezvous(self, processes, stay):
        """A store in this process, as torchrun's agent has one: its port is free because it is taken."""
        import torch.distributed as dist

        store = self._staying.get(processes) if stay else None
        if store is None:
            store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        if stay:
            self._staying[processes] = store
        else:
            self._store = store
        return {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def _ask(self, request, limit_s):
        if self._server is None:
            self._start()
        waiting = STARTING_S + limit_s + 60
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        ready, _, _ = select.select([self._server.stdout], [], [], waiting)
        answer = self._server.stdout.readline() if ready else ""
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"the process server gave no answer\n{self._log.read()[-TAIL:]}")
        return json.loads(answer)

    def _start(self):
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.process_server"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def _stop(self):
        if self._server is not None:
            self._server.kill()  # the ranks die with it
            self._server.wait()
            self._server.stdin.close()
            self._server.stdout.close()
            self._log.close()
            self._server = None
        self._store, self._staying = None, {}


def in_process(degrees, function, arguments, timeout_s):
    """Join as a rank, do the work, and leave."""
    from longcat.accelerator import choose
    from longcat.parallel.mesh import join, leave

    mesh = join(choose("cpu"), degrees, timeout_s)
    result = function(mesh, *arguments)
    leave()
    return result


def in_process_that_stays(degrees, function, arguments, timeout_s):
    """Join as a rank of this layout, if this process has not yet, and do the work."""
    import torch
    import torch.distributed as dist

    from longcat.accelerator import choose
    from longcat.parallel.mesh import ProcessMesh, join

    if (degrees, timeout_s) not in MESHES:
        if not MESHES:
            share_connections()
            mesh = join(choose("cpu"), degrees, timeout_s)
        else:
            mesh = ProcessMesh(degrees, dist.get_rank(), torch.device("cpu"), timedelta(seconds=timeout_s))
        MESHES[degrees, timeout_s] = mesh
    return function(MESHES[degrees, timeout_s], *arguments)


def share_connections():
    """Let all groups that this process makes from now on have one thread for their connections.

    Otherwise each has its own, which wakes up a hundred times a second, and those of all layouts that a process has joined
    take more of a machine than the tests.
    """
    from torch.distributed import ProcessGroupGloo, distributed_c10d

    device = ProcessGroupGloo.create_device(interface="lo")

    class OnOneDevice(ProcessGroupGloo):
        def __init__(self, store, rank, size, timeout):
            options = ProcessGroupGloo._Options()
            options._devices, options._timeout = [device], timeout
            super().__init__(store, rank, size, options)

    distributed_c10d.ProcessGroupGloo = OnOneDevice


def in_threads(degrees, function, arguments, limit_s):
    """Be all ranks of a layout: a thread each, on groups that hand tensors from thread to thread."""
    import sys
    import threading
    import time
    import traceback

    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.multi_threaded_pg import ProcessLocalGroup, _install_threaded_pg

    from longcat.parallel.mesh import ProcessMesh

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    _install_threaded_pg()
    store, results, failures = dist.HashStore(), {}, {}

    def be(rank):
        try:
            dist.init_process_group("threaded", rank=rank, world_size=degrees.processes, store=store)
            mesh = ProcessMesh(degrees, rank, torch.device("cpu"), timedelta(seconds=COLLECTIVE_S))
            results[rank] = function(mesh, *arguments)
        except SystemExit:
            pass  # another rank failed while this one waited for it
        except BaseException as error:
            failures[rank] = traceback.format_exc()
            ProcessLocalGroup.exception_handle(error)

    end = time.monotonic() + limit_s - 5
    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(degrees.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failures:
        print(*(f"--- thread of rank {rank}\n{text}" for rank, text in failures.items()), sep="\n", file=sys.stderr)
        raise SystemExit(1)
    missing = sorted(set(range(degrees.processes)) - set(results))
    assert not missing, f"the threads of ranks {missing} did not end"
    return [results[rank] for rank in range(degrees.processes)]
