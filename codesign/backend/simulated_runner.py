"""A runner for targets that nobody has at hand: costs come from a model, outputs from a real run."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.backend.base import Artifact, Measurement, MeasurementSettings, Runner
from codesign.plan.plan import Cost


@dataclass(frozen=True)
class SimulatedRunner:
    """Reports a cost model's latency and energy, labelled as simulated.

    Attributes:
        cost: What the cost model says of the plan.
        outputs_from: Runs the artefact for its outputs.
    """

    cost: Cost
    outputs_from: Runner

    def measure(
        self, artifact: Artifact, settings: MeasurementSettings, images: NDArray[np.float32] | None
    ) -> Measurement:
        """Computes the outputs of all images and returns them with the model's cost.

        Args:
            artifact: What to run for its outputs.
            settings: Threads and time limit of that run.
            images: Inputs `[N, ...]`, None for the cost alone.

        Returns:
            The measurement, `simulated`.
        """
        outputs = None
        if images is not None:
            once = replace(settings, warm_up=0, repeats=1, runs_per_sample=1)
            outputs = self.outputs_from.measure(artifact, once, images).outputs
        return Measurement(
            (self.cost.latency_s,), self.cost.energy_j, "simulated", settings.threads, outputs, "cost model"
        )
