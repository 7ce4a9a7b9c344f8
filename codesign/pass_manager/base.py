"""What a pass is."""

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

from codesign.data_parallel import Shard
from codesign.ir.annotation import Annotation
from codesign.ir.program import Program
from codesign.pass_manager.options import option_text
from codesign.progress import Progress, Silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AnnotationSet = frozenset[type[Annotation]]


@dataclasses.dataclass(frozen=True)
class CalibrationData:
    """Samples that passes may look at; never the test data.

    Attributes:
        images: Preprocessed inputs `[N, ...]`, float32, in the layout that the network takes.
        labels: Class indices `[N]`, int64; None where there are none.
    """

    images: "NDArray[np.float32]"
    labels: "NDArray[np.int64] | None" = None


@dataclasses.dataclass(frozen=True)
class PassContext:
    """What a pass may use beside the graph.

    Attributes:
        calibration: Data for passes that run the network; None if the user gave none.
        seed: Source of all randomness.
        progress: Told about long work.
        shard: This process's part where several share the samples; `calibration` holds all of them.
        memory_bytes: Most memory that a pass may plan to use for values that it holds at once.
    """

    calibration: CalibrationData | None = None
    seed: int = 0
    progress: Progress = dataclasses.field(default_factory=Silent)
    shard: Shard = dataclasses.field(default_factory=Shard)
    memory_bytes: int = 2**30


@dataclasses.dataclass(frozen=True)
class Pass(abc.ABC):
    """A named step over one program; its dataclass fields are its options.

    Attributes:
        name: Kebab-case name, the same as the entry point's.
        requires: Facts that an earlier pass must provide, whatever the options.
        provides: Facts that are on every node they apply to when the pass has run.
    """

    name: ClassVar[str]
    requires: ClassVar[AnnotationSet] = frozenset()
    provides: ClassVar[AnnotationSet] = frozenset()

    @abc.abstractmethod
    def run(self, program: Program, context: PassContext) -> None:
        """Does the pass's work in place.

        Args:
            program: What to annotate or transform; only its graph may change.
            context: Data, seed and progress.
        """

    def required(self) -> AnnotationSet:
        """Facts that an earlier pass must provide; overridden where they depend on the options.

        Returns:
            `requires`, unless overridden.
        """
        return self.requires

    def __str__(self) -> str:
        shown = (field for field in dataclasses.fields(self) if getattr(self, field.name) != _default(field))
        options = ",".join(f"{f.name.replace('_', '-')}={option_text(getattr(self, f.name))}" for f in shown)
        return f"{self.name}{{{options}}}" if options else self.name


def _default(field: "dataclasses.Field[object]") -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


class AnalysisPass(Pass):
    """Adds facts; leaves nodes, edges, attributes and weights alone."""


class TransformPass(Pass):
    """Rewrites the graph; every fact that is not in `preserves` becomes stale.

    Attributes:
        preserves: Facts that stay true.
    """

    preserves: ClassVar[AnnotationSet] = frozenset()
