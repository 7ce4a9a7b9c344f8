"""Which cost model prices a device."""

from codesign.cost.array_model import ArrayModel
from codesign.cost.base import CostModel
from codesign.cost.calibrated import CalibratedModel
from codesign.cost.roofline import RooflineModel
from codesign.hardware.profile import HardwareProfile


def cost_model_for(profile: HardwareProfile) -> CostModel:
    """The cost model that a profile asks for.

    Args:
        profile: The device.

    Returns:
        The model.
    """
    match profile.model:
        case "roofline":
            return RooflineModel(profile) if profile.calibration is None else CalibratedModel(profile)
        case "array":
            return ArrayModel(profile)
