"""The files that the launcher and the training processes exchange in one directory, all JSON.

job.json            what to do (written by the launcher)
result.json         facts of a finished job (rank 0)
error-RANK.json     why a process failed
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longcat.artifact import write_json
from longcat.config import PipelineConfig
from longcat.parallel.axes import Degrees
from longcat.training.layout import ParallelLayout
from longcat.unpacking import read_json

JOB, RESULT = "job.json", "result.json"
ERRORS = "error-*.json"


@dataclass(frozen=True)
class Job:
    """One launch of the training processes."""

    config: dict[str, Any]
    """`PipelineConfig` as JSON."""
    layout: ParallelLayout
    tokens: str
    """Directory of the tokens artifact."""
    directory: str
    """Where everything is written."""
    workspace: str = ""
    """Folder that all nodes share, where there are several."""
    attempt: int = 0
    """Launches of the same job before this one."""
    start_from: str | None = None
    """State that a measurement begins with, or training that goes on from a finished checkpoint."""
    weights: str | None = None
    """Hugging Face folder whose weights a measurement begins with, where there is no state, or training before its first step."""
    moments: str | None = None
    """State of another run whose weights and optimizer training begins with before its first step, in place of `weights`."""
    run: str = ""
    """Digest of the artifact that is made: which run the checkpoints in the directory have to be of."""
    sequence_length: int | None = None
    """Tokens that batches are cut into for a measurement; the corpus' own sequence length if none."""
    device: str = ""
    """Name of the accelerator that it runs on."""
    peak_flops: float | None = None
    """Peak of all processes together, for the MFU in the metrics."""

    @property
    def local_folder(self) -> Path | None:
        """The faster folder of this run's checkpoints on each node, if there is one."""
        local = self.config["training"].get("checkpoint_local")
        return Path(local).expanduser() / self.run if local else None

    def write(self) -> Path:
        """Write `job.json` and return its path."""
        path = Path(self.directory) / JOB
        write_json(path, asdict(self))
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a `job.json`."""
        values = read_json(path)
        layout = values["layout"]
        return cls(**{**values, "layout": ParallelLayout(**{**layout, "degrees": Degrees(**layout["degrees"])})})

    @property
    def pipeline(self) -> PipelineConfig:
        """The configuration as a tree."""
        return PipelineConfig.model_validate(self.config)
