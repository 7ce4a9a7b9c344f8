"""Traces of all layers within 1 %: CPU seconds of packed Gauss-Newton, PyHessian and curvlinops, in one run."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from curvature_peers import (
    COLUMNS,
    block_factors,
    curvlinops_product,
    layer_weights,
    only,
    probe_variance,
    pyhessian_probe,
    xtrace_products,
)
from curvature_setup import (
    Bar,
    Part,
    Seconds,
    interleaved,
    module_of,
    print_table,
    reference_images,
    reference_values,
    version_of,
)
from torch import Tensor, nn

from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import GaussNewtonResult, PackingOptions, gauss_newton_blocks

WANTED = 0.01
"""Relative error of every layer. Estimators at random are asked for this as relative standard error of every layer, in
which case about a third of the layers lie outside; ours is asked for the error itself."""
DROPS = (0.01, 0.001)
PYHESSIAN, CURVLINOPS = "PyHessian", "curvlinops-for-pytorch"


@dataclass(frozen=True)
class Peer:
    """What one estimator needs for all layers.

    Attributes:
        name: Package and method.
        products: With vectors, of all layers together.
        seconds: CPU seconds for all of them.
    """

    name: str
    products: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """What is measured on.

    Attributes:
        module: ResNet-20.
        images: `[200, 3, 32, 32]`.
        labels: `[200]`.
        rounds: Repetitions of each time.
    """

    module: nn.Module
    images: Tensor
    labels: Tensor
    rounds: int

    def forward(self) -> Tensor:
        """One forward pass without gradients."""
        with torch.no_grad():
            logits: Tensor = self.module(self.images)
        return logits

    def ours(self, drop: float) -> GaussNewtonResult:
        """Traces of all layers."""
        network = ModuleNetwork(self.module, self.images.dtype)
        return gauss_newton_blocks(network, self.images, list(network.geometries), options=PackingOptions(drop=drop))


def traces(rounds: int, probes: int, seeds: int) -> Part:
    """Runs the part.

    Args:
        rounds: Repetitions of each time.
        probes: Joint products from which the variance of PyHessian's pieces is estimated.
        seeds: Runs of XTrace at each number of products.

    Returns:
        Bars and numbers.
    """
    torch.set_num_threads(1)
    setting = Setting(module_of("resnet20"), *reference_images(torch.float32), rounds)
    part = Part()
    times = _joint_times(setting)
    ours = _our_rows(setting, times, part)
    factors = block_factors(setting.module, setting.images)
    variances = {name: probe_variance(factor) for name, factor in factors.items()}
    peers: list[Peer] = []
    if version_of(PYHESSIAN) is not None:
        peers += _pyhessian(setting, times["PyHessian product"], variances, probes, part)
    if version_of(CURVLINOPS) is not None:
        peers += _curvlinops(setting, factors, variances, seeds, part)
    rows = [[p.name, p.products, p.seconds, p.seconds / ours.least] for p in peers]
    print_table(
        f"CPU seconds for a relative standard error of {WANTED:.0%} in every layer, against ours (minima)",
        ["estimator", "products", "CPU s", "times ours"],
        rows,
    )
    for package, methods in ((PYHESSIAN, ("Hutchinson",)), (CURVLINOPS, ("Hutchinson", "XTrace"))):
        for method in methods:
            found = [p.seconds for p in peers if p.name.startswith(f"{package} {method}")]
            note = "" if found else f"{package} is not installed: pip install -e '.[benchmarks]'"
            ratio = min(found) / ours.least if found else None
            part.bars.append(Bar(f"traces: {package} {method}, cheapest way / ours", ratio, least=100, note=note))
    part.numbers["peers"] = [vars(peer) for peer in peers]
    part.numbers["probe_variance"] = variances
    return part


def _joint_times(setting: Setting) -> dict[str, Seconds]:
    module = setting.module
    work: dict[str, Callable[[], object]] = {"forward": setting.forward}
    for drop in DROPS:
        work[f"ours, drop {drop:g}"] = lambda drop=drop: setting.ours(drop)  # type: ignore[misc] # default argument
    if version_of(PYHESSIAN) is not None:
        work["PyHessian product"] = pyhessian_probe(module, setting.images, setting.labels, {})
    if version_of(CURVLINOPS) is not None:
        everything = dict(module.named_parameters())
        work["curvlinops product"] = curvlinops_product(module, setting.images, setting.labels, everything, 1)
    times = interleaved(work, setting.rounds)
    for parameter in module.parameters():
        parameter.grad = None  # PyHessian leaves its graph there
    print_table(
        "CPU seconds on one thread, 200 images, products over all parameters",
        ["work", "least / median", "forward passes"],
        [[name, str(taken), taken.least / times["forward"].least] for name, taken in times.items()],
    )
    return times


def _our_rows(setting: Setting, times: Mapping[str, Seconds], part: Part) -> Seconds:
    """Errors and bars; returns the time at the default options."""
    wanted = reference_values()
    rows = []
    for drop in DROPS:
        result = setting.ours(drop)
        errors = {name: abs(result.blocks[name].trace / layer.trace - 1) for name, layer in wanted.items()}
        in_errors = [
            abs(result.blocks[name].trace - layer.trace) / result.blocks[name].standard_error
            for name, layer in wanted.items()
        ]
        taken = times[f"ours, drop {drop:g}"]
        rows.append([f"drop {drop:g}", max(errors.values()), statistics.fmean(errors.values()), max(in_errors)])
        part.numbers[f"drop {drop:g}"] = {"relative_errors": errors, "cpu_s": taken.taken}
    print_table(
        "Packed Gauss-Newton, fp32, against the float64 reference, 20 layers",
        ["options", "largest relative error", "mean", "largest error / standard error"],
        rows,
    )
    default = times[f"ours, drop {DROPS[-1]:g}"]
    part.numbers["forward_cpu_s"] = times["forward"].taken
    part.bars.append(Bar("traces: largest relative error of 20 layers", float(str(rows[-1][1])), most=WANTED))
    part.bars.append(Bar("traces: CPU time / one forward pass", default.least / times["forward"].least, most=10))
    return default


def _pyhessian(
    setting: Setting, product: Seconds, variances: Mapping[str, float], probes: int, part: Part
) -> list[Peer]:
    """Joint products with pieces by layer, products with one layer alone, and the best mixture of both."""
    module, weights = setting.module, layer_weights(setting.module)
    torch.manual_seed(0)  # PyHessian draws from the global generator
    probe = pyhessian_probe(module, setting.images, setting.labels, weights)
    pieces = [probe() for _ in range(probes)]
    del probe
    for parameter in module.parameters():
        parameter.grad = None
    wanted = reference_values()
    joint = {name: statistics.variance(p[name] for p in pieces) / wanted[name].trace ** 2 for name in weights}
    alone_s = {}
    for name, weight in weights.items():
        with only(module, {name: weight}):
            run = pyhessian_probe(module, setting.images, setting.labels, {name: weight})
            alone_s[name] = interleaved({name: run}, setting.rounds)[name].least
            del run
    part.numbers["pyhessian"] = {
        "product_cpu_s": product.taken,
        "joint_probe_variance": joint,
        "probes": probes,
        "product_cpu_s_by_layer": alone_s,
    }
    print_table(
        f"One Rademacher probe by PyHessian: relative standard deviation, joint from {probes} probes, alone exact",
        ["layer", "joint", "alone", "CPU s alone"],
        [[name, joint[name] ** 0.5, variances[name] ** 0.5, alone_s[name]] for name in weights],
    )
    label = f"{PYHESSIAN} Hutchinson"
    return [
        _mixture(f"{label}, joint products", product.least, joint, None, {}),
        _mixture(f"{label}, each layer alone", product.least, {}, variances, alone_s),
        _mixture(f"{label}, best mixture", product.least, joint, variances, alone_s),
    ]


def _mixture(
    name: str,
    joint_s: float,
    joint: Mapping[str, float],
    alone: Mapping[str, float] | None,
    alone_s: Mapping[str, float],
) -> Peer:
    """Joint products for the layers that they suffice for, products alone for the rest, as cheap as possible."""
    needed = {layer: variance / WANTED**2 for layer, variance in joint.items()}
    options = []
    for products in [max(needed.values())] if alone is None else [0.0, *needed.values()]:
        rest = {} if alone is None else {k: v / WANTED**2 for k, v in alone.items() if needed.get(k, 1) > products}
        seconds = products * joint_s + sum(count * alone_s[layer] for layer, count in rest.items())
        options.append(Peer(name, products + sum(rest.values()), seconds))
    return min(options, key=lambda option: option.seconds)


@dataclass(frozen=True)
class ProductTime:
    """CPU seconds of curvlinops' products with k vectors at once: `fixed + each * k`, from k = 1 and k = COLUMNS.

    Attributes:
        fixed: The forward pass that they share.
        each: Of one more vector.
    """

    fixed: float
    each: float


def _product_time(setting: Setting, weights: Mapping[str, nn.Parameter]) -> ProductTime:
    module, images, labels = setting.module, setting.images, setting.labels
    work = {str(k): curvlinops_product(module, images, labels, weights, k) for k in (1, COLUMNS)}
    taken = interleaved(work, setting.rounds)
    one, several = taken["1"].least, taken[str(COLUMNS)].least
    each = min((several - one) / (COLUMNS - 1), one)  # noise must not make the shared part negative
    return ProductTime(one - each, each)


def _curvlinops(
    setting: Setting, factors: Mapping[str, Tensor], variances: Mapping[str, float], seeds: int, part: Part
) -> list[Peer]:
    """One Hessian operator for each layer, which is how a user of curvlinops gets traces of layers.

    All vectors of a layer are taken to be multiplied at once, whatever memory that takes: the cheapest way there is.
    """
    rows, hutchinson, exchangeable = [], [], []
    for name, weight in layer_weights(setting.module).items():
        time = _product_time(setting, {name: weight})
        probes = variances[name] / WANTED**2
        found = xtrace_products(factors[name], WANTED, seeds)
        products, error = found if found is not None else (math.inf, math.nan)
        hutchinson.append((probes, time.fixed + time.each * probes))
        exchangeable.append((products, 2 * time.fixed + time.each * products))  # two rounds of half the vectors each
        rows.append([name, time.fixed, time.each, probes, products, error])
    columns = ["layer", "CPU s fixed", "CPU s each", "Hutchinson", "XTrace", "XTrace error reached"]
    title = f"curvlinops: products for a relative error of {WANTED:.0%}; XTrace: root mean square of {seeds} runs"
    print_table(title, columns, rows)
    part.numbers["curvlinops"] = {"columns": columns, "rows": rows}
    return [
        Peer(f"{CURVLINOPS} {method}, each layer alone", sum(n for n, _ in taken), sum(s for _, s in taken))
        for method, taken in (("Hutchinson", hutchinson), ("XTrace", exchangeable))
    ]
