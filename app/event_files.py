"""A run's curves as TensorBoard event files: one file for train, one for validation, one for the scores on the test.

The format is TFRecord around protobuf `Event` messages (tensorflow/core/util/event.proto, tsl/lib/io/record_writer.h), of which a
scalar needs six fields; TensorFlow itself is never loaded here. A test reads the files back with it.
"""

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from core.tables import Metric, Run

_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def event_files(run: Run, metrics: Sequence[Metric], evaluation: Mapping[str, Any] | None) -> bytes:
    """A zip archive with a folder for each of train, validation and test: what `tensorboard --logdir` wants to see.

    Args:
        run: whose curves.
        metrics: in order.
        evaluation: body of the document `evaluation`; None before there is one.
    """
    rows: dict[str, list[tuple[datetime, int, str, float]]] = {}
    for one in metrics:
        rows.setdefault(one.split, []).append((one.recorded_at, one.epoch, f"epoch_{one.name}", one.value))
    if evaluation is not None:
        when = run.finished_at or run.created_at
        rows["test"] = [(when, epoch, tag, value) for epoch, tag, value in _scores(metrics, evaluation)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        for split, scalars in rows.items():
            begun = scalars[0][0].timestamp()
            name = f"{run.id}/{split}/events.out.tfevents.{int(begun):010d}.thaw"
            files.writestr(zipfile.ZipInfo(name, _ZIP_TIME), _file(begun, scalars))
    return archive.getvalue()


def _scores(metrics: Sequence[Metric], evaluation: Mapping[str, Any]) -> Iterator[tuple[int, str, float]]:
    """(epoch, tag, value): the scores of each phase on the test, at the phase's last epoch."""
    for kind, found in evaluation["phases"].items():
        epoch = max((one.epoch for one in metrics if one.phase == kind), default=0)
        for tag in ("loss", "accuracy", "macro_f1"):
            if found.get(tag) is not None:
                yield epoch, f"epoch_{tag}", float(found[tag])


def _file(begun: float, scalars: Sequence[tuple[datetime, int, str, float]]) -> bytes:
    version = _double(1, begun) + _bytes(3, b"brain.Event:2")
    events = [version]
    for when, step, tag, value in scalars:
        scalar = _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)  # field 2, simple_value
        events.append(_double(1, when.timestamp()) + b"\x10" + _varint(step) + _bytes(5, _bytes(1, scalar)))
    return b"".join(map(_record, events))


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    """CRC-32C, turned and shifted as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _entry(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (_CASTAGNOLI if number & 1 else 0)
    return number


_TABLE = tuple(map(_entry, range(256)))
