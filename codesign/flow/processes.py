"""Joining the processes that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from codesign.data_parallel import Shard


@contextmanager
def joined_processes() -> Iterator[Shard]:
    """Lets the processes of one `torchrun` call work as one; without torchrun there is one process.

    Yields:
        This process's part of the data. Tensors on CPUs are exchanged by gloo, those on GPUs by NCCL.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # set by torchrun
        yield Shard()
        return
    import torch
    from torch import distributed

    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Shard.of_process_group()
    finally:
        distributed.destroy_process_group()
