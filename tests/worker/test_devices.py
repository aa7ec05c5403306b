import os

import pytest

from cli.serve import train_workers
from worker import devices
from worker.devices import GpuUnknown, choose_gpu, hide_gpus

TWO = tuple({"name": "a card", "kind": "gpu", "memory_bytes": 2**34} for _ in range(2))


def test_a_trainer_sees_the_chosen_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: TWO)
    monkeypatch.setattr(os, "environ", {})
    choose_gpu(1)
    assert os.environ == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}


def test_predictions_see_no_gpu_and_the_timing_of_steps_sees_the_one_that_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: TWO)
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    trainers = hide_gpus()
    assert os.environ == {"HOME": "/", "CUDA_VISIBLE_DEVICES": "-1"}
    assert trainers == {"HOME": "/", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}


def test_what_an_operator_lets_predictions_see_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: TWO)
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": "1"})
    assert hide_gpus() == os.environ == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("seen", "number", "words"), [(TWO, 2, "Allowed: 0 to 1"), (TWO, -1, "0 to 1"), ((), 0, "no GPU")]
)
def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, seen: tuple[object, ...], number: int, words: str
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: seen)
    with pytest.raises(GpuUnknown, match=words):
        choose_gpu(number)


def test_a_machine_with_several_gpus_gets_a_train_worker_for_each() -> None:
    assert train_workers(0) == train_workers(1) == [("train",)]
    assert train_workers(2) == [("train", "--gpu", "0"), ("train", "--gpu", "1")]
