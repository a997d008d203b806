"""Weight files: of PyTorch, in shards, half-written ones, and hub revisions."""

import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tests.conftest import ARCHITECTURES, TINY
from tests.reference import hf_model
from voc2vec_jax import from_pretrained
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.checkpoints.formats import huggingface
from voc2vec_jax.checkpoints.formats.huggingface import (
    SAFETENSORS,
    SAFETENSORS_INDEX,
    TORCH_BIN,
    TORCH_INDEX,
    read_tensors,
    write_tensors,
    writing_tensors,
)
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError
from voc2vec_jax.models import Wav2Vec2Model
from voc2vec_jax.models.parameters import describe


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_types_load_as_float32(folder: Path, dtype: torch.dtype) -> None:
    state = {
        name: value.to(dtype)
        for name, value in torch.load(folder / TORCH_BIN, weights_only=True).items()
    }
    torch.save(state, folder / TORCH_BIN)
    assert {str(tensor.dtype) for tensor in read_tensors(folder).values()} == {str(dtype)[6:]}
    for name, value in convert.to_hf(from_pretrained(folder).params).items():
        np.testing.assert_array_equal(value, state[name].float().numpy())


def test_safetensors_win_where_both_exist(folder: Path) -> None:
    expected = from_pretrained(folder).params
    save_pretrained(from_pretrained(folder), folder)
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
        save_pretrained(from_pretrained(folder), folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    from_pretrained("hf:org/name", revision="refs/pr/1")
    expected = [["*.json", "model*.safetensors", "pretraining_head.safetensors"]]
    if not has_safetensors:
        expected.append(["pytorch_model*.bin"])
    assert asked == [("org/name", "refs/pr/1", patterns) for patterns in expected]


# Shards

TENSORS: Tensors = {f"layer.{i}.weight": np.full((5, 5), i, np.float32) for i in range(7)} | {
    "scalar": np.array(2.0, np.float32),
    "large": np.ones(300, np.float32),
}
SMALL_SHARD = 250  # bytes: two of the 100-byte tensors


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_holds(folder: Path, expected: Tensors) -> None:
    tensors = read_tensors(folder)
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].shape == value.shape
        np.testing.assert_array_equal(tensors[name], value)


def test_shards_are_those_of_transformers(tmp_path: Path) -> None:
    reference = hf_model("Wav2Vec2ForPreTraining", ModelConfig(**TINY, **ARCHITECTURES["base"]))
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    tensors = {name: value.numpy() for name, value in reference.state_dict().items()}
    assert len(names_in(tmp_path / "theirs")) > 4
    assert_holds(tmp_path / "theirs", tensors)
    (tmp_path / "ours").mkdir()
    write_tensors(tmp_path / "ours", tensors, 50_000)
    index = json.loads((tmp_path / "ours" / SAFETENSORS_INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in tensors.values())}
    assert index["weight_map"].keys() == tensors.keys()
    (tmp_path / "ours" / "config.json").write_bytes(
        (tmp_path / "theirs" / "config.json").read_bytes()
    )
    theirs, info = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), tensors[name])


def test_shards_hold_as_much_as_they_may(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, SMALL_SHARD)
    count = 5
    shards = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    assert names_in(tmp_path) == sorted([*shards, SAFETENSORS_INDEX])
    for name in shards:
        held = load_file(tmp_path / name)
        assert sum(value.nbytes for value in held.values()) <= SMALL_SHARD or len(held) == 1
    assert_holds(tmp_path, TENSORS)


