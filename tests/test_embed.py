"""Embeddings are those of the model, whatever else is embedded with them, and survive a kill."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from tests.conftest import FEW
from tests.test_hub import SMALL, make_model
from voc2vec_jax import from_pretrained, load_audio, save_pretrained
from voc2vec_jax.audio.signal import normalize
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.cli.embed import main
from voc2vec_jax.distributed.lock import WorkdirLock
from voc2vec_jax.errors import BAD_DATA, DONE, FAILED, STOPPED, WRONG_USAGE
from voc2vec_jax.evaluation.clip_vectors import read_embeddings
from voc2vec_jax.features import embedding
from voc2vec_jax.features import frames as frames_module
from voc2vec_jax.features.embedding import Encoding
from voc2vec_jax.features.parts import Part, Parts, parts_folder
from voc2vec_jax.models import Wav2Vec2Model

pytestmark = pytest.mark.unoptimised

SECONDS = [0.025, 0.4, 0.41, 1.3, 0.42, 0.43, 0.44]  # the model rounds these to three lengths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    for index, seconds in enumerate(SECONDS):
        path = folder / ("a" if index % 2 else "b") / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        noise = 0.2 * random.standard_normal(round(seconds * 16_000)) + 0.05
        soundfile.write(path, noise.clip(-1, 1), 16_000)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    config = dataclasses.replace(SMALL, **{**FEW, "conv_dim": (4, 4, 4)})
    save_pretrained(make_model(config=config), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> PretrainedModel:
    return from_pretrained(checkpoint, architecture=Wav2Vec2Model, padding="masked")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "BATCH_SECONDS", 2.0)


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:  # tyro's refusals
        return int(exit.code or 0)


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_frames_are_those_of_each_clip_alone(
    folder: Path, model: PretrainedModel, layer: int | None
) -> None:
    waveforms = [load_audio(path) for path in sorted(folder.rglob("*.wav"))]
    made = Encoding(model, layer, "frames")(waveforms)
    for clip, frames in zip(waveforms, made, strict=True):
        out = model(normalize(clip)[None], output_hidden_states=True)
        hidden = out.last_hidden_state if layer is None else out.hidden_states[layer]  # type: ignore[union-attr,index]
        assert frames.shape == hidden.shape[1:]
        np.testing.assert_allclose(frames, hidden[0], atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "frames"])
def test_npz_and_parquet_hold_the_same(
    folder: Path, checkpoint: Path, model: PretrainedModel, tmp_path: Path, pool: str
) -> None:
    npz, columns = tmp_path / "x.npz", tmp_path / "x.parquet"
    for out in (npz, columns):
        assert run(folder, "--model", checkpoint, "--out", out, "--pool", pool) == DONE
    paths = sorted(folder.rglob("*.wav"))
    expected = Encoding(model, pool=pool)([load_audio(path) for path in paths])  # type: ignore[arg-type]
    with np.load(npz) as held:
        assert held["ids"].tolist() == [p.relative_to(folder).as_posix() for p in paths]
        np.testing.assert_allclose(held["seconds"], [soundfile.info(p).duration for p in paths])
        np.testing.assert_allclose(held["embeddings"], np.concatenate(expected), atol=1e-6)
        assert held["embeddings"].dtype == np.float32
        about = json.loads(str(held["about"]))
        assert about["pool"] == pool
        if pool == "frames":
            lengths = np.diff(held["offsets"]).tolist()
            assert lengths == [len(frames) for frames in expected]
    table = parquet.read_table(columns)
    assert table.column_names == ["id", "seconds", "embedding"]
    assert json.loads(table.schema.metadata[b"voc2vec_jax"]) == about
    for row, frames in zip(table["embedding"].to_pylist(), expected, strict=True):
        np.testing.assert_allclose(row, frames[0] if pool == "mean" else frames, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "x.parquet"]


def test_a_bad_file_stops_the_run_and_loses_nothing(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in folder.rglob("*.wav"):
        (clips / path.name).write_bytes(path.read_bytes())
    (clips / "5bad.wav").write_bytes(b"RIFF")
    out = tmp_path / "x.npz"
    monkeypatch.setattr(embedding, "CLIPS_PER_PART", 3)
    arguments = (clips, "--model", checkpoint, "--out", out)
    assert run(*arguments) == BAD_DATA
    error = capsys.readouterr().err
    assert "5bad.wav" in error
    assert "--skip-bad" in error
    first = tmp_path / "x.npz.parts" / "000000.npz"
    written = first.stat().st_mtime_ns
    encoded = embedded(monkeypatch)
    assert run(*arguments, "--layer", "1") == WRONG_USAGE  # the parts are of another layer
    assert "another run (features: " in capsys.readouterr().err
    assert first.stat().st_mtime_ns == written
    assert run(*arguments, "--skip-bad") == DONE
    assert encoded == [1]  # of the last two files, one of which is bad
    printed = capsys.readouterr()
    assert "left out: 5bad.wav: " in printed.err
    assert "7 clips, 1 left out" in printed.out
    with np.load(out) as held:
        assert held["ids"].tolist() == [f"{i}.wav" for i in range(7)]
    assert run(*arguments, "--skip-bad") == DONE
    printed = capsys.readouterr()
    assert "left out: 5bad.wav: " in printed.err
    assert "it is there already" in printed.out
    assert run(*arguments) == WRONG_USAGE
    assert "without 1 files such as '5bad.wav'" in capsys.readouterr().err
    assert not (tmp_path / "x.npz.parts").exists()


def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of clips of each call of the model."""
    calls: list[int] = []
    call = Encoding.__call__
    monkeypatch.setattr(
        Encoding, "__call__", lambda self, w: (calls.append(len(w)), call(self, w))[1]
    )
    return calls


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_result_that_is_there_is_known_by_its_content(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    out = tmp_path / f"x.{suffix}"
    clips, model = tmp_path / "clips", tmp_path / "model"
    shutil.copytree(folder / "a", clips)
    shutil.copytree(checkpoint, model)
    assert run(clips, "--model", model, "--out", out) == DONE
    written, calls = out.read_bytes(), embedded(monkeypatch)

    # The same content under other names and of another time.
    for path in (clips / "1.wav", model):
        os.utime(path, (0, 0))
    clips.rename(tmp_path / "moved")
    again = (tmp_path / "moved", "--model", checkpoint, "--out", out)
    assert run(*again) == DONE
    assert "it is there already: " in (printed := capsys.readouterr().out)
    assert printed.strip().endswith("x." + suffix + ", 3 clips, 0 left out")
    clips = (tmp_path / "moved").rename(clips)

    # Other content under the same name, of the same size and time.
    def refused(named: str, *more: object) -> None:
        assert run(clips, "--model", model, "--out", out, *more) == WRONG_USAGE
        error = capsys.readouterr().err
        assert f"x.{suffix}: is there already, of another run ({named}: " in error
        assert "give another --out, or delete it" in error

    refused("features", "--layer", 1)
    refused("pool", "--pool", "frames")
    if suffix == "parquet":
        refused("columns", "--wide")
    state, sound = (clips / "1.wav").stat(), (clips / "1.wav").read_bytes()
    (clips / "1.wav").write_bytes(sound[:-2] + bytes([sound[-2] ^ 1, sound[-1]]))
    os.utime(clips / "1.wav", ns=(state.st_atime_ns, state.st_mtime_ns))
    refused("files")
    (clips / "1.wav").write_bytes(sound)
    weights = load_file(model / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, model / "model.safetensors")
    refused("model")
    assert out.read_bytes() == written
    assert calls == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "model", out.name]

    out.write_bytes(b"id,vector")
    assert run(clips, "--model", checkpoint, "--out", out) == WRONG_USAGE
    assert "was not written by embed" in capsys.readouterr().err
    assert out.read_bytes() == b"id,vector"


