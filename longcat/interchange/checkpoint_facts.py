"""Key figures of a checkpoint, whether it was trained here or imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from longcat.artifact import Facts
from longcat.printable import short_count


@dataclass(frozen=True)
class LayoutSince:
    """A layout that a model was trained in, and the step that it was trained in it from."""

    from_step: int
    """Steps before the first one in this layout."""
    processes: int
    parallel: dict[str, int]
    """Degree of each axis of parallelism, by its name in the section `parallel`."""
    settings: dict[str, str | int | bool] = field(default_factory=dict)
    """Other settings of that section."""
    micro_batch_sequences: int = 0
    """Rows of a process' forward pass, which the balance loss is defined over."""
    device: str = ""
    """Name of the accelerator."""

    @property
    def numbers(self) -> tuple[object, ...]:
        """Return all that the last bits of a step depend on."""
        return self.processes, self.parallel, self.settings, self.micro_batch_sequences, self.device

    def __str__(self) -> str:
        """Name the processes, and the axes that have several of them."""
        axes = ", ".join(f"{name} {degree}" for name, degree in self.parallel.items() if degree > 1)
        return f"{self.processes} process{'es' if self.processes > 1 else ''}" + (f" ({axes})" if axes else "")


class CheckpointFacts(Facts):
    """Key figures of a checkpoint."""

    SETTINGS: ClassVar[frozenset[str]] = frozenset({"parameters", "steps", "processes", "parallel", "peak_flops"})

    parameters: int
    """All of them."""
    imported_from: str | None = None
    """Name of the folder that it was made of, instead of being trained here."""
    notes: tuple[str, ...] = ()
    """What of that folder is not in the checkpoint, a line each."""
    init_from: str | None = None
    """Digest of the checkpoint whose weights it began with, if it did not begin with those of its seed."""
    steps: int = 0
    """Optimizer steps."""
    tokens: int = 0
    """Trained on."""
    final_loss: float | None = None
    """Mean over the last steps that were not skipped, in nats per target; none if all of them were."""
    held_out_loss: float | None = None
    """Mean over the first held-out sequences after the last step, in nats per target."""
    ffn_experts_per_token: float | None = None
    """Mean routed experts of a token in the last step."""
    tokens_per_second: float | None = None
    """Of all processes together; the median of the second half of the run."""
    mfu: float | None = None
    """Model FLOPs utilisation at that speed, as a fraction; none where the device's peak is not known."""
    peak_flops: float | None = None
    """Peak FLOP/s that the utilisation is of, summed over all processes; none where not known."""
    processes: int = 1
    """Training processes of the last layout."""
    parallel: dict[str, int] = Field(default_factory=dict)
    """Degree of each axis of parallelism, by its name in the section `parallel`."""
    layouts: tuple[LayoutSince, ...] = ()
    """Layouts that it was trained in, oldest first; the same ones give the same bytes."""
    precision: str | None = None
    """Type that was computed in: fp32 or bf16."""
    device: str | None = None
    """Name of the accelerator."""
    seconds_training: float = 0.0
    """Time of the stage in seconds, since it was last started."""

    @property
    def headline(self) -> str:
        """The loss, and how much it took."""
        if self.imported_from is not None:
            return f"imported from {self.imported_from}"
        if self.final_loss is None:
            return f"no finite loss in the last steps of {short_count(self.tokens)} tokens"
        return f"loss {self.final_loss:.3f} after {short_count(self.tokens)} tokens"

    @property
    def figures(self) -> dict[str, float | None]:
        """The loss and the tokens it took."""
        return {"final_loss": self.final_loss, "tokens": float(self.tokens)}
