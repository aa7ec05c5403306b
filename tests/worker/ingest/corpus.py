"""Builds pictures and archives, good and hostile, byte by byte where the standard library is too polite."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image


def pixels(seed: int, *, width: int = 24, height: int = 16) -> np.ndarray:
    """Smooth random colours, uint8 `[height, width, 3]`, different for each seed."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def encoded(image: Image.Image | np.ndarray, format_name: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format_name, **options)
    return out.getvalue()


def picture(seed: int, format_name: str = "PNG", **options: object) -> bytes:
    """A small picture file, different for each seed."""
    return encoded(pixels(seed), format_name, **options)


def classes(names: Iterable[str], *, each: int = 4, folder: str = "") -> dict[str, bytes]:
    """`each` different pictures in a folder per class."""
    files = {}
    for number, name in enumerate(names):
        for index in range(each):
            seed = zlib.crc32(f"{folder}{name}{index}".encode()) + number
            files[f"{folder}{name}/{index}.png"] = picture(seed)
    return files


@dataclass
class ZipEntry:
    """An entry as the archive claims it; every claim may be a lie."""

    name: bytes
    body: bytes = b""
    method: int = 8
    flags: int = 0
    size: int | None = None
    crc: int | None = None
    mode: int = 0o100644
    local_name: bytes | None = None
    offset: int | None = None
    extra: bytes = b""


def make_zip(
    entries: Iterable[ZipEntry], *, count: int | None = None, before: bytes = b"", comment: bytes = b""
) -> bytes:
    """A ZIP archive that says exactly what it is told to say."""
    out = bytearray(before)
    directory = bytearray()
    number = 0
    for entry in entries:
        number += 1
        size = len(entry.body) if entry.size is None else entry.size
        crc = zlib.crc32(entry.body) if entry.crc is None else entry.crc
        packed = entry.body
        if entry.method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = packer.compress(entry.body) + packer.flush()
        offset = len(out) - len(before) if entry.offset is None else entry.offset
        local = entry.name if entry.local_name is None else entry.local_name
        head = (20, entry.flags, entry.method, 0, 0x21, crc, len(packed), size)
        if entry.offset is None:
            out += struct.pack("<4s5H2L", b"PK\x03\x04", *head[:6], head[6]) + struct.pack("<L2H", size, len(local), 0)
            out += local + packed
        directory += struct.pack("<4s2B", b"PK\x01\x02", 20, 3) + struct.pack("<2B4H", 20, 0, *head[1:5])
        directory += struct.pack(
            "<3L5H2L", crc, len(packed), size, len(entry.name), len(entry.extra), 0, 0, 0, entry.mode << 16, offset
        )
        directory += entry.name + entry.extra
    start = len(out) - len(before)
    count = number if count is None else count
    out += directory
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, len(comment)) + comment
    return bytes(out)


def zipped(files: dict[str, bytes]) -> bytes:
    """An honest ZIP archive, by the standard library."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


def tarred(files: dict[str, bytes], *, mode: str = "w", format_number: int = tarfile.PAX_FORMAT) -> bytes:
    """An honest tar archive, by the standard library (`mode` "w:gz" packs it)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format_number) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def tar_with(*infos: tarfile.TarInfo) -> bytes:
    """A tar archive of entries without bytes: links, devices."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in infos:
            archive.addfile(info)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link entry."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG that declares 3,600 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
