"""The first step of a joint search: weights that all variants share."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.architecture.space import Variant
from codesign.files import digest_of, write_json
from codesign.flow.prepare import source_digest, versions
from codesign.flow.search_context import ELASTIC, SearchContext

if TYPE_CHECKING:
    from torch import nn

    from codesign.architecture.supernet import Supernet

SECONDS = "seconds.json"


def train_shared_weights(context: SearchContext) -> Path:
    """Trains the shared weights; step `elastic`. Search samples are not trained on.

    Args:
        context: The search.

    Returns:
        File of the weights.
    """
    search, folder = context.search, context.folder / ELASTIC
    dataset = context.data.training_without_search
    key = digest_of(
        search.space.model_dump(mode="json"),
        None if search.space.source is None else source_digest(search.space.source, context.base),
        search.elastic.model_dump(mode="json"),
        search.data.preprocessing.model_dump(mode="json"),
        dataset.digest,
        search.seed,
        versions(),
    )

    def compute() -> list[Path]:
        from codesign.training.elastic import train_elastic

        started = time.perf_counter()
        weights = train_elastic(
            context.space,
            dataset,
            search.data.preprocessing,
            search.elastic,
            folder,
            context.progress,
            search.seed,
        )
        write_json(folder / SECONDS, {"seconds": time.perf_counter() - started})
        return [weights]

    context.store.step(ELASTIC, key, compute)
    return context.shared_weights


def calibrated_network(context: SearchContext, supernet: "Supernet", variant: Variant) -> "nn.Module":
    """A variant with shared weights and BatchNorm statistics of its own.

    Args:
        context: The search.
        supernet: The shared weights.
        variant: Which one.

    Returns:
        The network, in evaluation mode. Statistics are those of training images, drawn by the search's seed.
    """
    import numpy as np
    import torch

    from codesign.training import elastic

    data = context.data_for(variant)
    dataset = data.training_without_search
    count = min(len(dataset), context.search.search.calibration_samples)
    chosen = np.random.default_rng(context.search.seed).permutation(len(dataset))[:count]
    images = torch.from_numpy(data.prepared(dataset.subset(np.sort(chosen))))
    return elastic.calibrated_network(supernet, variant, images)
