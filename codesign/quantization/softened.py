"""Predicting how far outputs will move on new samples from how far they move on calibration samples.

A network is surer of the samples that it was trained on than of new ones. On those nearly all of the KL divergence of
the outputs that a small error causes comes from a few samples: with 500 training images of CIFAR-10 its relative
standard error is about 0.3 for one layer of a ResNet-20 at 3 to 8 bits. Softened outputs, the softmax of logits / T,
let all samples speak; at T = 3 the error is 0.1. Over random choices of the images, biases corrected, Kendall's tau
with the KL on test images grows on average from .68, .66, .59 and .62 (3, 4, 6 and 8 bits) to .81, .84, .85 and .82. At
2 bits a layer changes some answers, which softening blurs: there tau falls from .79 to .74.
On a ResNet-56 no answer changes, and tau at 2 bits grows from .46 to .64 (128 training images, 200 test images).

So the KL itself ranks layers at widths at which answers change, and the softened one elsewhere. All are in the unit of
the softened one, `T^2 KL`, to which the KL is brought by the median ratio of the two at its width: at T = 3 that is
1.6 (ResNet-56) to 3 (ResNet-20) times the KL on test images, at every width, where the KL on training images is 0.01 to
0.4 of it.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.errors import InputError
from codesign.quantization.divergence import Estimate

TEMPERATURE = 3.0
"""Default temperature."""
CHANGED_ANSWERS = 0.01
"""Share of answers that quantising the median node must change for the KL divergence itself to rank nodes."""

NodeAtBits = tuple[str, int]


@dataclass(frozen=True)
class Movement:
    """How far the outputs move when one node is quantised to one width.

    Attributes:
        plain: KL divergence, nats.
        softened: `T^2` times the KL divergence of the outputs at temperature T.
        changed: Share of answers, the largest logits, that change.
    """

    plain: Estimate
    softened: Estimate
    changed: float


def check_temperature(pass_name: str, temperature: float) -> None:
    """Refuses temperatures that are no positive numbers.

    Args:
        pass_name: Whose option it is.
        temperature: The option.

    Raises:
        InputError: It is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise InputError(
            f"pass {pass_name}: temperature is {temperature}, allowed are numbers above 0; try {TEMPERATURE:g}, or 1 "
            f"for the KL divergence alone"
        )


def predicted_divergences(movements: Mapping[NodeAtBits, Movement]) -> Mapping[NodeAtBits, Estimate]:
    """What each node at each width is expected to cost, see the module's description.

    Args:
        movements: By node and width; each width for all nodes.

    Returns:
        Nats, by the same keys; at temperature 1 the KL divergences as they were measured.
    """
    by_width: dict[int, list[Movement]] = {}
    for (_, width), movement in movements.items():
        by_width.setdefault(width, []).append(movement)
    level = {
        width: _median_ratio(found)
        for width, found in by_width.items()
        if statistics.median(movement.changed for movement in found) >= CHANGED_ANSWERS
    }
    return {
        (node, width): _times(level[width], movement.plain) if width in level else movement.softened
        for (node, width), movement in movements.items()
    }


def _median_ratio(found: list[Movement]) -> float:
    """Softened to plain, over nodes; 1 where nothing moves."""
    ratios = [m.softened.mean / m.plain.mean for m in found if m.softened.mean > 0 and m.plain.mean > 0]
    return statistics.median(ratios) if ratios else 1.0


def _times(scale: float, value: Estimate) -> Estimate:
    return Estimate(scale * value.mean, scale * value.standard_error)
