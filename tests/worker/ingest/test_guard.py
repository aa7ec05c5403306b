"""The split guard: altered copies and patients are found, kept on one side, reported where somebody parted them."""

import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageFilter
from sklearn.model_selection import GroupKFold
from sqlalchemy import func, select

from benchmarks.ingest import tiny_copies
from benchmarks.near_duplicates import KINDS, altered
from core.clusters import Clusters
from core.issues import list_issues
from core.new_version import change_version
from core.quality import Flag
from core.splits import join_units
from core.tables import DatasetVersion, NearPair, Split, UploadStatus, VersionImage
from core.version_changes import VersionChanges
from tests.samples import sample_folder
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import encoded
from tests.worker.ingest.test_ingest import placed
from worker.ingest.groups import group_all, group_by_name
from worker.ingest.looks import GREY, HASHES, WINDOWS, look_at, perceptual_hash
from worker.ingest.near import ENOUGH, _met, find_near, read_hashes
from worker.run_preparation import Listing
from worker.training.statistics import accuracy_interval, group_numbers, wilson_interval
from worker.workplace import Workplace

RESPLIT = VersionChanges.model_validate(
    {"resplit": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "seed": 1}}
)


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A picture unlike any other of another seed: soft blots of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return np.asarray(PillowImage.fromarray(noise).resize((side, side), PillowImage.Resampling.BICUBIC))


def test_altered_copies_are_found_and_other_pictures_are_not() -> None:
    chance = random.Random(1)
    looks, origins = [], []
    for seed in range(30):
        image = PillowImage.fromarray(scene(seed, 200))
        for kind in KINDS:
            looks.append(look_at(image if kind == "original" else altered(image, kind, chance)))
            origins.append(seed)
    greys = np.stack([np.frombuffer(one.grey, np.uint8).reshape(GREY, GREY) for one in looks]).astype(np.float32)
    hashes = read_hashes([one.hashes for one in looks])
    pairs = list(find_near(hashes, np.ones(len(looks), np.bool_), lambda which: greys[which]))
    assert len({(one.first, one.second) for one in pairs}) == len(pairs)
    assert all(one.first < one.second for one in pairs)
    right = {(one.first, one.second) for one in pairs if origins[one.first] == origins[one.second]}
    assert len(right) / len(pairs) >= 0.98
    copies = [index for index in range(len(looks)) if index % len(KINDS)]
    found = [index for index in copies if (index - index % len(KINDS), index) in right]
    assert len(found) / len(copies) >= 0.95
    asking = np.zeros(len(looks), np.bool_)
    asking[3] = True
    asked = {(one.first, one.second) for one in find_near(hashes, asking, lambda which: greys[which])}
    assert asked == {pair for pair in {(one.first, one.second) for one in pairs} if 3 in pair}


