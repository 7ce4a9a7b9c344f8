"""What every part of a joint search may use."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from codesign.architecture.space import ArchitectureSpace, Variant, largest
from codesign.architecture.space_file import space_of
from codesign.cost.base import CostModel
from codesign.cost.select import cost_model_for
from codesign.errors import InputError
from codesign.files import digest_of
from codesign.flow.context import RunContext, RunData, load_data
from codesign.flow.prepare import versions
from codesign.hardware.catalog import load_profile, load_target
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.target import Target
from codesign.progress import Progress
from codesign.quantization.scheme import BitWidths
from codesign.run_file import ModelSection, ProductMeasureSection, RunFile
from codesign.run_folder import RunFolder
from codesign.search_file import SearchFile
from codesign.training.preprocessing import check_fits

STUDY = "study.journal"
ELASTIC = "elastic"


@dataclass(frozen=True)
class TargetContext:
    """One target of a search.

    Attributes:
        target: Where the network shall run.
        profile: The target's device.
        cost_model: Prices nodes on it.
        widths: That the search may give to a weight there.
    """

    target: Target
    profile: HardwareProfile
    cost_model: CostModel
    widths: tuple[BitWidths, ...]

    @property
    def is_several(self) -> bool:
        """Whether the target has several devices."""
        return bool(self.target.devices) or math.prod(self.target.mesh_shape) > 1


@dataclass(frozen=True)
class SearchContext:
    """What every part of a search may use.

    Attributes:
        search: The run file.
        base: Folder that relative paths in it start from.
        store: The search's folder.
        space: Architectures.
        data: All data, at the size that it is stored in.
        targets: In the order of the run file.
        storage: Where trials are kept.
        progress: Told about long work.
    """

    search: SearchFile
    base: Path
    store: RunFolder
    space: ArchitectureSpace
    data: RunData
    targets: tuple[TargetContext, ...]
    storage: str
    progress: Progress
    _sized: dict[tuple[int, int], RunData] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        """The search's folder."""
        return self.store.path

    @property
    def shared_weights(self) -> Path:
        """File of the weights that all variants share."""
        return self.folder / ELASTIC / "weights.safetensors"

    def subject(self, place: TargetContext) -> str:
        """Digest of all that a trial's result depends on beside its variant; names the study.

        Args:
            place: The target.

        Returns:
            Eight hexadecimal digits. With another space, other weights, data, widths, limits or another device a search
            begins anew beside the old one.
        """
        search = self.search
        decided = search.search.model_dump(mode="json", include={"limits", "metrics", "points", "calibration_samples"})
        return digest_of(
            self.shared_weights,
            search.space.model_dump(mode="json"),
            self.data.tuning_digest,
            search.quantization.model_dump(mode="json"),
            decided,
            search.seed,
            place.target.model_dump(mode="json"),
            place.profile.model_dump(mode="json"),
            versions(),
        )[:8]

    def data_for(self, variant: Variant) -> RunData:
        """Data at the resolution of a variant.

        Args:
            variant: Which network.

        Returns:
            The same samples; images of other sizes are scaled.
        """
        shape = self.space.input_shape(variant)
        if len(shape) != 4:
            return self.data
        size = (shape[2], shape[3])
        if size not in self._sized:
            self._sized[size] = dataclasses.replace(self.data, image_size=size)
        return self._sized[size]

    def run_context(self, variant: Variant, place: TargetContext, folder: Path) -> RunContext:
        """A variant as if it were the network of a run of its own.

        Args:
            variant: Which network.
            place: Which target.
            folder: Where its results go.

        Returns:
            What the steps of a run use.
        """
        search = self.search
        run = RunFile(
            name=search.name,
            target=place.target.name,
            seed=search.seed,
            model=ModelSection(source=str(variant), input_shape=self.space.input_shape(variant)),
            data=search.data,
            quantization=search.quantization,
            measure=ProductMeasureSection.model_validate(search.measure.model_dump()),
        )
        store = RunFolder(folder, self.progress)
        data = self.data_for(variant)
        return RunContext(run, self.base, store, place.target, place.profile, place.cost_model, data, self.progress)


def open_search(search: SearchFile, base: Path, folder: Path, storage: str | None, progress: Progress) -> SearchContext:
    """Loads space, data and targets, and refuses what does not fit together before any work starts.

    Args:
        search: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results go.
        storage: Where trials are kept; None for a journal in the folder.
        progress: Told about loading.

    Returns:
        What the parts use.

    Raises:
        InputError: The space is empty, data does not fit the networks, or a target has none of the widths.
    """
    space = space_of(search.space, base)
    targets = tuple(_target_context(search, name, base, progress) for name in search.targets)
    data = load_data(search.data, search.seed, base, progress)
    _check_data(space, data)
    store = RunFolder(folder, progress)
    return SearchContext(search, base, store, space, data, targets, storage or f"journal:{folder / STUDY}", progress)


def _target_context(search: SearchFile, name: str, base: Path, progress: Progress) -> TargetContext:
    local = base / name
    target = load_target(str(local) if name.endswith(".toml") and local.is_file() else name)
    if target.runner == "qemu-aarch64":
        raise InputError(f"targets: {target.name!r} counts instructions, by which nothing can be chosen; leave it out")
    profile = load_profile(target.profile, target.threads)
    asked, activation = search.quantization.weight_bits, search.quantization.activation_bits
    profiles = [profile, *(load_profile(group.profile, target.threads) for group in target.devices)]
    has = {w.weight for p in profiles for w in p.bit_widths if w.activation == activation}
    widths = tuple(BitWidths(bits, activation) for bits in sorted(asked) if bits in has)
    if not widths:
        raise InputError(
            f"quantization.weight_bits: target {target.name!r} has rates for {sorted(has)} bits with {activation}-bit "
            f"activations, got {list(asked)}; name one of these, or leave the target out"
        )
    missing = [bits for bits in asked if bits not in has]
    if missing:
        progress.note(f"{target.name} has no rate for weights of {', '.join(map(str, missing))} bits: left out there")
    return TargetContext(target, profile, cost_model_for(profile), widths)


def _check_data(space: ArchitectureSpace, data: RunData) -> None:
    """Channels and classes must fit; height and width are scaled where an axis of the space says so."""
    shape = space.input_shape(largest(space))
    stored = data.splits.training.images.shape[1:]
    preprocessing = data.section.preprocessing
    scaled = any(axis.name == "resolution" for axis in space.axes)
    if len(shape) == 4 and scaled and preprocessing.layout == "NHWC":
        shape = (*shape[:2], *stored[:2])
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        network = space.network(largest(space)).eval()
        logits = network(torch.zeros(space.input_shape(largest(space))))
    for dataset in (data.splits.training, *data.test_sets.values()):
        check_fits(dataset, preprocessing, shape, tuple(logits.shape))
