"""How fast an upload is ingested, beside plain Pillow decoding of the same files by as many processes; and how much memory it takes.

    python -m benchmarks ingest ../shared/data/dev_sample/flowers5
    python -m benchmarks ingest ../shared/data/dev_sample/flowers5 --megapixels 0.05 0.1 0.2 0.5 1 2 6 --seconds 4 --rounds 3
    python -m benchmarks ingest ../shared/data/dev_sample/flowers5 --megapixels 1 --workers 2 --processes 1
    python -m benchmarks ingest --memory 100000
    python -m benchmarks ingest --memory 20000 --copies

The pictures are cut and turned out of the JPEG photographs below the folder, every one differently, and brought to each size that is
asked for, with noise like a sensor's, so that their bytes are as many as a camera's; without `--megapixels` they are the files as they
are. The ingest is the real one: archive, checks, thumbnails, storage, receipt, near duplicates, splits, dataset version, and the start of
its processes; those of plain decoding are warm. Rounds of both take turns. The ratio of processor seconds is the one to read where
others use the machine, too. `--memory` ingests so many tiny pictures and says the highest memory of the
ingesting process and of its checkers, read ten times a second.
"""

import argparse
import hashlib
import io
import multiprocessing
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import migrations
from benchmarks._decoding import decode
from benchmarks._helping import help_on
from benchmarks.memory import Highest
from core.config import Settings
from core.database import Database, open_database
from core.datasets import create_dataset
from core.ids import new_id
from core.tables import Upload, UploadFile, UploadStatus, User
from core.uploads import incoming_folder
from worker.ingest.ingest import ingest_next

NOBODY = "redis://127.0.0.1:1/0"  # no broker: nobody is told of what happens


def with_comment(body: bytes, number: int) -> bytes:
    """A JPEG file with a comment segment after its first marker."""
    comment = f"copy {number:010}".encode()
    return body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]


def photographs(folder: Path, count: int, megapixels: float | None) -> Iterator[tuple[str, bytes]]:
    """Class folder and name, and bytes, of `count` different files, or of as many as there are without `megapixels`."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in {".jpg", ".jpeg"}]
    if not found:
        sys.exit(f"There are no JPEG pictures below {folder}.")
    chance = np.random.default_rng(1)
    chance.shuffle(found)  # type: ignore[arg-type]
    for number in range(count if megapixels else min(count, len(found))):
        path = found[number % len(found)]
        body = resized(path, megapixels, chance) if megapixels else path.read_bytes()
        yield f"{path.parent.name}/{number:07}.jpg", body


def resized(path: Path, megapixels: float, chance: np.random.Generator) -> bytes:
    """Seven tenths of each side of the picture, perhaps turned, at another size, with a little noise."""
    with Image.open(path) as image:
        left, top = (float(chance.uniform(0, 0.3 * side)) for side in image.size)
        box = (left, top, left + 0.7 * image.width, top + 0.7 * image.height)
        factor = (megapixels * 1e6 / (0.49 * image.width * image.height)) ** 0.5
        size = (round(0.7 * image.width * factor), round(0.7 * image.height * factor))
        cut = image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box)
    turned = np.asarray(cut.transpose(Image.Transpose(int(chance.integers(7)))), np.float32)
    noise = chance.normal(0, 2, turned.shape[:2])[:, :, np.newaxis]
    out = io.BytesIO()
    Image.fromarray(np.clip(turned + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def tiny_pictures(count: int) -> Iterator[tuple[str, bytes]]:
    """`count` pictures of 16 x 16 pixels in ten classes, none like another."""
    random = np.random.default_rng(1)
    for number in range(count):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(out, "JPEG")
        yield f"class {number % 10}/{number:07}.jpg", out.getvalue()


def tiny_copies(count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files with one picture of 32 x 32 pixels, in ten classes; each has other bytes."""
    out, random = io.BytesIO(), np.random.default_rng(1)
    blots = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    blots.save(out, "JPEG")
    for number in range(count):
        yield f"class {number % 10}/{number:07}.jpg", with_comment(out.getvalue(), number)