@pytest.mark.parametrize("kind", ["copies", "still camera", "slow camera", "two scenes"])
def test_a_crowd_is_one_cluster_of_few_pairs_and_stays_one_without_a_third_of_it(kind: str) -> None:
    random, count, scenes = np.random.default_rng(4), 1200, 2 if kind == "two scenes" else 1
    looks = []
    for number in range(count):
        points = scene(number % scenes, 48).astype(np.float32)
        if kind == "slow camera":
            points = np.roll(scene(0, 96), number // 60, axis=1)[:, :48].astype(np.float32)
        if kind != "copies":
            points = points + random.normal(0, 6, points.shape)
        looks.append(look_at(PillowImage.fromarray(np.clip(points, 0, 255).astype(np.uint8))))
    greys = np.stack([np.frombuffer(one.grey, np.uint8).reshape(GREY, GREY) for one in looks]).astype(np.float32)
    hashes = read_hashes([one.hashes for one in looks])
    pairs = [(one.first, one.second) for one in find_near(hashes, np.ones(count, np.bool_), lambda which: greys[which])]
    assert len(set(pairs)) == len(pairs) <= (ENOUGH + 1) * count + 200
    clusters = Clusters(count, pairs)
    assert len(set(clusters.of.tolist())) == scenes
    assert all(clusters.of[number] == clusters.of[number % scenes] for number in range(count))
    kept = random.random(count) > 1 / 3
    left = Clusters(count, [pair for pair in pairs if kept[list(pair)].all()])
    assert max(left.size[left.of[kept]]) >= 0.97 * kept.sum() / scenes
    # a later upload: one more picture finds the cluster, and what is known is not looked for again
    asking = np.zeros(count, np.bool_)
    asking[-1] = True
    older = np.array([pair for pair in pairs if count - 1 not in pair])
    again = list(find_near(hashes, asking, lambda which: greys[which], older))
    assert 1 <= len(again) <= 200
    assert all(one.second == count - 1 for one in again)


def test_a_copy_of_one_of_a_crowd_is_compared_with_it_though_the_crowd_hides_it() -> None:
    """The other one has the smaller number and asks first, but looks at some of its crowd only."""
    count, random = 1500, np.random.default_rng(3)
    hashes = random.integers(0, 2**63, (count + 1, HASHES), np.uint64)
    hashes[:count, :5] = hashes[0, :5]  # alike but for two windows and the mirror image
    hidden = []
    for number in range(0, count, 250):
        hashes[count, 0] = hashes[number, 6] ^ np.uint64(0b111111)  # cut out of this one, and a little changed
        met = np.concatenate([some for some, _ in _met(hashes, np.ones(count + 1, np.bool_))])
        hidden += [] if [number, count] in met[:, :2].tolist() else [number]
    assert not hidden


def test_the_hash_is_that_of_imagehash() -> None:
    image = PillowImage.fromarray(scene(3, 32)).convert("L")
    ours = np.unpackbits(np.frombuffer(perceptual_hash(np.asarray(image, np.float32)), np.uint8)).astype(bool)
    assert np.count_nonzero(ours != imagehash.phash(image).hash.ravel()) <= 1  # one bit may lie on the median


@pytest.mark.parametrize("size", [(240, 180), (320, 213), (97, 131), (40, 33), (20, 200)])
def test_every_hash_is_that_of_imagehash_of_its_window(size: tuple[int, int]) -> None:
    image = PillowImage.fromarray(scene(5, 320)).resize(size)
    grey, (width, height) = image.convert("L"), image.size
    hashes = np.unpackbits(np.frombuffer(look_at(image).hashes, np.uint8)).reshape(HASHES, 64).astype(bool)
    for window, (share, across, down) in enumerate(WINDOWS):
        left, top = width * (1 - share) * across, height * (1 - share) * down
        box = (left, top, min(width, left + width * share), min(height, top + height * share))
        cut = grey.resize((GREY, GREY), PillowImage.Resampling.LANCZOS, box=box)
        # Pillow rounds and clips its 32 x 32 points: cosines next to the median may fall to its other side
        assert np.count_nonzero(hashes[window] != imagehash.phash(cut).hash.ravel()) <= 4
    mirrored = look_at(image.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT))
    assert np.count_nonzero(hashes[-1] != np.unpackbits(np.frombuffer(mirrored.hashes[:8], np.uint8))) <= 2


@pytest.mark.parametrize(
    ("pixels", "flags"),
    [
        (scene(1), set()),
        (np.full((64, 64, 3), 128, np.uint8), {Flag.BLANK}),
        (scene(1) // 5, {Flag.DARK}),
        (np.maximum(scene(1), 250), {Flag.OVEREXPOSED, Flag.BLANK}),
        (scene(1, 20), {Flag.TINY}),
        (scene(1)[:24], {Flag.TINY, Flag.ODD_ASPECT}),
    ],
    ids=["fine", "blank", "dark", "overexposed", "tiny", "odd"],
)
def test_odd_pictures_are_flagged(pixels: np.ndarray, flags: set[Flag]) -> None:
    assert look_at(PillowImage.fromarray(pixels)).flags - {Flag.BLURRY} == flags


def test_a_blurred_photograph_is_flagged_and_a_sharp_one_is_not() -> None:
    sharp = PillowImage.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    assert Flag.BLURRY not in look_at(sharp).flags
    soft = PillowImage.fromarray(scene(1, 200)).filter(ImageFilter.GaussianBlur(4))
    assert look_at(soft).flags == {Flag.BLURRY}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("a/person19_bacteria_60.jpeg", ("person", "person19")),
        ("patient-0007_left.png", ("person", "patient-0007")),
        ("x_subject3.png", ("person", "subject3")),
        ("NORMAL2-IM-0971-0001-0002.jpeg", ("study", "normal2-im-0971")),
        ("IM-0453-0001.jpeg", ("study", "im-0453")),
        ("street_frame_00012.jpg", ("film", "street")),
        ("00001IMG_00001_BURST20180703121212345_COVER.jpg", ("burst", "burst20180703121212345")),
        ("rose_12.jpg", None),
        ("IMG_0042.JPG", None),
        ("frame_0001.jpg", None),
        ("personal-3.jpg", None),
    ],
)
def test_only_names_that_say_so_make_groups(name: str, group: tuple[str, str] | None) -> None:
    assert group_by_name(name) == group


