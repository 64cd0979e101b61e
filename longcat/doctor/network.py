"""Variables that say over which network card processes meet, held against the cards that are there."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any

import psutil

_CARDS = ("HCCL_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_RANGES: dict[str, tuple[int, float]] = {
    "HCCL_CONNECT_TIMEOUT": (120, 7200),
    "HCCL_EXEC_TIMEOUT": (0, 2147483647),
    "HCCL_BUFFSIZE": (1, float("inf")),
    "MASTER_PORT": (1, 65535),
}
"""Whole numbers, with the range of each: of CANN's reference of environment variables, and of a port."""
_SHOWN = (
    *("HCCL_IF_IP", *_CARDS, "HCCL_WHITELIST_DISABLE", *_RANGES),
    *("MASTER_ADDR", "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "NCCL_IB_DISABLE"),
)


def interfaces() -> dict[str, list[str]]:
    """Return the network cards that are up, with their addresses."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: [one.address.partition("%")[0] for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]
        for name, found in sorted(psutil.net_if_addrs().items())
        if name in up
    }


def examine_network(environment: Mapping[str, str], cards: Mapping[str, list[str]]) -> tuple[dict[str, Any], list[str]]:
    """Return the variables that are set with the cards, and what contradicts what.

    Args:
        environment: variables.
        cards: addresses of each network card.
    """
    given = {name: environment[name] for name in _SHOWN if environment.get(name)}
    problems = [
        f"{name}={given[name]} names no network card that is up; there are {', '.join(cards) or 'none'}"
        for name in _CARDS
        if name in given and not chosen(name, given[name], cards)
    ]
    problems += _ranges(given) + _address(given, cards) + _devices(given)
    if ("MASTER_ADDR" in given) != ("MASTER_PORT" in given):
        has, lacks = sorted(("MASTER_ADDR", "MASTER_PORT"), key=lambda name: name not in given)
        problems.append(f"{has} is set and {lacks} is not: processes of torchrun's kind need both, longcat neither")
    backends = {name: set(chosen(name, given[name], cards)) for name in _CARDS[:3] if name in given}
    for name, other in (("HCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")):
        first, second = backends.get(name), backends.get(other)
        if first and second and not first & second:
            problems.append(
                f"{name}={given[name]} and {other}={given[other]} choose different cards: set both to the one that the "
                "other machines reach"
            )
    return {"cards": {name: list(found) for name, found in cards.items()}, "variables": given}, problems


def chosen(name: str, value: str, cards: Mapping[str, list[str]]) -> list[str]:
    """Return the cards that a variable chooses: `eth` a beginning, `=eth0` a name, `^` all others; Gloo's are names."""
    refused, value = value.startswith("^"), value.removeprefix("^")
    whole, value = value.startswith("=") or name.startswith(("GLOO", "TP")), value.removeprefix("=")
    asked = [one.strip() for one in value.split(",") if one.strip()]
    hit = [card for card in cards if any(card == one if whole else card.startswith(one) for one in asked)]
    return [card for card in cards if card not in hit] if refused else hit


def _ranges(given: Mapping[str, str]) -> list[str]:
    found = []
    for name, (least, most) in _RANGES.items():
        if name in given and not (re.fullmatch(r"\d+", given[name]) and least <= int(given[name]) <= most):
            limits = f"from {least}" if most == float("inf") else f"from {least} to {most}"
            found.append(f"{name}={given[name]} is no whole number {limits}")
    return found


def _address(given: Mapping[str, str], cards: Mapping[str, list[str]]) -> list[str]:
    if (address := given.get("HCCL_IF_IP")) is None:
        return []
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return [f"HCCL_IF_IP={address} is no IP address"]
    own = [card for card, addresses in cards.items() if address in addresses]
    if not own:
        return [f"HCCL_IF_IP={address} is no address of this machine: each machine needs its own"]
    names = given.get("HCCL_SOCKET_IFNAME")
    if names is not None and not set(own) & set(chosen("HCCL_SOCKET_IFNAME", names, cards)):
        return [f"HCCL_IF_IP={address} is of {own[0]} and wins over HCCL_SOCKET_IFNAME={names}: unset one of them"]
    return []


def _devices(given: Mapping[str, str]) -> list[str]:
    if (text := given.get("ASCEND_RT_VISIBLE_DEVICES")) is None:
        return []
    numbers = [one.strip() for one in text.split(",")]
    if not all(one.isdecimal() for one in numbers) or len(set(numbers)) < len(numbers):
        return [f"ASCEND_RT_VISIBLE_DEVICES={text} is no list of different device numbers such as 0,1,2"]
    return []
