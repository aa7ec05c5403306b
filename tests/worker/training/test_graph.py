"""Where a graph can be cut with one tensor."""

import keras

from worker.training.graph import children, parents, single_tensor_places


def _residual() -> keras.Model:
    x = keras.Input((8, 8, 3), name="in")
    a = keras.layers.Conv2D(4, 1, name="a")(x)
    b = keras.layers.Conv2D(4, 1, name="b")(a)
    return keras.Model(x, keras.layers.ReLU(name="out")(keras.layers.Add(name="sum")([a, b])))


def test_a_place_inside_a_residual_block_needs_two_tensors() -> None:
    assert single_tensor_places(_residual()) == ["a", "sum", "out"]


def test_parents_and_children_are_those_of_this_model_only() -> None:
    model = _residual()
    other = keras.Model(model.input, keras.layers.ReLU(name="elsewhere")(model.get_layer("b").output))
    assert parents(model)["sum"] == ("a", "b")
    assert children(model)["b"] == ["sum"]
    assert children(other)["b"] == ["elsewhere"]


def test_layers_shared_by_a_part_of_the_model_keep_their_own_feeds() -> None:
    model = _residual()
    upper = keras.Model(model.get_layer("a").output, model.output)
    assert parents(model)["b"] == ("a",)
    assert single_tensor_places(upper) == ["sum", "out"]
