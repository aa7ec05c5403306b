"""Recall and precision of near duplicates: altered copies planted among photographs, found by the hashes and grey copies of an ingest.

`python -m benchmarks near_duplicates FOLDER [--pictures 1200] [--show FOLDER]`
`python -m benchmarks near_duplicates FOLDER --features chosen|tested`: what a near check after a run adds

Every picture gets one altered copy of each kind. With `--features` it gets one copy of one of `HEAVIER`, drawn by chance: the thresholds of
near checks were chosen on the 700 pictures of `chosen`, `tested` are the others. A pair is right when both are of one original; pairs of
two different originals count as wrong, also where the photographs themselves hold one scene twice (`--show` writes them side by side, so
that one can judge).
"""

import argparse
import io
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from worker.ingest.aligned import aligned
from worker.ingest.looks import GREY, look_at
from worker.ingest.near import find_near, read_hashes
from worker.likeness import alike
from worker.training.pictures import PictureRefused, examine

HEAVIER = ("crop10", "crop15", "crop20", "turned3", "turned8", "colour", "text")
CHOSEN, CHOSEN_SEED = 700, 7
KINDS = ("original", "encoded", "resized", "cropped", "mirrored", "brighter")


def altered(image: Image.Image, kind: str, chance: random.Random) -> Image.Image:
    """A copy: JPEG quality 30 to 70, 40 to 70 % of the size, 5 % cut off each side length anywhere, mirrored, brightness 0.7 to 1.3."""
    width, height = image.size
    if kind == "resized":
        share = chance.uniform(0.4, 0.7)
        image = image.resize((max(16, round(width * share)), max(16, round(height * share))), Image.Resampling.BICUBIC)
    elif kind == "cropped":
        across, down = round(width * 0.95), round(height * 0.95)
        left, top = chance.randint(0, width - across), chance.randint(0, height - down)
        image = image.crop((left, top, left + across, top + down))
    elif kind == "mirrored":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif kind == "brighter":
        image = ImageEnhance.Brightness(image).enhance(chance.choice([0.7, 0.8, 1.2, 1.3]))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=chance.randint(30, 70) if kind == "encoded" else 88)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def heavier(image: Image.Image, kind: str, chance: random.Random) -> Image.Image:
    """A copy that hashes hardly find: 10 to 20 % of each side cut off, turned by up to 3 or 8 degrees, other hue and saturation, text."""
    width, height = image.size
    if kind.startswith("crop"):
        share = 1 - int(kind[4:]) / 100
        across, down = round(width * share), round(height * share)
        left, top = chance.randint(0, width - across), chance.randint(0, height - down)
        image = image.crop((left, top, left + across, top + down))
    elif kind.startswith("turned"):
        degrees = int(kind[6:]) * chance.choice([-1, 1]) * chance.uniform(0.6, 1.0)
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=chance.choice([(0, 0, 0), (255, 255, 255)]))
    elif kind == "colour":
        hsv = np.asarray(image.convert("HSV")).astype(np.int64)
        hsv[..., 0] = (hsv[..., 0] + chance.choice([-1, 1]) * chance.randint(10, 30)) % 256
        hsv[..., 1] = np.clip(hsv[..., 1] * chance.uniform(0.5, 1.5), 0, 255)
        image = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    elif kind == "text":
        image = image.copy()
        font = ImageFont.load_default(max(10, round(height * chance.uniform(0.08, 0.16))))
        words = chance.choice(["SAMPLE", "Copyright 2024", "hello world", "www.photos.example"])
        place = (chance.uniform(0, 0.4) * width, chance.uniform(0, 0.85) * height)
        colour = chance.choice([(255, 255, 255), (0, 0, 0), (255, 0, 0), (255, 255, 0)])
        ImageDraw.Draw(image).text(place, words, font=font, fill=colour)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def by_features(paths: list[Path]) -> None:
    """Each picture and one heavier copy of it: pairs found by an ingest, and those that a near check adds, counted."""
    from benchmarks._likeness import plain_features  # noqa: PLC0415 - TensorFlow, which hashes do without

    pictures, looks, origins, kinds = [], [], [], []
    for number, path in enumerate(paths):
        chance = random.Random(number)  # noqa: S311 - what is planted, nothing secret
        try:
            image = examine(path).image
        except PictureRefused:
            continue
        kind = chance.choice(HEAVIER)
        copies = (image, heavier(image, kind, chance))
        pictures += [np.asarray(one) for one in copies]
        looks += [look_at(one) for one in copies]
        origins += [number, number]
        kinds += ["original", kind]
    there = [index for index, look in enumerate(looks) if look.hashes]
    greys = np.stack([np.frombuffer(look.grey, np.uint8).reshape(GREY, GREY) for look in looks]).astype(np.float32)
    hashes = read_hashes([looks[index].hashes for index in there])
    found = find_near(hashes, np.ones(len(there), np.bool_), lambda which: greys[np.array(there)[which]])
    hashed = {(there[one.first], there[one.second]) for one in found}
    features = plain_features(pictures)
    proposed = alike(lambda places: features[places], len(features))
    scores = aligned(greys, proposed)
    added = {(one, other) for (one, other), score in zip(proposed.tolist(), scores, strict=True) if score > 0} - hashed
    print(f"{len(pictures) // 2} originals, a copy of each; {len(proposed)} pairs proposed by features")
    for name, pairs in (("hashes", hashed), ("hashes and features", hashed | added), ("added", added)):
        right = {kinds[other]: 0 for other in range(1, len(kinds), 2)}
        for one, other in pairs:
            if origins[one] == origins[other]:
                right[kinds[other]] += 1
        good, planted = sum(right.values()), Counter(kinds[1::2])
        each = ", ".join(f"{kind} {right.get(kind, 0) / planted[kind]:.3f}" for kind in HEAVIER)
        print(f"{name}: recall {good / (len(kinds) // 2):.4f} ({each})")
        print(f"  precision {good / max(1, len(pairs)):.4f} ({good} right pairs, {len(pairs) - good} of two originals)")


