"""Devices and their links, as a plan needs them: the table of hardware, with what it leaves open filled in and said."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from longcat.costs.hardware import HardwareRow, find_hardware, hardware_table, require_hardware
from longcat.errors import ConfigError
from longcat.plan.efficiency import Efficiency, Speeds, efficiency_of

_USUAL = {
    "a100": "A100 SXM 80GB", "a800": "A800 SXM 80GB", "h100": "H100 SXM", "h800": "H800 SXM", 
    "ascend910c": "Ascend 910C die", "910c": "Ascend 910C die", "v100": "V100 SXM2 32GB",
}  # fmt: skip
"""Names that several rows could have: the one that is usually meant."""


@dataclass(frozen=True)
class Device:
    """One kind of device, and its links."""

    row: HardwareRow
    flops: float
    """Dense matrix FLOP/s in 16 bits."""
    bandwidth: float
    """Bytes/s of its memory."""
    memory_bytes: float
    inside: float
    """Bytes/s to devices of its node."""
    between: float
    """Bytes/s to devices of other nodes."""
    node: int
    """Devices of a node."""
    efficiency: Efficiency
    assumptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return self.row.name

    @property
    def speeds(self) -> Speeds:
        """Return what it does in a second."""
        return Speeds(self.flops, self.bandwidth, self.efficiency)


def find_device(name: str, link: str | None = None) -> Device:
    """Return a device by its name in the table, or a usual shorter one.

    Args:
        name: such as a100-80gb, b200 or ascend-910b2.
        link: between nodes, see `read_link`; the usual one of its generation if None.

    Raises:
        ConfigError: the name is not known, or too little is known of it.
    """
    assumptions = []
    row = _row(name)
    efficiency = efficiency_of(row)
    flops = row.peak_flops("bf16")
    if flops is None and (flops := row.peak_flops("fp16")) is not None:
        assumptions.append(f"{row.name} has no bf16 peak in the table: that of fp16 is taken")
    missing = [
        what
        for what, value in (("peak", flops), ("memory", row.memory_gb), ("memory bandwidth", row.memory_bandwidth))
        if value is None
    ]
    if flops is None or row.memory_gb is None:
        raise ConfigError(f"--device {name}: the table of hardware has no {' and no '.join(missing)} of {row.name}")
    bandwidth = row.memory_bandwidth
    if bandwidth is None:
        bandwidth = flops / 150
        assumptions.append(f"memory bandwidth of {row.name} is not known: a byte for 150 FLOP is taken")
    inside, between = row.interconnect_bandwidth, efficiency.between_gb_s * 1e9
    if link is not None:
        given_inside, given_between = read_link(link)
        inside, between = given_inside or inside, given_between or between
    else:
        assumptions.append(f"{between / 1e9:g} GB/s of a device to other nodes (--link)")
    if inside is None:
        inside = 2 * between
        assumptions.append(f"links inside a node of {row.name} are not known: {inside / 1e9:g} GB/s are taken")
    if not efficiency.devices:
        assumptions.append(f"no published layouts of {row.name}: efficiencies are a mean of other devices'")
    return Device(
        row,
        flops,
        bandwidth,
        row.memory_gb * efficiency.bytes_per_gb,
        inside,
        between,
        row.devices_per_node or 8,
        efficiency,
        tuple(assumptions),
    )


def _row(name: str) -> HardwareRow:
    bare = _bare(name)
    alike = [row for row in hardware_table() if bare in {_bare(known) for known in (row.name, *row.aliases)}]
    if row := find_hardware(name) or find_hardware(_USUAL.get(bare, "")):
        return row
    if len(alike) == 1:
        return alike[0]
    return require_hardware(name, "longcat plan needs a device of that table")


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_LINK = re.compile(r"(?:(inside|between)=)?([0-9]+\.?[0-9]*|\.[0-9]+)\s*(?:(GB/s|GBps)|([Gg]bit(?:/s)?|[Gg]bps|Gb/s))?")
"""Where it is, how much, and a unit of bytes or one of bits."""


def read_link(text: str) -> tuple[float | None, float | None]:
    """Read links such as `25`, `200Gbit` or `inside=300,between=25`, in GB/s of a device where no unit says otherwise.

    Gigabytes are GB/s or GBps, gigabits Gbit, Gbit/s, Gb/s or Gbps: of B and b one is a byte, the other one a bit.

    Returns:
        Bytes/s inside a node and between nodes, None where not given.

    Raises:
        ConfigError: it is not such a text, or has a link twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _LINK.fullmatch(part.strip())
        size = float(match[2]) if match else 0.0
        if match is None or not 0 < size < math.inf:
            raise ConfigError(
                f"--link {text}: {part.strip()!r} is no link such as 25, 200Gbit, 25GB/s or inside=300,between=25"
            )
        name = match[1] or "between"
        if name in found:
            raise ConfigError(f"--link {text} has {name} twice")
        found[name] = size * 1e9 / (8 if match[4] else 1)
    return found.get("inside"), found.get("between")
