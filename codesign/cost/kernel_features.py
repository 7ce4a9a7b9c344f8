"""What a calibration compares kernels by: their counts and sizes, on a logarithmic scale, and their tile."""

from collections.abc import Mapping
from math import log

from codesign.cost.kernel_terms import FLOAT_BITS, LINE, STORED_CHANNELS
from codesign.cost.kernel_tiles import tiled_loops
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths


def features_of(terms: Mapping[str, float], node: NodeFacts, bits: Widths, unit: VectorUnit) -> Mapping[str, float]:
    """What a correction may look at: sizes on a logarithmic scale, and the tile.

    Args:
        terms: Counts of the node.
        node: The node.
        bits: Its widths.
        unit: Vectors that kernels are compiled for.

    Returns:
        Features by name.
    """
    features = {f"log_{name}": log(1 + value) for name, value in terms.items() if name != "call"}
    features["weight_bits"] = float(bits.weight)
    features["log_inputs"], features["log_outputs"] = log(1 + node.input_elements), log(1 + node.output_elements)
    if node.geometry is not None:
        geometry = node.geometry
        loops = tiled_loops(geometry, bits.activation != FLOAT_BITS, unit)
        sizes = {
            "columns": loops.columns, "blocks": loops.blocks, "sum_steps": loops.steps, "inner": loops.inner,
            "tap_rows": geometry.kernel[0], "tap_columns": geometry.kernel[1], "stride": geometry.stride[0],
            "width": geometry.output_size[1], "height": geometry.output_size[0], "passes": loops.passes,
            "copy_width": loops.copy_width, "channels": geometry.input_channels / geometry.groups,
            "amx": loops.amx is not None,
        }  # fmt: skip
        if loops.amx is not None:
            amx = loops.amx
            sizes |= {
                "amx_rows": amx.rows, "amx_pixels": amx.pixels, "amx_channels": amx.channels, "amx_depth": amx.depth,
                "amx_sum_steps": amx.steps,
            }  # fmt: skip
        features |= {name: log(1 + value) for name, value in sizes.items()}
    elif node.channels:
        features |= _image_features(node, bits)
    return features


def _image_features(node: NodeFacts, bits: Widths) -> Mapping[str, float]:
    """Of what moves an image: its channels as stored, how they fill cache lines, and the window."""
    channels = -(-node.channels // STORED_CHANNELS) * STORED_CHANNELS
    features = {
        "log_channels": log(channels),
        "line_bytes": float(channels * (1 if bits.activation == 8 else 4) % LINE),
        "log_pixels": log(node.output_elements / node.channels),
    }
    if node.window is not None:
        window = node.window
        sizes = {
            "tap_rows": window.kernel[0], "tap_columns": window.kernel[1], "stride": window.stride[0],
            "width": window.output_size[1], "height": window.output_size[0], "maximum": "Max" in node.op_type,
        }  # fmt: skip
        features |= {name: log(1 + value) for name, value in sizes.items()}
    return features
