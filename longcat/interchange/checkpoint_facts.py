"""Key figures of a checkpoint, whether it was trained here or imported."""

from __future__ import annotations

from pydantic import Field

from longcat.artifact import Facts


class CheckpointFacts(Facts):
    """Key figures of a checkpoint."""

    parameters: int
    """All of them."""
    imported_from: str | None = None
    """Name of the folder that it was made of, instead of being trained here."""
    notes: tuple[str, ...] = ()
    """What of that folder is not in the checkpoint, a line each."""
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
    processes: int = 1
    parallel: dict[str, int] = Field(default_factory=dict)
    """Degree of each axis of parallelism, by its name in the section `parallel`."""
    precision: str | None = None
    device: str | None = None
    seconds_training: float = 0.0

    @property
    def headline(self) -> str:
        """The loss, and how much it took."""
        if self.imported_from is not None:
            return f"imported from {self.imported_from}"
        if self.final_loss is None:
            return f"no finite loss in the last steps of {self.tokens / 1e6:.2f} M tokens"
        return f"loss {self.final_loss:.3f} after {self.tokens / 1e6:.2f} M tokens"

    @property
    def figures(self) -> dict[str, float | None]:
        """The loss and the tokens it took."""
        return {"final_loss": self.final_loss, "tokens": float(self.tokens)}
