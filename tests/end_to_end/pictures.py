"""Small sets of generated pictures, as a folder of class folders or as its zip."""

import random
import zipfile
from pathlib import Path

from PIL import Image

COLOURS = {"blue": (60, 90, 200), "green": (70, 170, 80), "red": (200, 70, 60)}


def coloured(chance: random.Random, class_name: str, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A field of about the class's colour with a darker bar: no two are the same."""
    colour = tuple(min(255, max(0, part + chance.randint(-35, 35))) for part in COLOURS[class_name])
    image = Image.new("RGB", size, colour)
    left, top = chance.randrange(size[0] // 2), chance.randrange(size[1] // 2)
    image.paste(tuple(part // 2 for part in colour), (left, top, left + 9, top + 7))
    return image


def write_classes(folder: Path, each: int, *, seed: int = 3, size: tuple[int, int] = (48, 40)) -> Path:
    """`each` pictures per class in one folder per class; returns `folder`."""
    chance = random.Random(seed)
    for class_name in COLOURS:
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            coloured(chance, class_name, size).save(folder / class_name / f"{number:02}.png")
    return folder


def zip_of(folder: Path, target: Path) -> Path:
    """Every file below `folder` in a zip, by its path from there."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target