def test_pytorch_shards_are_read(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    weight_map = {tensor: names[i % 2] for i, tensor in enumerate(TENSORS)}
    for name in names:
        shard = {t: torch.from_numpy(TENSORS[t]) for t, file in weight_map.items() if file == name}
        torch.save(shard, tmp_path / name)
    (tmp_path / TORCH_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert_holds(tmp_path, TENSORS)
    torch.save({"extra": torch.ones(1)}, tmp_path / names[1])
    with pytest.raises(CheckpointError, match=r"lacks layer\.1\.weight") as caught:
        read_tensors(tmp_path)
    assert "-00002-of-00002.bin also holds extra" in str(caught.value)


@pytest.mark.parametrize("before", [10**9, 250, 500], ids=["one file", "same shards", "others"])
@pytest.mark.parametrize("after", [10**9, 250], ids=["one file", "shards"])
def test_nothing_of_an_earlier_export_stays(tmp_path: Path, before: int, after: int) -> None:
    (tmp_path / "new").mkdir()
    for name in ("config.json", "model-00001-of-00002.txt", "my-00001-of-00002.safetensors"):
        for folder in (tmp_path, tmp_path / "new"):
            (folder / name).write_text("stays")
    write_tensors(tmp_path, {name: value + 1 for name, value in TENSORS.items()}, before)
    for name in ("model.safetensors.part", "model-00009-of-00009.safetensors.part"):
        (tmp_path / name).write_text("of a process that was killed")
    write_tensors(tmp_path, TENSORS, after)
    assert_holds(tmp_path, TENSORS)
    write_tensors(tmp_path / "new", TENSORS, after)
    assert names_in(tmp_path) == sorted([*names_in(tmp_path / "new"), "new"])
    for name in names_in(tmp_path / "new"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


@pytest.mark.parametrize("before", [10**9, 250], ids=["one file", "shards"])
@pytest.mark.parametrize("after", [10**9, 250], ids=["one file", "shards"])
def test_killed_while_renaming_leaves_old_new_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """Never a mixture: the process dies before each rename and each removal in turn."""
    old = {name: value + 1 for name, value in TENSORS.items()}
    replace, unlink = os.replace, Path.unlink
    seen, steps = set(), 0
    for deadline in range(30):
        folder = tmp_path / str(deadline)
        folder.mkdir()
        write_tensors(folder, old, before)
        steps = 0

        def die_at_deadline(step: Callable[..., None]) -> Callable[..., None]:
            def run(*arguments: object, **options: object) -> None:
                nonlocal steps
                steps += 1
                if steps > deadline:  # noqa: B023
                    raise SystemExit
                step(*arguments, **options)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", die_at_deadline(replace))
            patch.setattr(Path, "unlink", die_at_deadline(unlink))
            try:
                write_tensors(folder, TENSORS, after)
            except SystemExit:
                pass
            else:
                break
        try:
            value = read_tensors(folder)
        except CheckpointError as error:
            assert "not found, nor" in str(error)  # noqa: PT017
            seen.add("none")
            continue
        offset = float(value["scalar"]) - float(TENSORS["scalar"])
        for name, tensor in value.items():
            np.testing.assert_array_equal(tensor, TENSORS[name] + offset)
        seen.add("old" if offset else "new")
    assert steps <= deadline
    assert seen == {"old", "new", *(["none"] if before == after == 250 else [])}


@pytest.mark.parametrize("limit", [10**9, 250], ids=["one file", "shards"])
def test_what_fails_before_all_bytes_are_there_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    write_tensors(tmp_path, TENSORS, limit)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    others = {name: value + 1 for name, value in TENSORS.items()}

    def fill_disk(tensors: object, path: Path, metadata: object) -> None:
        save_file({"half": np.ones(3)}, path)
        if limit != 250 or "-00003-" in path.name:
            raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "save_file", fill_disk)
        with pytest.raises(OSError, match=r"\.part: could not be written .*No space.*; make room"):
            write_tensors(tmp_path, others, limit)

    def interrupt() -> None:
        with writing_tensors(tmp_path, others, limit):
            assert_holds(tmp_path, TENSORS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


INDEX = "model.safetensors.index.json: "
BROKEN_INDEXES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "not readable as JSON"),
    "deep JSON": ("[" * 100_000, "not readable as JSON"),
    "no map": ("[]", "no weight_map"),
    "empty map": ('{"weight_map": {}}', "no weight_map"),
    "list for a map": ('{"weight_map": ["a"]}', "no weight_map"),
    "number for a file": ('{"weight_map": {"a": 1}}', r"keeps a in 1; must be a \*\.safetensors"),
    "outside": ('{"weight_map": {"a": "../b.safetensors"}}', "beside it"),
    "absolute": ('{"weight_map": {"a": "/b.safetensors"}}', "beside it"),
    "below": ('{"weight_map": {"a": "b/c.safetensors"}}', "beside it"),
    "backslash": (r'{"weight_map": {"a": "..\\b.safetensors"}}', "beside it"),
    "line": (r'{"weight_map": {"a": "b.safetensors\n"}}', "beside it"),
    "other type": ('{"weight_map": {"a": "b.bin"}}', "beside it"),
}


@pytest.mark.parametrize("kind", BROKEN_INDEXES)
def test_a_broken_index_is_refused(tmp_path: Path, kind: str) -> None:
    text, message = BROKEN_INDEXES[kind]
    (tmp_path / SAFETENSORS_INDEX).write_text(text)
    save_file(TENSORS, tmp_path.parent / "b.safetensors")
    with pytest.raises(CheckpointError, match=rf"{INDEX}.*{message}"):
        read_tensors(tmp_path)


def test_all_missing_shards_are_listed(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, SMALL_SHARD)
    missing = [f"model-0000{i}-of-00005.safetensors" for i in (2, 4)]
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{INDEX}2 of 5 .*\({', '.join(missing)}\)"):
        read_tensors(tmp_path)


def test_all_tensors_that_are_not_where_the_index_says_are_listed(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, SMALL_SHARD)
    first, second = (f"model-0000{i}-of-00005.safetensors" for i in (1, 2))
    shards = [load_file(tmp_path / name) for name in (first, second)]
    moved = shards[0].popitem()
    save_file(shards[0], tmp_path / first)
    save_file({**shards[1], **dict([moved])}, tmp_path / second)
    with pytest.raises(CheckpointError, match=INDEX) as caught:
        read_tensors(tmp_path)
    assert str(caught.value).split("\n")[1:] == [
        f"  {first} lacks {moved[0]}",
        f"  {second} also holds {moved[0]}",
    ]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, SMALL_SHARD)
    path = tmp_path / "model-00003-of-00005.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{path.name}: not a whole safetensors file"):
        read_tensors(tmp_path)


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, SMALL_SHARD)
    tensors = read_tensors(tmp_path)
    np.testing.assert_array_equal(tensors["large"], TENSORS["large"])
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"\.safetensors: not a whole safetensors file"):
        tensors["large"]


@pytest.mark.parametrize("limit", [10**9, 2**20], ids=["one file", "shards"])
def test_loading_holds_the_weights_once(tmp_path: Path, limit: int) -> None:
    config = ModelConfig(hidden_size=128, intermediate_size=512, num_attention_heads=4)
    _, expected = describe(Wav2Vec2Model, config)
    params = {path: np.ones(shape.shape, np.float32) for path, shape in expected.items()}
    whole = sum(value.nbytes for value in params.values())
    write_tensors(tmp_path, convert.to_hf(params), limit)
    del params
    tracemalloc.start()
    try:
        loaded, _ = convert.from_hf(read_tensors(tmp_path), expected)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = max(value.nbytes for value in loaded.values())
    assert whole < peak < whole + 2 * largest + 2**20
    # JAX takes arrays at such addresses as they are.
    assert all(value.ctypes.data % 64 == 0 for value in loaded.values())
