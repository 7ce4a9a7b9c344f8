"""Which cost model prices a device."""

from codesign.cost.base import CostModel
from codesign.cost.roofline import RooflineModel
from codesign.cost.squeezelerator import SqueezeleratorModel
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
            return RooflineModel(profile)
        case "squeezelerator":
            return SqueezeleratorModel(profile)
