"""The file that a training process gives its signs of life in: a page of memory, read without torch."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = "heartbeats"
"""In the folder of a run; a file for each rank, named by it."""
WANTED = "stacks-wanted"
"""File in the folder that asks processes of other machines for their stacks."""
MAGIC = b"longcat1"
SIZE = 4096
BEATS, STEP, PLACE, PHASE, COLLECTIVE, PROCESS = (
    struct.Struct(form) for form in ("<Q", "<q", "<i?", "<64s", "<?7xQ24s48s", "<Q64s")
)
OFFSETS = {BEATS: 8, STEP: 16, PLACE: 24, PHASE: 40, COLLECTIVE: 104, PROCESS: 192}
"""Where each part of a file begins."""


@dataclass(frozen=True)
class Beat:
    """Where a process was when its file was read."""

    beats: int
    """Signs of life so far."""
    pid: int
    host: str
    step: int
    """From 1; 0 before the first one."""
    layer: int
    """Number of the layer that was entered last; -1 for none."""
    backward: bool
    """Whether that was in a backward pass."""
    phase: str
    waits: bool
    """Whether it waits in a collective."""
    begun: int
    """Collectives of that group that it has waited in."""
    collective: str
    group: str

    @classmethod
    def read(cls, path: Path) -> Beat | None:
        """Read a file; none if it is not there or not ready."""
        try:
            page = path.read_bytes()
        except OSError:
            return None
        if len(page) < SIZE or not page.startswith(MAGIC):
            return None
        (beats,), (step,), (layer, backward), (phase,), (waits, begun, collective, group), (pid, host) = (
            form.unpack_from(page, offset) for form, offset in OFFSETS.items()
        )
        return cls(
            beats,
            pid,
            _text(host),
            step,
            layer,
            backward,
            _text(phase),
            waits,
            begun,
            _text(collective),
            _text(group),
        )

    @property
    def place(self) -> str:
        """Say what the process was doing."""
        where = f" ({'backward from' if self.backward else 'forward of'} layer {self.layer})" if self.layer >= 0 else ""
        return f"{f'step {self.step}' if self.step else 'start'}, {self.phase}{where}"

    @property
    def waiting(self) -> str:
        """Say what it waits for, if it `waits`."""
        return f"{self.collective} over {self.group}"


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
