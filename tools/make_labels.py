"""Frame labels for HuBERT: `python -m tools.make_labels --features mfcc --clusters 100 --out X`.

k-means finds clusters on the features of a sample of the clips; then every frame of every clip gets
the number of its cluster. A killed run goes on where it stopped. Features are never stored, but for
those of the sample while clusters are being fit.

Examples:
  For the first iteration, on a folder of recordings:
    python -m tools.make_labels --features mfcc --clusters 100 --data.folder ~/recordings \\
        --out labels/mfcc100
  For the second one, from the sixth layer of what was trained on those:
    python -m tools.make_labels --features layer:6 --clusters 500 --model runs/first/export \\
        --data.folder ~/recordings --out labels/layer6-500
  Another corpus, with the clusters that are there:
    python -m tools.make_labels --assign-with labels/mfcc100 --data.folder ~/more --out labels/more
  To fairseq's files and from them:
    python -m tools.make_labels --assign-with labels/mfcc100 --data.folder ~/more \\
        --out labels/more --to-fairseq fairseq/
    python -m tools.make_labels --from-fairseq fairseq/ --rate-hz 50 --data.folder ~/recordings \\
        --out labels/theirs
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from data_pipelines.corpora.sources import open_corpus
from data_pipelines.frame_labels import fairseq_files
from data_pipelines.frame_labels.building import LabelBuild, building, finish
from data_pipelines.frame_labels.label_store import (
    MAX_CLUSTERS,
    Grid,
    LabelStore,
    Manifest,
)
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.cli.command import RESUMES, parsed, prepare_process, run
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.files import array_sha256

FAIRSEQ_SPLIT = "train"

if TYPE_CHECKING:  # the rest of JAX is loaded when it is needed, so that --help answers at once
    from voc2vec_jax.features.frames import Features


@dataclass(frozen=True)
class Corpus:
    """Which clips; as in training."""

    name: str = "synthetic"
    """A prepared dataset, or several joined by `+`, as in training."""
    folder: str | None = None
    """An unprepared folder of audio; wins over `name`."""
    table: str | None = None
    """An unprepared CSV with a column `path`, and `start` and `end` for segments; wins over
    `name`."""
    data_dir: str | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


@dataclass(frozen=True)
class Arguments:
    """Makes a label store for `--data.labels`."""

    out: Path
    """Becomes the store."""
    data: Corpus = field(default_factory=Corpus)
    features: str | None = None
    """`mfcc` (39 numbers, 100 Hz), or `layer:6` for the output of a model's sixth layer."""
    clusters: int | None = None
    """How many."""
    model: str | None = None
    """For `layer:`: a folder, a fairseq `.pt`, a run's working directory or a hub id."""
    sample_share: float = 0.1
    """Share of the clips that clusters are fit on; 1 for a corpus of few hours."""
    seed: int = 0
    """Draws the sample, and starts k-means."""
    assign_with: Path | None = None
    """Use the clusters of this label store instead of fitting some."""
    from_fairseq: Path | None = None
    """Take labels from fairseq's `train.tsv`, `train.km` and `dict.km.txt` in this folder."""
    rate_hz: float | None = None
    """With --from-fairseq: 100 for MFCC labels, 50 for those of a layer."""
    to_fairseq: Path | None = None
    """Also write those three files to this folder."""


def check(arguments: Arguments) -> None:
    """Raises ConfigError where flags do not go together."""
    ways = [arguments.features, arguments.assign_with, arguments.from_fairseq]
    if sum(way is not None for way in ways) != 1:
        raise ConfigError("give one of --features, --assign-with and --from-fairseq")
    if (arguments.features is None) != (arguments.clusters is None):
        raise ConfigError("--features and --clusters go together: the other ways bring their own")
    if arguments.clusters is not None and not 2 <= arguments.clusters <= MAX_CLUSTERS:
        raise ConfigError(f"--clusters {arguments.clusters}: at least 2, at most {MAX_CLUSTERS}")
    if (arguments.from_fairseq is None) != (arguments.rate_hz is None):
        raise ConfigError("--from-fairseq needs --rate-hz, and nothing else does")
    if arguments.from_fairseq is not None and arguments.model is not None:
        raise ConfigError("--from-fairseq brings labels, for which no model is needed")
    if not 0 < arguments.sample_share <= 1:
        raise ConfigError(f"--sample-share {arguments.sample_share}: above 0, at most 1")


def make(arguments: Arguments) -> LabelStore:
    """The store, made or found at `arguments.out`."""
    check(arguments)
    data = DataConfig(**dataclasses.asdict(arguments.data))
    corpus = open_corpus(data)
    if arguments.from_fairseq is not None:
        assert arguments.rate_hz is not None
        store = fairseq_files.read(
            arguments.from_fairseq, FAIRSEQ_SPLIT, corpus, arguments.rate_hz, arguments.out
        )
    else:
        store = _compute(arguments, corpus)
    if arguments.to_fairseq is not None:
        fairseq_files.write(store, corpus, arguments.to_fairseq, FAIRSEQ_SPLIT)
    return store


