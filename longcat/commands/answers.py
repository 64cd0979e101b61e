"""Files that a command's answer is also written to: refused before any work is done for them, then written as a whole."""

from __future__ import annotations

from pathlib import Path

from longcat.errors import UserError


def check_file(option: str, file: Path | None) -> None:
    """Refuse a file that an answer cannot be written to.

    Args:
        option: that names it, for messages.
        file: None if there is to be none.

    Raises:
        UserError: it is a folder, or would be in a folder that is not there.
    """
    if file is None:
        return
    if file.is_dir():
        raise UserError(f"{option} {file}: that is a folder; name a file in it")
    if not file.parent.is_dir():
        raise UserError(f"{option} {file}: there is no folder {file.parent}")


def write_file(option: str, file: Path, text: str) -> None:
    """Write an answer, in place of what the file held.

    Args:
        option: that names the file, for messages.
        file: where it goes.
        text: the answer.

    Raises:
        StorageError: it cannot be written.
    """
    from longcat.disk import disk_errors, write_text

    with disk_errors(file, f"another {option}"):
        write_text(file, text)
