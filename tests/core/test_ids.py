"""Ids sort by creation."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from core.ids import new_id


def test_ids_are_version_7_and_rise_within_a_process() -> None:
    made = [new_id() for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == 5000
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in made} == {(7, uuid.RFC_4122)}


def test_ids_from_many_threads_are_never_equal() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_id(), range(4000)))
    assert len(set(made)) == 4000
