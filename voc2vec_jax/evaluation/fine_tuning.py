"""A row of an evaluation: a pre-trained model, fine-tuned anew on the training part of each fold.

All folds go through the one loop (`loop.fit`) and share its compiled programs; labels and class
weights are inputs of those. A fold keeps its best parameters in memory and is started anew if it is
interrupted.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from voc2vec_jax import compiling
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import Config
from voc2vec_jax.config.recipe import Protocol as FoldProtocol
from voc2vec_jax.distributed import sharding
from voc2vec_jax.distributed.lock import taking_turns
from voc2vec_jax.evaluation.exporting import Export, Exporting
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.recipe import Recipe, fold_config
from voc2vec_jax.evaluation.results import Evaluation, FoldResult, fold_name
from voc2vec_jax.features.clip_states import pooled_states
from voc2vec_jax.files import writing
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import ClassifyTask, HostBatch, ProbeTask
from voc2vec_jax.objectives.classify import clip_scores
from voc2vec_jax.scores import Ints
from voc2vec_jax.training import loop
from voc2vec_jax.training.log.metrics_file import read_metrics
from voc2vec_jax.training.starting_point import TrainingData
from voc2vec_jax.training.update import Training
from voc2vec_jax.training.validation import predict

Features = NDArray[np.float32] | None


class Clips(Protocol):
    """Where batches of labelled clips come from; see `data_pipelines.batches.fine_tuning`."""

    def fold(
        self, config: Config, train: Ints, held: Ints, labels: Ints, features: Features = None
    ) -> TrainingData:
        """Clips to train on and to select by."""
        ...

    def judged(
        self, config: Config, clips: Ints, labels: Ints, features: Features = None
    ) -> Iterator[HostBatch]:
        """Each clip once, as in evaluation."""
        ...


@dataclass
class FineTuning:
    """Makes the results of folds; a `cross_validation.Row`.

    Raises (by its call):
        TrainingDivergedError, PreemptedError: As `loop.fit`.
    """

    encoder: PretrainedModel
    """Without a head: each fold begins with a fresh one."""
    corpus: LabelledCorpus
    clips: Clips
    protocol: FoldProtocol
    recipe: Recipe
    out: Path
    export: Export | None = None
    """Keep the model of every fold, or of that with the best selection score; see `exporting`."""
    _compiled: Training | None = field(default=None, init=False, repr=False)
    _pooled: Features = field(default=None, init=False, repr=False)
    _test_shapes: compiling.Shapes = field(init=False, repr=False)
    _exporting: Exporting | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._test_shapes = compiling.Shapes("test shape")
        if self.export is not None:
            data = f"{self.corpus.name}, {len(self.corpus.ids)} clips"
            self._exporting = Exporting(self.export, self.out, self.protocol, self.recipe, data)

    def __call__(self, number: int, fold: Fold, seed: int) -> FoldResult:
        """Trains on a fold, selects, and answers on its test clips."""
        started = time.monotonic()
        order = self._class_order(fold)
        place = np.argsort(order)
        labels = place[np.asarray(self.corpus.labels)].astype(np.int32)
        config = self._config(fold, number, seed)
        features = self._features() if self.recipe.freeze_encoder else None
        data = self.clips.fold(config, fold.train, fold.selection, labels, features)
        config = _with_epochs(config, self.recipe.epochs, data.batches_per_epoch)
        task = (ProbeTask if self.recipe.freeze_encoder else ClassifyTask)(config, self.protocol)
        if self._compiled is None:
            self._compiled = Training(config, task, sharding.build_mesh(config.mesh))
        workdir = self.out / "runs" / fold_name(seed, number)
        workdir.mkdir(parents=True, exist_ok=True)
        params = loop.fit(
            config,
            task,
            data,
            workdir,
            None if self.recipe.freeze_encoder else self._encoder_params,
            compiled=self._compiled,
            inner=True,
        )
        facts = _facts_of_run(workdir, config, data.batches_per_epoch)
        judged = self._test_shapes.each(self.clips.judged(config, fold.test, labels, features))
        scores = clip_scores(predict(self._compiled, params, judged), config)
        # Their clips are in ascending order, those of a fold in its own.
        logits = scores.logits[np.searchsorted(scores.clips, fold.test)][:, place]
        known = np.isin(np.arange(len(order)), np.asarray(self.corpus.labels)[fold.train])
        logits = np.where(known, logits.astype(np.float64), -np.inf)
        result = FoldResult(
            fold=number,
            seed=seed,
            classes=tuple(self.corpus.class_names),
            clip_ids=tuple(self.corpus.ids[clip] for clip in fold.test),
            groups=tuple(self.corpus.units.names[clip] for clip in fold.test),
            labels=np.asarray(self.corpus.labels)[fold.test],
            predictions=logits.argmax(axis=1),
            scores=softmax(logits, axis=1),
            train_clips=len(fold.train),
            facts={
                **facts,
                "seconds": round(time.monotonic() - started, 1),
                "compiled_programs": self._compiled.compiled_programs,
            },
        )
        if self._exporting is not None:
            self._exporting.save(self._model(params, config, order), result)
        return result

    def _class_order(self, fold: Fold) -> Ints:
        """Which class each logit is of: under `paper` by first appearance in the training part.

        Classes that do not appear there come last and are never predicted; the voc2vec
        repository's script ends with a KeyError where a test part has one.
        """
        classes = np.arange(len(self.corpus.class_names))
        if self.protocol != "paper":
            return classes
        seen = dict.fromkeys(np.asarray(self.corpus.labels)[fold.train].tolist())
        return np.array([*seen, *(c for c in classes.tolist() if c not in seen)])

    def _config(self, fold: Fold, number: int, seed: int) -> Config:
        return fold_config(
            self.recipe,
            self.protocol,
            self.encoder,
            tuple(self.corpus.class_names),
            seed=1000 * seed + number,
            held_share=len(fold.selection) / (len(fold.train) + len(fold.selection)),
        )

    def _encoder_params(self) -> Mapping[str, Any]:
        family = self.encoder.config.model_type
        # Copies: the first update of a fold uses up the arrays that it is given.
        return {f"{family}.{path}": np.array(value) for path, value in self.encoder.params.items()}

    def _features(self) -> NDArray[np.float32]:
        """Of all clips, by one pass of the frozen encoder, which other processes wait for."""
        if self._pooled is None:
            self.out.mkdir(parents=True, exist_ok=True)
            config = self._hearing()
            content = json.dumps(
                [
                    self.encoder.sha256,
                    self.corpus.fingerprint,
                    dataclasses.asdict(config.data),
                    dataclasses.asdict(config.classify),
                    self.recipe.weighted_layer_sum,
                ],
                sort_keys=True,
            )
            name = f"features-{hashlib.sha256(content.encode()).hexdigest()[:12]}.npy"
            with taking_turns(self.out, "features.lock"):
                path = self.out / name
                if not path.exists():
                    with writing(path, by_many=True) as unfinished, unfinished.open("wb") as file:
                        np.save(file, self._heard(config))
                self._pooled = np.load(path)
        return self._pooled

    def _hearing(self) -> Config:
        """How the frozen encoder hears clips: as a whole model would in evaluation."""
        whole = dataclasses.replace(self.recipe, freeze_encoder=False)
        return fold_config(
            whole, self.protocol, self.encoder, tuple(self.corpus.class_names), 0, 0.0
        )

    def _heard(self, config: Config) -> NDArray[np.float32]:
        every = np.arange(len(self.corpus.ids))
        return pooled_states(
            self.encoder,
            self.clips.judged(config, every, np.asarray(self.corpus.labels, np.int32)),
            len(every),
            padding=config.classify.padding,
            all_layers=self.recipe.weighted_layer_sum,
        )

    def _model(self, params: Params, config: Config, order: Ints) -> PretrainedModel:
        labels = tuple(self.corpus.class_names[label] for label in order)
        model = dataclasses.replace(config.model, labels=labels)
        whole = {**self._encoder_params(), **params} if self.recipe.freeze_encoder else params
        return PretrainedModel(
            CLASSIFIERS[model.model_type],
            model,
            whole,
            preprocessor=Preprocessor.of_training(config.data.normalize),
        )

    def finish(self, evaluation: Evaluation, scores: str) -> None:
        """Gives cards the test scores over folds, and drops what no fold needs any more."""
        if self._exporting is not None:
            self._exporting.finish_cards(
                evaluation.results, scores, evaluation.identity["run_sha256"]
            )
        if evaluation.complete:
            for features in self.out.glob("features-*.npy"):
                features.unlink(missing_ok=True)


def _with_epochs(config: Config, epochs: int, batches_per_epoch: int) -> Config:
    train = dataclasses.replace(
        config.train,
        num_steps=epochs * batches_per_epoch,
        log_every_steps=batches_per_epoch,
        eval_every_steps=batches_per_epoch,
        checkpoint_every_steps=epochs * batches_per_epoch,
    )
    return dataclasses.replace(config, train=train)


def _facts_of_run(workdir: Path, config: Config, batches_per_epoch: int) -> dict[str, Any]:
    """Epochs trained, the best of them and its selection score, as the log has them."""
    name = f"eval_{config.train.best_by}"
    judged = [entry for entry in read_metrics(workdir / "metrics.jsonl") if name in entry]
    sign = -1 if config.train.best_by == "loss" else 1
    best = max(judged, key=lambda entry: (sign * entry[name], -entry["step"]))
    return {
        "epochs": judged[-1]["step"] // batches_per_epoch,
        "best_epoch": best["step"] // batches_per_epoch,
        "selected_by": config.train.best_by,
        "selection_score": best[name],
    }
