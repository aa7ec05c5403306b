"""Which queues share a process."""

import pytest

from worker.celery_app import QueuesInvalid, checked_queues


@pytest.mark.parametrize(
    ("text", "names"),
    [("train", ("train",)), ("predict", ("predict",)), (" ingest, export,batch,ingest", ("ingest", "export", "batch"))],
)
def test_queues_are_read(text: str, names: tuple[str, ...]) -> None:
    assert checked_queues(text) == names


@pytest.mark.parametrize("text", ["", "trian", "train,ingest", "predict,train", "ingest,nothing"])
def test_queues_that_cannot_be_served_together_are_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(QueuesInvalid, match=r"Received: "):
        checked_queues(text)