def test_a_rule_that_would_leave_nothing_to_split_is_left_out() -> None:
    paths = [f"film{number % 2}_frame_{number}.png" for number in range(10)]
    assert group_all(paths, [0] * 10, [None] * 10) == ([None] * 10, {})
    more = [f"film{number % 4}_frame_{number}.png" for number in range(12)]
    groups, counts = group_all(more, [0] * 12, [None] * 12)
    assert counts == {"film": 4}
    assert groups[0] == groups[4] == "film0"


def test_pictures_of_one_camera_within_two_seconds_are_one_burst() -> None:
    shots = [("A", 10.0), ("A", 11.5), ("A", 13.0), ("B", 11.0), ("A", 99.0), None]
    groups, counts = group_all([f"{n}.jpg" for n in range(6)], [0] * 6, shots)
    assert groups[0] == groups[1] == groups[2] is not None
    assert groups[3:] == [None, None, None]
    assert counts == {"camera": 1}


def test_units_join_what_groups_and_pairs_join() -> None:
    groups = np.array([0, 0, -1, -1, 1, -1])
    units = join_units(groups, np.array([1]), np.array([2]))
    assert units[0] == units[1] == units[2] >= 0
    assert units[3] == units[5] == -1
    assert units[4] >= 0
    assert units[4] != units[0]


def sides(person: Person, version: DatasetVersion) -> dict[str, set[Split]]:
    """Splits of every group of a version."""
    found: dict[str, set[Split]] = defaultdict(set)
    with person.database.read() as session:
        rows = session.execute(
            select(VersionImage.group, VersionImage.split).where(VersionImage.version_id == version.id)
        )
        for group, split in rows:
            if group:
                found[group].add(split)
    return found


def leaks(person: Person, version: DatasetVersion) -> list[str]:
    """Details of the leaks of a version."""
    with person.database.read() as session:
        return [one.detail for one in list_issues(session, version, kind="leaks", limit=200).items]


def split_again(person: Person, base: DatasetVersion) -> DatasetVersion:
    return change_version(person.database, base, RESPLIT)


def test_patients_that_were_parted_are_reported_and_a_new_split_keeps_them_together(person: Person) -> None:
    files: dict[str, bytes | Path] = {}
    for number in range(26):
        name = ("ill", "well")[number % 2]
        folder = ("train", "train", "val", "val", "test", "test")[number % 6]
        files[f"{folder}/{name}/other {number}.png"] = encoded(scene(1000 + number))
    for patient in range(13):
        name = ("ill", "well")[patient % 2]
        for turn, folder in enumerate(("train", "test")):
            files[f"{folder}/{name}/person{patient}_{turn}.png"] = encoded(scene(2 * patient + turn))
    person.upload(files)
    version = person.version()
    assert sorted(leaks(person, version)) == sorted(f"group person{number}" for number in range(13))
    assert version.issues["leaks"] == 13
    assert placed(person)["train/ill/person0_0.png"][1] == Split.TRAIN  # reported, not moved
    again = split_again(person, version)
    assert len(sides(person, again)) == 13
    assert all(len(one) == 1 for one in sides(person, again).values())
    assert again.issues["leaks"] == 0


def test_the_thirteen_patients_of_the_chest_set_are_found(person: Person) -> None:
    folder = sample_folder("chest_xray2")
    if folder is None:
        pytest.skip("the sample set is not here")
    by_group: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.jpeg")):
        named = group_by_name(path.name)
        by_group[named[1] if named else path.name].append(path)
    two = [paths for paths in by_group.values() if len(paths) == 2]
    alone = [paths[0] for paths in by_group.values() if len(paths) == 1]
    assert len(two) == 13
    files: dict[str, bytes | Path] = {}
    for paths in two:
        for path, split in zip(paths, ("train", "test"), strict=True):
            files[f"{split}/{path.parent.name}/{path.name}"] = path
    for index, path in enumerate(alone[:12] + alone[-12:]):
        files[f"{('train', 'val', 'test')[index % 3]}/{path.parent.name}/{path.name}"] = path
    person.upload(files)
    version = person.version()
    torn = {detail for detail in leaks(person, version) if detail.startswith("group ")}
    assert len(torn) == 13
    again = split_again(person, version)
    assert all(len(one) == 1 for one in sides(person, again).values())
    assert not any(detail.startswith("group ") for detail in leaks(person, again))


