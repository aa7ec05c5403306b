"""The one place where a picture file becomes pixels: ingest, training, prediction and export all decode here.

What comes out is always numpy uint8 `[height, width, 3]`, sRGB as far as the file says, upright:

- The first frame of an animation or of a multi-page file.
- EXIF (or XMP) orientation is applied; EXIF that cannot be read counts as upright.
- Transparency is laid over white.
- Grey, 1-bit, palette, YCbCr and HSV become RGB; CMYK by Pillow's plain formula (profiles are not consulted, so that an
  answer never depends on a colour engine); LAB (D50) through littleCMS.
- 16 bits per channel become 8 by division by 257, rounded: white stays white and nothing is clipped. (Colour files of
  16 bits keep their upper byte, as Pillow reads them: the difference is at most 1 of 255.)
- 32-bit integers and floating point have no agreed white. Integers within 0..255 and 0..65535 are read as 8 and 16
  bits, floats within 0..1 and 0..255 as what they look like; anything else is stretched from its own smallest to its
  own largest value.

No TensorFlow here, and no warnings: what Pillow warns about is either harmless or becomes a `PictureRefused`.
"""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image, ImageCms, ImageOps

from core.errors import ThawError

Pixels = npt.NDArray[np.uint8]

# Pillow opens 43 formats unless it is told which; every one of them is a parser that a stranger can feed.
# (MPO, a camera's several pictures in one JPEG, comes through JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
}
ALLOWED = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC"

pillow_heif.register_heif_opener()


class Reason(StrEnum):
    """Why a picture file is refused."""

    EMPTY = "empty"  # 0 bytes
    TOO_LARGE = "too_large"  # more bytes than the limit; nothing was read
    NOT_AN_IMAGE = "not_an_image"  # no signature of any picture format
    UNSUPPORTED_FORMAT = "unsupported_format"  # a picture, but of a format that Thaw does not open
    TOO_MANY_PIXELS = "too_many_pixels"  # the header declares more pixels than the limit; nothing was decoded
    TRUNCATED = "truncated"  # the file ends before its pixels do
    DAMAGED = "damaged"  # the header is fine or nearly so, the content is not


class PictureRefused(ThawError):
    """A file that does not become pixels. `str(error)` is one sentence that fits after a file name."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence

    def __reduce__(self) -> tuple[type["PictureRefused"], tuple[Reason, str]]:
        return (PictureRefused, (self.reason, self.sentence))  # it travels between processes


@dataclass(frozen=True)
class PictureLimits:
    """Checked before anything is decoded.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width times height, of the first frame.
    """

    max_bytes: int = 30_000_000
    max_pixels: int = 50_000_000


DEFAULT = PictureLimits()


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture that was decoded.

    Attributes:
        format: Pillow's name, a key of `MEDIA_TYPES`.
        width: pixels, after orientation.
        height: pixels, after orientation.
        fixes: what was changed on the way to upright 8-bit RGB and is worth telling; empty for an ordinary file.
    """

    format: str
    width: int
    height: int
    fixes: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """Media type of the original file."""
        return MEDIA_TYPES[self.format]


@dataclass(frozen=True, eq=False)
class Picture:
    """What one decoding gives.

    Attributes:
        image: loaded, mode RGB, upright.
        facts: what is known of it.
        shot: maker, model and time of taking (`YYYY:MM:DD HH:MM:SS`) as EXIF says them, each perhaps empty; None without EXIF.
    """

    image: Image.Image
    facts: PictureFacts
    shot: tuple[str, str, str] | None = None

    @property
    def pixels(self) -> Pixels:
        """The image as uint8 `[height, width, 3]`, read-only."""
        return np.asarray(self.image)


# What Pillow's parsers raise on files that are not what they claim to be.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
)


def decode(source: Path | bytes, *, limits: PictureLimits = DEFAULT) -> Pixels:
    """Read one picture as uint8 `[height, width, 3]` (read-only: copy before writing into it).

    Raises:
        PictureRefused: with a reason and a sentence, for anything that is not a whole picture within the limits.
        OSError: the file itself cannot be read (missing, no permission).
    """
    return examine(source, limits=limits).pixels


def inspect(source: Path | bytes, *, limits: PictureLimits = DEFAULT) -> PictureFacts:
    """Format, size and fixes of one picture. Decodes it, because only decoding finds a file that was cut in half."""
    return examine(source, limits=limits).facts


def examine(source: Path | bytes, *, limits: PictureLimits = DEFAULT, enough: int | None = None) -> Picture:
    """Pixels and facts at once; raises as `decode` does.

    Args:
        source: the file.
        limits: what it may have.
        enough: pixels of the longer side that do. A JPEG is then decoded at a half, a quarter or an eighth where that gives
            as many (all of its bytes are read and checked all the same); the facts say its true size.
    """
    _check_bytes(source, limits)
    with _quiet_pillow(), source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        image = _open(stream, limits)
        _check_pixels(image.size, limits)
        try:
            return _read(image, enough)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_many_pixels(limits) from error
        except _DECODER_ERRORS as error:
            raise _broken(error) from error


