"""The exceptions longcat raises on purpose.

A message says what was found, where (file, line or field), and what would be right. `exit_code` is what the command
line ends with: 2 when the user can mend it, 1 when something failed that should have worked.
"""

from __future__ import annotations


class LongcatError(Exception):
    """Anything longcat raises on purpose."""

    exit_code = 1


class UserError(LongcatError):
    """The input, the configuration or the machine has to change before the same command can succeed."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file, a preset or a `--set` that cannot be used; names the field."""


class DataError(UserError):
    """A corpus, shard or evaluation set that cannot be used; names the file and, where there is one, the line."""


class ArtifactError(UserError):
    """A finished artifact whose bytes are not those of its manifest, or that does not fit the stage it is given to."""


class WorkspaceBusyError(UserError):
    """Another live process is writing in this workspace."""


class StorageError(UserError):
    """The disk is full or a directory cannot be written."""


class DeviceError(UserError):
    """The accelerator that was asked for is missing or unusable on this machine."""


class TrainingError(LongcatError):
    """The training processes failed; carries the root cause of the first failing rank."""


class Cancelled(LongcatError):  # noqa: N818  (a request, not a fault)
    """Somebody asked for the run to stop, and it did, with its progress saved."""

    exit_code = 130
