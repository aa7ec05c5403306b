"""A doubt for a network that nobody trained: fitted on the patterns that exports are checked with."""

import keras
import numpy as np

from worker.training.doubt import Doubt, averaged, fit_directions, fit_limit, outside
from worker.training.golden import patterns
from worker.training.layers import PictureResizer
from worker.training.network import Network


def doubt_of(network: Network, temperature: float | None = 0.5) -> Doubt:
    """Half of the patterns are the training pictures, the others decide the limit."""
    height, width = network.backbone.input.shape[1:3]
    resize = PictureResizer((height, width), "crop")
    pictures = np.stack([resize(pixels) for pixels in patterns(11)])
    pooled = keras.Model(network.backbone.input, network.head.get_layer("head_pooling")(network.backbone.output))
    features = averaged(network, np.asarray(pooled(pictures.astype(np.float32))))
    n_classes = max(2, network.head.output.shape[-1])
    thresholds = np.full(n_classes, 0.6, np.float32)
    mean, directions = fit_directions(features[:12])
    limit, width = fit_limit(outside(features[12:], mean, directions))
    return Doubt(temperature, 100, 0, thresholds, (), mean, directions, limit, width)
