"""A believable furnished house: a dataset with thumbnails, a finished, a running, a failed and a cancelled run, a model, workers.

`python -m tests.app.pages.furnished FOLDER` makes one in a folder and serves it, to look at pages without any worker.
"""

import math
import random
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image as Picture
from sqlalchemy import update
from sqlalchemy.orm import Session

from core import accounts, label_desk, leases, runs, uploads
from core.config import Settings
from core.database import Database, database_now, open_database
from core.datasets import Placed, VersionDraft, create_dataset, placed_pictures, remember_image
from core.presets import PRESETS
from core.queue import Queue
from core.storage import open_storage, thumbnail_key
from core.tables import (
    Dataset,
    DatasetVersion,
    Decision,
    Outcome,
    ReceiptRow,
    Run,
    Split,
    TrainedModel,
    Upload,
    UploadStatus,
    User,
    WorkerRow,
    utc_now,
)
from core.training_config import parse_config
from migrations import upgrade
from tests.core.rows import add_version

CLASSES = ("Avocado", "Banana", "Carrots", "Cucumber", "Garlic", "Ginger", "Kiwi", "Lemon <b>& lime</b>")
COLOURS = ("#5c7a3a", "#e3c13c", "#d9772b", "#3d7d4a", "#d8cfc2", "#b08c5a", "#7d6b3d", "#e6d84e")


@dataclass
class Furnished:
    """What is in the house, by id."""

    settings: Settings
    user: str
    dataset: str
    version: str
    busy_dataset: str
    rejected_dataset: str
    empty_dataset: str
    upload: str
    done: str
    running: str
    queued: str
    failed: str
    cancelled: str
    model: str
    token: str
    cookie: str
    quick: str
    elsewhere: str


def furnish(folder: Path, **flags: Any) -> Furnished:
    """Make the house in an empty folder."""
    # an address where nothing listens: pages must work with the broker away
    settings = Settings(data_dir=folder, redis_url=f"unix://{folder}/nothing.sock", predict_timeout=0.2, **flags)
    database = open_database(settings)
    upgrade(database)
    queue = Queue(settings)
    try:
        with database.write() as session:
            return _Furnisher(session, settings, queue).all()
    finally:
        queue.close()
        database.close()


def empty_house(folder: Path) -> tuple[Settings, str]:
    """Settings of a house in which nobody has done anything yet, and the cookie of its one user."""
    settings = Settings(data_dir=folder, redis_url=f"unix://{folder}/nothing.sock", predict_timeout=0.2)
    database: Database = open_database(settings)
    upgrade(database)
    with database.write() as session:
        cookie = accounts.open_browser_session(session, accounts.local_user(session), days=1)
    database.close()
    return settings, cookie


