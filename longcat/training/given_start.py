"""The checkpoint that pre-training begins with, `training.init_from`, and the configuration that goes with it.

It is a parent of what is trained. The first step sees its weights, whatever the layout (`given_weights`), and the state of its
optimizer if `training.init_optimizer` asks for it; steps, schedule and the order of data begin anew. The corpus is tokenised by its
tokenizer. The model has to be the same but for positions, so that a second phase may have longer sequences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longcat.artifact import Artifact, Workspace
from longcat.config import ModelConfig, PipelineConfig
from longcat.config.config_json import read_config
from longcat.corpus.tokenizer import same_tokens
from longcat.errors import ArtifactError, ConfigError
from longcat.inference.given import given_checkpoint, same_tokenizer, tokenizer_of_corpus, tokenizer_settings
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder, model_folder, tokenizer_of
from longcat.interchange.folder import HuggingFaceFolder
from longcat.training.checkpoint_reader import METADATA
from longcat.training.given_state import state_as_checkpoint

NAMED = "training.init_from="
POSITIONS = ("max_position_embeddings", "rope_theta", "rope_scaling")
"""Fields of a model that may differ from those of the checkpoint."""
_OF_TOKENIZER = ("eos_token_id", "bos_token_id")
_OF_SEED = ("initializer_range", "proxy_hidden_size")


def given_start(config: PipelineConfig, workspace: Workspace) -> Artifact[CheckpointFacts] | None:
    """Open the checkpoint that training begins with; None if it begins with the weights that the seed gives.

    Raises:
        ConfigError: there is no such checkpoint, it has no tokenizer, or no state of the optimizer that is asked for, or it
            is of another model.
        ArtifactError: it is damaged.
        DataError: its weights are unreadable.
    """
    what = config.training.init_from
    if what is None:
        return None
    start = given_checkpoint(state_as_checkpoint(what, workspace, NAMED), workspace, NAMED)
    theirs = HuggingFaceFolder(model_folder(start.path)).config
    if found := differences(config.model, theirs):
        kind = "has another vocabulary" if set(found) == {"vocab_size"} else "is of another model"
        told = ", ".join(
            f"model.{name} is {_told(there)} there, not {_told(here)}" for name, (here, there) in found.items()
        )
        raise ConfigError(f"{NAMED}{what} {kind}: {told}")
    if config.training.init_optimizer:
        _check_optimizer(config, start)
    return start


def differences(ours: ModelConfig, theirs: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """List the fields that weights depend on and in which two models differ, with both values; inner ones by dotted names."""
    found: dict[str, tuple[Any, Any]] = {}
    there = _fields(theirs)
    for name, value in _fields(ours).items():
        other = there[name]
        if isinstance(value, dict) and isinstance(other, dict):
            found |= {f"{name}.{inner}": (of, other[inner]) for inner, of in value.items() if of != other[inner]}
        elif value != other:
            found[name] = value, other
    return found


def with_start(config: PipelineConfig, workspace: Workspace) -> PipelineConfig:
    """Return the configuration with the tokenizer of the checkpoint that training begins with; as it is without one.

    Documents of the same corpus that this tokenizer has made are used again, however they came by it.

    Raises:
        ConfigError: see `given_start`; or `corpus.tokenizer` is another one, or it has no token that ends a text.
        ArtifactError: the checkpoint is damaged.
        DataError: weights, tokenizer or corpus are missing or unreadable.
    """
    start = given_start(config, workspace)
    if start is None:
        return config
    given, own = tokenizer_of(start.path, NAMED), config.corpus.tokenizer
    end = read_config(model_folder(start.path)).model
    there = tokenizer_of_corpus(config.corpus, workspace)
    same = there is not None and same_tokens(there, given)
    if own is not None and not same:
        raise ConfigError(
            f"corpus.tokenizer={own} is not that of {NAMED}{config.training.init_from} ({given}); leave it out"
        )
    if own is None and same:
        return config
    tree = config.model_dump()
    tree["corpus"] |= tokenizer_settings(start.path)
    tree["model"] |= {name: getattr(end, name) for name in _OF_TOKENIZER}
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"the configuration does not go with {NAMED}{config.training.init_from}: {problem}") from None


def check_tokens(config: PipelineConfig, start: Artifact[CheckpointFacts], tokens: Path) -> None:
    """Refuse tokens that another tokenizer has made than that of the checkpoint that training begins with.

    Raises:
        ArtifactError: they are.
    """
    named = f"{NAMED}{config.training.init_from}"
    if not same_tokenizer(tokens, start.path):
        raise ArtifactError(f"{tokens} was made by another tokenizer than that of {named}, {tokenizer_of(start.path)}")
    end = read_config(model_folder(start.path)).model.end_of_text
    if end != config.model.end_of_text:
        raise ArtifactError(f"{named} ends a text with token {end}, model.eos_token_id is {config.model.end_of_text}")


def _check_optimizer(config: PipelineConfig, start: Artifact[CheckpointFacts]) -> None:
    named = f"{NAMED}{config.training.init_from}"
    if not (CheckpointFolder(start.path).state / METADATA).is_file():
        raise ConfigError(
            f"training.init_optimizer=true, but {named} holds weights only; a finished checkpoint that was trained here has the "
            "optimizer's state, too"
        )
    name = start.manifest["identity"]["training"]["optimizer"]["name"]
    if name != config.training.optimizer.name:
        raise ConfigError(
            f"training.init_optimizer=true, but {named} was trained by {name}, and training.optimizer.name is "
            f"{config.training.optimizer.name}"
        )


def _fields(model: ModelConfig) -> dict[str, Any]:
    values = model.model_dump(exclude={*POSITIONS, *_OF_TOKENIZER, *_OF_SEED})
    values["routed_scaling_factor"] = model.routed_scale
    if model.ngram is not None:
        del values["ngram"]["allow_near_multiple"]  # says only that somebody has looked at the sizes
    return values


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "set"
    return "not set" if value is None else str(value)
