"""The thread that forwards a journal to MLflow, in order, in batches, with back-off, and how long a run waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from longcat.artifact import Workspace
from longcat.best_effort import Service
from longcat.disk import sync as sync_file
from longcat.stores import sqlite_path
from longcat.tracking.forwarding import Forwarder, Verdict, verdict
from longcat.tracking.journal import Journal, Sent, parse, read_lines, refused_path, set_line_aside
from longcat.tracking.store import prepare, tracking_uri

START_S = 15.0
"""Seconds that the end of a run waits until MLflow is imported and its store in the workspace made."""
END_S, END_SHARE = 2.0, 0.01
"""Seconds that it then waits for MLflow, or this share of the run's time if that is more."""
STORE_END_S = 60.0
"""Seconds that it waits for a store in a file, which nobody has to be reached for: what takes long there is work, and ends."""
_EVENTS_AT_ONCE = 200
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)


class Sender:
    """Forwarder of one journal to MLflow, in a background thread."""

    def __init__(self, journal: Journal | Path, workspace: Workspace) -> None:
        self.journal = journal if isinstance(journal, Journal) else Journal(journal)
        self.path = self.journal.path
        self.uri, self.workspace = tracking_uri(workspace), workspace
        self._where = quote(str(workspace.path))
        self.service = Service(
            "MLflow",
            self.uri,
            f"the run goes on, and its records are kept in {self.path} until they are sent, at the latest by the next "
            f"run or by `longcat sync --workspace {self._where}`",
        )
        self._sent = Sent.of(self.path)
        self._finish, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-sender")
        self._forwarder: Forwarder | None = None
        self._then: Callable[[Callable[[], None]], object] | None = None
        self._connected_at: float | None = None
        self._refused: dict[str, str] = {}

    @property
    def run_ids(self) -> Mapping[str, str]:
        """Return MLflow's run ids by journal key."""
        return dict(self._sent.run_ids)

    @property
    def experiment_id(self) -> str | None:
        """Return MLflow's id of the experiment; None while it has not been reached."""
        return self._sent.experiment_id

    @property
    def unsent_bytes(self) -> int:
        """Return how much of the journal has still to be sent."""
        return self.path.stat().st_size - self._sent.offset if self.path.exists() else 0

    def start(self, then: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Start forwarding in the background.

        Args:
            then: is called once, when the events have been sent that there are; what takes long in it calls its argument
                between its steps, which sends what has come meanwhile.
        """
        self._then = then
        self._thread.start()

    def finish(self, run_s: float) -> str | None:
        """Wait until all events are sent, and return what is to be said if they are not.

        MLflow may take `END_S` seconds, or `END_SHARE` of the run's time unless it has failed before, and a store in a file
        `STORE_END_S`; what it takes to import it and to make a store in the workspace comes on top, `START_S` at most.

        Args:
            run_s: time since the run began, in seconds.
        """
        self._finish.set()
        began = time.monotonic()
        patience = max(END_S, END_SHARE * run_s, 0.0 if sqlite_path(self.uri) is None else STORE_END_S)
        while self._thread.is_alive():
            now = time.monotonic()
            if self.service.away:
                over = now - began > END_S
            elif self._connected_at is None:
                over = now - began > START_S
            else:
                over = now - max(began, self._connected_at) > patience
            if over:
                break
            self._thread.join(0.05)
        self._given_up.set()
        left = self.unsent_bytes
        if lost := self.journal.waiting:
            text = f"{lost} records of this run are in no journal, because {self.path} could not be written"
        elif left > 0:
            why = f"failed ({self.service.last_error})" if self.service.away else "has not taken all records yet"
            text = (
                f"MLflow at {self.service.address} {why}; {left} bytes of records are kept in {self.path} and will be "
                f"sent by the next run or by `longcat sync --workspace {self._where}`"
            )
        elif self._then is not None and self._thread.is_alive() and not self.service.away:
            text = (
                f"MLflow at {self.service.address} has not taken all records of earlier runs yet; they are kept, and will "
                f"be sent by the next run or by `longcat sync --workspace {self._where}`"
            )
        else:
            return None
        if not self.service.away:  # else it has been told
            logging.getLogger("longcat").warning(text)
        return text

    def send_all(self, between: Callable[[], None] = lambda: None) -> None:
        """Forward all events now.

        Args:
            between: is called after each batch.

        Raises:
            Exception: whatever MLflow raises, unless it refuses an event for good, which is set aside.
        """
        self._connect()
        while lines := read_lines(self.path, self._sent.offset, _EVENTS_AT_ONCE):
            try:
                sync_file(self.path)  # MLflow is never told what a failing disk may take from the journal again
            except OSError:
                return  # whoever writes to such a disk tells of it
            try:
                for offset, line in lines:
                    self._forward(line)
                    self._sent.offset = offset
            finally:
                self._sent.save(self.path)
            between()

    def complete(self) -> None:
        """Note that the journal has been sent and gets no further events, so that nobody reads it again."""
        self._sent.complete = True
        self._sent.save(self.path)

    def _run(self) -> None:
        failures = 0
        while True:
            ending = self._finish.is_set()
            try:
                self.send_all()
                self.service.answered()
                failures = 0
                if self._then is not None:
                    self._then(self.send_all)
                    self._then = None
                    continue  # with what has come meanwhile
                if ending:
                    return
            except Exception as error:  # the run goes on whatever MLflow or its store raise
                self.service.failed(error, answered=verdict(error) is not Verdict.UNREACHED)
                failures += 1
                if self._given_up.wait(0.5 if ending else 0):
                    return
                self._pause(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
                continue
            self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        self._finish.wait(seconds)

    def _connect(self) -> Forwarder:
        if self._forwarder is None:
            if prepare(self.workspace):
                self._sent = Sent()
            self._forwarder = Forwarder(self.uri, self.workspace.path / "mlartifacts", self.path.stem)
            self._connected_at = time.monotonic()
        return self._forwarder

    def _forward(self, line: bytes) -> None:
        try:
            event = parse(line)
        except ValueError as error:
            self._set_aside("", f"the line cannot be read: {error}", {"line": line.decode(errors="replace")})
            return
        forwarder = self._connect()
        for refused, why in forwarder.forward(event, self._sent.run_ids):
            self._set_aside(event["key"], why, {"event": refused})
        self._sent.experiment_id = forwarder.experiment_id or self._sent.experiment_id

    def _set_aside(self, key: str, why: str, content: Mapping[str, Any]) -> None:
        set_line_aside(self.path, why, content)
        if key not in self._refused:
            self._refused[key] = why
            logging.getLogger("longcat").warning(
                "MLflow at %s takes no record of %s in the journal %s (%s); such records are kept in %s, and all others "
                "are sent",
                self.service.address,
                f"the run {self._sent.run_ids.get(key, 'that was never started')} ({key})" if key else "an unknown run",
                self.path.name,
                why,
                refused_path(self.path),
            )  # fmt: skip
