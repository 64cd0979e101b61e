"""How a process that was launched writes down why it failed, for `longcat.processes.verdict` to judge."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path

from longcat.disk import NO_ROOM, replacing
from longcat.errors import LongcatError, WorkspaceBusyError
from longcat.lease import check_lease
from longcat.redaction import redact_error


def report_failure(directory: Path, rank: int, error: BaseException) -> int:
    """Write `error-RANK.json` into a directory, and the traceback to standard error.

    Returns:
        The code that the process has to exit with.
    """
    redact_error(error)
    report = {
        "time": time.time(),
        "rank": rank,
        "type": type(error).__name__,
        "expected": isinstance(error, LongcatError),
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    code = 1
    try:
        check_lease()  # else the folder is another's, whose launcher would take this for its own failure
        with replacing(directory / f"error-{rank}.json") as stream:
            stream.write(json.dumps(report).encode())
    except (OSError, WorkspaceBusyError) as unwritten:
        if isinstance(unwritten, OSError) and unwritten.errno == NO_ROOM:
            code = NO_ROOM
        with contextlib.suppress(OSError):
            print(json.dumps(report), file=sys.stderr)
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    return code
