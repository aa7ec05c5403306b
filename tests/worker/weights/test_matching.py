"""Automatic names are found whatever number the process had reached; what remains of a file is a top, or the file is another's."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from core.backbones import BACKBONES, LayerVariables, variables_of
from worker.weights.arrays import Group
from worker.weights.matching import MatchRefused, match


def _groups(backbone_id: str, renamed: dict[str, str]) -> list[Group]:
    """The file of a backbone whose arrays tell their layer: each is filled with the layer's place."""
    return [
        Group(
            renamed.get(layer.layer, layer.layer),
            layer.kind,
            {name: np.full(shape, place, np.float32) for name, shape in layer.shapes.items()},
        )
        for place, layer in enumerate(variables_of(backbone_id, "plain"))
    ]


def _places(arrays: dict[str, Any], backbone_id: str) -> list[float]:
    return [
        float(arrays[f"{layer.layer}/{next(iter(layer.shapes))}"].flat[0])
        for layer in variables_of(backbone_id, "plain")
    ]


@pytest.mark.parametrize("shift", [1, 7])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("backbone_id", ["convnext_tiny", "inception_v3"])
def test_automatic_names_match_in_the_order_of_their_numbers(backbone_id: str, backwards: bool, shift: int) -> None:
    renamed = {}
    for layer in variables_of(backbone_id, "plain"):
        stem, _, number = layer.layer.removeprefix(layer.kind).rpartition("_")
        if layer.layer == layer.kind or (layer.layer.startswith(layer.kind) and not stem and number.isdecimal()):
            renamed[layer.layer] = f"{layer.kind}_{int(number or 0) + shift}"
    assert renamed
    groups = _groups(backbone_id, renamed)
    found = match(groups[::-1] if backwards else groups, backbone_id)
    assert found.way == "name"
    places = _places(found.arrays, backbone_id)
    assert places == list(range(len(places)))


Rows = Sequence[LayerVariables]


def _layer(name: str, kind: str, *shapes: tuple[int, ...]) -> LayerVariables:
    names = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}[len(shapes)]
    return LayerVariables(name, kind, dict(zip(names, shapes, strict=True)))


def _norm(name: str, width: int) -> LayerVariables:
    return _layer(name, "batch_normalization", *[(width,)] * 4)


def _group(layer: LayerVariables, **more: Any) -> Group:
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in layer.shapes.items()}
    return Group(layer.layer, **{"kind": layer.kind, "arrays": zeros} | more)


def _keras_3(rows: Rows, place: str = "/layers") -> list[Group]:
    """As their files list them: class by class, so a head's BatchNorm stands before the first convolution."""
    return [_group(row, place=place) for row in sorted(rows, key=lambda row: row.kind)]


def _keras_3_unnamed(rows: Rows) -> list[Group]:
    """As older versions wrote them."""
    return [
        _group(LayerVariables("", row.kind, row.shapes), place="/layers")
        for row in sorted(rows, key=lambda row: row.kind)
    ]


def _keras_2(rows: Rows) -> list[Group]:
    return [_group(row, kind="") for row in rows]


def _keras_2_renamed(rows: Rows) -> list[Group]:
    return [_group(LayerVariables(f"their_{row.layer}", "", row.shapes)) for row in rows]


def _safetensors(rows: Rows) -> list[Group]:
    return [_group(row, kind="", ordered=False) for row in sorted(rows, key=lambda row: row.layer)]


LAYOUTS = {
    "keras 3": _keras_3,
    "keras 3 without names": _keras_3_unnamed,
    "keras 2": _keras_2,
    "keras 2 under other names": _keras_2_renamed,
    "safetensors": _safetensors,
}


def _plain(backbone_id: str) -> list[LayerVariables]:
    return list(variables_of(backbone_id, "plain"))


def _deeper(backbone_id: str, *blocks: tuple[str, str]) -> list[LayerVariables]:
    """The network with blocks once more: ("block3_conv3", "block3_conv4") puts a block4 of block3's shapes behind it."""
    rows = _plain(backbone_id)
    for old, new in blocks:
        block = [row for row in rows if re.match(rf"{old}(_|$)", row.layer)]
        copies = [LayerVariables(row.layer.replace(old, new), row.kind, row.shapes) for row in block]
        behind = rows.index(block[-1]) + 1
        rows[behind:behind] = copies
    assert len({row.layer for row in rows}) == len(rows) > len(_plain(backbone_id))
    return rows


