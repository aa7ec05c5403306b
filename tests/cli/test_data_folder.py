"""The data folder: one server at a time, never on a network file system."""

from pathlib import Path

import pytest

from cli import data_folder
from cli.data_folder import FolderUnusable, check_file_system, file_system_of, take_folder
from core.config import Settings

MOUNTS = """\
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
22 21 0:20 / /mnt/share rw shared:1 - nfs4 server:/export rw
23 22 8:2 / /mnt/share/local rw - xfs /dev/sdb1 rw
24 21 0:30 / /mnt/with\\040space rw - fuse.sshfs me@there: rw
"""


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with take_folder(settings), pytest.raises(FolderUnusable, match="in use by another `thaw serve`"):
        take_folder(settings)
    take_folder(settings).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderUnusable, match="cannot be written"):
        take_folder(Settings(data_dir=tmp_path / "file" / "data"))


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/ada", "ext4"),
        ("/mnt/share/thaw", "nfs4"),
        ("/mnt/share/local/thaw", "xfs"),
        ("/mnt/sharewith", "ext4"),
        ("/mnt/with space/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(folder), mounts) == kind


def test_a_system_without_a_mount_table_is_taken_as_it_is(tmp_path: Path) -> None:
    assert file_system_of(Path("/home"), tmp_path / "none") is None


def test_a_network_file_system_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "file_system_of", lambda _: "nfs4")
    with pytest.raises(FolderUnusable, match="network file system \\(nfs4\\)"):
        check_file_system(tmp_path)


def test_the_folder_of_the_tests_is_local(tmp_path: Path) -> None:
    check_file_system(tmp_path)
