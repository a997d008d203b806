"""Weight files: PyTorch's format as far as it holds tensors, and hub revisions."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ARCHITECTURES, TINY
from tests.reference import hf_model
from voc2vec_jax import from_pretrained, hub
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.tensor_files import SAFETENSORS, TORCH_BIN, CheckpointError, read_tensors


class Attack:
    """What an unpickler would call."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as of 2021: pytorch_model.bin, old weight-norm names."""
    reference = hf_model("Wav2Vec2ForPreTraining", ModelConfig(**TINY, **ARCHITECTURES["base"]))
    reference.save_pretrained(tmp_path)
    (tmp_path / SAFETENSORS).unlink()
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in reference.state_dict().items()
    }
    torch.save(state, tmp_path / TORCH_BIN)
    return tmp_path


def test_a_pytorch_file_loads_as_what_it_holds(folder: Path) -> None:
    model = from_pretrained(folder)
    state = torch.load(folder / TORCH_BIN, weights_only=True)
    ours = model.params["wav2vec2.encoder.pos_conv_embed.conv.weight_g"]
    theirs = state["wav2vec2.encoder.pos_conv_embed.conv.weight_g"].numpy()
    np.testing.assert_array_equal(ours, theirs.T)
    assert len(model.params) == len(state)


def test_half_precision_is_read_as_float32(folder: Path) -> None:
    state = torch.load(folder / TORCH_BIN, weights_only=True)
    torch.save({name: value.bfloat16() for name, value in state.items()}, folder / TORCH_BIN)
    tensors = read_tensors(folder)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_safetensors_win_where_both_exist(folder: Path) -> None:
    expected = from_pretrained(folder).params
    hub.save_pretrained(from_pretrained(folder), folder)
    (folder / TORCH_BIN).write_bytes(b"garbage")
    for path, value in from_pretrained(folder).params.items():
        np.testing.assert_array_equal(value, expected[path])


@pytest.mark.parametrize("kind", ["attack in a zip", "bare attack", "cut", "garbage", "a list"])
def test_other_pickles_are_refused_and_never_run(folder: Path, kind: str) -> None:
    path, marker = folder / TORCH_BIN, folder / "attacked"
    whole = path.read_bytes()
    if kind == "attack in a zip":
        torch.save({"weight": Attack(marker)}, path)
    elif kind == "bare attack":
        path.write_bytes(pickle.dumps({"weight": Attack(marker)}))
    elif kind == "a list":
        torch.save([torch.ones(3)], path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if kind == "cut" else b"garbage")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a plain file"):
        from_pretrained(folder)
    assert not marker.exists()


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_a_hub_revision_gives_safetensors_or_else_the_pytorch_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_safetensors: bool
) -> None:
    asked = []

    def download(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(folder)

    if has_safetensors:
        hub.save_pretrained(from_pretrained(folder), folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    from_pretrained("hf:org/name", revision="refs/pr/1")
    expected = [["*.json", SAFETENSORS], *([] if has_safetensors else [[TORCH_BIN]])]
    assert asked == [("org/name", "refs/pr/1", patterns) for patterns in expected]
