"""Weight files: safetensors, and only those that fit the network name by name and shape by shape.

detectron2's own checkpointer unpickles (a `.pkl` can run any command) and merely logs what is missing (an empty file "loads" and runs
with random weights); neither is used.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from detector.selection import NonFiniteError

SHOWN = 4  # names listed in a message


class WrongWeightsError(ValueError):
    """A weight file that does not belong to the network it was given for."""


def weights_to_bytes(model: nn.Module) -> bytes:
    """All parameters and persistent buffers of a network as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def load_weights(model: nn.Module, path: Path, *, network: str) -> None:
    """Load a safetensors file into a network, strictly.

    Args:
        network: how messages call the network, such as "preset 'demo' with 8 classes and 14 attributes".
    Raises:
        FileNotFoundError: no such file.
        WrongWeightsError: not a safetensors file; or names, shapes or types differ, naming them.
        NonFiniteError: a tensor holds NaN or infinity.
    """
    if not path.is_file():
        raise FileNotFoundError(f"detector weights {path} do not exist; give a .safetensors file made for {network}")
    load_bytes(model, path.read_bytes(), source=str(path), network=network)


def load_bytes(model: nn.Module, content: bytes, *, source: str, network: str) -> None:
    """`load_weights` for the bytes of a file; `source` names it in messages."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise WrongWeightsError(
            f"{source} is not a safetensors file ({error}); pickled checkpoints are never opened, convert them first"
        ) from error
    _require_fit(model.state_dict(), tensors, source, network)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{source}: tensor {name!r} holds NaN or infinity; the file is damaged or its training diverged"
            )
    model.load_state_dict(tensors, strict=True)


def _require_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, network: str) -> None:
    problems = []
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if extra:
        problems.append(f"{len(extra)} are not part of the network ({_some(extra)})")
    other = [name for name in wanted if name in found and _kind(found[name]) != _kind(wanted[name])]
    if other:
        shown = [f"{name}: file {_kind(found[name])}, network {_kind(wanted[name])}" for name in other[:SHOWN]]
        problems.append(f"{len(other)} differ in shape or type ({_some(shown, len(other))})")
    if problems:
        raise WrongWeightsError(
            f"{source} does not fit {network}: {'; '.join(problems)}; "
            "it belongs to another preset or vocabulary: give the file made for this configuration, or the configuration of this file"
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _some(names: list[str], total: int | None = None) -> str:
    more = (total or len(names)) - min(len(names), SHOWN)
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more else "")
