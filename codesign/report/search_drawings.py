"""Drawings of one point of a joint search, as SVG: its architecture by stages, and its bits and places by layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from codesign.report.search_point import LayerDecision, SearchPoint, Stage
from codesign.report.simulation_figures import PALETTE

_WIDTH = 480
"""Of a drawing; it is scaled to the page."""
_STAGES_HEIGHT, _TALLEST, _SHORTEST = 150, 90.0, 14.0
_BITS_HEIGHT, _MOST_BITS = 110, 8
_LETTER = 5.6
"""Width of a letter of the small font, nearly."""


def place_colours(points: Sequence[SearchPoint]) -> dict[str, str]:
    """A colour for every place, the same in all drawings of a target.

    Args:
        points: Of the target.

    Returns:
        Colours by place; after the palette's, hues that are far apart.
    """
    places = dict.fromkeys(place for point in points for place in point.places)
    more = [f"hsl({137 * index % 360}, 55%, 60%)" for index in range(len(places))]
    return dict(zip(places, (*PALETTE, *more), strict=False))


def stages_drawing(stages: Sequence[Stage]) -> str:
    """An architecture: a slab for each block; as tall as its image is high, and wider with more channels.

    Heights are drawn by the square root of the image's, so that the last stages can be seen.

    Args:
        stages: From the input to the output.

    Returns:
        An SVG element.
    """
    slot = (_WIDTH - 10) / max(len(stages), 1)
    parts = []
    reduced = 1
    for index, stage in enumerate(stages):
        reduced *= stage.stride
        height = max(_TALLEST / math.sqrt(reduced), _SHORTEST)
        parts += [_slabs(stage, 5 + slot * index, slot, height), _caption(stage, 5 + slot * (index + 0.5), slot)]
    told = "; ".join(f"{s.label}: {s.blocks} x {s.width} channels, stride {s.stride}" for s in stages)
    return _svg(_STAGES_HEIGHT, "architecture by stages: " + told, parts)


def _slabs(stage: Stage, left: float, slot: float, height: float) -> str:
    """The blocks of a stage, side by side, with a common title."""
    room = (slot - 8) / max(stage.blocks, 1)
    width = min(4 + 2 * math.log2(max(stage.width, 1)), 0.8 * room)
    step = min(width + 3, room)
    first = left + (slot - step * (stage.blocks - 1) - width) / 2
    top = 5 + (_TALLEST - height) / 2
    slabs = "".join(
        f'<rect x="{first + step * block:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'
        for block in range(stage.blocks)
    )
    title = f"{stage.label}: {stage.blocks} block(s) of {stage.width} channels, stride {stage.stride}"
    return f'<g class="slab"><title>{escape(title)}</title>{slabs}</g>'


def _caption(stage: Stage, middle: float, slot: float) -> str:
    lines = (stage.label, f"{stage.blocks} × {stage.width}", f"stride {stage.stride}" if stage.stride > 1 else "")
    return "".join(
        f'<text x="{middle:.1f}" y="{_TALLEST + 22 + 15 * row}" text-anchor="middle">{escape(_cut(line, slot))}</text>'
        for row, line in enumerate(lines)
    )


def _cut(text: str, room: float) -> str:
    """As many letters as there is room for."""
    most = max(int(room / _LETTER), 2)
    return text if len(text) <= most else text[: most - 1] + "…"


def bits_drawing(layers: Sequence[LayerDecision], colours: Mapping[str, str]) -> str:
    """A bar for each layer: as tall as its weight has bits, in the colour of its place.

    Args:
        layers: In the order in which they run.
        colours: By place.

    Returns:
        An SVG element.
    """
    most = max((layer.weight_bits for layer in layers), default=_MOST_BITS)
    scale = (_BITS_HEIGHT - 20) / max(most, _MOST_BITS)
    base = _BITS_HEIGHT - 10
    room = (_WIDTH - 30) / max(len(layers), 1)
    bars = [
        f'<rect x="{26 + room * index:.1f}" y="{base - scale * layer.weight_bits:.1f}" width="{0.85 * room:.1f}" '
        f'height="{scale * layer.weight_bits:.1f}" fill="{colours[layer.place]}">'
        f"<title>{escape(layer_text(layer))}</title></rect>"
        for index, layer in enumerate(layers)
    ]
    widths = "; ".join(f"{layer.name}: {layer.weight_bits}" for layer in layers)
    return _svg(_BITS_HEIGHT, "bits of each layer's weight: " + widths, [*_scale_lines(layers, base, scale), *bars])


def _scale_lines(layers: Sequence[LayerDecision], base: float, scale: float) -> Iterator[str]:
    for bits in sorted({0, *(layer.weight_bits for layer in layers)}):
        y = base - scale * bits
        yield f'<line x1="22" x2="{_WIDTH - 4}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="18" y="{y + 4:.1f}" text-anchor="end">{bits}</text>'


def layer_text(layer: LayerDecision) -> str:
    """What was decided for a layer.

    Args:
        layer: The layer.

    Returns:
        One line of plain text.
    """
    where = f", on {layer.place}" if layer.place else ""
    return (
        f"{layer.name}: {layer.weight_bits}-bit weights, {layer.activation_bits}-bit activations{where}; "
        f"{layer.macs:,} MACs, {layer.weight_elements:,} weights"
    )


def places_legend(point: SearchPoint, colours: Mapping[str, str]) -> str:
    """Which colour is which place, with how many layers and operations run there.

    Args:
        point: Whose layers were placed.
        colours: By place.

    Returns:
        HTML; empty on a target of one device.
    """
    total = max(sum(layer.macs for layer in point.layers), 1)
    parts = []
    for place in point.places:
        if place:
            here = [layer for layer in point.layers if layer.place == place]
            share = sum(layer.macs for layer in here) / total
            parts.append(
                f'<span class="place"><i style="background:{colours[place]}"></i>{escape(place)}: '
                f"{len(here)} layer(s), {share:.0%} of MACs</span>"
            )
    return f'<div class="places">{"".join(parts)}</div>' if parts else ""


def _svg(height: int, told: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="drawing" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg>"
    )
