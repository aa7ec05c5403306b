"""A folder as one archive that is never made: it is what the standard library reads, from any byte to any byte."""

import io
import tarfile
from pathlib import Path

import pytest

from cli.uploading import files_below
from cli.virtual_tar import OneFile, VirtualTar
from core.errors import ThawError
from worker.ingest.archive import open_archive
from worker.ingest.entries import ArchiveLimits

BODIES = {"a/plain.jpg": b"x" * 700, f"b/{'long ' * 30}.jpg": b"yy", "c/ü蜂.jpg": b"", "d/block.jpg": b"z" * 512}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, body in BODIES.items():
        path = tmp_path / "花" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return tmp_path / "花"


def test_the_standard_library_and_our_own_reader_read_it(folder: Path, tmp_path: Path) -> None:
    tar = VirtualTar(files_below(folder))
    body = tar.read(0, tar.size)
    assert len(body) == tar.size
    wanted = {f"花/{name}": content for name, content in BODIES.items()}
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert {one.name: archive.extractfile(one).read() for one in archive} == wanted  # type: ignore[union-attr]
    (tmp_path / "folder.tar").write_bytes(body)
    with open_archive(tmp_path / "folder.tar", ArchiveLimits()) as ours:
        assert {one.path: b"".join(chunks or ()) for _, one, chunks in ours.contents()} == wanted


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 5000])
def test_it_is_the_same_in_slices_of_any_size(folder: Path, step: int) -> None:
    tar = VirtualTar(files_below(folder))
    assert b"".join(tar.read(at, step) for at in range(0, tar.size, step)) == tar.read(0, tar.size)


def test_a_file_that_changed_meanwhile_is_named(folder: Path) -> None:
    tar = VirtualTar(files_below(folder))
    (folder / "a" / "plain.jpg").write_bytes(b"other")
    with pytest.raises(ThawError, match=r"plain\.jpg has changed while it was being sent"):
        tar.read(0, tar.size)
    (folder / "a" / "plain.jpg").unlink()
    with pytest.raises(ThawError, match=r"plain\.jpg cannot be read"):
        tar.read(0, tar.size)


def test_a_file_is_read_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(bytes(range(100)))
    source = OneFile(tmp_path / "a.zip")
    assert (source.size, source.read(90, 50)) == (100, bytes(range(90, 100)))
    with pytest.raises(ThawError, match="cannot be read"):
        OneFile(tmp_path / "b.zip")
