import io

from rich.console import Console, RenderableType

from codesign.flow.listing import profile_table, show_profile, target_table
from codesign.hardware.catalog import load_profile, profile_names
from codesign.hardware.unverified import unverified_values, values_of


def _printed(what: RenderableType) -> str:
    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(what)
    return console.export_text()


def _line(text: str, beginning: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("│ ").startswith(beginning))


def test_profiles_are_listed_with_how_many_values_are_not_verified() -> None:
    text = _printed(profile_table())
    for name in profile_names():
        profile = load_profile(name)
        assert f"{len(unverified_values(profile))} of {len(values_of(profile))}" in _line(text, f"{name} ")


def test_targets_say_how_far_their_profile_is_verified() -> None:
    profile = load_profile("cortex-m7")
    share = f"{len(unverified_values(profile))} of {len(values_of(profile))}"
    assert share in _line(_printed(target_table()), "cortex-m7 ")


def test_a_profile_s_numbers_that_are_not_verified_are_marked_and_others_are_not() -> None:
    text = _printed(show_profile("cortex-m7"))
    sram = _line(text, "sram ")
    assert "320 KiB " in sram
    assert "320 KiB ?" not in sram
    assert "0.864 ?" in sram
    assert "2.5 ?" in sram
    assert "0.34 W ?" in text
    assert "4.32e+08 ?" not in _line(text, "8x8 ")
    assert "2.16e+08 ?" in _line(text, "32x32 ")
    assert "?: recalled, inferred or assumed, and not verified" in text


def test_marks_of_an_array() -> None:
    text = _printed(show_profile("squeezelerator-16x16"))
    assert "16 x 16, squeezelerator, at 500 MHz ?" in text
    assert "200 ns ?" in _line(text, "dispatch ")
