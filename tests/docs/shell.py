"""A reader at a shell: runs the commands of a page one after the other, as they stand but for the rules in `settled`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.docs.commands import Command

LIMIT_S = 500
PLACES = {"FIRST": 0, "SECOND": 1, "RUN_A": 0, "RUN_B": 1, "DIGEST": -1, "DIR": -1, "LONGCAT_FOLDER": -1}
"""Which checkpoint of the workspace a word stands for."""
_SERVES = re.compile(r"longcat (serve|ui)\b")
_READY = re.compile(r"http://127\.0\.0\.1:\d+/v1\n|Press Ctrl-C")
_TRAINS = re.compile(r"^longcat (run|preprocess|pretrain|benchmark|evaluate|sweep)\b")


class Shell:
    """A folder, an environment and the servers that were started in it."""

    def __init__(self, checkout: Path) -> None:
        self.folder = self.checkout = checkout
        self.workspace = checkout / "workspace"
        self._outputs = 0
        self._ports: dict[str, int] = {}
        self._servers: list[subprocess.Popen[bytes]] = []
        programs = checkout / ".programs"
        programs.mkdir(exist_ok=True)
        _program(programs / "longcat", "from longcat.cli import main; main()")
        _program(
            programs / "python", f"import os, sys; os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])"
        )
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(checkout),
            "COLUMNS": "140",
        }

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settled(self, text: str) -> str:
        """A command with what a page leaves open.

        * `.venv/bin/` is the environment that the tests run in, and `127.0.0.1:PORT` a port that is free.
        * `DIGEST` is the newest checkpoint of the workspace; `FIRST` and `SECOND`, or `RUN_A` and `RUN_B`, are its first
          ones. Before them may stand their folder.
        * A stage without `--config` or `--dry-run` takes the preset `smoke`: it is the same command, in seconds.
        """
        text = text.replace(".venv/bin/", "")
        made = self.checkpoints()
        for name, place in PLACES.items():
            if re.search(rf"[ /=]{name}\b", text):
                assert len(made) > max(place, 0), f"{text}: there are only {len(made)} checkpoints"
                text = re.sub(rf"(?<=[ /=]){name}\b", made[place], text)
        text = re.sub(r"(127\.0\.0\.1|localhost):(\d+)", lambda at: f"{at[1]}:{self._port(at[2])}", text)
        if re.match(r"longcat serve\b", text):
            text = text.replace("longcat serve", f"longcat serve --port {self._port('8000')}", 1)
        if re.match(r"longcat ui\b", text):
            ports = f"--mlflow-port {self._port('5000')} --prefect-port {self._port('4200')}"
            text = text.replace("longcat ui", f"longcat ui {ports}", 1)
        if _TRAINS.match(text) and not re.search(r"--config|-c |--dry-run|--compare", text):
            text = re.sub(r" (--preset|-p) \S+", "", text)
            text = _TRAINS.sub(r"longcat \1 --preset smoke", text)
        return text

    def checkpoints(self) -> list[str]:
        """Digests of the workspace's checkpoints, oldest first."""
        found = (self.folder / "workspace" / "checkpoint").glob("*/manifest.json")
        return [path.parent.name for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.parent.name))]

    def run(self, command: Command) -> str:
        """Run a command, or save a file; return what was printed.

        A server is started, and is there for the commands that follow.
        """
        if command.file is not None:
            (self.folder / command.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / command.file).write_text(command.text)
            return ""
        if command.text.startswith("cd "):
            self.folder = (self.folder / command.text.removeprefix("cd ")).resolve()
            assert self.folder.is_dir(), command.where
            return ""
        text = self.settled(command.text)
        self._outputs += 1
        output = self.checkout / f".output-{self._outputs}"
        with output.open("w") as stream:
            process = subprocess.Popen(
                ["bash", "-c", text],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if server := _SERVES.match(text) is not None:
            self._servers.append(process)
        end = time.monotonic() + LIMIT_S
        try:
            while process.poll() is None and time.monotonic() < end:
                if server and _READY.search(_read(output)):
                    return _read(output)
                time.sleep(0.05)
            assert process.poll() is not None, f"{command.where}: {text}\nhas not ended after {LIMIT_S} s"
            said = _read(output)
            assert process.returncode == 0, f"{command.where}: {text}\nexit code {process.returncode}:\n{said}"
        except BaseException:
            _end(process)
            raise
        return said

    def stop(self) -> None:
        """End the servers as Ctrl-C does."""
        while self._servers:
            _end(self._servers.pop())

    def _port(self, written: str) -> int:
        if written not in self._ports:
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                self._ports[written] = listening.getsockname()[1]
        return self._ports[written]


def _program(path: Path, code: str) -> None:
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)


def _read(output: Path) -> str:
    return output.read_text(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=60)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


_MASKS = (
    (r"(?:~|/|\b[\w.-]+/)[\w./-]*/[\w./-]*", "PATH"),
    (r"[━─═┳╇┻╋┏┓┡┩└┘┴┬├┤┼╭╮╰╯-]{2,}|[┏┓┡┩└┘┌┐]", " "),
    (r"\b(?=\d*[a-f])[0-9a-f]{8,64}\b", "DIGEST"),
    (r"(?:\d[\d.,]*(?:e[+-]?\d+)? (?:ms|s|min|h|d)\b ?)+", "TIME "),
    (r"[+-]?\b\d[\d.,]*(?:e[+-]?\d+)?", "N"),
    (r"\s+", " "),
)


def masked(line: str) -> str:
    """A line of output without what differs from one machine, run or width to another: numbers, times, digests, rules."""
    for pattern, word in _MASKS:
        line = re.sub(pattern, word, line)
    return line.strip()


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """The lines of a page's output that were not printed, in this order, with numbers masked; `...` stands for anything."""
    left = [masked(line) for line in printed.replace("\r", "\n").splitlines()]
    absent = []
    for line in shown:
        wanted = masked(line)
        if not wanted or wanted == "...":
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("...")))
        place = next((place for place, found in enumerate(left) if pattern.fullmatch(found)), None)
        if place is None:
            absent.append(line)
        else:
            left = left[place + 1 :]
    return absent
