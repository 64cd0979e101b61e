"""What a checkpoint holds, by name: the one place that knows where its parts lie.

huggingface/       config.json, weights and tokenizer, for inference and for other programs
state/             torch distributed checkpoint with the optimizer, for training to go on from
metrics.jsonl      the record of the run, one JSON object a step
expert-load.jsonl  slots given to each expert in each layer, at most 200 records; `expert-load.png` shows them
events.jsonl       what happened to the run besides training, see `longcat.training.life`; `life.png` shows it
logs/              what processes printed, a file for each start and rank, see `longcat.processes.logs`
samples/           STEP.txt: how the model continued a prompt at each checkpoint
checkpoints/       states of a run in progress, `step-00000100/` and so on; gone when it is finished

A checkpoint made by `longcat import` has `huggingface/` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longcat.errors import ConfigError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    GENERATION_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    *CHAT_TEMPLATES,
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""Files of a Hugging Face folder that say how text becomes tokens and where it ends; kept as they are."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint artifact, or the directory in which one is being made."""

    path: Path

    @property
    def huggingface(self) -> Path:
        """Model and tokenizer as a Hugging Face folder."""
        return self.path / "huggingface"

    @property
    def tokenizer(self) -> Path:
        """The model's tokenizer."""
        return self.huggingface / TOKENIZER

    @property
    def state(self) -> Path:
        """Parameters and optimizer after the last step, as a torch distributed checkpoint."""
        return self.path / "state"

    @property
    def metrics(self) -> Path:
        """One record a step."""
        return self.path / "metrics.jsonl"

    @property
    def expert_load(self) -> Path:
        """Slots given to each expert, `[layers, experts]` in each record."""
        return self.path / "expert-load.jsonl"

    @property
    def expert_load_picture(self) -> Path:
        """Load of every expert over the steps."""
        return self.path / "expert-load.png"

    @property
    def events(self) -> Path:
        """What happened to the run besides training."""
        return self.path / "events.jsonl"

    @property
    def life_picture(self) -> Path:
        """Steps and events over time."""
        return self.path / "life.png"

    @property
    def samples(self) -> Path:
        """Folder of samples of text, named by step."""
        return self.path / "samples"

    @property
    def progress(self) -> Path:
        """States of a run that is not finished."""
        return self.path / "checkpoints"


def model_folder(checkpoint: Path) -> Path:
    """Return the Hugging Face folder of a checkpoint, or the folder itself where it is one."""
    inside = CheckpointFolder(checkpoint).huggingface
    return inside if inside.is_dir() else checkpoint


NAMED = "--checkpoint "
"""What errors put before the name of a checkpoint, unless a setting has given it."""


def tokenizer_of(checkpoint: Path, named: str = NAMED) -> Path:
    """Return the tokenizer that lies with a model.

    Args:
        checkpoint: its folder.
        named: the option or setting that it was given by, for errors.

    Raises:
        ConfigError: there is none, or no such checkpoint.
    """
    if not checkpoint.is_dir():
        raise ConfigError(f"{named}{checkpoint}: there is no such folder")
    path = model_folder(checkpoint) / TOKENIZER
    if not path.is_file():
        raise ConfigError(f"{named}{checkpoint}: no {TOKENIZER} in {path.parent}")
    return path
