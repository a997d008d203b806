"""The commands as users run them: killed and resumed, given bad input; what they export."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers

from tests.labelled_corpus import CLASSES, MODEL, waveforms
from tests.small_run import QUICK_TO_COMPILE
from tests.test_fine_tuning import encoder_of
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.cli import predict
from voc2vec_jax.cli.evaluate import main, parse
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE, ConfigError
from voc2vec_jax.evaluation.recipe import RECIPES
from voc2vec_jax.features.class_scores import windows_of
from voc2vec_jax.models import Wav2Vec2Model

pytestmark = pytest.mark.unoptimised

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of recordings, the same with bad ones, and an encoder."""
    folder = tmp_path_factory.mktemp("place")
    save_pretrained(encoder_of(MODEL), folder / "encoder")
    lines = ["path,label,group"]
    for index, (label, group, wave) in enumerate(waveforms()):
        soundfile.write(folder / f"{index:02d}.wav", wave, 16_000)
        lines.append(f"{index:02d}.wav,{label},{group}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    (folder / "noise.wav").write_bytes(b"RIFF and then nothing")
    (folder / "bad.csv").write_text("\n".join([*lines, "noise.wav,cry,speaker0"]) + "\n")
    return folder


def command(place: Path, out: Path, *more: str, table: str = "clips.csv") -> list[str]:
    return [
        *("--model", str(place / "encoder"), "--table", str(place / table)),
        *("--data-dir", str(place / "cache"), "--out", str(out), "--folds", "3"),
        *("--batch", "4", "--epochs", "2", "--max-seconds", "0.4", *more),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "voc2vec_jax.evaluate", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK_TO_COMPILE},  # one device, as a user has
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(arguments: list[str]) -> str:
    process = start(arguments)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == DONE, output
    return output


def answers(out: Path) -> list[dict[str, object]]:
    """What was said of each clip, fold by fold."""
    folds = [json.loads(path.read_text()) for path in sorted((out / "folds").iterdir())]
    return [{name: f[name] for name in ("clip_ids", "labels", "scores")} for f in folds]


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """An evaluation with its export; in this process, whose imports and programs it shares."""
    out, said = place / "finished", io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(command(place, out, "--export", "best")) == DONE, said.getvalue()
    assert "30 clips of 3 classes, 0 left out; 3 folds, 1 seeds" in said.getvalue()
    assert said.getvalue().count("programs=2") == 3, "one program to train, one to predict"
    return out


@pytest.mark.thorough
def test_a_killed_fold_is_run_again_alone(place: Path) -> None:
    undisturbed, out = place / "undisturbed", place / "killed"
    finish(command(place, undisturbed))
    process, deadline = start(command(place, out)), time.monotonic() + 400
    while not (out / "runs" / "seed0-fold01").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = out / "folds" / "seed0-fold00.json"
    before = kept.stat().st_mtime_ns
    assert json.loads((out / "results.json").read_text())["folds_run"] == 1
    finish(command(place, out))
    assert kept.stat().st_mtime_ns == before
    assert answers(out) == answers(undisturbed)
    report = json.loads((out / "results.json").read_text())
    assert (report["folds_run"], report["folds_asked"]) == (3, 3)
    assert (out / "confusion.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.thorough
def test_two_at_once_share_the_folds_and_one_takes_up_those_of_the_killed(place: Path) -> None:
    """Also with the folds of a file, and in processes of one command."""
    alone, out, side_by_side = (place / name for name in ("alone", "two", "side_by_side"))
    finish(command(place, alone))
    first, second = start(command(place, out)), start(command(place, out))
    deadline = time.monotonic() + 400
    while len(locks := list(out.glob("folds/*.lock"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with contextlib.suppress(FileNotFoundError):
        owner = json.loads(locks[0].read_text())["pid"]
        if owner == second.pid:
            first, second = second, first
    first.kill()
    first.communicate()
    output, _ = second.communicate(timeout=500)
    assert second.returncode == DONE, output
    assert json.loads((out / "results.json").read_text())["folds_run"] == 3, output
    more = ("--jobs", "2", "--export", "all", "--folds-csv", str(alone / "folds.csv"))
    words = command(place, side_by_side, *more)
    del words[words.index("--folds") : words.index("--folds") + 2]
    assert "exported: " in finish(words)
    for folder in (out, side_by_side):
        assert (folder / "folds.csv").read_bytes() == (alone / "folds.csv").read_bytes()
        assert json.loads((folder / "results.json").read_text())["folds_run"] == 3
        for ours, theirs in zip(answers(folder), answers(alone), strict=True):
            assert ours["clip_ids"] == theirs["clip_ids"]
            # Processes with a share of the cores each add up in another order.
            np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-5)
        lines = (folder / "predictions.csv").read_text().splitlines()
        assert lines[0] == "id,group,seed,fold,label,prediction,score_cry,score_laugh,score_moan"
        assert len(lines) == 1 + 30
        assert not list(folder.glob("**/*.lock"))
    exported = sorted(path.name for path in (side_by_side / "export").iterdir())
    assert exported == ["seed0-fold00", "seed0-fold01", "seed0-fold02"]


def test_the_export_classifies_in_transformers_and_in_the_predict_command(
    finished: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = finished / "export"
    card = (export / "README.md").read_text()
    assert "| protocol | grouped |" in card
    assert "| test scores over folds | uar " in card
    assert "It tells apart: cry, laugh, moan." in card
    config = transformers.AutoConfig.from_pretrained(export)
    assert config.id2label == dict(enumerate(CLASSES))
    pipe = transformers.pipeline(
        "audio-classification", model=str(export), device="cpu", top_k=None
    )
    lengths = [len(soundfile.read(place / f"{i:02d}.wav")[0]) for i in range(30)]
    short = int(np.argmin(lengths))
    file = place / f"{short:02d}.wav"
    theirs = {r["label"]: r["score"] for r in pipe(soundfile.read(file, dtype="float32")[0])}
    arguments = [str(file), "--model", str(export), "--top", "3", "--format", "json"]
    assert predict.main(arguments) == DONE
    ours = json.loads(capsys.readouterr().out)
    assert ours["file"] == str(file)
    assert ours["windows"] == 1
    assert ours["scores"].keys() == theirs.keys()
    for label, score in theirs.items():
        assert ours["scores"][label] == pytest.approx(score, abs=1e-5)

    # In windows as in evaluation: the same scores as in the fold that the model is of.
    best = json.loads((finished / "export.json").read_text())
    fold = json.loads((finished / "folds" / f"seed0-fold{best['fold']:02d}.json").read_text())
    files = [str(place / clip) for clip in fold["clip_ids"]]
    assert predict.main([*files, *arguments[1:], "--window", "0.4"]) == DONE
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["windows"] for one in said} == {1, 2}
    for one, scores in zip(said, fold["scores"], strict=True):
        found = [one["scores"][label] for label in CLASSES]
        np.testing.assert_allclose(found, scores, atol=1e-4)


def test_other_weights_at_the_same_path_are_refused_and_a_moved_model_is_not(
    finished: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "out", tmp_path / "moved"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("runs", "export"))
    shutil.copytree(place / "encoder", model)
    folds = {path.name: path.stat().st_mtime_ns for path in (out / "folds").iterdir()}
    moved = [*command(place, out), "--model", str(model)]
    assert main(moved) == DONE
    assert {path.name: path.stat().st_mtime_ns for path in (out / "folds").iterdir()} == folds
    report = json.loads((out / "results.json").read_text())
    assert report["model"] == str(model)
    before = from_pretrained(model, architecture=Wav2Vec2Model).sha256
    assert report["identity"]["model_sha256"] == before

    changed = encoder_of(MODEL)
    changed.params["encoder.layer_norm.bias"] = changed.params["encoder.layer_norm.bias"] + 1
    save_pretrained(changed, model)
    after = from_pretrained(model, architecture=Wav2Vec2Model).sha256
    (out / "folds" / "seed0-fold01.json").unlink()
    capsys.readouterr()
    assert main(moved) == WRONG_USAGE
    (said,) = capsys.readouterr().err.splitlines()[-1:]
    assert said == (
        f"error: {out}: holds another evaluation (the model's parameters or configuration:"
        f" {before[:12]}… there, {after[:12]}… asked for (from {place / 'encoder'} there, {model}"
        " now)); give another --out"
    )
    assert not (out / "folds" / "seed0-fold01.json").exists()


def test_bad_files_stop_a_prediction_or_are_listed(
    finished: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(place / "noise.wav"), str(place / "00.wav"), "--format", "csv"]
    arguments += ["--model", str(finished / "export")]
    assert predict.main(arguments) == BAD_DATA
    assert "noise.wav" in capsys.readouterr().err
    assert predict.main([*arguments, "--skip-bad"]) == DONE
    said = capsys.readouterr()
    assert said.out.startswith("file,seconds,windows,rank,label,score\n" + str(place / "00.wav"))
    assert "1 of 2 files skipped" in said.err


@pytest.mark.parametrize("columns", ["200", "60"])
def test_a_table_holds_whole_names_and_the_same_scores(
    finished: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    files = [str(place / name) for name in ("00.wav", "01.wav")]
    arguments = [*files, "--model", str(finished / "export"), "--top", "2"]
    assert predict.main([*arguments, "--format", "json"]) == DONE
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert predict.main(arguments) == DONE
    rows: list[list[str]] = []
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if cells[1]:  # the first line of a row
                rows.append(cells)
            else:  # a name that goes on, and perhaps the classes
                rows[-1][0] += cells[0]
                rows[-1][3] = f"{rows[-1][3]} {cells[3]}"
    assert [row[0] for row in rows] == files
    for (_, seconds, windows, classes), one in zip(rows, expected, strict=True):
        assert (seconds, windows) == (f"{one['seconds']:.1f}", str(one["windows"]))
        named = [f"{label} {score:.3f}" for label, score in one["scores"].items()]
        assert classes.split() == " ".join(named).split()


def test_a_model_without_a_trained_head_predicts_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = predict.main([str(place / "00.wav"), "--model", str(place / "encoder")])
    assert code == WRONG_USAGE
    said = capsys.readouterr().err
    assert "is a Wav2Vec2Model without a trained classifier" in said
    assert "Fine-tune it first" in said


@pytest.mark.parametrize("hop", [None, 3, 7])
@pytest.mark.parametrize("samples", [1, 9, 10, 11, 29, 40])
def test_windows_cover_a_recording(samples: int, hop: int | None) -> None:
    parts = windows_of(samples, 10, hop)
    heard = np.zeros(samples, int)
    for part in parts:
        heard[part] += 1
        assert part.stop - part.start <= 10
    assert heard.min() >= 1
    if hop is None:
        assert heard.max() == 1


def test_unreadable_clips_stop_the_evaluation_with_a_list(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "out", table="bad.csv")) == BAD_DATA
    said = capsys.readouterr().err
    assert "1 files cannot be used:\n  noise.wav: " in said
    assert "--exclude-bad" in said
    assert not (tmp_path / "out").exists()
    frozen = ("--exclude-bad", "--freeze-encoder")
    assert main(command(place, tmp_path / "out", *frozen, table="bad.csv")) == DONE
    assert "30 clips of 3 classes, 1 left out" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["excluded_clips"] == 1
    assert report["excluded"][0]["file"] == "noise.wav"


def test_folds_that_there_are_not_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "out", "--only-folds", "2", "3")) == WRONG_USAGE
    said = capsys.readouterr().err
    assert "--only-folds 3: there are 3 folds, numbered from 0 to 2" in said
    assert not (tmp_path / "out").exists()


def test_the_paper_protocol_says_what_it_selects_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--protocol", "paper", "--freeze-encoder", "--export", "best")
    assert main(command(place, out, *more)) == DONE
    assert "[selection on the test fold]" in capsys.readouterr().err
    report = json.loads((out / "results.json").read_text())
    assert report["selection"] == "selection on the test fold"
    assert report["settings"]["warmup_steps"] == 500
    card = (out / "export" / "README.md").read_text()
    assert "| protocol | paper (selection on the test fold) |" in card
    assert "trained on clips padded to one length, without an attention mask" in card
    preprocessor = json.loads((out / "export" / "preprocessor_config.json").read_text())
    assert preprocessor["return_attention_mask"] is False
    assert main(command(place, out, "--protocol", "grouped", "--freeze-encoder")) == WRONG_USAGE
    assert "protocol: 'paper' there, 'grouped' asked for" in capsys.readouterr().err


def test_the_protocol_decides_the_defaults() -> None:
    given = ["--model", "m", "--dataset", "d", "--out", "o"]
    assert parse(given).recipe == RECIPES["grouped"]
    paper = parse([*given, "--protocol", "paper", "--epochs", "3"]).recipe
    assert (paper.epochs, paper.warmup_steps, paper.select_by) == (3, 500, "macro_f1")
    assert parse([*given, "--export", "all", "--only-folds", "0", "3"]).only_folds == (0, 3)
    for wrong, what in (
        ([*given, "--jobs", "0"], "--jobs=0: must be at least 1"),
        ([*given, "--folds", "5", "--folds-csv", "f.csv"], "--folds 5: --folds-csv f.csv says"),
        (given[:2] + given[4:], "give one of --dataset, --folder and --table"),
        ([*given, "--table", "t.csv"], "not --dataset and --table"),
        ([*given, "--layer-decay", "0"], "--layer-decay=0"),
        ([*given, "--learning-rate", "-1"], "--learning-rate=-1"),
    ):
        with pytest.raises(ConfigError, match=what):
            parse(wrong)
