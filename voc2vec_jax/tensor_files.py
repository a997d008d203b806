"""The weight files of a Hugging Face folder as NumPy arrays."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from voc2vec_jax.convert import Tensors

SAFETENSORS = "model.safetensors"
TORCH_BIN = "pytorch_model.bin"


class CheckpointError(ValueError):
    """A folder that is not a usable checkpoint. The message names the file and the fix."""


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a folder: of `model.safetensors`, or else of `pytorch_model.bin`.

    Raises:
        CheckpointError: Neither file, or a damaged one, or PyTorch is needed and missing.
    """
    if (folder / SAFETENSORS).is_file():
        return _read_safetensors(folder / SAFETENSORS)
    if (folder / TORCH_BIN).is_file():
        return _read_torch(folder / TORCH_BIN)
    raise CheckpointError(
        f"{folder / SAFETENSORS}: not found, nor {TORCH_BIN}; of sharded checkpoints, save a copy "
        "in one file with transformers (max_shard_size)"
    )


def _read_safetensors(path: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again"
        ) from None
    except AttributeError as error:  # 8-bit and smaller floats have no NumPy type
        raise CheckpointError(
            f"{path}: holds a type that NumPy lacks ({error}); save it as float32"
        ) from None
    return tensors


def _read_torch(path: Path) -> Tensors:
    """A pickle of tensors and nothing else: PyTorch refuses whatever would run code."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path}: reading it needs PyTorch; pip install 'voc2vec-jax[torch]', or take a "
            "revision with model.safetensors"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # float32 holds every half-precision value, and NumPy has no bfloat16.
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:  # pickle, zip and PyTorch each have their own
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: not a plain file of PyTorch tensors ({reason}); download it again, and do "
            "not trust its source if it stays so"
        ) from None
