import dataclasses
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from codesign.report.search_contents import JointSearch
from codesign.report.search_drawings import bits_drawing, place_colours, places_legend, stages_drawing
from codesign.report.search_point import LayerDecision, Stage

WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
STAGES = st.lists(st.builds(Stage, WORDS, st.integers(1, 2048), st.integers(0, 30), st.integers(1, 4)), max_size=12)
LAYERS = st.lists(
    st.builds(
        LayerDecision, WORDS, st.integers(2, 32), st.integers(8, 32), st.integers(0, 10**9), st.integers(0, 10**9),
        st.sampled_from(["", "a", "b"]),
    ),
    max_size=60,
)  # fmt: skip
COLOURS = {"": "#000", "a": "#111", "b": "#222"}


def _rectangles(drawing: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every rectangle; the drawing must be well-formed."""
    root = ET.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    found = []
    for element in root.iter("rect"):
        left, top, wide, high = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left >= 0
        assert top >= 0
        assert left + wide <= width + 0.1
        assert top + high <= height + 0.1
        found.append((left, top, left + wide, top + high))
    return found


@given(STAGES)
def test_a_slab_for_each_block_inside_the_drawing(stages: list[Stage]) -> None:
    slabs = _rectangles(stages_drawing(stages))
    assert len(slabs) == sum(stage.blocks for stage in stages)
    assert [slab[0] for slab in slabs] == sorted(slab[0] for slab in slabs)
    heights = [round(bottom - top, 1) for _, top, _, bottom in slabs]
    assert heights == sorted(heights, reverse=True)  # images never grow


@given(LAYERS)
def test_a_bar_for_each_layer_as_tall_as_its_bits(layers: list[LayerDecision]) -> None:
    bars = _rectangles(bits_drawing(layers, COLOURS))
    assert len(bars) == len(layers)
    if layers:
        scale = (bars[0][3] - bars[0][1]) / layers[0].weight_bits
        for bar, layer in zip(bars, layers, strict=True):
            assert abs((bar[3] - bar[1]) - scale * layer.weight_bits) < 1.0


def test_places_have_colours_of_their_own(search: JointSearch) -> None:
    target = search.targets[1]
    colours = place_colours(target.points)
    assert len(colours) == 2 == len(set(colours.values()))
    legend = places_legend(target.points[0], colours)
    for colour in colours.values():
        assert colour in legend
    assert "<script>" not in legend
    assert places_legend(search.targets[0].points[0], {"": "#000"}) == ""


def test_many_places_have_different_colours(search: JointSearch) -> None:
    layer = search.targets[0].points[0].layers[0]
    layers = tuple(dataclasses.replace(layer, place=f"out={i}") for i in range(40))
    colours = place_colours([dataclasses.replace(search.targets[0].points[0], layers=layers)])
    assert len(set(colours.values())) == 40
