"""One file, one array: whatever the file, upright 8-bit RGB comes out, or one sentence."""

import contextlib
import io
import pickle
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests.samples import sample_folder
from tests.worker.ingest.corpus import encoded, picture, pixels, png_bomb
from worker.training.pictures import (
    MEDIA_TYPES,
    PictureLimits,
    PictureRefused,
    Reason,
    decode,
    examine,
    inspect,
)

DEFAULT = PictureLimits()


def refused(source: Path | bytes, limits: PictureLimits = DEFAULT) -> PictureRefused:
    with pytest.raises(PictureRefused) as caught:
        decode(source, limits=limits)
    assert caught.value.sentence.endswith(".")
    return caught.value


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_comes_out_bit_by_bit(format_name: str) -> None:
    expected = pixels(1)
    found = examine(encoded(expected, format_name))
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.facts.fixes == ()
    assert (found.facts.width, found.facts.height) == (24, 16)


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP", "GIF", "AVIF", "HEIF"])
def test_every_allowed_format_is_read(format_name: str) -> None:
    facts = inspect(encoded(pixels(2, width=64, height=48), format_name))
    assert facts.format == format_name
    assert facts.media_type == MEDIA_TYPES[format_name]
    assert (facts.width, facts.height) == (64, 48)


def test_a_path_and_its_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "no ending"
    path.write_bytes(picture(3))
    np.testing.assert_array_equal(decode(path), decode(path.read_bytes()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = pixels(4)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # Transpose that turns upright into what is stored
    stored = Image.fromarray(upright)
    if undo is not None:
        stored = stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = examine(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(found.pixels, upright)
    assert (found.facts.width, found.facts.height) == (24, 16)
    assert bool(found.facts.fixes) == (orientation != 1)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = examine(encoded(Image.fromarray(values)))
    assert found.pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert found.facts.fixes == ("16 bits per channel brought to 8",)


def test_floating_point_between_0_and_1_is_brightness() -> None:
    found = examine(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
    assert found.pixels[0, :, 0].tolist() == [0, 128, 255]


def test_32_bit_integers_beyond_16_bits_are_stretched() -> None:
    found = examine(encoded(Image.fromarray(np.array([[-100, 0, 100_000]], np.int32)), "TIFF"))
    assert found.pixels[0, 0, 0] == 0
    assert found.pixels[0, 2, 0] == 255


def test_cmyk_becomes_rgb() -> None:
    found = examine(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"))
    assert found.pixels[0, 0].tolist() == [0, 255, 255]
    assert found.facts.fixes == ("CMYK converted to RGB",)


def test_lab_becomes_rgb() -> None:
    found = examine(encoded(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"))
    assert found.pixels.min() >= 250
    assert found.facts.fixes == ("LAB converted to RGB",)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_one_bit_and_palette_become_rgb_in_silence(mode: str) -> None:
    found = examine(encoded(Image.fromarray(pixels(5)).convert(mode)))
    assert found.pixels.shape == (16, 24, 3)
    assert found.facts.fixes == ()


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    found = examine(encoded(image))
    assert found.pixels[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert found.facts.fixes == ("transparency laid over white",)


def test_an_alpha_channel_that_hides_nothing_is_no_fix() -> None:
    assert inspect(encoded(Image.fromarray(pixels(6)).convert("RGBA"))).fixes == ()


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format_name: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    found = examine(encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options))
    assert found.pixels[0, 0].tolist() == [255, 0, 0]
    assert "first frame of several taken" in found.facts.fixes


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_truncated_picture_is_refused(format_name: str, share: float) -> None:
    random = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    body = encoded(random, format_name)
    error = refused(body[: int(len(body) * share)])
    assert error.reason in {Reason.TRUNCATED, Reason.DAMAGED}


def test_a_jpeg_cut_in_half_is_called_truncated() -> None:
    body = encoded(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8), "JPEG")
    assert refused(body[: len(body) // 2]).reason == Reason.TRUNCATED


def test_an_empty_file_is_refused() -> None:
    assert refused(b"").reason == Reason.EMPTY


@pytest.mark.parametrize("body", [b"hello, I am text", b"\x00" * 600, b"\xff\xd8", b"GIF89a"])
def test_what_is_no_picture_is_refused(body: bytes) -> None:
    assert refused(body).reason in {Reason.NOT_AN_IMAGE, Reason.DAMAGED, Reason.TRUNCATED}


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"8BPS\x00\x01", "PSD"),
        (b"%PDF-1.7", "PDF"),
        (b"<?xml?><svg xmlns=''>", "SVG"),
        (b"\x00\x00\x01\x00\x01", "ICO"),
    ],
)
def test_another_format_is_named(head: bytes, name: str) -> None:
    error = refused(head + bytes(100))
    assert error.reason == Reason.UNSUPPORTED_FORMAT
    assert name in error.sentence
    assert "JPEG" in error.sentence


def test_a_file_over_the_byte_limit_is_not_even_read() -> None:
    error = refused(picture(1), PictureLimits(max_bytes=100))
    assert error.reason == Reason.TOO_LARGE
    assert "0.0001 MB" in error.sentence


def test_pixels_are_counted_before_decoding() -> None:
    error = refused(picture(1), PictureLimits(max_pixels=383))
    assert error.reason == Reason.TOO_MANY_PIXELS
    assert "24 x 16" in error.sentence
    decode(picture(1), limits=PictureLimits(max_pixels=384))


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])  # Pillow says nothing, warns, raises
def test_a_pixel_bomb_is_refused(side: int) -> None:
    assert refused(png_bomb(side, side)).reason == Reason.TOO_MANY_PIXELS


def test_a_picture_with_a_script_as_its_tail_is_only_its_pixels() -> None:
    np.testing.assert_array_equal(decode(picture(1) + b"<script>alert(1)</script>"), decode(picture(1)))


def test_a_refusal_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(refused(b"")))
    assert (error.reason, error.sentence) == (Reason.EMPTY, "The file is empty: it has 0 bytes.")


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(picture(seed)) for seed in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
)
def test_damage_anywhere_gives_pixels_or_a_sentence(format_name: str, damage: list[tuple[int, bytes]]) -> None:
    body = bytearray(picture(7, format_name))
    for where, wrong in damage:
        at = where % len(body)
        body[at : at + len(wrong)] = wrong
    with contextlib.suppress(PictureRefused):
        found = decode(bytes(body), limits=PictureLimits(max_pixels=1_000_000))
        assert found.ndim == 3
        assert found.shape[2] == 3


REFUSED_SAMPLES = {
    "broken.png": Reason.DAMAGED,
    "broken_data_stream.png": Reason.DAMAGED,
    "decompression_bomb.gif": Reason.TOO_MANY_PIXELS,
    "decompression_bomb.ico": Reason.UNSUPPORTED_FORMAT,
    "hopper.ico": Reason.UNSUPPORTED_FORMAT,
    "hopper.psd": Reason.UNSUPPORTED_FORMAT,
    "png_decompression_dos.png": Reason.DAMAGED,
    "test-card-lossless.jp2": Reason.UNSUPPORTED_FORMAT,
    "truncated_end_chunk.png": Reason.TRUNCATED,
    "truncated_image.png": Reason.TRUNCATED,
    "truncated_jpeg.jpg": Reason.TRUNCATED,
    "ultrahdr.jpg": Reason.TRUNCATED,
    "unknown_compression_method.png": Reason.DAMAGED,
    "vips_17000x17000.avif": Reason.TOO_MANY_PIXELS,
    "vips_issue412.jp2": Reason.UNSUPPORTED_FORMAT,
    "vips_truncated.gif": Reason.TRUNCATED,
    "vips_truncated.jpg": Reason.TRUNCATED,
    "zero_width.gif": Reason.DAMAGED,
}


def test_every_awkward_sample_is_read_or_refused_for_its_known_reason() -> None:
    folder = sample_folder("awkward")
    if folder is None:
        pytest.skip("the awkward samples are not beside this checkout")
    found = {}
    for path in sorted(folder.iterdir()):
        try:
            assert inspect(path).format in MEDIA_TYPES
        except PictureRefused as error:
            found[path.name] = error.reason
    assert found == REFUSED_SAMPLES


def test_turned_copies_of_one_photograph_come_out_alike() -> None:
    folder = sample_folder("awkward")
    if folder is None:
        pytest.skip("the awkward samples are not beside this checkout")
    plain = decode(folder / "hopper_orientation_2.jpg").astype(int)
    for orientation in (3, 5, 6, 7, 8):
        turned = decode(folder / f"hopper_orientation_{orientation}.jpg").astype(int)
        assert np.abs(turned - plain).mean() < 4  # each was compressed by itself


def test_reading_says_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    body = encoded(pixels(8), "TIFF", compression="tiff_lzw")
    refused(body[:-40] if len(body) > 100 else body)
    inspect(io.BytesIO(picture(9)).getvalue())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("kind", "orientation"), [(2, 1), (3, 3)], ids=["make", "orientation"])
