"""TensorBoard's event files: TFRecords of protocol buffers, of which the scalars are read.

A record is its length (8 bytes, little-endian), a checksum of it (4), that many bytes, and a checksum of those (4); see
tensorflow/core/lib/io/record_writer. An Event has wall_time = 1, step = 2 and summary = 5; a Summary has value = 1; a
Value has tag = 1, simple_value = 2 and tensor = 8; see tensorflow/core/util/event.proto, framework/summary.proto and
framework/tensor.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import Merged, kind_of, meaning
from longcat.benchmark.logs.stream import open_log
from longcat.errors import DataError

_LONGEST = 256 << 20
_VALUES = {5: "<f", 6: "<d"}
"""Fields of a TensorProto for floating numbers, and how they are packed; 7 and 10 are those of integers."""
_TYPES = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
"""How the content of a tensor is packed, by the type it states."""


def is_event_file(head: bytes) -> bool:
    """Return whether a file begins as event files do: with a record of the format's version."""
    return b"brain.Event:" in head[:64]


def read_events(path: Path, log: Collected) -> str:
    """Read the scalars of an event file, those of one step as one reading; a record cut off at the end is left out.

    Raises:
        DataError: the file is damaged before its end, or a number cannot be.
    """
    merged = Merged(log)
    with open_log(path) as file:
        number = 0
        while len(header := file.read(12)) == 12:
            number += 1
            length = struct.unpack("<Q", header[:8])[0]
            if length > _LONGEST:
                raise DataError(f"{path}: record {number} of the event file is damaged: a length of {length:,} bytes")
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                break
            try:
                wall_time, step, scalars = _event(data)
            except (struct.error, IndexError, UnicodeDecodeError, ValueError):
                raise DataError(f"{path}: record {number} of the event file is damaged") from None
            wanted = {tag: value for tag, value in scalars if meaning(tag)}
            if wanted:
                record = {"step": step, **({"_timestamp": wall_time} if wall_time > 0 else {}), **wanted}
                merged.add(number, record, step)
    merged.flush()
    return kind_of(merged.names, "TensorBoard")


def _event(data: bytes) -> tuple[float, int, list[tuple[str, float]]]:
    wall_time, step = 0.0, 0
    scalars: list[tuple[str, float]] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            wall_time = struct.unpack("<d", value)[0]
        elif field == 2 and isinstance(value, int):
            step = value - (1 << 64) if value >> 63 else value
        elif field == 5 and isinstance(value, bytes):
            for inner, content in _fields(value):
                if inner == 1 and isinstance(content, bytes) and (scalar := _scalar(content)):
                    scalars.append(scalar)
    return wall_time, step, scalars


def _scalar(data: bytes) -> tuple[str, float] | None:
    tag, found = "", None
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes) and len(value) == 4:
            found = struct.unpack("<f", value)[0]
        elif field == 8 and isinstance(value, bytes):
            found = _tensor(value)
    return (tag, float(found)) if found is not None else None


def _tensor(data: bytes) -> float | None:
    """Return the value of a tensor of one number; None if it has another type or size."""
    kind = 0
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 4 and isinstance(value, bytes):
            form = _TYPES.get(kind)
            return float(struct.unpack(form, value)[0]) if form and len(value) == struct.calcsize(form) else None
        elif field in (5, 6) and isinstance(value, bytes):
            form = _VALUES[field]
            return float(struct.unpack(form, value)[0]) if len(value) == struct.calcsize(form) else None
        elif field in (7, 10):
            return float(value if isinstance(value, int) else _varint(value, 0)[0])
    return None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Return the numbers of a message's fields with their values, bytes for all but variable-length integers."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