class _Furnisher:
    def __init__(self, session: Session, settings: Settings, queue: Queue) -> None:
        self.session = session
        self.settings = settings
        self.queue = queue
        self.storage = open_storage(settings)
        self.random = random.Random(7)
        self.user: User = accounts.local_user(session)

    def all(self) -> Furnished:
        dataset = create_dataset(self.session, self.user.id, "Groceries")
        version = self.version(dataset)
        upload = self.upload(dataset, version)
        busy = self.busy_dataset()
        rejected = self.rejected_dataset()
        empty = create_dataset(self.session, self.user.id, "Hand signs, not uploaded yet")
        done, model = self.done_run(version)
        failed, cancelled = self.failed_run(version), self.cancelled_run(version)
        running = self.running_run(version)
        quick, _ = self.done_run(version, "quick", "groceries, quick, seed 7", {"frozen": 0.6})
        elsewhere, _ = self.done_run(self.older, "quick", "groceries, before the last pictures", {"frozen": 0.9})
        (queued,) = runs.create_runs(self.session, self.queue, version, self.wish("quick", "groceries, quick"))
        self.workers()
        token, _ = accounts.create_token(self.session, self.user, "laptop")
        cookie = accounts.open_browser_session(self.session, self.user, days=1, user_agent="Chromium on Linux")
        self.label_check(version)
        ids = (dataset.id, version.id, busy.id, rejected.id, empty.id, upload.id, done.id, running.id)
        return Furnished(
            self.settings, self.user.id, *ids, queued.id, failed.id, cancelled.id, model.id, token.id, cookie,
            quick.id, elsewhere.id,
        )  # fmt: skip

    # ---- dataset

    def picture(self, label: int, number: int) -> str:
        sha256 = f"{label:02x}{number:04x}" * 10 + "0000"
        facts = {"width": 640, "height": 480, "format": "JPEG", "size_bytes": 48_211 + number}
        image_id = remember_image(self.session, self.user.id, sha256, facts)
        self.storage.put(thumbnail_key(sha256), drawn(label, number % 12))
        return image_id

    def version(self, dataset: Dataset) -> DatasetVersion:
        placed = []
        for label, name in enumerate(CLASSES):
            count = 40 + 17 * (label % 4)
            for number in range(count):
                split = Split.TEST if number % 7 == 0 else Split.VALIDATION if number % 7 == 1 else Split.TRAIN
                sha256 = f"{label:02x}{number:04x}" * 10 + "0000"
                filename = f"groceries/{name}/IMG_{number:04}.jpg"
                placed.append(Placed(self.picture(label, number), sha256, filename, name, split))
        notes = (
            "Split 70 / 15 / 15, stratified by class, seed 0.",
            "2 exact duplicates were skipped: each is kept once.",
        )
        issues = {"duplicates": 2, "leaks": 0}
        self.older = add_version(self.session, dataset, VersionDraft(placed[:-30], notes), issues)
        return add_version(self.session, dataset, VersionDraft(placed, notes), issues)

    def label_check(self, version: DatasetVersion) -> None:
        """The older version's labels were checked; the newer one counts as made from it."""
        version.base_version_id = self.older.id
        label_desk.request_check(self.session, None, self.older)
        held = leases.claim(self.session, leases.LABEL_CHECK_LIFE, "furnisher", 60)
        assert held is not None
        found = [
            {"image_id": one.image_id, "given": label, "suggested": (label + 1) % len(CLASSES), "likely": True}
            | {"given_probability": 0.04, "suggested_probability": 0.81}
            for one in placed_pictures(self.session, self.older)
            if one.split == Split.TRAIN and (label := self.older.class_names.index(one.class_name)) < 3
        ]
        label_desk.finish_ready(self.session, held, found, self.older.class_names, {"pictures": len(found)})
        decided = found[0]["image_id"]
        label_desk.decide(self.session, self.older, str(decided), Decision.RELABEL, self.older.class_names[1])

    def upload(self, dataset: Dataset, version: DatasetVersion) -> Upload:
        rows = [
            ("groceries/Kiwi/IMG_0001.jpg", Outcome.KEPT, "", ""),
            ("groceries/Kiwi/IMG_0002.jpg", Outcome.FIXED, "", "Turned upright (EXIF orientation 6)."),
            ("groceries/Kiwi/half.jpg", Outcome.REFUSED, "truncated", "The file ends before its pixels do."),
            ("groceries/Kiwi/a & <b>.jpg", Outcome.REFUSED, "damaged", "Not a JPEG: <script>alert(1)</script>."),
            ("groceries/Thumbs.db", Outcome.SKIPPED, "junk", "Left behind by an operating system."),
        ]
        upload = uploads.open_upload(self.session, dataset)
        values = {
            "status": UploadStatus.READY, "received_bytes": 162_000_000, "total_bytes": 162_000_000,
            "files_done": 547, "files_total": 547, "kept": 508, "fixed": 27, "refused": 11, "skipped": 1,
            "by_reason": {"truncated": 5, "duplicate": 2, "not_a_picture": 4, "some_new_code": 1},
            "dataset_version_id": version.id, "finished_at": utc_now() - timedelta(hours=2),
        }  # fmt: skip
        self.session.execute(update(Upload).where(Upload.id == upload.id).values(**values))
        for ordinal, (path, outcome, code, reason) in enumerate(rows):
            self.session.add(
                ReceiptRow(upload_id=upload.id, ordinal=ordinal, path=path, outcome=outcome, code=code, reason=reason)
            )
        return upload

    def busy_dataset(self) -> Dataset:
        dataset = create_dataset(self.session, self.user.id, "Materials")
        upload = uploads.open_upload(self.session, dataset)
        values = {
            "status": UploadStatus.INGESTING,
            "files_done": 1240,
            "files_total": 3670,
            "kept": 1229,
            "refused": 11,
        }
        change = update(Upload).where(Upload.id == upload.id)
        self.session.execute(change.values(received_bytes=88_000_000, total_bytes=88_000_000, **values))
        return dataset

    def rejected_dataset(self) -> Dataset:
        dataset = create_dataset(self.session, self.user.id, "One class only")
        upload = uploads.open_upload(self.session, dataset)
        sentence = "A dataset needs at least 2 classes. Received: 1 (“cats”). Put each class into a folder of its own."
        change = update(Upload).where(Upload.id == upload.id)
        self.session.execute(change.values(status=UploadStatus.REJECTED, error=sentence, finished_at=utc_now()))
        return dataset

    # ---- runs

    def wish(self, preset: str, name: str) -> runs.NewRun:
        return runs.NewRun(config=PRESETS[preset].config, preset=preset, name=name)

    def claimed(self, version: DatasetVersion, preset: str, name: str) -> tuple[Run, leases.Claim]:
        (run,) = runs.create_runs(self.session, self.queue, version, self.wish(preset, name))
        held = leases.claim(self.session, leases.RUN_LIFE, "worker-1", 1e7)
        assert held is not None
        assert held.id == run.id
        columns = {
            "machine": {
                "device": "CPU",
                "precision": "bfloat16",
                "versions": {"keras": "3.15.1"},
                "resumed_from": None,
            },
            "started_at": utc_now() - timedelta(seconds=48),
        }
        runs.record(self.session, held, runs.Report(columns=columns, log=["A worker took the run."]))
        return run, held

    def epochs(self, held: leases.Claim, count: tuple[int, int]) -> None:
        values = []
        for epoch in range(1, sum(count) + 1):
            phase = 0 if epoch <= count[0] else 1
            kind = ("frozen", "fine_tune")[phase]
            level = 0.94 - 0.5 * math.exp(-epoch / 4) + 0.03 * phase
            for split, below in (("train", 0.0), ("validation", 0.015)):
                noise = self.random.uniform(-0.006, 0.006)
                accuracy = level - below + noise
                values.append(runs.MetricValue(kind, phase, epoch, split, "accuracy", accuracy))
                values.append(
                    runs.MetricValue(kind, phase, epoch, split, "loss", 2.6 * (1 - level) + below * 4 + noise)
                )
        lines = [
            "EfficientNet-Lite0, ImageNet weights, 224 x 224.",
            "Frozen phase: 12,810 of 3,425,834 parameters learn.",
        ]
        runs.record(self.session, held, runs.Report(metrics=values, log=lines))

    def done_run(
        self,
        version: DatasetVersion,
        preset: str = "standard",
        name: str = "groceries, standard",
        good: dict[str, float] | None = None,
    ) -> tuple[Run, TrainedModel]:
        """A finished run; `good` is how often each phase's network is right."""
        good = good or {"frozen": 0.74, "fine_tune": 0.94}
        run, held = self.claimed(version, preset, name)
        self.epochs(held, (14, 8) if "fine_tune" in good else (14, 0))
        truth = self.test_pictures(version)
        said = {kind: self.answers(truth, share) for kind, share in good.items()}
        found = evaluation(said)
        chosen = next(reversed(found["phases"]))
        best = found["phases"][chosen]
        summary = {
            "test_accuracy": best["accuracy"], "test_accuracy_interval": best["accuracy_interval"],
            "frozen_test_accuracy": found["phases"]["frozen"]["accuracy"], "chosen_phase": chosen,
        }  # fmt: skip
        from worker.training.card import card_lines  # noqa: PLC0415 - only here

        card = {"lines": card_lines(found, version.counts, {"dataset": "Groceries <b>"})}
        documents = {
            "layers": layers(),
            "evaluation": found,
            "neighbours": self.neighbours(version, truth),
            "card": card,
            "result": {"format": 1},
        }
        lines = [
            {"image_id": image_id, "phase": kind, "split": "test", "true_label": true, "predicted_label": answer,
             "probabilities": probabilities}
            for kind, rows in said.items()
            for image_id, true, answer, probabilities in rows
        ]  # fmt: skip
        agreement = {"top1": 1.0, "max_abs_diff": 2.4e-7, "end_to_end_top1": 1.0}
        export = {
            "format": "saved_model", "storage_key": "models/x/saved_model.zip", "size_bytes": 17_900_000,
            "sha256": "c41a09be" * 8, "agreement": agreement,
        }  # fmt: skip
        success = runs.Success(summary, documents, lines, [export], "models/x")
        return run, runs.finish_succeeded(self.session, held, success)

    def test_pictures(self, version: DatasetVersion) -> list[tuple[str, int]]:
        from core.datasets import placed_pictures  # noqa: PLC0415 - only here

        labels = {name: label for label, name in enumerate(version.class_names)}
        return [
            (one.image_id, labels[one.class_name])
            for one in placed_pictures(self.session, version)
            if one.split == Split.TEST
        ]

    def neighbours(self, version: DatasetVersion, truth: list[tuple[str, int]]) -> dict[str, Any]:
        from core.datasets import placed_pictures  # noqa: PLC0415 - only here

        train = [one.image_id for one in placed_pictures(self.session, version) if one.split == Split.TRAIN][:40]
        nearest = {
            image_id: [[one, (true + 1) % 8, 0.8] for one in self.random.sample(train, 3)] for image_id, true in truth
        }
        return {"class_names": sorted(CLASSES), "pictures": len(train), "nearest": nearest}

    def answers(self, truth: list[tuple[str, int]], good: float) -> list[tuple[str, int, int, list[float]]]:
        rows = []
        for image_id, true in truth:
            answer = true if self.random.random() < good else (true + 1) % len(CLASSES)
            sure = self.random.uniform(0.5, 0.99)
            rest = (1 - sure) / (len(CLASSES) - 1)
            rows.append((image_id, true, answer, [sure if one == answer else rest for one in range(len(CLASSES))]))
        return rows

    def running_run(self, version: DatasetVersion) -> Run:
        run, held = self.claimed(version, "standard", "groceries, standard, seed 1")
        self.epochs(held, (14, 3))
        progress = {
            "phase": "fine_tune", "phase_index": 1, "epoch": 18, "epochs_total": 28, "step": 45, "steps_total": 75,
            "images_per_second": 261.4, "eta_seconds": 35.0, "message": "Fine-tuning from b10_add",
        }  # fmt: skip
        runs.record(self.session, held, runs.Report(progress=progress))
        return run

    def failed_run(self, version: DatasetVersion) -> Run:
        run, held = self.claimed(version, "standard", "groceries, huge batch")
        message = "The run stopped in epoch 2: not enough memory. The worker has 3.9 GB and this needed more."
        runs.finish_failed(self.session, held, "out_of_memory", message, "Choose a smaller batch size, and try again.")
        return run

    def cancelled_run(self, version: DatasetVersion) -> Run:
        config = parse_config({"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 48]})
        wish = runs.NewRun(config=config, name="own settings")
        (run,) = runs.create_runs(self.session, self.queue, version, wish)
        runs.cancel_run(self.session, run)
        return run

    def workers(self) -> None:
        now = self.session.scalar(select_now())
        device = {"kind": "cpu", "name": "AMD EPYC, 2 cores", "memory_bytes": 8_200_000_000}
        rows = [
            ("machine:train:1", ["train"], True, now),
            ("machine:ingest:1", ["ingest", "export", "batch"], False, now),
        ]
        for name, queues, busy, beat in [*rows, ("machine:predict:0", ["predict"], False, now - 900)]:
            self.session.add(WorkerRow(id=name, queues=queues, devices=[device], busy=busy, heartbeat_at=beat))


def select_now() -> Any:
    """The database's clock."""
    from sqlalchemy import select  # noqa: PLC0415 - only here

    return select(database_now())


@cache
def drawn(label: int, number: int) -> bytes:
    """A small picture with something round on it, WebP."""
    picture = Picture.new("RGB", (240, 240), ("#efece4", "#dfe5e2", "#e6dcd2", "#cfd6dc")[number % 4])
    from PIL import ImageDraw  # noqa: PLC0415 - only here

    draw = ImageDraw.Draw(picture)
    shift = 9 * number
    left = 40 + shift % 50
    draw.ellipse((left, 50, left + 120, 180), fill=COLOURS[label])
    draw.ellipse((left + 25, 70, left + 55, 100), fill="#f4f4f0")
    out = BytesIO()
    picture.save(out, "WEBP")
    return out.getvalue()


def evaluation(said: dict[str, list[tuple[str, int, int, list[float]]]]) -> dict[str, Any]:
    """An evaluation that adds up with the predictions it is made from."""
    phases = {kind: phase_evaluation(rows) for kind, rows in said.items()}
    if len(said) < 2:
        return {"split": "test", "chosen_phase": next(iter(said)), "phases": phases, "comparison": None}
    right = {kind: [true == answer for _, true, answer, _ in rows] for kind, rows in said.items()}
    pairs = list(zip(right["frozen"], right["fine_tune"], strict=True))
    gained, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    fewer = sum(math.comb(gained + lost, count) for count in range(min(gained, lost) + 1))
    p_value = min(1.0, 2 * fewer / 2 ** (gained + lost))  # McNemar, exact
    points = (gained - lost) / len(pairs)
    comparison = {
        "p_value": p_value, "gained": gained, "lost": lost, "sentence": "Fine-tuning helped.", "difference": points,
        "difference_interval": [points - 0.06, points + 0.05],
    }  # fmt: skip
    card = robustness(phases["fine_tune"]["accuracy"], len(pairs))
    return {
        "split": "test",
        "chosen_phase": "fine_tune",
        "phases": phases,
        "comparison": comparison,
        "robustness": card,
    }


def phase_evaluation(rows: list[tuple[str, int, int, list[float]]]) -> dict[str, Any]:
    """One phase's part of an evaluation, by the trainer's own judgement."""
    import numpy as np  # noqa: PLC0415 - only here

    from worker.training.judgement import Judged  # noqa: PLC0415 - only here
    from worker.training.judgement import evaluation as judged  # noqa: PLC0415 - only here

    truth = np.array([row[1] for row in rows])
    probabilities = np.array([row[3] for row in rows])
    labels = {"test": truth, "validation": truth}
    answers = {"frozen": Judged(probabilities, probabilities)}
    found: dict[str, Any] = judged(answers, labels, sorted(CLASSES), "frozen")["phases"]["frozen"]
    return found


def robustness(accuracy: float, pictures: int) -> dict[str, Any]:
    """A card on which the borders of one class give it away."""
    from app.wording import wilson  # noqa: PLC0415 - only here

    shares = {
        "blur": 0.96,
        "noise": 0.93,
        "jpeg_30": 1.0,
        "darker": 0.97,
        "rotated_15": 0.9,
        "centre_only": 0.7,
        "border_only": 0.4,
    }
    changes = []
    for name, share in shares.items():
        right = round(accuracy * share * pictures)
        lost = round(accuracy * pictures) - right
        interval = list(wilson(right, pictures))
        p_value = min(1.0, 2 / 2**lost)
        changes.append(
            {
                "name": name,
                "accuracy": right / pictures,
                "interval": interval,
                "lost": lost,
                "gained": 0,
                "p_value": p_value,
            }
        )
    border = {
        "class_name": "Kiwi",
        "pictures": 11,
        "by_border": 0.91,
        "by_centre": 0.0,
        "false_by_border": 0.01,
        "p_value": 0.008,
    }
    return {
        "pictures": pictures,
        "accuracy": accuracy,
        "interval": list(wilson(round(accuracy * pictures), pictures)),
        "changes": changes,
        "border": [border],
    }


def layers() -> list[dict[str, Any]]:
    """The document `layers` of a two-phase run."""
    rows = [
        {"name": "resize", "kind": "Resizing", "shape": [None, 224, 224, 3], "parameters": 0, "trainable": False},
        {"name": "b10_add", "kind": "Add", "shape": [None, 14, 14, 112], "parameters": 0, "trainable": False},
        {"name": "answer", "kind": "Dense", "shape": [None, 8], "parameters": 10_248, "trainable": True},
    ]
    return [
        {"phase": "frozen", "phase_index": 0, "trainable_parameters": 10_248, "non_trainable_parameters": 3_413_024, "layers": rows},
        {"phase": "fine_tune", "phase_index": 1, "trainable_parameters": 2_599_226, "non_trainable_parameters": 824_046, "layers": rows},
    ]  # fmt: skip


if __name__ == "__main__":
    import uvicorn

    from app.main import create_app

    house = furnish(Path(sys.argv[1]))
    with open_database(house.settings).write() as opened:
        key = accounts.create_start_link(opened, accounts.local_user(opened))
    sys.stdout.write(f"http://127.0.0.1:8123/start?key={key}\n{house}\n")
    uvicorn.run(create_app(house.settings), port=8123, log_level="warning")
