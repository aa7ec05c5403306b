"""Where the real sample photographs are, when this checkout stands beside them. Tests must pass without them."""

from pathlib import Path

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def sample_folder(name: str) -> Path | None:
    """Folder of a sample set (`flowers5`, `trash6`, ...) or `awkward`; None where this machine has none."""
    for folder in (_DATA / "dev_sample" / name, _DATA / name):
        if folder.is_dir():
            return folder
    return None
