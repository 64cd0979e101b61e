"""The files that the launcher and the training processes exchange in one directory, all JSON.

job.json            what to do (written by the launcher)
metrics.jsonl       one record a step, fsynced (rank 0)
expert-load.jsonl   load of every expert, at most 200 records (rank 0)
samples/STEP.txt    what the model writes at each checkpoint (rank 0)
result.json         facts of a finished job (rank 0)
error-RANK.json     why a process failed
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longcat.artifact import write_json
from longcat.config import PipelineConfig
from longcat.training.layout import ParallelLayout

JOB, METRICS, RESULT = "job.json", "metrics.jsonl", "result.json"
EXPERT_LOAD, SAMPLES = "expert-load.jsonl", "samples"


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
    attempt: int = 0
    """Launches of the same job before this one."""
    start_from: str | None = None
    """State that a measurement begins with."""
    sequence_length: int | None = None
    """Tokens that batches are cut into for a measurement; the corpus' own sequence length if none."""
    peak_flops: float | None = None
    """Peak of all processes together, for the MFU in the metrics."""

    def write(self) -> Path:
        """Write `job.json` and return its path."""
        path = Path(self.directory) / JOB
        write_json(path, asdict(self))
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a `job.json`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "layout": ParallelLayout(**values["layout"])})

    @property
    def pipeline(self) -> PipelineConfig:
        """The configuration as a tree."""
        return PipelineConfig.model_validate(self.config)