LARGER: dict[str, tuple[str, Callable[[], Rows]]] = {
    "EfficientNet-Lite1": ("efficientnet_lite0", lambda: _plain("efficientnet_lite1")),
    "VGG19": ("vgg16", lambda: _deeper("vgg16", *[(f"block{at}_conv3", f"block{at}_conv4") for at in (3, 4, 5)])),
    "VGG16 with BatchNorms": (
        "vgg16",
        lambda: [one for row in _plain("vgg16") for one in (row, _norm(f"{row.layer}_bn", row.shapes["bias"][0]))],
    ),
    "ResNet101V2": (
        "resnet50_v2",
        lambda: _deeper("resnet50_v2", *[("conv4_block5", f"conv4_block{at}") for at in range(23, 6, -1)]),
    ),
    "EfficientNetB1": (
        "efficientnet_b0",
        lambda: _deeper(
            "efficientnet_b0",
            *[("block2b", "block2c"), ("block3b", "block3c"), ("block4c", "block4d"), ("block5c", "block5d")],
        ),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("larger", LARGER)
def test_a_larger_network_that_has_every_array_of_the_backbone_is_another_architecture(
    larger: str, layout: str
) -> None:
    backbone_id, rows_of = LARGER[larger]
    rows = rows_of()
    title = re.escape(BACKBONES[backbone_id].title)
    with pytest.raises(MatchRefused, match=f"These are not the weights of {title}") as refused:
        match(LAYOUTS[layout](rows), backbone_id)
    # but for Lite1 without an order, whose names stand for other shapes, everything of the backbone is there
    assert (refused.value.found.missing == []) == ((larger, layout) != ("EfficientNet-Lite1", "safetensors"))


def test_the_sentence_names_the_layers_that_are_left_over_and_what_is_allowed() -> None:
    backbone_id, rows_of = LARGER["VGG19"]
    with pytest.raises(MatchRefused) as refused:
        match(_keras_2(rows_of()), backbone_id)
    assert str(refused.value) == (
        "These are not the weights of VGG16: all of its 26 arrays are in the file, but so are convolutions or BatchNorms that are "
        "neither its own nor a top behind it, as in a larger network (2 layers: block3_conv4, block4_conv4). Allowed beside the "
        "backbone: a top on its 512 features, preprocessing without kernels, an optimizer."
    )
    # behind block5_conv3, where a top would stand as well
    assert "block5_conv4/kernel" in refused.value.found.unexpected
    with pytest.raises(MatchRefused, match="only 1x1 ones on these features"):
        match(_safetensors(rows_of()), backbone_id)


def test_lite_1_is_refused_for_lite_0_though_every_array_is_found_by_order() -> None:
    with pytest.raises(MatchRefused, match="all of its 245 arrays are in the file") as refused:
        match(_keras_2(_plain("efficientnet_lite1")), "efficientnet_lite0")
    assert (refused.value.found.way, refused.value.found.missing) == ("order", [])
    assert len(refused.value.found.unexpected) == 75


def _normalization() -> Group:
    """As EfficientNet has it in front."""
    vectors = {name: np.zeros(3, np.float32) for name in ("mean", "variance")}
    return Group("normalization", "normalization", {**vectors, "count": np.zeros((), np.int64)})


DENSE = [_layer("fc", "dense", (1280, 99), (99,)), _norm("fc_bn", 99), _layer("predictions", "dense", (99, 5), (5,))]
POINTWISE = [
    _layer("a_conv", "conv2d", (1, 1, 1280, 40), (40,)),
    _norm("a_conv_bn", 40),
    _layer("z_conv", "conv2d", (1, 1, 40, 5), (5,)),
]
SPATIAL = [
    _layer("head_dw", "depthwise_conv2d", (3, 3, 1280, 1)),
    _layer("head_conv", "conv2d", (3, 3, 1280, 40), (40,)),
    _norm("head_bn", 40),
    _layer("up", "conv2d_transpose", (2, 2, 20, 40), (20,)),
    _layer("logits", "conv2d", (1, 1, 20, 5), (5,)),
]
TOPS = {"Dense layers": DENSE, "1x1 convolutions": POINTWISE, "3x3 convolutions": SPATIAL}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("backbone_id", ["efficientnet_lite0", "mobilenet_v2", "efficientnet_b0"])
def test_a_top_of_any_kind_may_stand_behind_the_backbone(backbone_id: str, top: str, layout: str) -> None:
    rows = [*_plain(backbone_id), *TOPS[top]]
    groups = LAYOUTS[layout](rows)
    if layout == "safetensors" and top == "3x3 convolutions":  # could be those of a larger network as well
        with pytest.raises(MatchRefused, match="only 1x1 ones on these features"):
            match(groups, backbone_id)
        return
    found = match([_normalization(), *groups] if groups[0].ordered else groups, backbone_id)
    assert found.missing == []
    assert sum(name.split("/")[0] != "normalization" for name in found.unexpected) == sum(
        len(one.shapes) for one in TOPS[top]
    )


def test_a_top_may_stand_around_a_backbone_that_is_one_layer_of_it() -> None:
    for top in TOPS.values():
        groups = [*_keras_3(top), *_keras_3(_plain("mobilenet_v2"), "/layers/functional/layers")]
        assert match(groups, "mobilenet_v2").missing == []
    elsewhere = [_layer("head_conv", "conv2d", (3, 3, 320, 40), (40,))]
    with pytest.raises(MatchRefused, match=r"\(1 layers: head_conv\)"):
        match([*_keras_3(elsewhere), *_keras_3(_plain("mobilenet_v2"), "/layers/functional/layers")], "mobilenet_v2")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trained_convolution_before_the_backbone_is_refused_as_it_would_be_lost(layout: str) -> None:
    rows = [_layer("from_grey", "conv2d", (1, 1, 1, 3), (3,)), *_plain("mobilenet_v2")]
    with pytest.raises(MatchRefused, match="neither its own nor a top behind it"):
        match(LAYOUTS[layout](rows), "mobilenet_v2")


def test_a_batch_norm_between_dense_layers_is_a_top_of_a_backbone_without_any() -> None:
    top = [_norm("pooled_bn", 512), _layer("fc", "dense", (512, 99), (99,)), _norm("fc_bn", 99)]
    for layout in (_keras_3, _keras_2, _safetensors):
        assert match(layout([*_plain("vgg16"), *top]), "vgg16").missing == []
    for layout in (_keras_3, _safetensors):
        with pytest.raises(MatchRefused, match=r"\(1 layers: block1_bn\)"):
            match(layout([*_plain("vgg16"), *top, _norm("block1_bn", 64)]), "vgg16")


def test_a_file_with_both_forms_or_with_averages_of_the_weights_is_taken() -> None:
    plain, folded = _plain("efficientnet_lite0"), variables_of("efficientnet_lite0", "folded")
    for more in (folded, plain):
        for groups in (_keras_3(plain) + _keras_3(more, "/a/layers"), _keras_3(more, "/a/layers") + _keras_3(plain)):
            found = match(groups, "efficientnet_lite0")
            assert (found.form, found.way, found.missing) == ("plain", "name", [])


def test_variables_of_an_optimizer_under_another_name_are_no_layers() -> None:
    momenta = Group("", "d_optimizer", {"0": np.zeros((), np.int64), "1": np.zeros((3, 3, 16, 16), np.float32)})
    assert match([momenta, *_keras_3(_plain("tiny_cnn"))], "tiny_cnn").unexpected == ["d_optimizer/0", "d_optimizer/1"]


@pytest.mark.parametrize("form", ["plain", "folded"])
def test_a_negative_variance_is_refused_with_a_sentence_that_names_the_layer(form: str) -> None:
    """Folding takes its root: every feature would be NaN."""
    groups = _keras_2(variables_of("resnet50_v2", form))
    norm = next(group for group in groups if "moving_variance" in group.arrays)
    variance = np.zeros_like(norm.arrays["moving_variance"])
    norm.arrays["moving_variance"] = variance
    assert match(groups, "resnet50_v2").form == form
    variance[3:5] = -0.25, -0.5
    sentence = (
        f'"{norm.layer}/moving_variance" holds 2 negative values of {variance.size:,}, the lowest is -0.5. Allowed for a variance: 0 or '
        "more, as its root is taken."
    )
    with pytest.raises(MatchRefused, match=re.escape(sentence)):
        match(groups, "resnet50_v2")
