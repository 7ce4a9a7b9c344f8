"""What the time of a kernel is made of, as counts that a calibration finds the seconds of.

A node that multiplies, with the loops of `kernel_tiles`:

    steps            tiles x steps of a sum                      loops and addresses
    products         steps x vectors of sums                     multiply-accumulate instructions
    loads            steps x (columns + blocks)                  operands
    stalls           steps x max(0, 8 - sums)                    too few sums to hide an instruction's latency
    conflicts        steps x (streams of operands beyond the ways of one set of the first cache)
    tiles            tiles                                       starting a sum
    epilogues        vectors of outputs                          bias, activation, requantisation, store
    partials         vectors of outputs x parts                  sums over parts of the input, in products of a matrix
                                                                 and one row
    padding          vectors copied                              the input with its padding
    padded_pixels    pixels copied                               telling padding from the image
    unpack_B         vectors of weights of B bits                turning them into 8 bits; a vector is as many as one
                                                                 shift and mask yields, fewer than 64 where the steps of
                                                                 the sum are no multiple of 8
    from_image       elements of a network's input               bringing its few channels into the kernels' order
    weights_l2       bytes of weights read again for every tile  where those of one tile exceed the first cache
    inputs_l2        bytes of the input read again for every block of channels, where it exceeds the first cache
    beyond_l1        bytes of the working set x the share of it that the first cache does not hold
    beyond_l2        the same for the second cache
    call             1

In a kernel on AMX, whose loops are those of `amx_loops`, these stand for steps, products, loads, stalls, conflicts,
tiles, epilogues and padding:

    amx_groups       groups of tiles                             setting sums to zero, storing them for the epilogue
    amx_steps        groups x steps of a sum                     loops and addresses
    amx_products     steps x tiles of sums x pixels of a tile    multiplying tiles, one row a cycle
    amx_loads        steps x rows of operands
    amx_split_loads  steps x rows of inputs across two cache lines
    amx_epilogues_L  vectors of outputs                          finishing L channels at once
    amx_padding      cache lines copied                          the input with its padding
    amx_rounding     vectors of 32 elements                      the input, rounded to bfloat16, with its padding
    of_unpacking_first   vectors of weights                      turning them into 8 bits before the sum, not meanwhile

In a product of a matrix and one row with weights below 8 bits that are taken apart in registers:

    packed_B         vectors of weights of B bits                taking apart and multiplying
    row_steps        groups of blocks x steps of the sum         inputs, spread to all lanes
    row_sum          inputs, whole vectors                       their sum, which is taken off at the end

Pooling and depthwise layers in float32: see `pooling_terms` and `depthwise_terms`; caches as above. Any other node that
moves data: elements `read` and `written`, caches and call, for a part of an image its `pixels`, `vectors` and `loops`
over them; `of_OP` are the elements written by one operator, which may cost more than another's and need not have been
measured. A node merged into another's kernel only adds what it reads by itself (`merged_elements`).
"""

from collections import Counter
from collections.abc import Mapping
from math import gcd

from codesign.cost.amx_loops import AmxLoops
from codesign.cost.depthwise_terms import depthwise_applies, depthwise_terms
from codesign.cost.kernel_tiles import TiledLoops, is_depthwise, tiled_loops
from codesign.cost.operators import moved_elements
from codesign.cost.pooling_terms import pixel_vectors, pooling_terms
from codesign.hardware.calibration import Arithmetic, KernelClass, VectorUnit
from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import NodeFacts, packed_weight_bytes
from codesign.quantization.scheme import Widths

