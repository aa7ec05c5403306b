import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import PicturesUnreadable
from tests.worker.training.run_folders import make_run_folder, read_images, write_images
from worker.training.data import DecodedPictures
from worker.training.layers import PictureResizer
from worker.training.orders import Cancelled, Orders
from worker.training.pictures import decode
from worker.training.run_folder import RunFolder, read_run_folder

ROOT = Path(__file__).resolve().parents[3]


def _open(path: Path) -> tuple[RunFolder, DecodedPictures]:
    folder = read_run_folder(path)
    pictures = DecodedPictures(folder, Orders())
    pictures.start()
    pictures.set_resize(PictureResizer(folder.config.image_size, folder.config.resize))
    return folder, pictures


def test_the_cache_holds_what_decoding_and_the_one_resize_give(tmp_path: Path) -> None:
    folder, pictures = _open(make_run_folder(tmp_path / "run"))
    positions = np.array([5, 0, 44])
    resize = PictureResizer((16, 16), "crop")
    direct = np.stack([resize(decode(Path(folder.pictures.paths[position]))) for position in positions])
    np.testing.assert_array_equal(pictures.batch(positions), direct)


def test_a_second_run_on_the_same_pictures_decodes_nothing(tmp_path: Path) -> None:
    folder, pictures = _open(make_run_folder(tmp_path / "one", shared=tmp_path))
    everything = np.arange(len(folder.pictures))
    first = pictures.batch(everything)
    pictures.finish()
    _, again = _open(make_run_folder(tmp_path / "two", shared=tmp_path))
    assert again.to_decode == 0
    np.testing.assert_array_equal(again.batch(everything), first)


def test_another_resize_is_another_cache(tmp_path: Path) -> None:
    folder, pictures = _open(make_run_folder(tmp_path / "one", shared=tmp_path))
    pictures.batch(np.arange(len(folder.pictures)))
    pictures.finish()
    _, squashed = _open(make_run_folder(tmp_path / "two", {"resize": "squash"}, shared=tmp_path))
    assert squashed.to_decode == len(folder.pictures)


def test_two_trainers_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    paths = [make_run_folder(tmp_path / name, shared=tmp_path) for name in ("one", "two")]
    opened = [_open(path) for path in paths]
    everything = np.arange(len(opened[0][0].pictures))
    first, second = (pictures.batch(everything) for _, pictures in opened)
    np.testing.assert_array_equal(first, second)
    for _, pictures in opened:
        pictures.finish()
    third = _open(make_run_folder(tmp_path / "three", shared=tmp_path))[1]
    np.testing.assert_array_equal(third.batch(everything), first)


def test_pictures_beyond_the_limit_are_decoded_each_time(tmp_path: Path) -> None:
    whole = _open(make_run_folder(tmp_path / "one"))[1]
    folder, pictures = _open(make_run_folder(tmp_path / "two", cache_limit_bytes=2 * 10 * 16 * 16 * 3))
    everything = np.arange(len(folder.pictures))
    assert pictures.to_decode == 10
    np.testing.assert_array_equal(pictures.batch(everything), whole.batch(everything))


def test_equal_files_are_decoded_once(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    rows = read_images(path)
    write_images(path, [{**row, **{key: rows[0][key] for key in ("path", "sha256")}} for row in rows])
    folder, pictures = _open(path)
    assert pictures.to_decode == 1
    batch = pictures.batch(np.arange(len(folder.pictures)))
    assert (batch == batch[0]).all()


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "cannot be decoded"), (b"\xff\xd8\xff\xe0junk", "cannot be decoded")]
)
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = make_run_folder(tmp_path / "run")
    rows = read_images(path)
    Path(rows[7]["path"]).write_bytes(content)
    _, pictures = _open(path)
    with pytest.raises(PicturesUnreadable, match=rf"{rows[7]['filename']}.*{sentence}"):
        pictures.wait_all(print)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    row = read_images(path)[3]
    Path(row["path"]).unlink()
    _, pictures = _open(path)
    with pytest.raises(PicturesUnreadable, match=f'"{row["filename"]}" is missing'):
        pictures.batch(np.array([3]))


def test_cancel_is_heard_while_waiting_for_pictures(tmp_path: Path) -> None:
    folder = read_run_folder(make_run_folder(tmp_path / "run"))
    orders = Orders()
    pictures = DecodedPictures(folder, orders)  # never started: the wait would last for ever
    orders.hear("cancel")
    with pytest.raises(Cancelled):
        pictures.batch(np.array([0]))


def test_decoding_begins_without_tensorflow() -> None:
    """Pictures are decoded while TensorFlow is imported: what decodes them must not import it itself."""
    code = (
        "import sys; import worker.training.data, worker.training.__main__; "
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said == "[]\n"
