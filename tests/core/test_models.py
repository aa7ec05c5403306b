"""A model's files are asked for, once each, whoever asks at the same moment."""

import threading
from typing import cast

import pytest
from sqlalchemy import select

from core.database import Database
from core.models import request_export
from core.queue import Queue
from core.tables import Export, TrainedModel
from tests.core.rows import RememberingQueue, person, tiny_model

pytestmark = pytest.mark.both_databases
QUEUE = cast("Queue", RememberingQueue())


def test_two_who_want_a_format_at_the_same_moment_get_the_same_export(database: Database) -> None:
    with database.write() as session:
        model = tiny_model(person(session).id)
        session.add(model)
    got: list[str] = []
    asks = threading.Event()

    def ask() -> None:
        asks.set()
        with database.write() as session:
            got.append(request_export(session, QUEUE, session.get_one(TrainedModel, model.id), "onnx").id)

    second = threading.Thread(target=ask)
    with database.write() as session:
        got.append(request_export(session, QUEUE, session.get_one(TrainedModel, model.id), "onnx").id)
        second.start()
        assert asks.wait(10)
        second.join(0.5)
        assert second.is_alive(), "it waits for the first"
    second.join(30)
    with database.read() as session:
        assert session.scalars(select(Export.id)).all() == [got[0]]
    assert got == [got[0]] * 2
