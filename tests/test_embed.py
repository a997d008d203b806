"""Embeddings are those of the model, whatever else is embedded with them, and survive a kill."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyarrow import parquet

from tests.conftest import FEW
from tests.test_hub import SMALL, make_model
from voc2vec_jax import from_pretrained, load_audio, save_pretrained
from voc2vec_jax.audio.signal import normalize
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.cli.embed import main
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE
from voc2vec_jax.features import embedding
from voc2vec_jax.features import frames as frames_module
from voc2vec_jax.features.embedding import Encoding
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
    encoded: list[int] = []
    call = Encoding.__call__
    monkeypatch.setattr(
        Encoding, "__call__", lambda self, w: (encoded.append(len(w)), call(self, w))[1]
    )
    assert run(*arguments, "--layer", "1") == WRONG_USAGE  # the parts are of another layer
    assert "another features" in capsys.readouterr().err
    assert first.stat().st_mtime_ns == written
    assert run(*arguments, "--skip-bad") == DONE
    assert encoded == [1]  # of the last two files, one of which is bad
    printed = capsys.readouterr()
    assert "left out: 5bad.wav: " in printed.err
    assert "7 clips, 1 left out" in printed.out
    with np.load(out) as held:
        assert held["ids"].tolist() == [f"{i}.wav" for i in range(7)]
    assert not (tmp_path / "x.npz.parts").exists()


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
