"""Writing torch's distributed checkpoints so that the digest of every file is known when it is on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

Digest = dict[str, Any]
"""`sha256` of a file's bytes, in hex, and their number, `bytes`."""


class CheckpointWriter(FileSystemWriter):
    """A writer of checkpoint folders.

    The digests are taken of what is written, not of what is read back, so they tell of a disk that changes bytes, too. What
    does not belong to the state (where it was written, and a random number) is left out, so that equal states are equal files.

    Attributes:
        digests: of the files that this process has written, by name.
    """

    def __init__(self, path: Path) -> None:
        # copying ahead takes a stream of the current device, which is the first one in a thread
        super().__init__(path, per_thread_copy_ahead=0)
        self.digests: dict[str, Digest] = {}
        self._files = _Files(self.digests)
        self.fs = self._files

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process' part; raises the `OSError` of the disk, which torch hides behind one of its own."""
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            if self._files.failure is None:
                raise
            raise self._files.failure from error

    def storage_meta(self) -> StorageMeta | None:
        """Return nothing."""
        return None


class _Files(FileSystem):
    """Files whose digests are taken while they are written."""

    def __init__(self, digests: dict[str, Digest]) -> None:
        self._digests = digests
        self.failure: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[IOBase]:
        """Open a file."""
        with super().create_stream(path, mode) as stream:
            if mode != "wb":
                yield stream
                return
            hashing = _Hashing(stream, self)
            yield hashing
            self._digests[Path(path).name] = hashing.digest

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file."""
        super().rename(path, new_path)
        self._digests[Path(new_path).name] = self._digests.pop(Path(path).name)


class _Hashing(IOBase):
    """A stream that is written from its beginning to its end."""

    def __init__(self, stream: Any, files: _Files) -> None:
        self._stream, self._files = stream, files
        self._sha256, self._bytes = hashlib.sha256(), 0

    @property
    def digest(self) -> Digest:
        """Digest of what has been written."""
        return {"sha256": self._sha256.hexdigest(), "bytes": self._bytes}

    def write(self, data: Any) -> int:
        """Write bytes, all of them."""
        view = memoryview(data).cast("B")
        try:
            self._stream.write(view)
        except OSError as error:
            self._files.failure = self._files.failure or error
            raise
        self._sha256.update(view)
        self._bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes so far."""
        return self._bytes

    def flush(self) -> None:
        """Hand over what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._files.failure = self._files.failure or error
            raise

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Say that it can be written."""
        return True