def plain_cost(files: list[Path], processes: int) -> tuple[float, float]:
    """Seconds, and processor seconds, of plain decoding; the processes are warm."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(decode, [str(path) for path in files[: 8 * processes]])
        began = time.monotonic()
        used = sum(pool.map(decode, [str(path) for path in files], chunksize=16))
        return time.monotonic() - began, used


def processor_seconds() -> float:
    """Of this process and of the children that have ended."""
    return sum(os.times()[:4])


def received(settings: Settings, database: Database, archive: Path) -> None:
    """An upload of one archive, as the web server leaves it."""
    with database.write() as session:
        user = User(name=f"bench {new_id()}")
        session.add(user)
        session.flush()
        dataset = create_dataset(session, user.id, "benchmark")
        upload = Upload(owner_id=user.id, dataset_id=dataset.id, status=UploadStatus.RECEIVED, by_reason={})
        session.add(upload)
        session.flush()
        with archive.open("rb") as body:
            sha256 = hashlib.file_digest(body, "sha256").hexdigest()
        file = UploadFile(upload_id=upload.id, path="a.tar", sha256=sha256, size_bytes=archive.stat().st_size)
        session.add(file)
        session.flush()
        folder = incoming_folder(settings, upload.id)
        folder.mkdir(parents=True)
        archive.rename(folder / file.id)


def ingested(
    settings: Settings, pictures: Iterator[tuple[str, bytes]], scratch: Path, helpers: int = 0
) -> tuple[float, float]:
    """Seconds, and processor seconds (without those of helpers), that the ingest of these pictures takes."""
    archive = scratch / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name, body in pictures:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    database = open_database(settings)
    migrations.upgrade(database)
    received(settings, database, archive)
    others = [multiprocessing.get_context("spawn").Process(target=help_on, args=(settings,)) for _ in range(helpers)]
    for other in others:
        other.start()
    time.sleep(3.0 if others else 0.0)  # workers are there before an upload is
    began, used = time.monotonic(), processor_seconds()
    ingest_next(settings, database, owner="benchmark")
    seconds, used = time.monotonic() - began, processor_seconds() - used
    for other in others:
        other.kill()
        other.join()
    with database.read() as session:
        upload = session.query(Upload).one()
    if upload.status != UploadStatus.READY:
        sys.exit(f"The upload is {upload.status}: {upload.error}")
    database.close()
    return seconds, used


def compare(folder: Path, count: int, megapixels: float | None, given: argparse.Namespace) -> None:
    """Print a line of the table: both costs of a picture and their ratios, over all rounds."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        scratch = Path(name)
        files, pixels = [], 0
        for number, (path, body) in enumerate(photographs(folder, count, megapixels)):
            files.append(scratch / f"{number}-{path.replace('/', '-')}")
            files[-1].write_bytes(body)
            pixels += int(np.prod(Image.open(io.BytesIO(body)).size))
        plain, ingest = np.zeros(2), np.zeros(2)
        for turn in range(given.rounds):
            plain += plain_cost(files, given.processes)
            settings = Settings(data_dir=scratch / f"data{turn}", ingest_processes=given.processes)
            named = ((path.name.split("-", 1)[1].replace("-", "/", 1), path.read_bytes()) for path in files)
            ingest += ingested(settings, named, scratch)
            shutil.rmtree(settings.data_dir)
    each = 1000 / (given.rounds * len(files))
    (wall, used), (ratio, of_used) = ingest * each, plain / ingest
    print(
        f"{pixels / len(files) / 1e6:7.2f} {len(files):9} {plain[0] * each:9.2f} {wall:8.2f} {ratio:7.2f}"
        f" {plain[1] * each:11.2f} {used:8.2f} {of_used:7.2f}",
        flush=True,
    )


def spread(folder: Path, count: int, megapixels: float | None, given: argparse.Namespace) -> None:
    """Print the seconds of one upload with one worker and with several, each of `processes` checkers; rounds of both take turns."""
    alone = together = 0.0
    pictures = list(photographs(folder, count, megapixels))
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        for turn in range(2 * given.rounds):
            folder_of_turn = Path(name) / f"data{turn}"
            values = {"data_dir": folder_of_turn, "ingest_processes": given.processes, "redis_url": NOBODY}
            seconds, _ = ingested(Settings(**values), iter(pictures), Path(name), turn % 2 * (given.workers - 1))
            alone, together = (alone, together + seconds) if turn % 2 else (alone + seconds, together)
            shutil.rmtree(folder_of_turn)
    rate = 1000 / (given.rounds * len(pictures))
    print(
        f"{len(pictures)} pictures, {given.processes} processes a worker: {alone * rate:.2f} ms a picture with 1 worker, "
        f"{together * rate:.2f} with {given.workers}; {alone / together:.2f} times as fast",
        flush=True,
    )


def enough(megapixels: float | None, seconds: float) -> int:
    """Pictures that two processes decode in about so long."""
    return min(20_000, max(60, round(2 * seconds / (0.009 * megapixels + 0.0002)))) if megapixels else 20_000


def memory(count: int, processes: int, *, copies: bool = False) -> tuple[float, float]:
    """Print and return the highest resident memory while `count` pictures, or copies of one, are ingested.

    MB of this process, and of it and its checkers together.
    """
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        scratch = Path(name)
        settings = Settings(data_dir=scratch / "data", ingest_processes=processes, max_entries=max(count, 100_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        highest = Highest(os.getpid(), "VmRSS")
        seconds, _ = ingested(settings, tiny_copies(count) if copies else tiny_pictures(count), scratch)
        highest.stop()
    what = "copies of one picture" if copies else "pictures"
    print(
        f"{count} tiny {what}: {count / seconds:.0f} pictures/s; memory {before:.0f} MB before, at its highest "
        f"{highest.alone / 1e6:.0f} MB, with {processes} checkers {highest.together / 1e6:.0f} MB"
    )
    return highest.alone / 1e6, highest.together / 1e6


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder with JPEG pictures")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[None], help="bring the pictures to these sizes")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="as many pictures as are plainly decoded in this time"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=1, help="compare one worker with so many on one upload instead")
    parser.add_argument("--memory", type=int, metavar="COUNT", help="ingest COUNT tiny pictures and say the memory")
    parser.add_argument(
        "--copies", action="store_true", help="with --memory: copies of one picture, with different bytes"
    )
    given = parser.parse_args()
    if given.folder is not None:
        if given.workers > 1:
            for megapixels in given.megapixels:
                spread(given.folder, enough(megapixels, given.seconds), megapixels, given)
            return
        print(f"{given.folder.name}, {given.processes} processes, {given.rounds} rounds; milliseconds a picture")
        print("     MP  pictures     plain   ingest   ratio   processor:   ingest   ratio")
        for megapixels in given.megapixels:
            compare(given.folder, enough(megapixels, given.seconds), megapixels, given)
    if given.memory:
        memory(given.memory, given.processes, copies=given.copies)
    if given.folder is None and not given.memory:
        parser.error("name a folder, or --memory")


if __name__ == "__main__":
    main()
