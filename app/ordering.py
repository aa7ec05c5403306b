"""From what a person asks for to the settings and the dataset version of a run; the same for the API and the pages."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from core.datasets import find_dataset, find_version, latest_version
from core.errors import ConfigInvalid, Conflict, FieldProblem, InputInvalid, NotServed
from core.presets import PRESETS, check_start
from core.tables import DatasetVersion
from core.training_config import TrainingConfig, merged, parse_config


def wished_config(preset: str | None, changes: Mapping[str, Any] | None, *, where: str = "config") -> TrainingConfig:
    """A preset's config (or the defaults) with changes merged over it.

    Args:
        preset: id of a preset, or None.
        changes: fields of a TrainingConfig.
        where: put before the names of wrong fields, so that they read as the person wrote them.

    Raises:
        InputInvalid: no such preset.
        ConfigInvalid, NotServed: with one problem per wrong field.
    """
    if preset is not None and preset not in PRESETS:
        message = f'There is no preset "{preset}". Allowed: {", ".join(PRESETS)}.'
        raise InputInvalid(message, problems=(FieldProblem("preset", message, preset),))
    base = PRESETS[preset].config.model_dump(mode="json") if preset is not None else {}
    try:
        config = parse_config(merged(base, changes or {}))
    except (ConfigInvalid, NotServed) as error:
        problems = tuple(
            FieldProblem(f"{where}.{one.field}".lstrip("."), one.message, one.received) for one in error.problems
        )
        raise type(error)(error.message, problems=problems) from error
    if preset is not None:
        check_start(PRESETS[preset], config, chosen="weights" in (changes or {}))
    return config


def wished_version(
    session: Session, owner_id: str, *, dataset_id: str | None, dataset_version_id: str | None
) -> DatasetVersion:
    """The named dataset version, or the newest one of the named dataset.

    Raises:
        InputInvalid: neither or both are named.
        NotFound: no such thing of this person.
        Conflict: the dataset has no version yet.
    """
    if (dataset_id is None) == (dataset_version_id is None):
        message = 'Name either "dataset_version_id" or "dataset_id" (its newest version is taken).'
        raise InputInvalid(message, problems=(FieldProblem("dataset_version_id", message, dataset_version_id),))
    if dataset_version_id is not None:
        return find_version(session, owner_id, dataset_version_id)
    dataset = find_dataset(session, owner_id, str(dataset_id))
    version = latest_version(session, dataset.id)
    if version is None:
        raise Conflict(f'The dataset "{dataset.name}" has no pictures yet. Upload some, and wait until they are ready.')
    return version
