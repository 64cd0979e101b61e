"""A small disk that can be filled, and that becomes read-only while files are open on it, as after an error of a device."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

SIZE_MB = 192
_MEMORY = Path("/dev/shm")


class Disk:
    """A folder; on a file system of its own where the user is root and the machine has loop devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._image = (_MEMORY if _MEMORY.is_dir() else folder.parent) / f"drill-{os.getpid()}-{folder.name}.img"
        self._filler = folder / "filler"
        self.missing: str | None = None
        """Why there is no such file system; None if there is one."""
        self.read_only = False
        if os.geteuid():
            self.missing = "only root can mount a small disk"
            return
        try:
            with self._image.open("wb") as stream:
                stream.truncate(SIZE_MB << 20)
            _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
            self._mount()
            if not self._error_switch().exists():
                raise OSError("its file system cannot be told to fail")
        except (OSError, subprocess.CalledProcessError) as error:
            self.missing = f"no small disk can be mounted ({getattr(error, 'stderr', None) or error})".replace(
                "\n", " "
            )
            self.close()

    def fill(self, left_bytes: int) -> None:
        """Fill the disk, but for some bytes."""
        with self._filler.open("wb", buffering=0) as stream:
            with suppress(OSError):
                while stream.write(bytes(1 << 16)):
                    pass
            with suppress(OSError):
                stream.truncate(max(0, os.fstat(stream.fileno()).st_size - left_bytes))

    def empty(self) -> None:
        """Make room again."""
        with suppress(OSError):
            self._filler.unlink(missing_ok=True)

    def fail(self) -> None:
        """Make the disk read-only, whoever is writing."""
        self.read_only = True
        self._error_switch().write_text("drill\n")

    def mend(self) -> None:
        """Make it a sound disk again that can be written; nobody may use it."""
        self.empty()
        if self.read_only:
            _run("umount", str(self.folder))
            _run("e2fsck", "-fy", str(self._image), may_say=1)
            self._mount()
            self.read_only = False

    def close(self) -> None:
        """Remove the file system."""
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        self._image.unlink(missing_ok=True)

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def _error_switch(self) -> Path:
        number = self.folder.stat().st_dev
        device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        return Path("/sys/fs/ext4") / device.name / "trigger_fs_error"


def _run(*command: str, may_say: int = 0) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode > may_say:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