def _check_bytes(source: Path | bytes, limits: PictureLimits) -> None:
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if size == 0:
        raise PictureRefused(Reason.EMPTY, "The file is empty: it has 0 bytes.")
    if size > limits.max_bytes:
        raise PictureRefused(
            Reason.TOO_LARGE,
            f"The file has {size / 1e6:.1f} MB; at most {limits.max_bytes / 1e6:g} MB are allowed for one picture.",
        )


def _open(stream: IO[bytes], limits: PictureLimits) -> Image.Image:
    try:
        return Image.open(stream, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    except _DECODER_ERRORS as error:
        stream.seek(0)
        head = stream.read(4096)
        _check_pixels(_declared_by_avif(head), limits)
        raise _unopened(head) from error


def _check_pixels(size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise PictureRefused(Reason.DAMAGED, f"The picture declares {width} x {height} pixels, so it shows nothing.")
    if width * height > limits.max_pixels:
        raise PictureRefused(
            Reason.TOO_MANY_PIXELS,
            f"The picture declares {width} x {height} = {width * height / 1e6:.1f} megapixels; "
            f"at most {limits.max_pixels / 1e6:g} are allowed.",
        )


def _too_many_pixels(limits: PictureLimits) -> PictureRefused:
    sentence = f"The picture declares far more than the {limits.max_pixels / 1e6:g} megapixels that are allowed."
    return PictureRefused(Reason.TOO_MANY_PIXELS, sentence)


def _broken(error: BaseException) -> PictureRefused:
    said = str(error).lower()
    if "truncated" in said or isinstance(error, EOFError):
        return PictureRefused(Reason.TRUNCATED, "The file is cut off: it ends before the picture does.")
    return PictureRefused(Reason.DAMAGED, "The file begins like a picture, but its content is damaged.")


_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x01\x00", "a Windows icon (ICO)"),
    (0, b"\x00\x00\x02\x00", "a Windows cursor (CUR)"),
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska or WebM)"),
    (4, b"ftypqt", "a film (QuickTime)"),
    (4, b"ftypisom", "a film (MP4)"),
    (4, b"ftypmp4", "a film (MP4)"),
    (128, b"DICM", "a DICOM file"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"P4\n", "a portable bitmap (PBM)"),
    (0, b"P5\n", "a portable graymap (PGM)"),
    (0, b"P6\n", "a portable pixmap (PPM)"),
)
_OURS: tuple[tuple[int, bytes], ...] = (
    (0, b"\xff\xd8"),
    (0, b"\x89PNG"),
    (0, b"GIF8"),
    (0, b"BM"),
    (0, b"II*\x00"),
    (0, b"MM\x00*"),
    (8, b"WEBP"),
    (4, b"ftypavi"),
    (4, b"ftyphei"),
    (4, b"ftypmif1"),
)


def _declared_by_avif(head: bytes) -> tuple[int, int]:
    """Size in the `ispe` box of an AVIF or HEIC file: their decoders call a bomb "damaged" before we see its size."""
    at = head.find(b"ispe") if head[4:8] == b"ftyp" else -1
    if at < 0 or len(head) < at + 16:
        return (1, 1)
    width, height = struct.unpack(">II", head[at + 8 : at + 16])
    return (width, height)


def _unopened(head: bytes) -> PictureRefused:
    """Say what a file that no decoder took looks like."""
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return PictureRefused(Reason.UNSUPPORTED_FORMAT, f"This is {name}; allowed are {ALLOWED}.")
    if b"<svg" in head.lower():
        return PictureRefused(Reason.UNSUPPORTED_FORMAT, f"This is an SVG drawing; allowed are {ALLOWED}.")
    if any(head[offset : offset + len(signature)] == signature for offset, signature in _OURS):
        return PictureRefused(Reason.DAMAGED, "The file begins like a picture, but its header is damaged.")
    return PictureRefused(Reason.NOT_AN_IMAGE, f"The file is not a picture; allowed are {ALLOWED}.")


def _read(image: Image.Image, enough: int | None) -> Picture:
    name = image.format or ""
    deep = _is_deep_colour(image)
    width, height = image.size
    if enough is not None and name == "JPEG":
        share = min(1.0, enough / max(width, height))
        image.draft(None, (math.ceil(width * share), math.ceil(height * share)))
    image.load()  # verify() accepts a JPEG that was cut in half
    if image.width <= 0 or image.height <= 0:
        raise ValueError("no pixels")
    fixes: list[str] = []
    if _has_more_frames(image):
        fixes.append("first frame of several taken")
        image.seek(0)
        image.load()
    exif, shot = _exif(image, fixes)
    if _turn_upright(image, exif, fixes):
        width, height = height, width
    rgb = _rgb(image, fixes)
    if deep:
        fixes.append("16 bits per channel brought to 8")
    return Picture(rgb, PictureFacts(name, width, height, tuple(fixes)), shot)


