"""People who call the API in tests, and things that belong to them."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from fastapi import FastAPI
from sqlalchemy import select
from starlette.testclient import TestClient

from app.dependencies import House
from core import accounts, datasets
from core.storage import blob_key, thumbnail_key
from core.tables import (
    BatchPrediction,
    BatchRow,
    BatchStatus,
    BrowserSession,
    DatasetVersion,
    Export,
    ExportStatus,
    LogLine,
    Metric,
    Outcome,
    Prediction,
    ReceiptRow,
    Run,
    RunDocument,
    RunStatus,
    Scope,
    Split,
    TrainedModel,
    Transfer,
    Upload,
    UploadStatus,
    User,
    Weights,
    WeightsStatus,
    utc_now,
)
from core.training_config import TrainingConfig
from core.weights import arrays_key
from tests.core.rows import add_version

CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Caller:
    """A person and a client that sends their token."""

    user: User
    client: TestClient
    token: str


def caller(web: FastAPI, house: House, name: str, *, scope: Scope = Scope.WRITE, days: int | None = None) -> Caller:
    """A person (made when new) with a fresh token."""
    with house.database.write() as session:
        user = session.scalar(select(User).where(User.name == name))
        if user is None:
            user = User(name=name)
            session.add(user)
            session.flush()
        _, secret = accounts.create_token(session, user, f"token of {name}", scope=scope, days=days)
    client = TestClient(web, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
    client.headers["Authorization"] = f"Bearer {secret}"
    return Caller(user, client, secret)


@dataclass(frozen=True)
class Belongings:
    """Ids of one of everything that a person can own."""

    dataset_id: str
    version_id: str
    image_id: str
    upload_id: str
    run_id: str
    model_id: str
    token_id: str
    session_id: str
    transfer_id: str
    weights_id: str
    batch_id: str


def original_of(user: User, index: int) -> bytes:
    """The bytes of one of somebody's eight pictures."""
    return f"original {index} of {user.name}".encode()


def belongings(house: House, user: User) -> Belongings:
    """A dataset with four pictures, an upload, a run that has succeeded, and its model with a file."""
    with house.database.write() as session:
        dataset = datasets.create_dataset(session, user.id, "Pets")
        placed = []
        for index in range(8):
            body = original_of(user, index)
            sha = hashlib.sha256(body).hexdigest()
            facts = {"width": 8, "height": 6, "format": "PNG", "size_bytes": len(body)}
            image_id = datasets.remember_image(session, user.id, sha, facts)
            house.storage.put(blob_key(sha), body)
            house.storage.put(thumbnail_key(sha), b"thumbnail")
            split = Split.TEST if index >= 6 else Split.TRAIN
            name = CLASSES[index % 2]
            placed.append(datasets.Placed(image_id, sha, f"{name}/{index}.png", name, split))
        version = add_version(session, dataset, datasets.VersionDraft(placed))
        upload = Upload(
            owner_id=user.id,
            dataset_id=dataset.id,
            status=UploadStatus.READY,
            by_reason={},
            dataset_version_id=version.id,
        )
        session.add(upload)
        session.flush()
        rows = [("cat/0.png", Outcome.KEPT, ""), ("=cmd.png", Outcome.REFUSED, 'It is "broken", sadly.')]
        for ordinal, (path, outcome, reason) in enumerate(rows):
            session.add(ReceiptRow(upload_id=upload.id, ordinal=ordinal, path=path, outcome=outcome, reason=reason))
        run = finished_run(version)
        session.add(run)
        session.flush()
        session.add_all(_what_it_left(run, placed))
        model = _model_of(run)
        session.add(model)
        session.flush()
        key = f"models/{run.id}/saved_model.zip"
        house.storage.put(key, bytes(range(256)) * 8)
        session.add(
            Export(
                owner_id=user.id,
                model_id=model.id,
                format="saved_model",
                status=ExportStatus.READY,
                storage_key=key,
                size_bytes=2048,
                sha256="ab" * 32,
                agreement={"top1": 1.0, "max_abs_diff": 0.0, "end_to_end_top1": 1.0},
            )
        )
        token, _ = accounts.create_token(session, user, "spare")
        accounts.open_browser_session(session, user, days=1)
        session.flush()
        session_id = session.scalars(select(BrowserSession.id).where(BrowserSession.owner_id == user.id)).one()
        ended = {"size_bytes": 9, "offset_bytes": 9, "completes": True, "expires_at": utc_now() + timedelta(days=1)}
        transfer = Transfer(owner_id=user.id, upload_id=upload.id, path="a.zip", finished_at=utc_now(), **ended)
        session.add(transfer)
        session.flush()
        mine = Weights(owner_id=user.id, backbone="tiny_cnn", filename="a.h5", size_bytes=9, status=WeightsStatus.READY)
        session.add(mine)
        session.flush()
        house.storage.put(arrays_key(mine.id), b"arrays")
        batch = BatchPrediction(
            owner_id=user.id,
            model_id=model.id,
            filename="=many.zip",
            size_bytes=9,
            status=BatchStatus.READY,
            pictures_done=2,
            pictures_total=2,
            refused=1,
        )
        session.add(batch)
        session.flush()
        said = {"label": 1, "probabilities": [0.25, 0.75], "known_score": 0.9, "verdict": "confident"}
        session.add(BatchRow(batch_id=batch.id, ordinal=0, path="=a.png", **said))
        session.add(BatchRow(batch_id=batch.id, ordinal=1, path="b.txt", error="Not a picture."))
        session.flush()
    things = (dataset.id, version.id, placed[0].image_id, upload.id, run.id, model.id, token.id)
    return Belongings(*things, session_id, transfer.id, mine.id, batch.id)