def main(arguments: list[str]) -> None:
    """Plant, find, count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks near_duplicates", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1200)
    parser.add_argument("--show", type=Path, help="write pairs of different originals here, side by side")
    parser.add_argument("--features", choices=("chosen", "tested"), help="heavier copies, found by features too")
    given = parser.parse_args(arguments)
    chance = random.Random(0)  # noqa: S311 - which pictures are planted, nothing secret
    paths = sorted(path for path in given.folder.rglob("*") if path.is_file() and path.suffix.lower() != ".md")
    if given.features:
        drawn = set(random.Random(CHOSEN_SEED).sample(paths, min(CHOSEN, len(paths))))  # noqa: S311
        by_features([path for path in paths if (path in drawn) == (given.features == "chosen")])
        return
    paths = sorted(chance.sample(paths, min(given.pictures, len(paths))))
    looks, origins, kinds = [], [], []
    for number, path in enumerate(paths):
        try:
            image = examine(path).image
        except PictureRefused:
            continue
        for kind in KINDS:
            copy = image if kind == "original" else altered(image, kind, chance)
            looks.append(look_at(copy))
            origins.append(number)
            kinds.append(kind)
    report(paths, looks, origins, kinds, given.show)


def report(paths: list[Path], looks: list, origins: list[int], kinds: list[str], show: Path | None) -> None:  # type: ignore[type-arg]
    """Print what was found."""
    there = [index for index, look in enumerate(looks) if look.hashes]
    hashes = read_hashes([looks[index].hashes for index in there])
    greys = np.stack([np.frombuffer(looks[index].grey, np.uint8).reshape(GREY, GREY) for index in there])
    pairs = [
        (there[one.first], there[one.second], one.score)
        for one in find_near(hashes, np.ones(len(there), np.bool_), lambda which: greys[which].astype(np.float32))
    ]
    right = [(a, b) for a, b, _ in pairs if origins[a] == origins[b]]
    planted = Counter(kind for kind in kinds if kind != "original")
    # a copy is found when it is paired with its original
    found = Counter(kinds[b] for a, b in set(right) if kinds[a] == "original")
    wrong = {(origins[a], origins[b]) for a, b, _ in pairs if origins[a] != origins[b]}
    copies = len(set(right))
    wrong_pairs = sum(origins[a] != origins[b] for a, b, _ in pairs)
    print(f"{len(set(origins))} originals, {sum(planted.values())} planted copies, {len(looks) - len(there)} blank")
    for kind in KINDS[1:]:
        print(f"  {kind:9s} recall {found[kind] / planted[kind]:.4f}")
    print(f"recall {sum(found.values()) / sum(planted.values()):.4f} (copy paired with its original)")
    print(
        f"precision {copies / max(1, copies + wrong_pairs):.4f} ({copies} right pairs, {wrong_pairs} of two originals)"
    )
    print(f"pairs of originals that were paired: {len(wrong)}")
    if show is not None:
        show.mkdir(parents=True, exist_ok=True)
        for first, second in sorted(wrong)[:200]:
            sides = [examine(paths[one]).image.resize((240, 240)) for one in (first, second)]
            both = Image.new("RGB", (490, 240), "white")
            both.paste(sides[0], (0, 0))
            both.paste(sides[1], (250, 0))
            both.save(show / f"{paths[first].parent.name}-{paths[first].stem}--{paths[second].stem}.jpg")


if __name__ == "__main__":
    main(sys.argv[1:])
