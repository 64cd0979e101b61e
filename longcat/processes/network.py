"""Addresses and interfaces of this machine, found without a name server."""

from __future__ import annotations

import socket

import psutil

from longcat.errors import DeviceError
from longcat.processes.orders import LOOPBACK


def interface_of(host: str) -> str:
    """Return the interface by which this machine reaches a host; that of an address of its own is the one that has it.

    Raises:
        DeviceError: there is no way to the host.
    """
    own = own_address(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.split("%")[0] == own for address in addresses):
            return name
    raise DeviceError(f"no interface of this machine has its address {own} towards {host}")


def own_address(host: str) -> str:
    """Return the address that this machine has towards a host. Nothing is sent.

    Raises:
        DeviceError: there is no way to the host.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        if host == LOOPBACK:
            raise DeviceError(
                "processes of one machine talk to each other by its loopback interface, and that is down (ip link set lo up)"
            ) from error
        raise DeviceError(f"this machine has no way to {host}: {error.strerror or error}") from error


def addresses() -> list[str]:
    """List the addresses that other machines may reach this one at, IPv4 first and loopback last."""
    found = [
        (family, address.address)
        for of in psutil.net_if_addrs().values()
        for address in of
        if (family := address.family) in (socket.AF_INET, socket.AF_INET6) and not address.address.startswith("fe80")
    ]
    return [
        address
        for _, _, address in sorted(
            (address in (LOOPBACK, "::1"), family != socket.AF_INET, address) for family, address in found
        )
    ]