def test_an_exif_value_that_cannot_be_unpacked_refuses_no_picture(
    kind: int, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow unpacks a value when it is asked for. It unpacks all that we could write: so here its reader of one type is broken."""

    def broken(*_: object) -> None:
        raise struct.error("unpack requires a buffer of 2 bytes")

    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "a camera", "its model"
    exif[ExifTags.Base.Orientation] = orientation
    body = encoded(pixels(8), "JPEG", exif=exif.tobytes())
    readers = ImageFileDirectory_v2._load_dispatch
    monkeypatch.setitem(readers, kind, (readers[kind][0], broken))
    found = examine(body)
    if kind == 2:
        assert (found.facts.fixes, found.shot) == ((), ("", "", ""))
    else:
        assert (found.facts.fixes, found.shot) == (("unreadable EXIF ignored",), ("a camera", "its model", ""))


@pytest.mark.parametrize("size", [(1000, 999), (999, 1000), (640, 480), (300, 200), (2401, 7)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_jpeg_may_be_read_smaller_with_the_same_facts(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(out, "JPEG", exif=exif.tobytes())
    whole, small = examine(out.getvalue()), examine(out.getvalue(), enough=240)
    assert small.facts == whole.facts
    assert min(240, max(size)) <= max(small.pixels.shape[:2]) <= max(size)
    assert (max(size) < 480) == (small.pixels.shape == whole.pixels.shape)
    with pytest.raises(PictureRefused) as cut:
        examine(out.getvalue()[:-200], enough=240)
    assert cut.value.reason == Reason.TRUNCATED
