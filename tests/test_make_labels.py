"""The command: labels from MFCCs and from a layer, again, for another corpus, after a kill."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.cluster import KMeans

from data_pipelines.corpora.sources import store_from_table
from data_pipelines.frame_labels.label_store import LabelStore
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.sound import from_int16
from tests.conftest import FEW, TINY
from tests.small_models import random_params
from tests.test_labels import as_version_1
from tools import make_labels
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.audio.mfcc import mfcc
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.features import frames, labelling
from voc2vec_jax.models import HubertModel

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables of the same folder: 24 clips of two classes, and 5 others."""
    folder = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    for table, clips in (("clips", 24), ("others", 5)):
        rows = ["path,label,group"]
        for index in range(clips):
            samples = int(random.integers(400, 12_000))
            time = np.arange(samples) / 16_000
            noise = 0.3 * random.standard_normal(samples)
            high = np.sin(2 * np.pi * 3_000 * time) if index % 2 else np.zeros(samples)
            name = f"{table}{index}.wav"
            soundfile.write(folder / name, np.clip(0.1 * noise + 0.4 * high, -1, 1), 16_000)
            rows.append(f"{name},{'high' if index % 2 else 'low'},g{index}")
        (folder / f"{table}.csv").write_text("\n".join(rows) + "\n")
    return folder