def _compute(arguments: Arguments, corpus: FlatStore) -> LabelStore:
    from voc2vec_jax.features import labelling
    from voc2vec_jax.features.kmeans import KMeansSettings

    fitted = LabelStore.open(arguments.assign_with) if arguments.assign_with else None
    name = fitted.manifest.features if fitted else arguments.features
    source = arguments.model or (fitted.manifest.model if fitted else None)
    assert name is not None
    if fitted and fitted.manifest.model_sha256 and fitted.manifest.format_version == 1:
        raise ConfigError(
            f"--assign-with {arguments.assign_with}: was made by an older version of this package,"
            f" which knew models by another hash, so that nothing says whether {source} is the one"
            f" ({fitted.manifest.model} then); fit anew with --features {name} --clusters"
            f" {fitted.manifest.clusters} --model {source}"
        )
    if fitted:
        centroids, fit = fitted.centroids(), fitted.manifest.fit
    features, model_sha256 = labelling.open_features(name, source)
    settings: dict[str, Any] = {"features": name, "model_sha256": model_sha256}
    if fitted:
        if model_sha256 != fitted.manifest.model_sha256:
            raise ConfigError(
                f"--model {source}: is not the model that {arguments.assign_with} was made with"
                f" (sha256 {fitted.manifest.model_sha256}, then at {fitted.manifest.model}; here"
                f" {model_sha256}); give --model with that one, or fit clusters anew"
            )
        settings["centroids_sha256"] = fit["centroids_sha256"]
    else:
        assert arguments.clusters is not None
        kmeans = KMeansSettings(clusters=arguments.clusters, seed=arguments.seed)
        settings |= {"sample_share": arguments.sample_share, **dataclasses.asdict(kmeans)}
    with building(arguments.out, corpus, settings) as build, _progress() as progress:
        if build is None:
            return LabelStore.open(arguments.out)
        if not fitted:
            clips = labelling.sample_clips(len(corpus.ids), arguments.sample_share, arguments.seed)
            bar = progress.add_task("Features of the sample", total=len(clips))
            centroids, facts = labelling.fit_clusters(
                features,
                lambda clip: corpus.waveform(int(clips[clip])),
                corpus.lengths[clips],
                kmeans,
                build.directory,
                lambda more: progress.advance(bar, more),
            )
            fit = {"corpus": corpus.name, **facts, "centroids_sha256": array_sha256(centroids)}
        _assign(build, corpus, features, centroids, progress)
        manifest = Manifest(
            clusters=len(centroids),
            features=name,
            grid=Grid(features.window_samples, features.hop_samples),
            corpus=corpus.name,
            corpus_fingerprint=corpus.fingerprint,
            model=source,
            model_sha256=model_sha256,
            settings=settings,
            fit=fit,
            quality=_quality(build, corpus, len(centroids)),
        )
        return finish(build, arguments.out, manifest, centroids)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _assign(
    build: LabelBuild,
    corpus: FlatStore,
    features: "Features",
    centroids: NDArray[np.float32],
    progress: Progress,
) -> None:
    from voc2vec_jax.features.labelling import label_clips

    done = build.counts >= 0
    bar = progress.add_task("Labels", total=len(done), completed=int(done.sum()))

    def emit(clip: int, labels: NDArray[np.int32], distance: float) -> None:
        build.append(clip, labels, distance)
        progress.advance(bar)

    label_clips(features, corpus.waveform, corpus.lengths, centroids, done, emit)


def _quality(build: LabelBuild, corpus: FlatStore, clusters: int) -> dict[str, Any]:
    from voc2vec_jax.features.kmeans import Tally, quality

    tally = Tally(clusters, len(corpus.class_names))
    for clip, labels in build.read():
        tally.add(labels, int(corpus.labels[clip]))
    return quality(tally, float(build.distances.sum() / max(build.counts.sum(), 1)))


def report(store: LabelStore) -> str:
    """What the labels are and how good, a figure a line, and what to do with them."""
    manifest = store.manifest
    lines = [store.summary()]
    for title, figures in (("fit", manifest.fit), ("quality", manifest.quality)):
        shown = (
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in figures.items()
        )
        lines.append(f"{title}: {' '.join(shown)}")
    lines.append(
        "next: python -m voc2vec_jax.train --config CONFIG.py --workdir RUN"
        f" --data.labels {store.directory} (and the same --data.… as here)"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of every device it does not find

    def work() -> None:
        print(report(make(parsed(Arguments, argv, __doc__, "tools.make_labels"))))

    return run(work, stopped=RESUMES)


if __name__ == "__main__":
    prepare_process(sigterm_is_ctrl_c=True)
    sys.exit(main())
