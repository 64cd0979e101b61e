"""A Slurm cluster of two nodes on this machine, in a folder of its own: munge, a controller and a daemon per node.

Nothing of the machine's own configuration is read or written but the packages that are installed.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress

import psutil

from longcat.processes.child import die_with_parent
from tests.waiting import LIMIT_S

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "munged", "mungekey")


def install():
    """Install Slurm; returns why that is not possible, or None."""
    if all(map(shutil.which, PROGRAMS)):
        return None
    if os.geteuid() != 0:
        return "Slurm is not installed, and only root could"
    if not shutil.which("apt-get"):
        return "Slurm is not installed, and there is no apt-get"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", *command], capture_output=True, text=True, check=False, env=environment, timeout=240
        )
    if done.returncode:
        return f"Slurm cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
    return None if all(map(shutil.which, PROGRAMS)) else "the packages of Slurm lack a program"


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def address():
    """An address of this machine that its host name stands for, so that no name server is asked."""
    return "127.0.0.1"


class Slurm:
    """The cluster. A context: every daemon, and every step on its nodes, ends with it."""

    def __init__(self, folder):
        self.folder = folder
        self.daemons = {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith("SLURM") and name != "SLURM_CONF"]:
            del self.environment[name]

    def __enter__(self):
        try:
            self._configure()
            key = self.folder / "munge.key"
            subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True, timeout=LIMIT_S)
            self._start("munged", "--foreground", "--force", *self._munge_files(key))
            self._until(lambda: (self.folder / "munge.socket").exists())
            self._start("slurmctld", "-D", "-i")
            for node in ("n1", "n2"):
                self.start_node(node)
            self._until(lambda: self.states() == {"n1": "idle", "n2": "idle"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with suppress(subprocess.SubprocessError, OSError):
            self.ask("scancel", "--user=root", "--signal=KILL")
        for name in list(self.daemons):
            self.stop(name)

    def start_node(self, node):
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node):
        """End all that runs on a node at once, as a power failure does."""
        daemon = psutil.Process(self.daemons[node].pid)
        stepds = [p for p in psutil.process_iter() if self._is_stepd_of(p, node)]
        victims = [daemon, *(child for stepd in stepds for child in [stepd, *stepd.children(recursive=True)])]
        for process in victims:
            with suppress(psutil.Error):
                process.suspend()  # none of them may tell of the others' end
        for process in victims:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=LIMIT_S)
        self.daemons.pop(node).wait(LIMIT_S)

    def ask(self, *command):
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        ).stdout

    def queue(self, *options):
        """The jobs that squeue lists, a line each; None if it gets no answer."""
        command = ["squeue", "--noheader", *options]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return done.stdout.splitlines() if done.returncode == 0 else None

    def is_empty(self):
        return self.queue() == []

    def states(self):
        lines = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t").split("\n")
        return dict(line.split() for line in lines if line)

    def stop(self, name):
        daemon = self.daemons.pop(name)
        with suppress(psutil.Error):
            family = [psutil.Process(daemon.pid), *psutil.Process(daemon.pid).children(recursive=True)]
            daemon.terminate()
            _, alive = psutil.wait_procs(family, timeout=10)
            for process in alive:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(10)

    def _is_stepd_of(self, process, node):
        with suppress(psutil.Error):
            if process.name().startswith("slurmstepd"):
                here = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURMD_NODENAME": node}
                return any(here.items() <= child.environ().items() for child in process.children(recursive=True))
        return False

    def _munge_files(self, key):
        names = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        return [f"--key-file={key}", *(f"--{option}={self.folder / name}" for option, name in names.items())]

    def _configure(self):
        host = socket.gethostname()
        controller, *nodes = free_ports(3)
        memory = 4000
        for name in ("state", "n1", "n2"):
            (self.folder / name).mkdir()
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}({address()})",
            f"SlurmctldPort={controller}",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder / 'munge.socket'}",
            "CredType=cred/munge",
            "SlurmUser=root",
            "SlurmdUser=root",
            "MpiDefault=none",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SwitchType=switch/none",
            f"StateSaveLocation={self.folder / 'state'}",
            f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmdLogFile={self.folder}/%n.log",
            f"SlurmctldPidFile={self.folder / 'slurmctld.pid'}",
            f"SlurmctldLogFile={self.folder / 'slurmctld.log'}",
            "SlurmdTimeout=15",
            "InactiveLimit=0",
            "KillWait=5",
            "ReturnToService=2",
            "SchedulerParameters=sched_interval=2,bf_interval=2",
            *(
                f"NodeName={node} NodeHostname={host} NodeAddr={address()} Port={port} CPUs=2 RealMemory={memory}"
                for node, port in zip(("n1", "n2"), nodes, strict=True)
            ),
            "PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _start(self, program, *arguments, name=None):
        log = (self.folder / f"{name or program}.out").open("ab")
        command = [shutil.which(program), *arguments]
        self.daemons[name or program] = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        log.close()

    def _until(self, condition):
        end = time.monotonic() + LIMIT_S
        while not condition():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            assert not dead, f"{dead} ended: {[(self.folder / f'{name}.out').read_text()[-2000:] for name in dead]}"
            assert time.monotonic() < end, f"Slurm does not start: {self.states()}; {self.folder}"
            time.sleep(0.2)