AMX_LATENCY, AMX_LINES = 52, 2
"""Cycles after which a tile of sums can be added to again, and cache lines that are loaded in a cycle."""
HIDING_SUMS = 8
"""Vectors of sums that hide the latency of a multiply-accumulate."""
SMALL_CACHE, LARGE_CACHE = 32_768, 1_048_576
"""Where a profile has fewer than two caches."""
POOLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean", "ReduceMax"})
FLOAT_BITS = 32
PAGE, LINE = 4096, 64
"""Bytes between addresses of one set in first caches (they are indexed within a page), and of a line."""
STORED_CHANNELS, IMAGE_CHANNELS = 16, 4
"""Activations are stored in multiples of so many channels, but for the few of a network's input."""
COPIED_BYTES = 64
"""Bytes that padding copies at once in kernels on AMX."""
ROUNDED_ELEMENTS = 32
"""Elements that one instruction rounds to bfloat16."""
SHARED_STEPS = {2: 4, 3: 8, 4: 2, 5: 8, 6: 4}
"""Steps of the sum that share a block of packed weights, by width."""
PACKED_BLOCKS = 6
"""Most blocks of outputs that products with packed weights sum side by side, some of them twice."""
PACKED_LATENCY = {2: 5 / 1.5, 3: 5 / 3.5, 4: 5 / 1.5, 5: 5 / 3.5, 6: 5 / 3.5}
"""Blocks of outputs, by width, whose steps take as long as an instruction on a sum waits for the last one."""
WINDOWS = frozenset({"Pad", "Slice"})
"""Operators that move part of an image."""
OPTIONAL = "of_"
"""Start of the names of terms that only refine others."""


def class_of(node: NodeFacts) -> KernelClass:
    """Which class of kernels computes a node.

    Args:
        node: A node that multiplies or moves data.

    Returns:
        The class.
    """
    if node.geometry is None:
        return "pooling" if node.op_type in POOLING else "elementwise"
    if node.geometry.groups > 1 and node.weight_elements and is_depthwise(node.geometry):
        return "depthwise"
    one_pixel = node.geometry.output_size == (1, 1) and node.geometry.input_size == (1, 1)
    return "dense" if one_pixel else "convolution"


def arithmetic_of(kind: KernelClass, bits: Widths, unit: VectorUnit) -> Arithmetic:
    """What a node computes in.

    Args:
        kind: Its class.
        bits: Its widths.
        unit: Vectors that kernels are compiled for.

    Returns:
        The arithmetic; `bfloat16` for convolutions in float32 whose products are of that where it is faster.
    """
    if bits.activation != FLOAT_BITS:
        return "int8"
    return "bfloat16" if unit.bfloat16 and kind == "convolution" else "float32"


def terms_of(node: NodeFacts, bits: Widths, unit: VectorUnit, memories: tuple[MemoryLevel, ...]) -> Mapping[str, float]:
    """Counts of a node.

    Args:
        node: The node, which is not free.
        bits: Its widths.
        unit: Vectors that kernels are compiled for.
        memories: Caches, nearest first.

    Returns:
        Counts by name; those that are 0 may be missing.
    """
    if node.geometry is None:
        if node.window is not None and node.fused_into is None:
            return {
                **pooling_terms(node.op_type, node.window, bits),
                **_beyond(node, bits, memories),
            }
        return _moving_terms(node, bits, memories)
    integers = bits.activation != FLOAT_BITS
    if not integers and depthwise_applies(node.geometry):
        return {**depthwise_terms(node.geometry), **_beyond(node, bits, memories)}
    loops = tiled_loops(node.geometry, integers, unit)
    if is_packed(loops, bits, unit):
        return _packed_terms(node, loops, bits, memories)
    if loops.amx is not None:
        return _amx_terms(node, loops, loops.amx, bits, memories)
    return _multiplying_terms(node, loops, bits, memories)


def _multiplying_terms(
    node: NodeFacts, loops: TiledLoops, bits: Widths, memories: tuple[MemoryLevel, ...]
) -> Mapping[str, float]:
    small, _ = _capacities(memories)
    element = bits.activation / 8
    steps = float(loops.tiles * loops.steps)
    tile_weights = loops.tile_weights * element
    inputs = _stored(node)[0] * element
    terms = {
        "call": 1.0,
        "steps": steps,
        "products": steps * loops.sums,
        "loads": steps * (loops.columns + loops.blocks),
        "stalls": steps * max(0, HIDING_SUMS - loops.sums),
        "conflicts": steps * _crowded_streams(loops, node, element, small),
        "tiles": float(loops.tiles),
        "epilogues": loops.outputs / loops.lanes,
        "partials": loops.outputs / loops.lanes * loops.columns if loops.is_vector else 0.0,
        "padding": loops.padded / min(loops.copy_width, LINE / element),
        "padded_pixels": loops.padded / loops.in_channels,
        "weights_l2": loops.tiles * float(tile_weights) if tile_weights > small / 2 else 0.0,
        "inputs_l2": loops.passes * float(inputs) if inputs > small / 2 else 0.0,
        "from_image": float(node.input_elements) if loops.from_image else 0.0,
        **_beyond(node, bits, memories),
    }
    if bits.weight < 8:
        lanes = loops.inner * loops.lanes
        steps = loops.steps * (loops.columns if loops.is_vector else 1)
        terms[f"unpack_{bits.weight}"] = loops.tile_weights * loops.passes / _expanded_at_once(steps, lanes, bits)
    return terms


