"""A lock on a directory that survives kill -9, containers, clocks that are set, and shared file systems.

Two files: `PATH.lock`, which the holder keeps locked (the kernel frees it when the last process that has it open is
gone), and `PATH`, which says who holds it. Where locks are not to be had, or where the holder is on another machine
that may not share them, the holder is believed as long as it gives signs of life: a thread touches `PATH`.

While a private lease is held, what its process and its children write is kept from other users.

A holder that stood still for so long that it was replaced finds another's token in `PATH`; `check_lease` raises then,
in the holder and in its children.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from longcat.disk import private_mask, replacing, storage_error
from longcat.errors import StorageError, WorkspaceBusyError
from longcat.unpacking import read_json

HEARTBEAT_S = 5.0
STALE_S = 60.0
"""A holder that no lock vouches for is doubted after this time without a sign of life."""
WATCH_S = 20.0
"""A doubted holder is watched for this time, by a clock that nobody sets, before its lease is taken."""
SETTLE_S = 1.0
"""Where nothing can be locked, the last one to write its name within this time holds the lease."""
ENDING_S = 120.0
"""Most seconds to wait for the children of a killed holder, which end by themselves."""
TOKENS = "LONGCAT_LEASES"
"""Environment variable with the token of each lease that this process and its children work under, as JSON."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_held: dict[Path, _Held] = {}
_guard = threading.RLock()


class _Held:
    """A lease of this process."""

    def __init__(self, path: Path, private: bool) -> None:
        self.path, self.depth, self.token = path, 0, secrets.token_hex(16)
        self.lock = _acquire(path, self.token)
        self.umask = os.umask(private_mask(path.parent)) if private else None
        self.stop = threading.Event()
        threading.Thread(target=self._refresh, daemon=True, name="lease").start()

    def _refresh(self) -> None:
        while not self.stop.wait(HEARTBEAT_S):
            with suppress(OSError):  # a lost file system is noticed by whoever writes next
                if _read(self.path).get("token") == self.token:
                    os.utime(self.path)

    def release(self) -> None:
        """Give the lease back, unless it is another's by now."""
        self.stop.set()
        if self.umask is not None:
            os.umask(self.umask)
        with suppress(OSError):
            if _read(self.path).get("token") == self.token:
                self.path.unlink()
        _unlock(self.path, self.lock)


@contextmanager
def lease(path: Path, *, private: bool = True) -> Iterator[bool]:
    """Hold the lease `path` while the context is open; one process may nest it.

    Args:
        path: the lease.
        private: keep what is written meanwhile from other users, see `longcat.disk.private_mask`.

    Yields:
        Whether the lease was taken here, not around this context.

    Raises:
        WorkspaceBusyError: another live process holds it.
        StorageError: nothing can be written or locked there.
    """
    path = path.resolve()
    with _guard:
        first = path not in _held
        if first:
            try:
                _held[path] = _Held(path, private)
            except OSError as error:
                raise (
                    storage_error(error, path)
                    or StorageError(f"cannot lock {path.parent}: {error.strerror}; choose another --workspace")
                ) from error
            _publish()
        held = _held[path]
        held.depth += 1
    try:
        yield first
    finally:
        with _guard:
            held.depth -= 1
            if held.depth == 0:
                del _held[path]
                _publish()
                held.release()


def check_lease() -> None:
    """Make sure that no lease which this process or its parents hold was taken by another; called before writing.

    Raises:
        WorkspaceBusyError: one was, while this process stood still.
    """
    for path, token in json.loads(os.environ.get(TOKENS, "{}")).items():
        holder = _read(Path(path))
        if holder.get("token") != token:
            raise WorkspaceBusyError(
                f"{Path(path).parent} was taken by {_name(holder)} while this process stood still; what it was doing is "
                "left to the other, run the same command again later"
            )


