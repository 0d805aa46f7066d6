"""The ``faithful`` network up to the sums of its last map: what the project's own accelerator leaves to the host.

It computes from weights and fused tables, as they come out of the accelerator's memory image, so that a simulated
accelerator computes with what lies in its memory and with nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .. import native
from ..arithmetic import FAITHFUL
from ..errors import BackendError
from ..faithful import FusedLayer, FusedTables
from ..model import Bits, LayerParameters, Model
from ..networks import LAYER_PARAMETERS, Network
from ..thermometer import LEVELS
from .plan import Plan


class PooledSums:
    """Sums of the last map, over its positions, of pictures in the ``faithful`` arithmetic, by the native kernels.

    ``weights``: packed bits by layer name, "stem" included; ``tables``: fused integer tables by the same names.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where the kernels are missing.
    """

    def __init__(self, network: Network, weights: Mapping[str, Bits], tables: Mapping[str, FusedLayer]) -> None:
        engines = native.engines()
        if not engines:
            raise BackendError(native.MISSING, advice=native.MISSING_ADVICE)
        self.network = network
        self._engine = next(iter(engines))
        features = network.features
        # A classifier that gives each feature's sum as it is: at most 2**21, which float32 holds exactly.
        fused = FusedTables(
            stem=tables["stem"],
            layers={layer.name: tables[layer.name] for layer in network.layers},
            fc_weight=np.eye(features, dtype=np.int16),
            fc_exponent=np.zeros(features, np.int16),
            fc_bias=np.zeros(features),
            clipped=0,
        )
        self._plan = Plan(_bare_model(network, weights), FAITHFUL, engine=self._engine, sums_of=fused)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """uint8 RGB pictures [N, S, S, 3] to sums int32 [N, features]."""
        self.network.check_images(images)
        sums = np.empty((len(images), self.network.features), np.float32)
        native.run(self._engine, self._plan.words, LEVELS, np.ascontiguousarray(images), sums)
        return sums.astype(np.int32)


def _bare_model(network: Network, weights: Mapping[str, Bits]) -> Model:
    """A model that has the weights, and nothing in place of the parameters: the tables stand for those."""
    features = network.features
    layers = {
        layer.name: LayerParameters(weights[layer.name], np.zeros((len(LAYER_PARAMETERS), layer.out_channels)))
        for layer in network.layers
    }
    return Model(
        network=network.with_classes(features),
        stem_weight=weights["stem"],
        stem_bn=np.zeros((2, network.stem.out_channels)),
        layers=layers,
        fc_weight=np.eye(features),
        fc_bias=np.zeros(features),
        classes=tuple(f"feature {index}" for index in range(features)),
    )
