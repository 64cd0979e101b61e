"""Generation arguments of lm-evaluation-harness, as our sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from longcat.errors import ConfigError
from longcat.inference.sampling import Sampling

_READ = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "use_cache": True, "min_p": 0}
"""Other arguments, at the values that change nothing."""
DEFAULT_TOKENS = 256
"""Most tokens where a task does not say it, as in the harness' own models."""


def settle_generation(options: Any, end_of_text: str, window: int, seed: int) -> tuple[Sampling, list[str]]:
    """Return how a text is continued, and the strings that end it.

    Args:
        options: of the task.
        end_of_text: text of the token that ends a text, which ends an answer, too.
        window: tokens that the model reads.
        seed: of this text.

    Raises:
        ConfigError: an argument is unknown, or makes no sense.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    if not isinstance(options, Mapping):
        raise ConfigError(f"generation arguments: expected names and values, found {options!r}")
    for name, value in options.items():
        is_neutral = name in _NEUTRAL and _NEUTRAL[name] == value
        if name not in {*_READ, *_LENGTHS} and not is_neutral:
            raise ConfigError(f"generation argument {name}={value!r} is not supported; there are {', '.join(_READ)}")
    stops = options.get("until")
    stops = [] if stops is None else [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ConfigError(f"generation argument until={stops!r} is neither a string nor a list of strings")
    if not isinstance(options.get("do_sample"), bool | None):
        raise ConfigError(f"generation argument do_sample={options['do_sample']!r} is neither true nor false")
    _check_numbers(options)
    settled: dict[str, Any] = dict(
        normalize_gen_kwargs({name: value for name, value in options.items() if value is not None}, DEFAULT_TOKENS)
    )
    temperature = float(settled.get("temperature", 0.0))
    if settled["do_sample"] and temperature == 0:
        raise ConfigError("generation argument do_sample=true needs a temperature above 0")
    count = settled["max_gen_toks"]
    if count >= window:
        raise ConfigError(
            f"generation argument max_gen_toks={count} leaves no room for a prompt in the model's {window} positions; "
            "evaluation.generation.max_gen_toks sets it"
        )
    sampling = Sampling(count, temperature, settled.get("top_k") or None, float(settled.get("top_p", 1.0)), seed)
    return sampling, [stop for stop in handle_stop_sequences(list(stops), end_of_text or None) if stop]


def seed_of(seed: int, task: str, document: int, repeat: int) -> int:
    """Return the seed of one text, which depends on nothing else that is generated."""
    digest = hashlib.sha256(f"{seed}/{task}/{document}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, kind in [
        *((length, int) for length in _LENGTHS),
        ("top_k", int),
        ("temperature", float),
        ("top_p", float),
    ]:
        value = options.get(name)
        if value is None:
            continue
        try:
            number = kind(value)
        except (TypeError, ValueError):
            number = None
        if number is None or isinstance(value, bool) or number != float(value) or number < 0:
            raise ConfigError(
                f"generation argument {name}={value!r} is not a{' whole' if kind is int else ''} number of 0 or more"
            )
