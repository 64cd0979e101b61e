"""What is asked of `longcat assess`: options of the command line, a file of the same names, or both."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longcat.errors import ConfigError
from longcat.plan.layout import MOST_DEVICES, MOST_SEQUENCES, MOST_TOKENS
from longcat.printable import did_you_mean
from longcat.yaml_files import read_mapping

_TARGET = re.compile(r"(?P<device>[^:]+):(?P<count>[1-9]\d{0,6})")
_PRICE = re.compile(r"(?P<device>[^=]+)=(?P<amount>\d+(?:\.\d+)?)(?: ?(?P<currency>[^\d\s.,+-][^\d]*))?")
"""A currency has no digits: `1,000` and `1e3` are no amounts, and must not be read as 1 of something."""


class Known(BaseModel):
    """A published fact about a system, with where it stands."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    source: str


class Request(BaseModel):
    """A workload, where it runs today, and where it may go; every field but the target may be unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = "this workload"
    """What the page calls it."""
    code: Path | None = None
    """Folder or file with the program that trains."""
    model: str | None = None
    """A config.json, a folder with one, or a preset."""
    log: Path | None = None
    """Training log of today's run."""
    mlflow_run: str | None = None
    """Instead of a log: a run that MLflow has recorded."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a step of today's run, where its log does not say."""
    fine_tuning: bool | None = None
    """Whether today's run tunes a trained model, where its log does not say."""
    trainable_parameters: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Parameters with a gradient in today's run, where others are frozen."""
    device: str | None = None
    """Device of today's run."""
    devices: int | None = Field(default=None, ge=1, le=MOST_DEVICES)
    """How many of them."""
    sequence_length: int | None = Field(default=None, ge=1, le=MOST_SEQUENCES)
    """Tokens that attention sees."""
    tokens: float | None = Field(default=None, gt=0, le=MOST_TOKENS)
    """Tokens to train on; days, device-hours and money follow from them."""
    to: str | None = None
    """Target as `DEVICE:COUNT`, for example `ascend-910b2:128`."""
    link: str | None = None
    """Link of the target between nodes, such as `between=50GB/s`; the usual one of its generation by default."""
    global_batch: int | None = Field(default=None, ge=1, le=MOST_SEQUENCES)
    """Sequences of a step on the target; chosen by default."""
    price: dict[str, str] = Field(default_factory=dict)
    """Price of a device-hour by device, for example `ascend-910b2: 12.5 CNY`."""
    stack: dict[str, list[str]] | None = None
    """What today's system consists of, by layer of the sovereignty table; by default what its device usually has."""
    known: list[Known] = Field(default_factory=list)
    """What is published about it."""
    not_known: list[str] = Field(default_factory=list)
    """What is not."""

    @property
    def target(self) -> tuple[str, int] | None:
        """Return device and count of the target."""
        if self.to is None:
            return None
        match = _TARGET.fullmatch(self.to)
        if match is None or int(match["count"]) > MOST_DEVICES:
            raise ConfigError(
                f"--to {self.to}: give a device and how many (at most {MOST_DEVICES:,}), as ascend-910b2:128"
            )
        return match["device"], int(match["count"])


def read_request(file: Path | None, given: Mapping[str, Any], prices: Sequence[str] = ()) -> Request:
    """Read a request: the file's fields, and over them what the command line gives.

    Paths in a file are relative to it.

    Args:
        file: YAML with the fields of `Request`, or None.
        given: options by field; None where an option is not given.
        prices: each as `DEVICE=AMOUNT` or `DEVICE=AMOUNT CURRENCY`.

    Raises:
        ConfigError: the file or a field cannot be read; the field and what is right are named.
    """
    tree: dict[str, Any] = {} if file is None else _read(file)
    tree |= {name: value for name, value in given.items() if value is not None}
    named = set()
    for one in prices:
        match = _PRICE.fullmatch(one.strip())
        if match is None:
            raise ConfigError(f"--price {one}: give a device and what an hour of it costs, as ascend-910b2=12.5 CNY")
        if match["device"] in named:
            raise ConfigError(f"--price {match['device']} is given twice")
        named.add(match["device"])
        tree.setdefault("price", {})[match["device"]] = one.partition("=")[2].strip()
    try:
        request = Request.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, given)) from None
    if request.log is not None and request.mlflow_run is not None:
        raise ConfigError("--log and --mlflow-run both tell of today's run: give one of them")
    for device, price in request.price.items():
        amount_of(device, price)
    return request


def amount_of(device: str, price: str) -> tuple[float, str]:
    """Return amount and currency of a price such as `12.5 CNY`.

    Raises:
        ConfigError: it has no amount.
    """
    match = _PRICE.fullmatch(f"{device}={price}")
    if match is None or not math.isfinite(float(match["amount"])):
        raise ConfigError(f"price of {device}: {price!r} is no amount with a currency, such as 12.5 CNY")
    return float(match["amount"]), match["currency"] or ""


def _read(file: Path) -> dict[str, Any]:
    tree = read_mapping(file, f"--config {file}")
    for name in ("code", "log"):
        if isinstance(tree.get(name), str):
            tree[name] = str(file.parent / Path(tree[name]).expanduser())
    if isinstance(model := tree.get("model"), str) and (file.parent / model).exists():
        tree["model"] = str(file.parent / model)
    return tree


def _explain(error: ValidationError, file: Path | None, given: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if given.get(place) is not None:
        return f"--{place.replace('_', '-')}: {first['msg']}, found {first['input']!r}"
    where = f"--config {file}: " if file is not None else ""
    if first["type"] == "extra_forbidden":
        return f"{where}unknown field {place!r}{did_you_mean(place.split('.')[-1], Request.model_fields)}"
    return f"{where}{place}: {first['msg']}, found {first['input']!r}"
