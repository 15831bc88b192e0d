"""The models that a run leaves: plain state_dicts, for use with or without hvdclip."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from hvdclip.checkpoints import tensors
from hvdclip.checkpoints.copies import on_host


def save_model(file: Path, state: dict[str, Tensor]) -> None:
    """Write a state_dict; OSError names the file."""
    # parameters are views of the message, all of which torch.save would write
    tensors.save(file, on_host(state))


def load_model(file: Path) -> dict[str, Tensor]:
    """A plain state_dict; ValueError for a file with something else, FileNotFoundError if there is none."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: the run has not saved this model")
    try:
        state = tensors.load(file)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds for files of other programs
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{file} has no model: {why}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} has no model: it is not a state_dict of tensors")
    return state