def holder_of(path: Path) -> dict[str, Any] | None:
    """Return who holds a lease now, as far as it can be seen without touching it; None if nobody does.

    Returns:
        `name` in words, and `since`, Unix time in seconds.
    """
    holder = _read(path)
    if not holder or _is_gone(holder):
        return None
    if (holder.get("kernel"), holder.get("processes")) != (_kernel(), _process_space()):  # not ours to see
        seen = _stamp(path)
        if seen is None or abs(time.time() - seen / 1e9) > STALE_S:
            return None
    try:
        since = time.mktime(time.strptime(str(holder.get("since")), "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return None
    return {"name": _name(holder), "since": since}


def held_locks() -> list[int]:
    """Return the descriptors of the locks that this process holds.

    A child that inherits them keeps the leases from others until it has ended, too.
    """
    with _guard:
        return [held.lock for held in _held.values() if held.lock is not None]


def _publish() -> None:
    """Tell children about the leases of this process."""
    if _held:
        os.environ[TOKENS] = json.dumps({str(path): held.token for path, held in _held.items()})
    else:
        os.environ.pop(TOKENS, None)


# ---------------------------------------------------------------------------------------------------- acquiring


def _acquire(path: Path, token: str) -> int | None:
    """Write our token to `path` if nobody else holds it; returns the descriptor of the lock, None without locks."""
    lock = _locked(path)
    try:
        holder = _read(path)
        # a live holder under the same kernel would have the lock
        dead = _is_gone(holder) or (lock is not None and holder.get("locked") and holder.get("kernel") == _kernel())
        if holder and not dead and _gives_signs_of_life(path):
            raise _busy(path, holder)
        with replacing(path) as stream:
            stream.write(json.dumps(_identity(token, lock is not None)).encode())
        if lock is None:
            time.sleep(SETTLE_S)
            if (holder := _read(path)).get("token") != token:
                raise _busy(path, holder)
    except BaseException:
        _unlock(path, lock)
        raise
    return lock


def _locked(path: Path) -> int | None:
    """Lock the lock file and return its descriptor; None where the file system has no locks."""
    file = _lock_path(path)
    end = time.monotonic() + ENDING_S
    while True:
        with suppress(BlockingIOError):
            return lock_file(file)
        holder = _read(path)
        if not _is_gone(holder) or time.monotonic() > end:
            raise _busy(path, holder)
        time.sleep(0.1)


def lock_file(path: Path) -> int | None:
    """Lock a file until its descriptor is closed by this process and all that inherit it, and return the descriptor.

    Args:
        path: the file, which is made if need be. Whoever removes it has it locked.

    Returns:
        The descriptor, or None where the file system has no locks.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be opened or made.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in _NO_LOCKS:
                raise
            with suppress(OSError):
                path.unlink()
            return None
        if _same_file(lock, path):
            return lock
        os.close(lock)  # its last holder has just removed it


def _unlock(path: Path, lock: int | None) -> None:
    if lock is None:
        return
    with suppress(OSError):
        if _same_file(lock, _lock_path(path)):
            _lock_path(path).unlink()
    os.close(lock)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _gives_signs_of_life(path: Path) -> bool:
    """Whether a lease was refreshed of late, or is refreshed while we watch: clocks are set, and differ."""
    seen = _stamp(path)
    if seen is None:
        return False
    if 0 <= time.time() - seen / 1e9 <= STALE_S:
        return True
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        time.sleep(min(0.2, WATCH_S))
        if _stamp(path) != seen:
            return True
    return False


def _stamp(path: Path) -> int | None:
    """Return the time of a lease's last refresh in nanoseconds; opened, as file servers answer for an open file only."""
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------------- who


def _identity(token: str, locked: bool) -> dict[str, Any]:
    return {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "kernel": _kernel(),
        "processes": _process_space(),
        "locked": locked,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process that we could see, and is no more; its children may not have ended yet."""
    if holder.get("kernel") != _kernel() or holder.get("processes") != _process_space():
        return False
    return _started(int(holder["pid"])) != holder.get("started")


def _started(pid: int) -> int | None:
    """Return when a process was started, in ticks since the machine was, so that setting the clock changes nothing.

    None if there is no such process. Linux gives numbers of processes again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _kernel() -> str:
    """Return what tells this running system from all others, in all of its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return secrets.token_hex(16)  # equal to nobody's


def _process_space() -> str | None:
    """Return what tells the numbers of our processes from those of other containers."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"


def _busy(path: Path, holder: dict[str, Any]) -> WorkspaceBusyError:
    return WorkspaceBusyError(
        f"{path.parent} is in use by {_name(holder)}; wait for it, stop it, or choose another --workspace"
    )
