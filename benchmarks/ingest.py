"""How fast an upload is ingested, beside plain Pillow decoding of the same files by as many processes; and how much memory it takes.

    python -m benchmarks ingest ../shared/data/dev_sample/flowers5 --count 2000
    python -m benchmarks ingest ../shared/data/dev_sample/flowers5 --count 200 --megapixels 6
    python -m benchmarks ingest --memory 100000

Every JPEG picture below the folder is repeated with a comment of its own in it, so that no two files are the same and each costs
the same to decode. The ingest is the real one: archive, checks, thumbnails, storage, receipt, splits, dataset version. `--memory`
ingests so many tiny pictures and says the highest memory of the ingesting process and of its checkers, read ten times a second.
"""

import argparse
import hashlib
import io
import multiprocessing
import os
import resource
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
from benchmarks.memory import Highest
from core.config import Settings
from core.database import Database, open_database
from core.datasets import create_dataset
from core.ids import new_id
from core.tables import Upload, UploadFile, UploadStatus, User
from core.uploads import incoming_folder
from worker.ingest.ingest import ingest_next


def with_comment(body: bytes, number: int) -> bytes:
    """A JPEG file with a comment segment after its first marker."""
    comment = f"copy {number:010}".encode()
    return body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]


def photographs(folder: Path, count: int, megapixels: float | None) -> Iterator[tuple[str, bytes]]:
    """Class folder and name, and bytes, of `count` different files; enlarged to what a camera makes where that is asked for."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in {".jpg", ".jpeg"}]
    if not found:
        sys.exit(f"There are no JPEG pictures below {folder}.")
    if megapixels:
        found = found[:: max(1, len(found) // 40)]
    bodies = [enlarged(path, megapixels) if megapixels else None for path in found]
    for number in range(count):
        path, body = found[number % len(found)], bodies[number % len(found)]
        yield f"{path.parent.name}/{number:07}.jpg", with_comment(body or path.read_bytes(), number)


def enlarged(path: Path, megapixels: float) -> bytes:
    """The picture at another size, with noise like a sensor's, so that its bytes are as many as a camera's."""
    with Image.open(path) as image:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        large = np.asarray(image.convert("RGB").resize((round(image.width * factor), round(image.height * factor))))
    noise = np.random.default_rng(1).normal(0, 4, large.shape[:2])[:, :, np.newaxis]
    out = io.BytesIO()
    Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def tiny_pictures(count: int) -> Iterator[tuple[str, bytes]]:
    """`count` different pictures of 16 x 16 pixels in ten classes."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)).save(out, "JPEG")
    for number in range(count):
        yield f"class {number % 10}/{number:07}.jpg", with_comment(out.getvalue(), number)


def plain_rate(files: list[Path], processes: int) -> tuple[float, float]:
    """Pictures per second, and processor seconds per picture, by plain decoding; the processes are warm."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(decode, [str(path) for path in files[: 8 * processes]])
        began = time.monotonic()
        used = sum(pool.map(decode, [str(path) for path in files], chunksize=16))
        return len(files) / (time.monotonic() - began), used / len(files)


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


def ingested(settings: Settings, pictures: Iterator[tuple[str, bytes]], scratch: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, that the ingest of these pictures takes."""
    archive = scratch / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name, body in pictures:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    database = open_database(settings)
    migrations.upgrade(database)
    received(settings, database, archive)
    began, used = time.monotonic(), processor_seconds()
    ingest_next(settings, database, owner="benchmark")
    seconds, used = time.monotonic() - began, processor_seconds() - used
    with database.read() as session:
        upload = session.query(Upload).one()
    if upload.status != UploadStatus.READY:
        sys.exit(f"The upload is {upload.status}: {upload.error}")
    database.close()
    return seconds, used


def compare(folder: Path, count: int, processes: int, megapixels: float | None) -> None:
    """Print both rates and their ratio."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        scratch = Path(name)
        files = []
        for number, (_, body) in enumerate(photographs(folder, count, megapixels)):
            files.append(scratch / f"{number}.jpg")
            files[-1].write_bytes(body)
        plain, plain_cost = plain_rate(files, processes)
        settings = Settings(data_dir=scratch / "data", ingest_processes=processes)
        seconds, used = ingested(settings, photographs(folder, count, megapixels), scratch)
    rate, cost = count / seconds, used / count
    print(f"{folder.name}: {count} pictures, {processes} processes")
    print(f"  plain decoding  {plain:8.1f} pictures/s, {plain_cost * 1000:6.2f} ms of a processor each")
    print(f"  ingest          {rate:8.1f} pictures/s, {cost * 1000:6.2f} ms of a processor each")
    print(f"  ratio           {rate / plain:8.2f}             {plain_cost / cost:6.2f}")


def memory(count: int, processes: int) -> None:
    """Print the highest resident memory while `count` pictures are ingested: of this process, and of it and its checkers together."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        scratch = Path(name)
        settings = Settings(data_dir=scratch / "data", ingest_processes=processes, max_entries=max(count, 100_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        highest = Highest(os.getpid(), "VmRSS")
        seconds, _ = ingested(settings, tiny_pictures(count), scratch)
        highest.stop()
    print(
        f"{count} tiny pictures: {count / seconds:.0f} pictures/s; memory {before:.0f} MB before, at its highest "
        f"{highest.alone / 1e6:.0f} MB, with {processes} checkers {highest.together / 1e6:.0f} MB"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder with JPEG pictures")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--megapixels", type=float, help="enlarge the pictures to this, as a camera makes them")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", type=int, metavar="COUNT", help="ingest COUNT tiny pictures and say the memory")
    given = parser.parse_args()
    if given.folder is not None:
        compare(given.folder, given.count, given.processes, given.megapixels)
    if given.memory:
        memory(given.memory, given.processes)
    if given.folder is None and not given.memory:
        parser.error("name a folder, or --memory")


if __name__ == "__main__":
    main()