def is_packed(loops: TiledLoops, bits: Widths, unit: VectorUnit) -> bool:
    """Whether a kernel is a product of a matrix and one row that takes its weights apart in registers.

    Args:
        loops: Its loops.
        bits: Its widths.
        unit: Vectors that kernels are compiled for.

    Returns:
        True for weights below 8 bits (as `packed_matrix_vector` of the TVM kernels).
    """
    return loops.is_vector and bits.weight in SHARED_STEPS and unit.dot_channels > 1


def packed_blocks(blocks: int, bits: Widths) -> int:
    """Blocks of outputs that a product with packed weights sums side by side.

    Args:
        blocks: Blocks of 16 outputs.
        bits: Its widths.

    Returns:
        The number that takes the fewest cycles, as the compiler chooses it.
    """
    counts = range(min(PACKED_BLOCKS, blocks), 0, -1)
    return min(counts, key=lambda count: -(-blocks // count) * max(count, PACKED_LATENCY[bits.weight]))


def _packed_terms(
    node: NodeFacts, loops: TiledLoops, bits: Widths, memories: tuple[MemoryLevel, ...]
) -> Mapping[str, float]:
    blocks = loops.outputs // loops.lanes
    together = packed_blocks(blocks, bits)
    groups = -(-blocks // together)
    inputs = loops.tile_weights / (loops.lanes * loops.blocks)
    return {
        "call": 1.0,
        f"packed_{bits.weight}": inputs / loops.inner * groups * together,
        "row_steps": inputs / loops.inner * groups,
        "tiles": float(groups),
        "epilogues": float(groups * together),
        "row_sum": inputs / COPIED_BYTES,
        **_beyond(node, bits, memories),
    }


def _amx_terms(
    node: NodeFacts, loops: TiledLoops, amx: AmxLoops, bits: Widths, memories: tuple[MemoryLevel, ...]
) -> Mapping[str, float]:
    small, _ = _capacities(memories)
    steps, products = float(amx.groups * amx.steps), amx.pixels * amx.channels * amx.rows
    inputs = node.input_elements * bits.activation / 8
    passes = 1 if loops.rounded else amx.passes  # what is rounded stays near
    terms = {
        "call": 1.0,
        "amx_groups": float(amx.groups),
        "amx_tiles": float(amx.groups * amx.pixels * amx.channels),
        "amx_steps": steps,
        "amx_products": steps * products,
        "amx_loads": steps * amx.loads,
        "amx_split_loads": steps * amx.split_loads,
        "amx_stalls": float(amx.groups * (amx.steps - 1) * max(0, AMX_LATENCY - products)),
        "amx_waits": steps * max(0.0, (amx.loads + amx.split_loads) / AMX_LINES - products),
        f"amx_epilogues_{amx.lanes}": float(amx.groups * products),
        "amx_padding": 0.0 if loops.rounded else loops.padded / COPIED_BYTES,
        "amx_rounding": loops.rounded / ROUNDED_ELEMENTS,
        "from_image": float(node.input_elements) if loops.from_image else 0.0,
        "inputs_l2": passes * inputs if inputs > small / 2 else 0.0,
        **_beyond(node, bits, memories),
    }
    if bits.weight < 8:
        rows = amx.steps * amx.depth // loops.inner
        terms[f"unpack_{bits.weight}"] = amx.weights / _expanded_at_once(rows, LINE, bits)
        if amx.depth // loops.inner % _packed_steps(rows, bits):
            terms[f"{OPTIONAL}unpacking_first"] = terms[f"unpack_{bits.weight}"]
    return terms


def _packed_steps(steps: int, bits: Widths) -> int:
    """Steps of the sum whose weights are packed together."""
    return gcd(SHARED_STEPS[bits.weight], steps)


def _expanded_at_once(steps: int, lanes: int, bits: Widths) -> int:
    """Weights that one shift and mask yields, of steps of so many weights each."""
    return min(lanes, lanes * _packed_steps(steps, bits) // SHARED_STEPS[bits.weight])


def _moving_terms(node: NodeFacts, bits: Widths, memories: tuple[MemoryLevel, ...]) -> Mapping[str, float]:
    if node.fused_into is not None:
        return {"merged_elements": float(moved_elements(node))}
    read, written = _stored(node)
    terms = {
        "call": 1.0,
        "read": read,
        "written": written,
        f"{OPTIONAL}{node.op_type}": written,
        **_beyond(node, bits, memories),
    }
    if node.op_type in WINDOWS and node.channels:
        pixels, element_bytes = node.output_elements / node.channels, bits.activation // 8
        spans = [pixel_vectors(count, element_bytes) for count in _runs(node, pixels)]
        terms["pixels"] = pixels
        terms["vectors"] = pixels * sum(sum(vectors.values()) for vectors in spans)
        terms["loops"] = pixels * sum(map(len, spans))
    return terms


def _runs(node: NodeFacts, pixels: float) -> tuple[int, ...]:
    """Elements of a pixel that are written one after the other: padding, image, padding; a slice copies it whole."""
    stored = -(-node.channels // STORED_CHANNELS) * STORED_CHANNELS
    moved = round(node.input_elements / pixels)
    if node.op_type == "Slice" or moved >= node.channels:
        return (stored,)
    before = (node.channels - moved) // 2  # half on each side, as far as the counts tell
    return (before, moved, stored - before - moved)


def _crowded_streams(loops: TiledLoops, node: NodeFacts, element: float, small: float) -> int:
    """Streams that a step reads at distances which fall into one set of the first cache, beyond its ways."""
    weights = loops.inner * loops.lanes * element
    block = loops.steps * weights * (loops.columns if loops.is_vector else 1)
    starts = [block * index for index in range(loops.blocks)]
    if loops.is_vector:
        starts = [start + loops.steps * weights * part for start in starts for part in range(loops.columns)]
    elif node.geometry is not None:
        pixel = node.geometry.stride[1] * -(-node.geometry.input_channels // loops.lanes) * loops.lanes * element
        starts += [pixel * column for column in range(loops.columns)]
    sets = Counter(int(start % PAGE) // LINE for start in starts)
    return sum(max(0, count - int(small // PAGE)) for count in sets.values())


def _beyond(node: NodeFacts, bits: Widths, memories: tuple[MemoryLevel, ...]) -> Mapping[str, float]:
    size, (small, large) = _bytes(node, bits), _capacities(memories)
    return {"beyond_l1": size * _share_beyond(size, small), "beyond_l2": size * _share_beyond(size, large)}


def _share_beyond(size: float, capacity: float) -> float:
    """Share of a working set that a cache does not hold.

    Pages fall into its sets by chance, so that some are full when half of it is; and what is read in turns leaves a
    full cache before it is read again.
    """
    return min(1.0, max(0.0, 2 * size / capacity - 1))


def _bytes(node: NodeFacts, bits: Widths) -> float:
    """Bytes of a node's operands and results."""
    weights = packed_weight_bytes(node, bits) if node.weight_elements else 0
    return sum(_stored(node)) * bits.activation / 8 + weights


def _stored(node: NodeFacts) -> tuple[float, float]:
    """Elements read and written, channels rounded up to whole vectors as kernels store them."""
    loops = node.geometry or node.window
    before, after = (loops.input_channels, loops.output_channels) if loops else (node.channels, node.channels)
    read, written = node.input_elements * _padding_factor(before), node.output_elements * _padding_factor(after)
    return (min(read, written) if node.op_type == "Slice" else read), written


def _padding_factor(channels: int) -> float:
    return -(-channels // STORED_CHANNELS) * STORED_CHANNELS / channels if channels > IMAGE_CHANNELS else 1.0


def _capacities(memories: tuple[MemoryLevel, ...]) -> tuple[float, float]:
    sizes = [level.capacity_bytes for level in memories[:-1]]
    return (sizes[0] if sizes else SMALL_CACHE), (sizes[1] if len(sizes) > 1 else LARGE_CACHE)
