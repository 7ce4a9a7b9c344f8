"""A small observed network, its data, and processes played by threads."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from codesign.data_parallel import Shard
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.testing.programs import small_program

torch.set_num_threads(1)
SAMPLES = 13


@dataclass(frozen=True)
class ThreadShard(Shard):
    """A part of the data that belongs to a thread; gathers like `Shard`, without a process group."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    parcels: dict[int, Tensor] = field(default_factory=dict)

    def gather(self, values: Tensor) -> Tensor:
        self.parcels[self.rank] = values
        self.meeting.wait(timeout=60)
        gathered = torch.cat([self.parcels[rank] for rank in range(self.parts)])
        self.meeting.wait(timeout=60)
        return gathered


RunTogether = Callable[[Pass, Sequence[Program], PassContext], None]


def _run_together(pass_: Pass, programs: Sequence[Program], context: PassContext) -> None:
    """Runs a pass on copies of a program in as many processes, each of which holds its part of the samples."""
    meeting, parcels = threading.Barrier(len(programs)), dict[int, Tensor]()
    shards = [ThreadShard(rank, len(programs), meeting, parcels) for rank in range(len(programs))]
    threads = [
        threading.Thread(target=pass_.run, args=(program, replace(context, shard=shard)))
        for program, shard in zip(programs, shards, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


@pytest.fixture
def run_together() -> RunTogether:
    return _run_together


@pytest.fixture
def data() -> CalibrationData:
    random = np.random.default_rng(5)
    images = random.normal(size=(SAMPLES, 3, 8, 8)).astype(np.float32)
    return CalibrationData(images, random.integers(0, 5, SAMPLES))


@pytest.fixture
def observed(data: CalibrationData) -> Callable[[], Program]:
    """Makes the same observed program each time."""

    def make() -> Program:
        program = small_program()
        ObserveActivationsPass().run(program, PassContext(data))
        return program

    return make
