"""What stands beside the numbers of a report."""

from codesign.flow.notes import notes_on
from codesign.hardware.calibration import Calibration, KernelFit, Term, VectorUnit
from codesign.hardware.catalog import load_profile
from codesign.hardware.target import Target, TvmTarget

PLAIN = Target(name="here", description="this machine", profile="host-cpu", runner="local", tvm=TvmTarget())
ROUNDED = PLAIN.model_copy(update={"tvm": TvmTarget(float_products="bfloat16")})


def test_rounded_products_are_said_and_so_are_predictions_of_others() -> None:
    profile = load_profile("squeezelerator-16x16").model_copy(update={"unverified": ()})
    assert notes_on(PLAIN, profile) == ()
    products, predictions = notes_on(ROUNDED, profile)
    assert "rounded to bfloat16" in products
    assert "of float32 products; calibrate here anew" in predictions
    fit = KernelFit(
        kind="convolution", arithmetic="bfloat16", terms=(Term(name="call", seconds=1e-6),), samples=1,
        relative_error=0.1, within_10_percent=1.0, source="made up",
    )  # fmt: skip
    unit = VectorUnit(registers=31, lanes=16, dot_channels=4, amx=True, bfloat16=True)
    measured = Calibration(source="made up", unit=unit, call_s=0.0, fits=(fit,))
    calibrated = profile.model_copy(update={"calibration": measured})
    assert notes_on(ROUNDED, calibrated) == (products,)
    assert notes_on(PLAIN, calibrated) == (
        "Predictions for float32 layers are of bfloat16 products; calibrate here anew.",
    )


def test_values_that_are_not_verified_are_listed() -> None:
    profile = load_profile("squeezelerator-16x16")
    (note,) = notes_on(PLAIN, profile)
    assert note.endswith(f"not verified: {', '.join(profile.unverified)}.")
