"""The models that an evaluation keeps, with their cards.

OUT/export/                 `best`: that of the fold with the best selection score, which
OUT/export.json             names
OUT/export/seed0-fold03/    `all`: that of each fold
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voc2vec_jax.checkpoints import saving
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.distributed.lock import taking_turns
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.recipe import Recipe
from voc2vec_jax.evaluation.results import FoldResult, fold_name, fold_path, load_fold
from voc2vec_jax.files import write_json
from voc2vec_jax.models.wav2vec2 import Padding
from voc2vec_jax.scores import confusion, scores_of

Export = Literal["best", "all"]
LOCK = "export.lock"
"""Held while models or cards are written, for which others wait."""


@dataclass(frozen=True)
class Exporting:
    """Keeps models of folds in a folder.

    Raises:
        ConfigError: transformers has no such head, or a fold was finished without its model.
    """

    kind: Export
    out: Path
    """Of the evaluation."""
    protocol: Protocol
    recipe: Recipe
    data: str
    """What was trained on, for the cards."""

    def __post_init__(self) -> None:
        if self.recipe.head != "linear":
            raise ConfigError(
                f"--head {self.recipe.head}: transformers has no such head, so that an export "
                "would be another model there; leave --export out, or take --head linear"
            )
        if self.kind == "all" and self._note.exists():
            raise ConfigError(
                f"--export all: {self._folder} holds the one model of --export best; give that, or "
                "another --out"
            )
        self._refuse_lacking([path.stem for path in sorted((self.out / "folds").glob("*.json"))])

    def _refuse_lacking(self, finished: Sequence[str]) -> None:
        """Refuses folds, by name, whose models are nowhere."""
        if self.kind == "best":
            lacking = [] if self._note.exists() else finished
        else:
            lacking = [name for name in finished if not (self._folder / name).is_dir()]
        self._refuse(lacking)

    def _refuse(self, lacking: Sequence[str]) -> None:
        if lacking:
            raise ConfigError(
                f"--export {self.kind}: {self.out} has folds that were finished without it "
                f"({', '.join(lacking)}), whose models are gone; give another --out, or leave it "
                "out"
            )

    def save(self, model: PretrainedModel, result: FoldResult) -> None:
        """Keeps the model of a fold; as the best one, if it is."""
        if self.kind == "all":
            self._write(self._folder / fold_name(result.seed, result.fold), model, result)
            return
        chosen = _chosen(result)
        with taking_turns(self.out, LOCK):  # others may have a better one
            if self._note.exists() and self._rank(self._best()) > self._rank(chosen):
                return
            self._write(self._folder, model, result)
            write_json(self._note, chosen)

    def _rank(self, chosen: Mapping[str, float]) -> tuple[float, float, float]:
        """The better, the higher; of equal ones the last, whoever was first to finish."""
        sign = -1 if self.recipe.select_by == "loss" else 1
        return sign * chosen["selection_score"], chosen["seed"], chosen["fold"]

    def _rank_of(self, result: FoldResult) -> tuple[float, float, float]:
        return self._rank(_chosen(result))

    def finish_cards(self, results: Sequence[FoldResult], scores: str, run_sha256: str) -> None:
        """Writes the cards anew, with the test scores over all folds.

        Args:
            results: Of the folds that are finished.
            scores: Over them.
            run_sha256: Of the evaluation.
        """
        with taking_turns(self.out, LOCK):
            if self.kind == "all":
                # Another process may have been started without this.
                self._refuse_lacking([fold_name(r.seed, r.fold) for r in results])
                for result in results:
                    folder = self._folder / fold_name(result.seed, result.fold)
                    self._write_card(folder, result, scores)
                return
            best = self._best()
            # Another process may have been started without this.
            chosen = self._rank(best)
            self._refuse([fold_name(r.seed, r.fold) for r in results if self._rank_of(r) > chosen])
            path = fold_path(self.out, int(best["seed"]), int(best["fold"]))
            if path.exists():  # else it is of a fold that another process is about to finish
                self._write_card(self._folder, load_fold(path, run_sha256), scores)

    @property
    def _folder(self) -> Path:
        return self.out / "export"

    @property
    def _note(self) -> Path:
        return self.out / "export.json"

    def _best(self) -> dict[str, float]:
        return dict(json.loads(self._note.read_text(encoding="utf-8")))

    def _write(self, folder: Path, model: PretrainedModel, result: FoldResult) -> None:
        facts, padding = self.card_facts(result), self._padding
        saving.save_pretrained(model, folder, facts=facts, trained_padding=padding)

    def _write_card(self, folder: Path, result: FoldResult, scores: str) -> None:
        saving.write_card(folder, self.card_facts(result, scores), self._padding)

    @property
    def _padding(self) -> Padding:
        return "hf" if self.protocol == "paper" else "masked"

    def card_facts(self, result: FoldResult, scores: str = "") -> dict[str, str]:
        """Rows of the card of a fold's model; `scores` are those over all folds, once known."""
        rule = f" ({SELECTION_ON_TEST})" if self.protocol == "paper" else ""
        counts = confusion(result.labels, result.predictions, len(result.classes))
        own = scores_of(counts, self.protocol)
        rows = {
            "task": "classification",
            "training data": self.data,
            "protocol": f"{self.protocol}{rule}",
            "this model": f"fold {result.fold} of seed {result.seed}, {self.recipe.select_by}"
            f" {result.facts['selection_score']:.3f} on the clips that selected its epoch",
            "test scores of its fold": f"uar {own.uar:.3f}, macro_f1 {own.macro_f1:.3f},"
            f" accuracy {own.accuracy:.3f} on {len(result.labels)} clips",
            "fine-tuning": ", ".join(
                f"{name} {value}" for name, value in self.recipe.settings().items()
            ),
        }
        return {**rows, "test scores over folds": scores} if scores else rows


def _chosen(result: FoldResult) -> dict[str, float]:
    """What is noted of the fold whose model is kept."""
    score = result.facts["selection_score"]
    return {"seed": result.seed, "fold": result.fold, "selection_score": score}