def _has_more_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # what follows the first picture of a camera's MPO is its depth map or its other eye
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except _DECODER_ERRORS:  # a damaged second frame is no reason to refuse the first
        return False


def _is_deep_colour(image: Image.Image) -> bool:
    """True for colour of 16 bits per channel. Only the decoder's plan tells: ask before `load`."""
    return not image.mode.startswith("I") and ";16" in repr(getattr(image, "tile", ""))


def _exif(image: Image.Image, fixes: list[str]) -> tuple[Image.Exif, tuple[str, str, str] | None]:
    """The EXIF of a picture, empty where there is none or it cannot be read; and what it says of how the picture was taken."""
    try:
        exif = image.getexif()
    except _DECODER_ERRORS:
        fixes.append("unreadable EXIF ignored")
        return Image.Exif(), None
    if not exif:
        return exif, None
    make, model = (_said(exif, tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    try:
        taken = exif.get_ifd(ExifTags.IFD.Exif)
    except _DECODER_ERRORS:
        return exif, (make, model, "")
    return exif, (make, model, _said(taken, ExifTags.Base.DateTimeOriginal))


def _said(values: Mapping[int, Any], tag: int) -> str:
    """One EXIF value as text, empty where there is none. A value is unpacked only when it is asked for, and may be broken."""
    try:
        return str(values.get(tag, "")).strip("\0 ")
    except _DECODER_ERRORS:
        return ""


def _turn_upright(image: Image.Image, exif: Image.Exif, fixes: list[str]) -> bool:
    """Apply the orientation; True when width and height have changed places."""
    try:
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        if orientation not in range(2, 9):
            return False
        ImageOps.exif_transpose(image, in_place=True)
    except _DECODER_ERRORS:
        fixes.append("unreadable EXIF ignored")
        return False
    fixes.append(f"turned upright (EXIF orientation {orientation})")
    return orientation in range(5, 9)


def _rgb(image: Image.Image, fixes: list[str]) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and image.format == "JPEG":
        return image  # it is whole and has let go of its file: no copy is needed
    if mode.startswith("I;16"):
        fixes.append("16 bits per channel brought to 8")
        return Image.fromarray(_from_16_bits(np.asarray(image), image.info.get("transparency"), fixes))
    if mode in {"I", "F"}:
        fixes.append("32-bit pixels brought to 8")
        return Image.fromarray(_three(_from_32_bits(np.asarray(image))))
    if mode == "LAB":
        fixes.append("LAB converted to RGB")
        return _from_lab(image)
    if image.has_transparency_data:
        return _over_white(image, fixes)
    if mode == "CMYK":
        fixes.append("CMYK converted to RGB")
    return image.convert("RGB")


def _from_16_bits(values: npt.NDArray[np.generic], transparent: object, fixes: list[str]) -> Pixels:
    wide = values.astype(np.uint32)
    grey = ((wide + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int) and (wide == transparent).any():
        fixes.append("transparency laid over white")
        grey[wide == transparent] = 255
    return _three(grey)


def _from_32_bits(values: npt.NDArray[np.generic]) -> Pixels:
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    lowest, highest = float(wide.min()), float(wide.max())
    if lowest >= 0.0 and highest <= 1.0 and values.dtype.kind == "f":
        scaled = wide * 255.0
    elif lowest >= 0.0 and highest <= 255.0:
        scaled = wide
    elif lowest >= 0.0 and highest <= 65535.0 and values.dtype.kind != "f":
        scaled = wide / 257.0
    else:
        scaled = (wide - lowest) * (255.0 / max(highest - lowest, 1e-12))
    return np.rint(scaled).astype(np.uint8)


def _three(grey: Pixels) -> Pixels:
    """Grey `[h, w]` to `[h, w, 3]`."""
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # noqa: S101 - None only when done in place
    return converted


def _over_white(image: Image.Image, fixes: list[str]) -> Image.Image:
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):  # an alpha channel that hides nothing
        return layered.convert("RGB")
    fixes.append("transparency laid over white")
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    white.alpha_composite(layered)
    return white.convert("RGB")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: "warnings.catch_warnings[None] | None" = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings (a bomb stays an error), for as many threads as decode at once.

    `warnings.catch_warnings` alone is not safe in threads: the first one in sets the filters, the last one out puts
    them back.
    """
    global _quiet_depth, _quiet_filters  # noqa: PLW0603 - the filters are process-wide, so is this count
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)|pillow_heif(\.|$)")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
