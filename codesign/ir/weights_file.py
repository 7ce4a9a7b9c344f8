"""Trained weights of a torch module on disk."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from codesign.errors import InputError
from codesign.ir.lowering import refuse_not_finite

TORCH_SUFFIXES = frozenset({".pth", ".pt", ".th"})
_NESTED_UNDER = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_OPTIONAL = "num_batches_tracked"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file of tensors by name.

    Args:
        path: `.pth`, `.th` or `.pt` with a state dict, alone or under `state_dict`, or `.safetensors`. Python objects
            are not unpickled.

    Returns:
        The tensors, on the CPU; a prefix `module.` that all names share is dropped.

    Raises:
        InputError: The file is missing, damaged, of another kind, or holds NaN or infinity.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        allowed = ", ".join(sorted(TORCH_SUFFIXES | {".safetensors"}))
        raise InputError(f"{path}: weights must be one of {allowed}; save the module's state_dict as one of these")
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    refuse_not_finite(bad, str(path))
    return tensors


def assign_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies tensors into a module; all of its weights must be there, and no others.

    Args:
        module: Changed in place.
        tensors: By name of the module's state dict; counters of BatchNorm may be missing.
        source: Where they come from, for messages.

    Raises:
        InputError: Names or shapes differ; a few of each kind are named.
    """
    own = module.state_dict()
    shapes = [
        f"{name} is {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    problems = [_few("shapes differ", shapes)]
    if not shapes:
        keys = module.load_state_dict(dict(tensors), strict=False)
        missing = [name for name in keys.missing_keys if not name.endswith(_OPTIONAL)]
        problems = [_few("missing", missing), _few("unexpected", keys.unexpected_keys)]
    found = "; ".join(filter(None, problems))
    if found:
        raise InputError(f"{source}: does not fit {type(module).__name__} ({found}); use the weights of this network")


def _few(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error}); save it again") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        raise InputError(
            f"{path}: is not a file of tensors or is damaged; save it again with torch.save(module.state_dict(), ...)"
        ) from error
    for key in _NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: holds no state dict; save it with torch.save(module.state_dict(), ...)")
    return {str(name): tensor for name, tensor in content.items()}