def smaller(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frames, "BATCH_SECONDS", 2.0)
    patch.setattr(frames, "BUCKET_SECONDS", (1.0,))
    patch.setattr(frames, "CHUNK_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller(monkeypatch)


def run(folder: Path, out: Path, *options: str, table: str = "clips") -> int:
    common = ["--data.table", str(folder / f"{table}.csv"), "--data.data-dir", str(folder / "data")]
    return make_labels.main([*common, "--out", str(out), *options])


@pytest.fixture(scope="module")
def labels(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels from MFCCs, for tests that only read them."""
    out = tmp_path_factory.mktemp("labels") / "labels"
    with pytest.MonkeyPatch.context() as patched:
        smaller(patched)
        assert run(folder, out, *MFCC) == 0
    return out


MFCC = ("--features", "mfcc", "--clusters", "6", "--sample-share", "0.5")


def corpus_of(folder: Path, table: str = "clips") -> FlatStore:
    return store_from_table(folder / f"{table}.csv", folder / "data")


def waveform(corpus: FlatStore, clip: int) -> np.ndarray:
    return from_int16(corpus.read(clip, 0, int(corpus.lengths[clip])))


def predict(centroids: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """By scikit-learn."""
    model = KMeans(len(centroids), n_init=1, init=centroids, max_iter=1).fit(centroids)
    np.testing.assert_allclose(model.cluster_centers_, centroids, atol=1e-4)
    return model.predict(frames)


def test_mfcc_labels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels"
    assert run(folder, out, *MFCC) == 0
    shown = capsys.readouterr().out
    assert "used_clusters=6" in shown
    assert f"--data.labels {out}" in shown
    store, corpus = LabelStore.open(out), corpus_of(folder)
    centroids = store.centroids()
    assert store.manifest.fit["clips"] == 12
    distance, counts = 0.0, np.zeros(6, int)
    for clip, row in enumerate(store.rows_of(corpus.ids)):
        frames = mfcc(waveform(corpus, clip))
        labels = store.read(int(row))
        np.testing.assert_array_equal(labels, predict(centroids, frames))
        distance += float(((frames - centroids[labels]) ** 2).sum())
        counts += np.bincount(labels, minlength=6)
    quality = store.manifest.quality
    assert quality["frames"] == counts.sum()
    assert quality["inertia_per_frame"] == pytest.approx(distance / counts.sum(), rel=1e-4)
    assert quality["largest_share"] == pytest.approx(counts.max() / counts.sum())
    assert quality["pnmi"] > 0.5  # a tone is easily told from noise
    assert run(folder, out, *MFCC) == 0  # nothing to do
    assert run(folder, out, *MFCC, "--seed", "1") == 2
    assert "seed: 0 there, 1 asked for" in capsys.readouterr().err


def test_one_fit_for_another_corpus(folder: Path, labels: Path, tmp_path: Path) -> None:
    use = ("--assign-with", str(labels))
    assert run(folder, tmp_path / "again", *use) == 0
    first, again = LabelStore.open(labels), LabelStore.open(tmp_path / "again")
    assert again.fingerprint == first.fingerprint
    assert run(folder, tmp_path / "others", *use, table="others") == 0
    store, corpus = LabelStore.open(tmp_path / "others"), corpus_of(folder, "others")
    assert store.manifest.fit == first.manifest.fit
    np.testing.assert_array_equal(store.centroids(), first.centroids())
    for clip, row in enumerate(store.rows_of(corpus.ids)):
        expected = predict(first.centroids(), mfcc(waveform(corpus, clip)))
        np.testing.assert_array_equal(store.read(int(row)), expected)


def hubert(folder: Path, seed: int = 0) -> PretrainedModel:
    config = ModelConfig(**{**TINY, **FEW}, model_type="hubert")
    params = random_params(HubertModel, config, seed)
    made = PretrainedModel(
        HubertModel, config, params, preprocessor=Preprocessor(), padding="masked"
    )
    save_pretrained(made, folder)
    return made


def test_labels_of_a_layer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_at = tmp_path / "model"
    model = hubert(model_at)
    options = ("--features", "layer:1", "--clusters", "5", "--model", str(model_at))
    assert run(folder, tmp_path / "labels", *options, "--sample-share", "1") == 0
    store, corpus = LabelStore.open(tmp_path / "labels"), corpus_of(folder)
    assert store.manifest.grid.rate_hz == 50
    assert store.manifest.model_sha256 == load_encoder(model_at, padding="masked").sha256
    quality, fit = store.manifest.quality, store.manifest.fit
    assert quality["inertia_per_frame"] == pytest.approx(fit["inertia_per_frame"], rel=1e-4)
    waveforms = [waveform(corpus, clip) for clip in range(len(corpus.ids))]
    out = model(*model.preprocess(waveforms), output_hidden_states=True)
    states = np.asarray(out.hidden_states[1])  # type: ignore[union-attr, index]
    same = total = 0
    for clip, row in enumerate(store.rows_of(corpus.ids)):
        labels = store.read(int(row))
        assert len(labels) == frames_from_samples(int(corpus.lengths[clip]))
        expected = predict(store.centroids(), states[clip, : len(labels)])
        same, total = same + int((labels == expected).sum()), total + len(labels)
    assert same >= 0.999 * total  # two frames may be as near to two centroids up to rounding
    hubert(tmp_path / "other", seed=1)
    use = ("--assign-with", str(tmp_path / "labels"), "--model", str(tmp_path / "other"))
    assert run(folder, tmp_path / "none", *use, table="others") == 2
    assert "is not the model that" in capsys.readouterr().err
    assert run(folder, tmp_path / "others", *use[:2], table="others") == 0
    # The same command after other weights were put there, and after the model has moved.
    there = store.manifest.model_sha256
    (tmp_path / "model").rename(tmp_path / "moved")
    (tmp_path / "other").rename(tmp_path / "model")
    whole = (*options, "--sample-share", "1")
    assert run(folder, tmp_path / "labels", *whole) == 2
    now = load_encoder(tmp_path / "model", padding="masked").sha256
    assert (
        f"the model's parameters or configuration: {there[:12]}… there, {now[:12]}… asked for"
        in capsys.readouterr().err
    )
    moved = [str(tmp_path / "moved") if o == str(tmp_path / "model") else o for o in whole]
    assert run(folder, tmp_path / "labels", *moved) == 0
    as_version_1(tmp_path / "labels")
    assert run(folder, tmp_path / "none", *use[:2], table="others") == 2
    assert "nothing says whether" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage",
    [
        "labels",
        pytest.param("sample", marks=pytest.mark.thorough),
        pytest.param("clusters", marks=pytest.mark.thorough),
    ],
)
def test_a_killed_run_goes_on(
    folder: Path,
    labels: Path,
    tmp_path: Path,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extracted: list[int] = []
    original = frames.MfccFeatures.__call__

    def count(self: object, waveforms: list, then: frames.Then = frames.keep) -> list:
        if stage in ("sample", "labels") and len(extracted) == (3 if stage == "sample" else 9):
            raise KeyboardInterrupt
        extracted.append(len(waveforms))
        return original(self, waveforms, then)  # type: ignore[arg-type]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(frames.MfccFeatures, "__call__", count)
        if stage == "clusters":
            patched.setattr(labelling, "fit", stop)
        assert run(folder, tmp_path / "labels", *MFCC) == 75
    assert "run the same command again to resume" in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()
    (unfinished,) = tmp_path.glob(".labels.*.unfinished")
    if stage == "labels":
        assert os.path.getsize(unfinished / "labels.uint16") > 0
        monkeypatch.setattr(labelling, "write_frames", stop)  # the fit is not repeated
    assert run(folder, tmp_path / "labels", *MFCC) == 0
    for path in labels.iterdir():
        assert (tmp_path / "labels" / path.name).read_bytes() == path.read_bytes()
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "give one of --features, --assign-with and --from-fairseq"),
        (("--features", "mfcc"), 2, "--features and --clusters go together"),
        (("--features", "mfcc", "--clusters", "1"), 2, "--clusters 1: at least 2"),
        (("--features", "mfcc", "--clusters", "65537"), 2, "at most 65536"),
        (("--features", "mel", "--clusters", "9"), 2, "give mfcc, or layer:6"),
        (("--features", "layer:1", "--clusters", "9"), 2, "of which model?"),
        ((*MFCC, "--model", "x"), 2, "MFCCs need none"),
        ((*MFCC[:4], "--sample-share", "0"), 2, "above 0, at most 1"),
        (("--features", "mfcc", "--clusters", "60000"), 2, "frames; give fewer"),
        (("--assign-with", "nowhere"), 3, "is no label store"),
        (("--from-fairseq", "x", "--rate-hz", "50", "--model", "y"), 2, "no model is needed"),
        (("--from-fairseq", "nowhere"), 2, "--from-fairseq needs --rate-hz"),
        (("--from-fairseq", "nowhere", "--rate-hz", "100"), 3, "dict.km.txt: cannot be read"),
        (("--features", "layer:1", "--clusters", "9", "--model", "none/x"), 3, "none/x"),
    ],
)
def test_what_cannot_work_is_refused(
    folder: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(folder, tmp_path / "labels", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()


def test_a_layer_that_is_not_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hubert(tmp_path / "model")
    options = ("--features", "layer:9", "--clusters", "5", "--model", str(tmp_path / "model"))
    assert run(folder, tmp_path / "labels", *options) == 2
    assert "layer=9: the model has 0 to 2" in capsys.readouterr().err


def test_to_fairseq_and_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "labels", *MFCC, "--to-fairseq", str(tmp_path / "files")) == 0
    back = ("--from-fairseq", str(tmp_path / "files"), "--rate-hz", "100")
    assert run(folder, tmp_path / "back", *back) == 0
    first, again = LabelStore.open(tmp_path / "labels"), LabelStore.open(tmp_path / "back")
    assert again.fingerprint == first.fingerprint
    assert again.manifest.features == "fairseq"
    same = ("--assign-with", str(tmp_path / "labels"), "--to-fairseq", str(tmp_path / "files"))
    before = (tmp_path / "files" / "train.km").read_bytes()
    assert run(folder, tmp_path / "again", *same) == 0
    assert run(folder, tmp_path / "others", *same, table="others") == 2
    assert "train.tsv: is there already, with other labels or clips" in capsys.readouterr().err
    assert (tmp_path / "files" / "train.km").read_bytes() == before
    assert len(list((tmp_path / "files").iterdir())) == 3
    assert run(folder, tmp_path / "none", "--assign-with", str(tmp_path / "back")) == 3
    assert "cannot be given to other clips" in capsys.readouterr().err
    assert json.loads((tmp_path / "back" / "manifest.json").read_text())["clusters"] == 6
