"""Rows that tests of the verbs need: a person, a dataset version, a queue that remembers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine, insert
from sqlalchemy.orm import Session

from core import accounts, datasets, unseen_versions
from core.clusters import Clusters
from core.database import Database, after_commit
from core.issues import Kind, cluster_notes, find_issues
from core.new_version import change_version
from core.tables import (
    Dataset,
    DatasetVersion,
    Run,
    RunStatus,
    Split,
    TrainedModel,
    User,
    VersionImage,
    VersionIssue,
    utc_now,
)
from core.version_changes import VersionChanges

SPLITS = [*[Split.TRAIN] * 3, Split.VALIDATION, Split.TEST]


@dataclass
class RememberingQueue:
    """Stands where `core.queue.Queue` stands and remembers what was rung after which commit."""

    rung: list[str] = field(default_factory=list)

    def ring_after_commit(self, session: Session, queue: str) -> None:
        """As the real one, into a list."""
        after_commit(session, lambda: self.rung.append(queue))


def person(session: Session, name: str = "local") -> User:
    """A user of this name."""
    if name == "local":
        return accounts.local_user(session)
    return accounts.create_user(session, name, "a long enough password")


def tiny_model(owner_id: str) -> TrainedModel:
    """A model of two classes, not yet in the session; whatever files it has are the test's."""
    return TrainedModel(
        owner_id=owner_id,
        name="tiny",
        dataset_title="Shapes",
        backbone="tiny_cnn",
        class_names=["dark", "bright"],
        image_size=[16, 16],
        resize="crop",
        summary={},
        storage_key="models/tiny",
    )


def version(session: Session, owner: User, *, classes: int = 2, each: int = 5, name: str = "Fruit") -> DatasetVersion:
    """A dataset version with `each` pictures a class: three fifths train, a fifth validation, a fifth test."""
    dataset = datasets.create_dataset(session, owner.id, name)
    placed = []
    for label in range(classes):
        for number in range(each):
            sha256 = f"{label:032x}{number:032x}"
            facts = {"width": 8, "height": 8, "format": "PNG", "size_bytes": 100}
            image_id = datasets.remember_image(session, owner.id, sha256, facts)
            placed.append(
                datasets.Placed(image_id, sha256, f"c{label}/{number}.png", f"class {label}", SPLITS[number % 5])
            )
    return add_version(session, dataset, datasets.VersionDraft(placed))


def ended_run(session: Session, on: DatasetVersion, kind: str | None, retry_of: Run | None = None) -> Run:
    """A run that has failed so a moment ago; None: one that has succeeded."""
    run = Run(
        owner_id=on.owner_id,
        dataset_id=on.dataset_id,
        dataset_version_id=on.id,
        dataset_title="Fruit",
        name="run",
        config={},
        batch_size=8,
        test_fingerprint=on.test_fingerprint,
        code_version="0",
        status=RunStatus.SUCCEEDED if kind is None else RunStatus.FAILED,
        failure=None if kind is None else {"kind": kind, "message": "", "advice": ""},
        retry_of=None if retry_of is None else retry_of.id,
        finished_at=utc_now(),
    )
    session.add(run)
    session.flush()
    return run


def add_version(
    session: Session, dataset: Dataset, draft: datasets.VersionDraft, issues: dict[str, int] | None = None
) -> DatasetVersion:
    """The dataset's next version in the session's transaction, by the steps that make every version; counts of issues as given."""
    made = unseen_versions.begin(session, dataset, **datasets.described(draft))
    for rows in datasets.draft_rows(draft, made):
        values = [dict(zip(datasets.IMAGE_COLUMNS, row, strict=True)) for row in rows]
        session.execute(insert(VersionImage.__table__), values)  # type: ignore[arg-type]
    unseen_versions.publish(session, dataset, made, unseen_versions.Issues(issues or {}, []))
    return made


def record_issues(session: Session, made: DatasetVersion, *, upload_id: str | None = None) -> None:
    """Find and write the issues of a version that `add_version` made."""
    clusters, counts = Clusters(made.image_count), Counter[str]()
    for rows in find_issues(session, made, clusters, upload_id=upload_id):
        session.execute(insert(VersionIssue), rows)
        counts.update(row["kind"] for row in rows)
    made.issues = {kind.value: counts[kind] for kind in Kind}
    made.notes = [*made.notes, *cluster_notes(clusters)]
    session.flush()


@contextmanager
def database_of(session: Session) -> Iterator[Database]:
    """The database of a session, which is committed first, for what writes in transactions of its own."""
    session.commit()
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    database = Database(engine.url.render_as_string(hide_password=False))
    try:
        yield database
    finally:
        database.close()


def changed(session: Session, base: DatasetVersion, **changes: object) -> DatasetVersion:
    """The next version, made from this base. What the session has written is committed."""
    session.refresh(base)
    with database_of(session) as database:
        made = change_version(database, base, VersionChanges.model_validate(changes))
    session.expire_all()
    session.refresh(base)
    return session.get_one(DatasetVersion, made.id)
