"""`python -m voc2vec_jax.train` with task classify: held-out figures, best by UAR, an export."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import transformers

from tests.labelled_corpus import CLASSES, MODEL, waveforms
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.cli import train
from voc2vec_jax.config import ClassifyConfig, Config, OptimConfig, TrainConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import DONE, WRONG_USAGE, ConfigError
from voc2vec_jax.objectives import ClassifyTask
from voc2vec_jax.training.log.metrics_file import read_metrics
from voc2vec_jax.training.update import Training

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

CONFIG = """
import dataclasses
from tests.labelled_corpus import MODEL
from voc2vec_jax.config import *

def get_config():
    return Config(
        task="classify",
        model=MODEL,
        data=DataConfig(
            max_seconds=0.4, bucket_seconds=(0.4,), batch_clips=4, eval_share=0.3
        ),
        optim=OptimConfig(
            learning_rate=3e-3, warmup_share=0.1, epsilon_placement="torch", clip_norm=1.0
        ),
        train=TrainConfig(
            num_steps=12, log_every_steps=3, eval_every_steps=3, checkpoint_every_steps=6,
            export_checkpoint="best", best_by="uar",
        ),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "classify.py").write_text(CONFIG)
    lines = ["path,label,group"]
    for index, (label, group, wave) in enumerate(waveforms()):
        soundfile.write(folder / f"{index:02d}.wav", wave, 16_000)
        lines.append(f"{index:02d}.wav,{label},{group}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(place: Path, workdir: Path, *more: str) -> int:
    return train.main([
        *("--config", str(place / "classify.py"), "--workdir", str(workdir)),
        *("--data.table", str(place / "clips.csv"), "--data.data-dir", str(place / "cache")),
        *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    assert run(place, place / "run") == DONE
    return place / "run"


def test_held_out_figures_choose_the_export(trained: Path) -> None:
    lines = read_metrics(trained / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    uars = [line["eval_uar"] for line in lines]
    wanted = {"eval_loss", "eval_macro_f1", "eval_accuracy", "accuracy"}
    assert all(wanted <= line.keys() for line in lines)
    assert lines[-1]["time_compiled_programs"] == 2
    best = 3 * (1 + int(np.argmax(uars)))
    kept = {int(path.name) for path in (trained / "checkpoints").iterdir()}
    assert best in kept
    exported = from_pretrained(trained / "export", padding="masked")
    assert exported.config.labels == CLASSES
    model, info = transformers.AutoModelForAudioClassification.from_pretrained(
        trained / "export", output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert "| task | classify |" in (trained / "export" / "README.md").read_text()


def test_a_finished_run_is_not_trained_again(trained: Path, place: Path) -> None:
    before = (trained / "export" / "model.safetensors").read_bytes()
    assert run(place, trained) == DONE
    assert (trained / "export" / "model.safetensors").read_bytes() == before
    working = from_pretrained(trained, padding="masked")
    assert working.architecture.__name__ == "Wav2Vec2ForSequenceClassification"


def test_a_head_is_never_taken_over_unseen(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    more = ("--init-from", str(trained / "export"), "--train.patience", "1")
    assert run(place, out, *more, "--optim.learning-rate", "1e-12") == DONE
    said = capsys.readouterr().err
    assert "restart: the classifier is drawn anew" in said
    # Nothing moves, so that the second evaluation is no better than the first, and the last.
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [3, 6]
    ours, theirs = (from_pretrained(path / "export") for path in (out, trained))
    path = "wav2vec2.encoder.layers.0.attention.q_proj.kernel"
    np.testing.assert_allclose(ours.params[path], theirs.params[path], atol=1e-8)
    assert not np.allclose(ours.params["classifier.kernel"], theirs.params["classifier.kernel"])
    # Started again, a run that has lost patience ends at once.
    assert run(place, out, *more, "--optim.learning-rate", "1e-12") == DONE
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [3, 6]


def test_other_classes_than_those_of_the_corpus_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("--model.labels", "laugh", "cry")
    assert run(place, tmp_path / "out", *labels) == WRONG_USAGE
    assert "model.labels=['laugh', 'cry']: the corpus has the classes ['cry'" in (
        capsys.readouterr().err
    )


def test_runs_share_programs_only_where_these_agree() -> None:
    config = Config(task="classify", model=MODEL, train=TrainConfig(num_steps=4))
    mesh = sharding.build_mesh(config.mesh, jax.devices()[:1])
    training = Training(config, ClassifyTask(config), mesh)
    longer = dataclasses.replace(config, train=TrainConfig(num_steps=9, seed=5))
    assert training.for_run(longer).config is longer
    other = dataclasses.replace(config, classify=ClassifyConfig(label_smoothing=0.1))
    with pytest.raises(ConfigError, match="data, seed, length and rhythm only"):
        training.for_run(other)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"train": TrainConfig(best_by="uar")}, "train.best_by='uar': task wav2vec2"),
        ({"train": TrainConfig(patience=2)}, "train.patience=2: nothing is held out"),
    ],
)
def test_what_needs_held_out_classes_says_so(fields: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Config(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_warm_up_is_a_share_of_the_run(share: float) -> None:
    with pytest.raises(ConfigError, match=r"optim\.warmup_share"):
        OptimConfig(warmup_share=share)


def test_an_unlabelled_corpus_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place / "unlabelled.csv"
    table.write_text("path\n00.wav\n01.wav\n")
    arguments = ("--data.table", str(table), "--model.labels", *CLASSES)
    assert run(place, tmp_path / "out", *arguments) == WRONG_USAGE
    assert "the corpus has the classes []" in capsys.readouterr().err
