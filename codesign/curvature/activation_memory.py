"""How much memory a forward pass keeps for each sample, measured, so that chunks follow from a limit."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def activation_bytes_per_sample(forward: Callable[[Tensor], Iterable[Tensor]], inputs: Tensor) -> int:
    """Bytes that autograd and the caller keep for one sample of a forward pass.

    The pass is run on one and on two samples (three in all): the difference leaves out what is kept once for any number
    of samples, such as weights. A storage that is seen several times is counted once.

    Args:
        forward: Runs the network with gradients on, and returns what the caller keeps, the outputs among it.
        inputs: `[N, ...]`; the first sample is used.

    Returns:
        Bytes; at least those of one input.
    """
    one = inputs[:1].clone()  # a view would be counted with the storage of all samples
    found = _kept_bytes(forward, torch.cat([one, one])) - _kept_bytes(forward, one)
    return max(found, one.numel() * one.element_size())


def _kept_bytes(forward: Callable[[Tensor], Iterable[Tensor]], inputs: Tensor) -> int:
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor.detach())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for tensor in forward(inputs):
            note(tensor)
    return sum(sizes.values())
