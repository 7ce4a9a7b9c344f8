"""Weights and the state of training in `.safetensors` files: no pickle, and never half a file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from codesign.files import write_bytes
from codesign.progress import Progress

WEIGHTS, OPTIMIZER = "module/", "optimizer/"
KEY, EPOCHS = "key", "epochs"


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's parameters and buffers under their own names.

    Args:
        module: The module.
        path: A `.safetensors` file; it appears whole or not at all.
    """
    _write(module.state_dict(), path, {})


def save_checkpoint(module: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, key: str, path: Path) -> None:
    """Writes all that training needs to go on after a finished epoch, as one file.

    Args:
        module: The module.
        optimizer: Its optimizer; only tensors are kept of its state.
        epochs: Epochs that are done.
        key: Digest of everything that decides the result; a checkpoint with another key is not gone on from.
        path: A `.safetensors` file; it is replaced at once.
    """
    tensors = {WEIGHTS + name: tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for field, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                tensors[f"{OPTIMIZER}{field}/{name}"] = value
    _write(tensors, path, {KEY: key, EPOCHS: str(epochs)})


def restore_checkpoint(
    module: nn.Module, optimizer: torch.optim.Optimizer, key: str, path: Path, progress: Progress
) -> int:
    """Puts module and optimizer in the state of a checkpoint, if there is one for the same training.

    Args:
        module: Changed in place.
        optimizer: Changed in place.
        key: The key that the checkpoint must have.
        path: The file.
        progress: Told why an existing checkpoint is not used.

    Returns:
        Epochs that are done; 0 where training starts anew.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - is no mapping
    except (OSError, SafetensorError) as error:
        progress.note(f"{path}: damaged checkpoint ({error}); training starts anew")
        return 0
    if metadata.get(KEY) != key:
        progress.note(
            f"{path}: checkpoint of another training (options, data or network changed); training starts anew"
        )
        return 0
    module.load_state_dict({n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)})
    parameters = dict(module.named_parameters())
    for full_name, tensor in tensors.items():
        if full_name.startswith(OPTIMIZER):
            field, _, name = full_name.removeprefix(OPTIMIZER).partition("/")
            parameter = parameters[name]
            optimizer.state[parameter][field] = tensor if field == "step" else tensor.to(parameter.device)
    return int(metadata[EPOCHS])


def _write(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # shared memory is refused
    write_bytes(path, save(own, metadata))
