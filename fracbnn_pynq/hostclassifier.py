"""The published ImageNet core's classifier: the core ends with a map of codes, the host computes the logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fixedpoint import Raw
from .model import Model, quantise_rows


@dataclass(frozen=True)
class HostClassifier:
    """The ImageNet core's classifier, which runs on the host, as exact integers.

    Code q stands for q * 2/15 - 1, so with s the code sums over 49 positions and w = ``weight`` * 2**-exponent the
    logit is ``(scale * sum(weight * s) + offset) * step / divisor + bias``; ``step`` = 2**-exponent. float64 holds
    everything before the division exactly.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    offset: Raw
    step: npt.NDArray[np.float64]
    scale: int = 2
    divisor: int = 15 * 49

    def logits(self, sums: Raw) -> npt.NDArray[np.float32]:
        """``sums`` int64 [N, 1024] to float32 [N, 1000]."""
        # Integers below 2**53 throughout, so float64 products are exact in any order, and NumPy is fast with them.
        return self._logits(sums.astype(np.float64) @ self.weight.T)

    def logits_of_one(self, sums: Raw) -> npt.NDArray[np.float32]:
        """``sums`` int64 [1024] to float32 [1000], computed by this thread alone: BLAS threads would go on spinning."""
        return self._logits(np.einsum("ij,j->i", self.weight, sums.astype(np.float64)))

    def _logits(self, products: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return ((self.scale * products + self.offset) * self.step / self.divisor + self.bias).astype(np.float32)


def host_classifier(model: Model) -> HostClassifier:
    """The classifier of ``model`` for results of the published ImageNet core."""
    weight, exponent = quantise_rows(model.fc_weight)
    offset = -HostClassifier.divisor * weight.sum(axis=1, dtype=np.int64)
    return HostClassifier(weight.astype(np.float64), model.fc_bias, offset, np.ldexp(1.0, -exponent.astype(np.int64)))
