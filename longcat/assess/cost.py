"""Days, device-hours and money of a training: tokens over speed, times devices, times the prices that were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longcat.assess.request import amount_of
from longcat.errors import ConfigError
from longcat.plan.device import find_device

HOUR_S, DAY_S = 3600.0, 86400.0
UNIT_TOKENS = 1e9
"""Tokens that a cost is told for where it is not said how many will be trained on."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all devices together, between the least and the most that is expected."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What training on a number of tokens takes."""

    device: str
    devices: int
    tokens: float
    stated: bool
    """Whether the number of tokens was given; else it is `UNIT_TOKENS`."""
    speed: Speed
    price: float | None
    """Of a device-hour; None where no price was given."""
    currency: str = ""

    def seconds(self, speed: float) -> float:
        """Return the time at a speed in tokens a second."""
        return self.tokens / speed

    @property
    def days(self) -> tuple[float, float, float]:
        """Return the days: at least, expected, at most. Formula: tokens / (tokens a second) / 86,400."""
        return self._of(1 / DAY_S)

    @property
    def device_hours(self) -> tuple[float, float, float]:
        """Return the device-hours: at least, expected, at most. Formula: devices x tokens / (tokens a second) / 3,600."""
        return self._of(self.devices / HOUR_S)

    @property
    def money(self) -> tuple[float, float, float] | None:
        """Return the price: at least, expected, at most; None without a price. Formula: device-hours x price."""
        return None if self.price is None else self._of(self.devices / HOUR_S * self.price)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "device": self.device,
            "devices": self.devices,
            "tokens": self.tokens,
            "tokens_stated": self.stated,
            "tokens_per_second": [self.speed.low, self.speed.expected, self.speed.high],
            "days": list(self.days),
            "device_hours": list(self.device_hours),
            "price_per_device_hour": self.price,
            "currency": self.currency,
            "money": None if self.money is None else list(self.money),
        }

    def _of(self, factor: float) -> tuple[float, float, float]:
        fast, expected, slow = self.speed.high, self.speed.expected, self.speed.low
        return (self.seconds(fast) * factor, self.seconds(expected) * factor, self.seconds(slow) * factor)


def training_cost(device: str, devices: int, speed: Speed, tokens: float | None, prices: Mapping[str, str]) -> Cost:
    """Return what training takes on a number of devices.

    Args:
        device: name of the device; a price for any of its names in the table of hardware counts.
        devices: how many.
        speed: tokens a second of all of them.
        tokens: to train on; None tells the cost of `UNIT_TOKENS`.
        prices: of a device-hour, by device.

    Raises:
        ConfigError: a price has no amount.
    """
    price, currency = None, ""
    for name, text in prices.items():
        if _row(name) == _row(device):
            price, currency = amount_of(name, text)
    return Cost(device, devices, tokens or UNIT_TOKENS, tokens is not None, speed, price, currency)


def _row(device: str) -> str:
    """Return the name of a device in the table of hardware; what it is called, if it is not there."""
    try:
        return find_device(device).name
    except ConfigError:
        return device.lower()