def finished_run(version: DatasetVersion, **columns: object) -> Run:
    """A run that has succeeded."""
    values: dict[str, object] = {
        "owner_id": version.owner_id,
        "dataset_version_id": version.id,
        "dataset_id": version.dataset_id,
        "dataset_title": "Pets, version 1",
        "name": "first",
        "status": RunStatus.SUCCEEDED,
        "config": TrainingConfig().model_dump(mode="json"),
        "batch_size": 32,
        "progress": {"phase": None, "message": "Done"},
        "summary": {"chosen_phase": "frozen", "test_accuracy": 0.5, "test_accuracy_interval": [0.1, 0.9]},
        "test_accuracy": 0.5,
        "test_fingerprint": version.test_fingerprint,
        "code_version": "0.1.0",
        "revision": 3,
    }
    return Run(**{**values, **columns})


def _what_it_left(run: Run, placed: list[datasets.Placed]) -> list[object]:
    metrics = [
        Metric(
            run_id=run.id, phase_index=0, phase="frozen", epoch=epoch, split=split, name=name, value=0.5, revision=epoch
        )
        for epoch in (1, 2)
        for split in ("train", "validation")
        for name in ("loss", "accuracy")
    ]
    lines = [LogLine(run_id=run.id, number=number, message=f"line {number}", revision=number) for number in (1, 2)]
    said = [
        Prediction(
            run_id=run.id,
            phase="frozen",
            split=Split.TEST,
            image_id=one.image_id,
            true_label=CLASSES.index(one.class_name),
            predicted_label=0,
            confidence=0.7,
            true_probability=0.7 if one.class_name == "cat" else 0.3,
            probabilities=[0.7, 0.3],
        )
        for one in placed
        if one.split == Split.TEST
    ]
    return [*metrics, *lines, *said, *_documents(run)]


def _documents(run: Run) -> list[object]:
    layer = {"name": "dense", "kind": "Dense", "shape": [None, 2], "parameters": 10, "trainable": True}
    layers = {"phase": "frozen", "phase_index": 0, "trainable_parameters": 10, "non_trainable_parameters": 5}
    result = {
        "accuracy": 0.5,
        "accuracy_interval": [0.1, 0.9],
        "loss": 0.7,
        "per_class": [],
        "confusion_matrix": {"class_names": list(CLASSES), "counts": [[1, 0], [1, 0]]},
    }
    evaluation = {"split": "test", "phases": {"frozen": result}}
    return [
        RunDocument(run_id=run.id, kind="layers", body=[{**layers, "layers": [layer]}]),
        RunDocument(run_id=run.id, kind="evaluation", body=evaluation),
    ]


def _model_of(run: Run) -> TrainedModel:
    return TrainedModel(
        owner_id=run.owner_id,
        run_id=run.id,
        name="Pets model",
        dataset_title=run.dataset_title,
        backbone="tiny_cnn",
        class_names=list(CLASSES),
        image_size=[32, 32],
        resize="crop",
        test_accuracy=0.5,
        summary=run.summary,
        storage_key=f"models/{run.id}",
    )
