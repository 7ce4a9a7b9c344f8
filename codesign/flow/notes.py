"""What a reader of a report must know of the numbers on a target."""

from codesign.hardware.profile import HardwareProfile
from codesign.hardware.target import Target


def notes_on(target: Target, profile: HardwareProfile) -> tuple[str, ...]:
    """Notes that stand beside the numbers.

    Args:
        target: Where networks ran, or would.
        profile: What predictions rest on.

    Returns:
        One sentence each: values that nobody verified, products that were rounded, predictions that ignore these.
    """
    notes = []
    if profile.unverified:
        keys = ", ".join(profile.unverified)
        notes.append(f"Predictions rest on numbers of profile {profile.name} that are not verified: {keys}.")
    rounds = target.tvm is not None and target.tvm.float_products == "bfloat16"
    if rounds:
        notes.append(
            "Layers in float32 multiply operands rounded to bfloat16 where that is faster (float_products): what is "
            "called float32 here is not exactly that."
        )
    known = profile.calibration is not None and profile.calibration.unit.bfloat16
    if rounds != known:
        products = "bfloat16" if known else "float32"
        notes.append(f"Predictions for float32 layers are of {products} products; calibrate {target.name} anew.")
    return tuple(notes)
