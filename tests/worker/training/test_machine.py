"""What the trainer sets up on a machine with graphics processors, with TensorFlow's view of them played: none is there."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from worker.training import features, machine, precision

CARDS = [SimpleNamespace(name=f"GPU:{number}") for number in range(2)]


def test_float32_is_float32_on_a_card_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, which TensorFlow allows itself, keeps ten bits: the check of the export would find another network."""
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda _: None)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", lambda _: None)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        tf.config.experimental.enable_tensor_float_32_execution(True)
        machine.prepare_tensorflow(2)
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Two GPUs as TensorFlow would list them; name -> compute capability."""
    capability = {"GPU:0": (8, 0), "GPU:1": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: CARDS if kind == "GPU" else [])
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda card: {"device_name": card.name, "compute_capability": capability[card.name]},
    )
    return capability


def test_memory_of_every_card_grows_with_need(
    monkeypatch: pytest.MonkeyPatch, two_cards: dict[str, tuple[int, int]]
) -> None:
    grown = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda _: None)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", lambda _: None)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda card, grows: grown.append((card.name, grows))
    )
    machine.prepare_tensorflow(2)
    assert grown == [(name, True) for name in two_cards]
    assert machine.device() == "GPU:0"


def test_bfloat16_is_for_cards_of_compute_capability_eight_and_above(two_cards: dict[str, tuple[int, int]]) -> None:
    assert precision.computes_in_bfloat16()
    two_cards["GPU:1"] = (7, 5)
    assert not precision.computes_in_bfloat16()


def test_without_a_card_the_processor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, fast in (("avx2-avx512f", False), ("avx2-avx512_bf16", True), ("asimd-bf16", True)):
        monkeypatch.setattr(precision, "processor_class", lambda flags=flags: flags)
        assert precision.computes_in_bfloat16() is fast


def test_features_know_the_card_that_computed_them(two_cards: dict[str, tuple[int, int]]) -> None:
    assert features.computed_by() == "GPU GPU:0 8.0"
    two_cards["GPU:0"] = (9, 0)
    assert features.computed_by() == "GPU GPU:0 9.0"


def test_without_a_card_features_know_the_class_of_processor() -> None:
    assert features.computed_by() == features.processor_class()
