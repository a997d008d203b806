"""A row of an evaluation: a pre-trained model, fine-tuned anew on the training part of each fold.

All folds go through the one loop (`loop.fit`) and share its compiled programs; labels and class
weights are inputs of those. A fold keeps its best parameters in memory and is started anew if it is
interrupted.
"""

import dataclasses
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
from voc2vec_jax.checkpoints import saving
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import Config
from voc2vec_jax.config.recipe import Protocol as FoldProtocol
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.cross_validation import LabelledCorpus
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST, Fold
from voc2vec_jax.evaluation.recipe import Recipe, fold_config
from voc2vec_jax.evaluation.results import FoldResult
from voc2vec_jax.features.clip_states import pooled_states
from voc2vec_jax.files import write_json
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.models.wav2vec2 import Padding
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
    export: bool = False
    """Keep the model of the fold with the best selection score in `out/export`."""
    _compiled: Training | None = field(default=None, init=False, repr=False)
    _pooled: Features = field(default=None, init=False, repr=False)
    _test_shapes: compiling.Shapes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._test_shapes = compiling.Shapes("test shape")
        if self.export and self.recipe.head != "linear":
            raise ConfigError(
                f"--head {self.recipe.head}: transformers has no such head, so that an export "
                "would be another model there; leave --export out, or take --head linear"
            )
        finished = any((self.out / "folds").glob("*.json"))
        if self.export and finished and not (self.out / "export.json").exists():
            raise ConfigError(
                f"--export: {self.out} has folds that were finished without it, whose models are "
                "gone; give another --out, or leave it out"
            )

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
        workdir = self.out / "runs" / f"seed{seed}-fold{number:02d}"
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
        if self.export:
            self._export_if_best(params, config, order, facts, number, seed)
        return FoldResult(
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
        """Of all clips, by one pass of the frozen encoder."""
        if self._pooled is None:
            every = np.arange(len(self.corpus.ids))
            whole = dataclasses.replace(self.recipe, freeze_encoder=False)
            config = fold_config(
                whole, self.protocol, self.encoder, tuple(self.corpus.class_names), 0, 0.0
            )
            self._pooled = pooled_states(
                self.encoder,
                self.clips.judged(config, every, np.asarray(self.corpus.labels, np.int32)),
                len(every),
                padding=config.classify.padding,
                all_layers=self.recipe.weighted_layer_sum,
            )
        return self._pooled

    def _export_if_best(
        self,
        params: Params,
        config: Config,
        order: Ints,
        facts: Mapping[str, Any],
        number: int,
        seed: int,
    ) -> None:
        note = self.out / "export.json"
        best = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        if best is not None and best["selection_score"] > facts["selection_score"]:
            return
        labels = tuple(self.corpus.class_names[label] for label in order)
        model = dataclasses.replace(config.model, labels=labels)
        whole = {**self._encoder_params(), **params} if self.recipe.freeze_encoder else params
        chosen = {"seed": seed, "fold": number, "selection_score": facts["selection_score"]}
        saving.save_pretrained(
            PretrainedModel(
                CLASSIFIERS[model.model_type],
                model,
                whole,
                preprocessor=Preprocessor.of_training(config.data.normalize),
            ),
            self.out / "export",
            facts=self.card_facts(chosen),
            trained_padding=self._padding,
        )
        write_json(note, chosen, by_many=True)

    def finish_card(self, scores: str) -> None:
        """Writes the card of the export anew, with the test scores of all folds."""
        chosen = json.loads((self.out / "export.json").read_text(encoding="utf-8"))
        saving.write_card(self.out / "export", self.card_facts(chosen, scores), self._padding)

    @property
    def _padding(self) -> Padding:
        return "hf" if self.protocol == "paper" else "masked"

    def card_facts(self, chosen: Mapping[str, Any], scores: str = "") -> dict[str, str]:
        """Rows of the model card of an export; `scores` are those of all folds, once known."""
        rule = f" ({SELECTION_ON_TEST})" if self.protocol == "paper" else ""
        rows = {
            "task": "classification",
            "training data": f"{self.corpus.name}, {len(self.corpus.ids)} clips",
            "protocol": f"{self.protocol}{rule}",
            "this model": f"fold {chosen['fold']} of seed {chosen['seed']}, {self.recipe.select_by}"
            f" {chosen['selection_score']:.3f} on the clips that selected its epoch",
            "fine-tuning": ", ".join(
                f"{name} {value}" for name, value in self.recipe.settings().items()
            ),
        }
        return {**rows, "test scores over folds": scores} if scores else rows


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
