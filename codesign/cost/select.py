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
            return processor_model(profile)
        case "array":
            return ArrayModel(profile)


def processor_model(profile: HardwareProfile) -> RooflineModel | CalibratedModel:
    """The cost model of a processor, which prices nodes at any widths that it has rates for.

    Args:
        profile: The device, which has no array.

    Returns:
        The model: fitted to measurements where the profile holds a calibration.
    """
    return RooflineModel(profile) if profile.calibration is None else CalibratedModel(profile)
