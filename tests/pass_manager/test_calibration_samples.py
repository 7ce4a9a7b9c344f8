import numpy as np
import pytest
import torch

from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.calibration_samples import (
    LARGEST_BATCH,
    Samples,
    live_elements_at_once,
    own_samples,
    result_elements,
)
from codesign.testing.programs import small_program

IMAGES = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
DATA = CalibrationData(IMAGES, np.arange(20))


def _own(context: PassContext, limit: int = 16) -> Samples:
    return own_samples("some-pass", small_program(), context, limit, torch.float64, elements=1000)


def test_parts_of_all_processes_are_the_first_samples_in_order() -> None:
    parts = [_own(PassContext(DATA, shard=Shard(rank, 3))) for rank in range(3)]
    assert torch.cat([part.images for part in parts]).numpy() == pytest.approx(IMAGES[:16])
    assert torch.cat([part.labels for part in parts if part.labels is not None]).tolist() == list(range(16))
    assert parts[0].images.dtype == torch.float64


@pytest.mark.parametrize(("memory", "batch"), [(1, 1), (3 * 8000, 3), (2**40, LARGEST_BATCH)])
def test_batches_fit_the_memory_and_hold_every_sample_once(memory: int, batch: int) -> None:
    samples = _own(PassContext(DATA, memory_bytes=memory))
    assert samples.batch == batch
    batches = list(samples.batches())
    assert len(batches) == samples.batch_count == -(-16 // batch)
    sizes = [len(images) for images, _ in batches]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    torch.testing.assert_close(torch.cat([images for images, _ in batches]), samples.images)
    assert [int(label) for _, labels in batches if labels is not None for label in labels] == list(range(16))


def test_elements_come_from_the_shapes() -> None:
    program = small_program()
    plane = 4 * 8 * 8
    assert result_elements(program) == 4 * plane + 4 + 4 + 5
    assert live_elements_at_once(program) == 2 * 3 * plane  # the addition: two operands and the result, and workspace


@pytest.mark.parametrize(
    ("context", "limit", "message"),
    [
        (PassContext(), 4, "pass some-pass needs calibration data"),
        (PassContext(CalibrationData(IMAGES[:0])), 4, "pass some-pass needs calibration data"),
        (PassContext(DATA), 0, "samples is 0, allowed are 1 or more"),
        (PassContext(CalibrationData(IMAGES[:, :2])), 4, r"have shape \[2, 8, 8\], the network takes \[3, 8, 8\]"),
        (PassContext(CalibrationData(np.full_like(IMAGES, np.nan))), 4, "calibration image 0 holds NaN"),
        (PassContext(DATA, shard=Shard(0, 5)), 4, "4 samples cannot be split among 5 processes"),
    ],
)
def test_bad_data_is_refused(context: PassContext, limit: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _own(context, limit)
