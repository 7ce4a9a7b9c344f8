"""The correction of a calibration, ready to be asked for one kernel after the other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.hardware.calibration import Similarity

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SimilarKernels:
    """Measured kernels and what the terms alone were off by.

    Attributes:
        similarity: As a profile holds it.
        means: Of the features, `[f]`.
        lengths: Of the features, `[f]`.
        points: The kernels, `[n, f]`.
        weights: `[n]`.
    """

    similarity: Similarity
    means: Array
    lengths: Array
    points: Array
    weights: Array

    @classmethod
    def of(cls, similarity: Similarity) -> "SimilarKernels":
        """Turns numbers into arrays.

        Args:
            similarity: As a profile holds it.

        Returns:
            The same.
        """
        given = (similarity.means, similarity.lengths, similarity.points, similarity.weights)
        return cls(similarity, *(np.asarray(values) for values in given))

    def logarithm(self, features: Mapping[str, float]) -> float:
        """The natural logarithm of the factor on one kernel, as `Similarity` defines it.

        Args:
            features: By name; what a kernel does not have is 0.

        Returns:
            The logarithm.
        """
        place = (np.asarray([features.get(name, 0.0) for name in self.similarity.features]) - self.means) / self.lengths
        return float(self.similarity.variance * (self.weights @ alikeness(np.sum((self.points - place) ** 2, axis=1))))


def alikeness(squared_distances: Array) -> Array:
    """Correlation of a Gaussian process between points: (1 + r) exp(-r) with r = sqrt(3) distance (Matern 3/2).

    Args:
        squared_distances: In lengths of the process.

    Returns:
        1 for the same point, 0 far away.
    """
    scaled = np.sqrt(3 * squared_distances)
    return np.asarray((1 + scaled) * np.exp(-scaled))
