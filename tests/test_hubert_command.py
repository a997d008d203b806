"""HuBERT by its commands: labels, training, labels of its layer, training again, refusals."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tools import make_labels
from voc2vec_jax import from_pretrained
from voc2vec_jax.cli.train import main
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE
from voc2vec_jax.models import HubertForPreTraining
from voc2vec_jax.training.log.metrics_file import read_metrics

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

CONFIG = """
from voc2vec_jax.config import *

def get_config():
    return Config(
        task="hubert",
        model=ModelConfig(
            model_type="hubert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, conv_dim=(8, 8, 8), conv_kernel=(10, 8, 8),
            conv_stride=(5, 8, 8), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            final_dim=8, num_clusters=6,
        ),
        data=DataConfig(
            labels="nowhere", max_seconds=1.0, bucket_seconds=(1.0,), batch_seconds=8.0,
            batch_multiple=4,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        train=TrainConfig(num_steps=6, log_every_steps=3, checkpoint_every_steps=3),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, recordings of noise in changing colours, and their MFCC labels."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "small.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for name, clips in (("audio", 12), ("more", 13)):
        (folder / name).mkdir()
        for index in range(clips):
            noise = rng.standard_normal(rng.integers(6_000, 30_000))
            smooth = np.convolve(noise, np.ones(1 + index), mode="same") / (1 + index)
            soundfile.write(folder / name / f"{index}.wav", 0.1 * smooth, 16_000)
    assert label(folder, "mfcc6", "--features", "mfcc", "--clusters", "6") == DONE
    return folder


def label(place: Path, name: str, *options: str) -> int:
    return make_labels.main(
        [
            *("--data.folder", str(place / "audio"), "--data.data-dir", str(place / "cache")),
            *("--sample-share", "1", "--out", str(place / "labels" / name), *options),
        ]
    )


def command(
    place: Path, workdir: Path, labels: str, *more: str, folder: str = "audio"
) -> list[str]:
    return [
        *("--config", str(place / "small.py"), "--workdir", str(workdir)),
        *("--data.folder", str(place / folder), "--data.data-dir", str(place / "cache")),
        *("--data.labels", str(place / "labels" / labels), *more),
    ]


@pytest.fixture(scope="module")
def first(place: Path) -> Path:
    workdir = place / "first"
    assert main(command(place, workdir, "mfcc6")) == DONE
    return workdir


@pytest.mark.thorough
def test_the_second_iteration_starts_from_the_first(
    place: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = from_pretrained(first / "export")
    assert model.architecture is HubertForPreTraining
    assert model.params["label_embs_concat"].shape == (6, 8)
    assert "| clusters | 6 |" in (first / "export" / "README.md").read_text()
    assert [entry["step"] for entry in read_metrics(first / "metrics.jsonl")] == [3, 6]

    options = ("--features", "layer:1", "--clusters", "6", "--model", str(first / "export"))
    assert label(place, "layer6", *options) == DONE
    init = ("--init-from", str(first / "export"))
    assert main(command(place, place / "second", "layer6", *init)) == DONE
    output = capsys.readouterr().err
    assert "1 new, 1 dropped\n  new      label_embs_concat\n  dropped  label_embs_concat" in output
    assert "restart: label embeddings reset (objective.label_embeddings" in output
    assert "features=layer:1" in output

    # Labels that fit, but are not those that the run began with.
    assert main(command(place, first, "layer6")) == WRONG_USAGE
    assert "made with other data" in capsys.readouterr().err


REFUSED = {
    "another k": (["--model.num-clusters", "7"], "audio", WRONG_USAGE, "has 6 clusters, and the"),
    "another rate": (["--data.label-rate-hz", "50"], "audio", WRONG_USAGE, "at 100 Hz"),
    "another corpus": ([], "more", BAD_DATA, "was labelled|have other lengths|has no labels for"),
    "no labels": (["--data.labels", "None"], "audio", WRONG_USAGE, "tools.make_labels"),
    "another family": (["--model.model-type", "wav2vec2"], "audio", WRONG_USAGE, "task='hubert'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_fit_stop_the_run_before_it_begins(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    more, folder, code, message = REFUSED[case]
    try:
        returned = main(command(place, tmp_path / "run", "mfcc6", *more, folder=folder))
    except SystemExit as exit:  # tyro's own refusals
        returned = int(exit.code or 0)
    errors = capsys.readouterr().err
    assert returned == code, errors
    assert any(part in errors for part in message.split("|")), errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