def test_near_duplicates_stay_on_one_side_and_are_reported_where_folders_part_them(person: Person) -> None:
    chance = random.Random(2)
    files: dict[str, bytes | Path] = {}
    for seed in range(12):
        image = PillowImage.fromarray(scene(seed, 160))
        for kind in ("original", "mirrored", "resized"):
            copy = image if kind == "original" else altered(image, kind, chance)
            files[f"{('cat', 'dog')[seed % 2]}/{seed} {kind}.png"] = encoded(np.asarray(copy))
    person.upload(files)
    version = person.version()
    assert version.issues["near_duplicates"] >= 12 * 3 - 1
    assert (version.issues["leaks"], version.issues["conflicts"]) == (0, 0)
    found = placed(person)
    for seed in range(12):
        assert len({split for name, (_, split, _) in found.items() if name.split("/")[1].startswith(f"{seed} ")}) == 1
    with person.database.read() as session:
        assert all(one.image_id < one.other_id for one in session.scalars(select(NearPair)))
    # a later upload of a copy under another class goes to its original's side, and is a conflict
    copy = altered(PillowImage.fromarray(scene(0, 160)), "brighter", chance)
    person.upload({"dog/copy.png": encoded(np.asarray(copy))})
    assert placed(person)["dog/copy.png"][1] == placed(person)["cat/0 original.png"][1]
    assert person.version().issues["conflicts"] >= 1
    assert person.version().issues["leaks"] == 0


def crowd_of(person: Person, count: int) -> None:
    """So many files with one picture, and thirty other pictures."""
    files = {
        f"{'cat' if number % 2 else 'dog'}/copy {number}.jpg": body
        for number, (_, body) in enumerate(tiny_copies(count))
    }
    others = {f"{'cat' if seed % 2 else 'dog'}/other {seed}.png": encoded(scene(seed)) for seed in range(30)}
    upload = person.upload({**files, **others})
    assert upload.status == UploadStatus.READY


def test_two_thousand_copies_are_one_cluster_on_one_side_with_few_pairs(person: Person) -> None:
    crowd_of(person, 2000)
    version = person.version()
    splits = {split for name, (_, split, _) in placed(person).items() if "copy" in name}
    assert len(splits) == 1
    with person.database.read() as session:
        pairs = session.scalar(select(func.count()).select_from(NearPair))
    assert 1999 <= (pairs or 0) <= 2000 * (ENOUGH + 1)
    assert version.issues["near_duplicates"] == pairs
    assert version.issues["leaks"] == 0
    said = (
        "2,000 pictures are near duplicates of one another; the issues list some pairs that join them, not all pairs."
    )
    assert said in version.notes
    again = split_again(person, version)
    assert {split for name, (_, split, _) in placed(person).items() if "copy" in name} == splits
    assert (again.issues["leaks"], again.notes.count(said)) == (0, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_copies() -> None:
    code = "from benchmarks.ingest import memory; import sys; print(memory(int(sys.argv[1]), 1, copies=True)[1])"
    taken = []
    for count in (2_000, 20_000):
        command = [sys.executable, "-c", code, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1000)
        taken.append(float(done.stdout.split()[-1]))
    assert taken[1] < 500, taken
    assert taken[1] - taken[0] < 150, taken


def test_a_trainer_gets_near_duplicates_as_one_group_so_no_copy_counts_as_another_picture(
    person: Person, tmp_path: Path
) -> None:
    chance = random.Random(3)
    files: dict[str, bytes | Path] = {}
    for seed in range(6):
        image = PillowImage.fromarray(scene(seed, 160))
        for kind in ("original", "mirrored", "resized", "brighter"):
            copy = image if kind == "original" else altered(image, kind, chance)
            files[f"{('cat', 'dog')[seed % 2]}/{seed} {kind}.png"] = encoded(np.asarray(copy))
    person.upload(files)
    where = {"database_url": str(person.database.reader.url), "redis_url": f"unix://{tmp_path}/nobody.sock"}
    place = Workplace(person.settings.model_copy(update=where), ("train",))
    try:
        Listing(place, tmp_path, person.version(), lambda: None, lambda *_: None).write()
    finally:
        place.close()
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 24
    origins = [line["filename"].split("/")[1][0] for line in lines]
    groups = group_numbers([line["group"] for line in lines])
    assert len(set(groups.tolist())) == len(set(zip(groups.tolist(), origins, strict=True))) == 6
    for _, held in GroupKFold(3).split(groups, groups=groups):
        others = {origin for place, origin in enumerate(origins) if place not in held}
        assert not others & {origins[place] for place in held}
    one_class_right = np.array([line["label"] == 0 for line in lines])
    sure = accuracy_interval(one_class_right, groups)
    assert sure.low < wilson_interval(3, 6)[0]  # 24 pictures say no more than the six of which they are copies