def test_a_column_for_each_number(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    lists, wide = tmp_path / "lists.parquet", tmp_path / "wide.parquet"
    assert run(folder, "--model", checkpoint, "--out", lists) == DONE
    assert run(folder, "--model", checkpoint, "--out", wide, "--wide") == DONE
    table = parquet.read_table(wide)
    width = SMALL.hidden_size
    assert table.column_names == ["id", "seconds", *(f"e{place}" for place in range(width))]
    assert {str(table.schema.field(f"e{place}").type) for place in range(width)} == {"float"}
    ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))
    expected = np.array(parquet.read_table(lists)["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(read_embeddings(wide, ids), expected)
    np.testing.assert_array_equal(read_embeddings(lists, ids), expected)


def test_the_second_of_two_at_once_says_that_the_first_is_at_work(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (folder, "--model", checkpoint, "--out", tmp_path / "x.npz")
    with parts_folder(tmp_path / "x.npz"):
        assert run(*command) == FAILED
        error = capsys.readouterr().err
        assert f"process {os.getpid()} on " in error
        assert "is at work here" in error
        assert "another --workdir or --out" in error
    assert run(*command) == DONE
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_folder_that_the_first_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two ends after the second has seen its folder, and before it locks it."""
    enter, ended = WorkdirLock.__enter__, []

    def late(lock: WorkdirLock) -> WorkdirLock:
        if not ended:
            ended.append((tmp_path / "x.npz.parts").rmdir())
        return enter(lock)

    monkeypatch.setattr(WorkdirLock, "__enter__", late)
    with parts_folder(tmp_path / "x.npz") as made:
        assert made.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_long_clips_go_in_equal_pieces_and_their_mean_needs_few_frames(
    model: PretrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "CHUNK_SECONDS", 1.25)
    monkeypatch.setattr(embedding, "PIECE_SECONDS", 0.5)
    random = np.random.default_rng(0)
    long, short = (0.1 * random.standard_normal(n).astype(np.float32) for n in (21_000, 7_000))
    hop, window = 320, 400
    assert (model.config.receptive_field_samples, np.prod(model.config.conv_stride)) == (
        window,
        hop,
    )
    total = (21_000 - window) // hop + 1  # 65 frames in 3 pieces of at most 24
    edges = [0, 21, 43, 65]
    heard = normalize(long)
    expected = [
        np.asarray(model(heard[None, a * hop : (b - 1) * hop + window]).last_hidden_state)[0]
        for a, b in itertools.pairwise(edges)
    ]
    frames = Encoding(model, pool="frames")([short, long])[1]
    assert len(frames) == total
    np.testing.assert_allclose(frames, np.concatenate(expected), atol=1e-5)
    (_, mean) = Encoding(model)([short, long])
    np.testing.assert_allclose(mean, frames.mean(axis=0)[None], atol=1e-6)


def test_parts_end_where_there_is_enough_sound(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the number of clips alone, and a run that was stopped has them at the same places."""
    calls = embedded(monkeypatch)
    command = (folder, "--model", checkpoint, "--out")
    assert run(*command, tmp_path / "whole.npz") == DONE
    assert calls == [7]
    monkeypatch.setattr(embedding, "SECONDS_PER_PART", 1.0)
    calls.clear()
    assert run(*command, tmp_path / "parts.npz") == DONE
    # Seconds of a/1, a/3, … in their order: .4, 1.3 | .43, .025, .41, .42 | .44
    assert calls == [2, 4, 1]

    written: list[int] = []
    write = Parts.write

    def stop(parts: Parts, number: int, part: Part) -> None:
        write(parts, number, part)
        written.append(number)
        if written == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "write", stop)
    assert run(*command, tmp_path / "stopped.npz") == STOPPED
    calls.clear()
    assert run(*command, tmp_path / "stopped.npz") == DONE
    assert calls == [1]
    with (
        np.load(tmp_path / "whole.npz") as whole,
        np.load(tmp_path / "parts.npz") as parts,
        np.load(tmp_path / "stopped.npz") as stopped,
    ):
        for key in whole.files:
            np.testing.assert_array_equal(parts[key], stopped[key])
        assert whole["ids"].tolist() == parts["ids"].tolist()
        np.testing.assert_allclose(whole["embeddings"], parts["embeddings"], atol=1e-6)


WRONG = {
    "suffix": (["--out", "x.csv"], WRONG_USAGE, "must end in .npz or .parquet"),
    "layer": (["--layer", "99"], WRONG_USAGE, "layers 0 to"),
    "no model": (["--model", "/nowhere"], BAD_DATA, "/nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    more, code, message = WRONG[case]
    defaults = {"--model": str(checkpoint), "--out": str(tmp_path / "x.npz")}
    given = defaults | dict(zip(more[::2], more[1::2], strict=True))
    assert run(folder, *(word for pair in given.items() for word in pair)) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_columns_are_of_pooled_parquet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (folder, "--model", "/nowhere", "--wide", "--out")
    assert run(*command, tmp_path / "x.npz") == WRONG_USAGE
    # In a box whose lines end where the path is long.
    assert "end in .parquet" in re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert run(*command, tmp_path / "x.parquet", "--pool", "frames") == WRONG_USAGE
    assert "a row is a clip" in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_inputs_that_cannot_be_told_apart_or_are_not_there(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ("--model", checkpoint, "--out", tmp_path / "x.npz")
    assert run(folder / "a", folder / "a", *rest) == BAD_DATA
    assert "would both be called" in capsys.readouterr().err
    assert run(tmp_path, *rest) == BAD_DATA
    assert "holds no audio" in capsys.readouterr().err
    assert run(folder / "gone", *rest) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_a_table_of_segments(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    long = folder / "a" / "3.wav"
    samples, _ = soundfile.read(long, dtype="int16")
    soundfile.write(tmp_path / "cut.wav", samples[3_200:9_600], 16_000)
    table = tmp_path / "clips.csv"
    table.write_text(f"file,start,end,note\n{long},0.2,0.6,x\ncut.wav,,,y\n{long},0,0.4,z\n")
    out = tmp_path / "x.npz"
    assert run(table, "--model", checkpoint, "--out", out) == DONE
    with np.load(out) as made:
        assert made["ids"].tolist() == [f"{long}#0.2-0.6", "cut.wav", f"{long}#0-0.4"]
        np.testing.assert_allclose(made["seconds"], 0.4)
        np.testing.assert_allclose(made["embeddings"][0], made["embeddings"][1], atol=1e-6)
        assert np.abs(made["embeddings"][0] - made["embeddings"][2]).max() > 1e-3


@pytest.mark.thorough
def test_a_killed_run_goes_on(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL after its first part; the result is byte for byte the same."""
    program = (
        "import sys; from voc2vec_jax.cli import embed; from voc2vec_jax.features import embedding;"
        "embedding.CLIPS_PER_PART = 1;"
        "sys.exit(embed.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(folder), "--model", str(checkpoint), "--out"]
    killed = subprocess.Popen([*command, str(tmp_path / "a.npz")], stderr=subprocess.DEVNULL)
    part = tmp_path / "a.npz.parts" / "000000.npz"
    while not part.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "a.npz").exists()
    for name in ("a.npz", "b.npz"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        for key in b.files:
            np.testing.assert_array_equal(a[key], b[key])


def test_help_shows_examples() -> None:
    command = [sys.executable, "-m", "voc2vec_jax.embed", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Examples:" in done.stdout
    assert "--skip-bad" in done.stdout
