"""Exceptions that longcat raises deliberately.

A message says what is wrong, where (file, line or field), and what would be right. `exit_code` is the exit code of the
command line: 2 if the user can correct the cause, 1 for a failure of something that should have worked.
"""

from __future__ import annotations

from longcat.redaction import redact


class LongcatError(Exception):
    """Base class of all exceptions that longcat raises deliberately; secrets are taken out of the message."""

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(argument) if isinstance(argument, str) else argument for argument in arguments))


class UserError(LongcatError):
    """Mistake in the input, the configuration or the machine, which has to change before the command can succeed."""

    exit_code = 2


class ConfigError(UserError):
    """Unusable configuration file, preset or `--set`; the message names the field."""


class DataError(UserError):
    """Unusable corpus, shard, log or evaluation set; the message names the file and, if possible, the line."""


class ArtifactError(UserError):
    """Finished artifact that differs from its manifest, or that does not fit the stage it is given to."""


class WorkspaceBusyError(UserError):
    """Workspace in which another live process is writing."""


class StorageError(UserError):
    """Full disk, or a directory that cannot be written."""


class DeviceError(UserError):
    """Requested accelerator that is missing or unusable on this machine."""


class TrainingError(LongcatError):
    """Failure of the training processes; the message has the cause of the first failing rank."""


class GateError(LongcatError):
    """Checkpoint whose scores do not meet the gates; the scores are kept, and so is the older champion."""


class EvaluationError(UserError):
    """Tasks of an evaluation that could not be scored; the others' scores are kept."""


class DivergedError(UserError):
    """Training that diverges again after it went back to a good state; the message says from which step on."""


class TrackingError(LongcatError):
    """Records that MLflow has not taken; they are kept."""


class CorruptionError(TrainingError):
    """Wrong bits in a process that are still there when the work is done again; the message names it and the tensor."""


class Cancelled(LongcatError):  # noqa: N818  (a request, not a fault)
    """Requested stop of a run; its progress is saved."""

    exit_code = 130


class Terminated(Cancelled):
    """Stop that SIGTERM has asked for."""

    exit_code = 143
