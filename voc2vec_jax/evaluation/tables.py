"""Tables of evaluations, as Markdown and as LaTeX.

The main one has the layout of the voc2vec paper: a row for each model, UAR and macro F1 for each
dataset, and their mean and deviation over the datasets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.intervals import Spread
from voc2vec_jax.evaluation.published import PROTOCOL, SOURCE, VOC2VEC_TABLE
from voc2vec_jax.evaluation.report import Summary
from voc2vec_jax.evaluation.results import Evaluation
from voc2vec_jax.evaluation.significance import PairedTest

NOTHING = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
}


@dataclass(frozen=True)
class Table:
    """Cells of text under a title; the first column is left-aligned."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """A heading, the table, and the notes as a list."""
        table = [self.header, ["---"] * len(self.header), *self.rows]
        lines = [f"### {self.title}", ""]
        lines += ["| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |" for cells in table]
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def latex(self) -> str:
        r"""A `table` with a `tabular` of booktabs; the notes are in the caption."""
        caption = ". ".join([self.title, *self.notes])
        lines = [
            r"\begin{table}",
            rf"\caption{{{escape(caption)}.}}",
            rf"\begin{{tabular}}{{l{'c' * (len(self.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(escape, self.header)) + r" \\",
            r"\midrule",
            *(" & ".join(map(escape, row)) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


@dataclass(frozen=True, eq=False)
class Scored:
    """An evaluation with its scores."""

    evaluation: Evaluation
    summary: Summary


Scoreboard = Mapping[tuple[str, str], Scored]
"""By (model, dataset), of one protocol."""


def _models(board: Scoreboard) -> list[str]:
    return list(dict.fromkeys(model for model, _ in board))


def _datasets(board: Scoreboard) -> list[str]:
    return list(dict.fromkeys(dataset for _, dataset in board))


def main_table(board: Scoreboard, protocol: Protocol) -> Table:
    """Means and deviations over folds, and over datasets, with the published rows below.

    A model that was not run on every dataset has no mean over them.
    """
    models, datasets = _models(board), _datasets(board)
    rows = []
    for model in models:
        cells: list[str] = [model]
        means: dict[str, list[float]] = {"uar": [], "macro_f1": []}
        for dataset in datasets:
            scored = board.get((model, dataset))
            for measure, values in means.items():
                if scored is None:
                    cells.append(NOTHING)
                else:
                    spread = scored.summary.folds[measure]
                    values.append(spread.mean)
                    cells.append(_with_spread(spread))
        whole = len(means["uar"]) == len(datasets)
        cells += [_over_datasets(v) if whole else NOTHING for v in means.values()]
        scored_rows = [board[model, dataset] for dataset in datasets if (model, dataset) in board]
        rows.append([*cells, _folds(scored_rows)])
    gaps = [NOTHING] * 2 * len(datasets)
    rows += [
        [
            f"{row.model} (published)",
            *gaps,
            _with_spread(Spread(*row.uar, 6)),
            _with_spread(Spread(*row.macro_f1, 6)),
            NOTHING,
        ]
        for row in VOC2VEC_TABLE
    ]
    columns = [f"{dataset} {name}" for dataset in datasets for name in ("UAR", "F1")]
    columns += [f"mean of {len(datasets)} UAR", f"mean of {len(datasets)} F1", "folds run of asked"]
    deviation = "population" if protocol == "paper" else "sample"
    return Table(
        f"Protocol {protocol}: scores over folds",
        ["model", *columns],
        rows,
        [
            _rule(protocol),
            f"± over folds is the {deviation} standard deviation; ± of the means is the population"
            " standard deviation over datasets",
            *_clip_counts(board),
            f"published rows: {SOURCE}; {PROTOCOL}. Not measured here, and over other datasets than"
            " these unless the columns are all six",
        ],
    )


def pooled_table(board: Scoreboard, protocol: Protocol) -> Table:
    """Scores of the predictions of all test folds together, with their intervals."""
    rows = [
        [
            model,
            dataset,
            *(
                _with_interval(
                    getattr(scored.summary.pooled, measure), scored.summary.intervals[measure]
                )
                for measure in ("uar", "macro_f1", "accuracy")
            ),
            _folds([scored]),
            _seconds(scored.evaluation),
        ]
        for (model, dataset), scored in board.items()
    ]
    return Table(
        f"Protocol {protocol}: pooled predictions",
        ["model", "dataset", "UAR", "macro F1", "accuracy", "folds run of asked", "seconds"],
        rows,
        [
            _rule(protocol),
            "in brackets: 95 % intervals by Bayesian bootstrap over groups (clips where groups are"
            " unknown), wider where groups are few;"
            " seconds of all folds together, without what is computed once for a corpus",
            *_clip_counts(board),
        ],
    )


def gap_table(grouped: Scoreboard, paper: Scoreboard) -> Table:
    """By how much the paper's protocol is the more optimistic one, for what ran under both.

    Of pooled scores: means over folds differ for a second reason, the classes that folds lack.
    """
    rows = []
    for key in (key for key in paper if key in grouped):
        cells = list(key)
        for measure in ("uar", "macro_f1"):
            one, two = (getattr(board[key].summary.pooled, measure) for board in (paper, grouped))
            cells += [_number(one), _number(two), _signed(one - two)]
        rows.append([*cells, _folds([paper[key], grouped[key]])])
    columns = [f"{measure} {what}" for measure in ("UAR", "F1") for what in _GAP]
    return Table(
        "Gap between the protocols: pooled predictions",
        ["model", "dataset", *columns, "folds run of asked"],
        rows,
        [
            f"the paper's protocol has {SELECTION_ON_TEST} and groups on both sides of a fold",
            *_clip_counts(paper),
        ],
    )


_GAP = ("paper", "grouped", "gap")


def significance_table(
    tests: Mapping[str, Sequence[PairedTest]], board: Scoreboard, protocol: Protocol
) -> Table:
    """Paired tests by dataset."""
    rows = [
        [
            dataset,
            f"{test.first} vs {test.second}",
            _signed(test.difference),
            f"{test.t:.2f}".replace("-", "−"),
            _p(test.p),
            _p(test.p_holm),
            str(test.folds),
        ]
        for dataset, found in tests.items()
        for test in found
    ]
    return Table(
        f"Protocol {protocol}: paired tests of UAR",
        ["dataset", "pair", "difference", "t", "p", "p (Holm)", "folds"],
        rows,
        [
            _rule(protocol),
            "corrected resampled t-test of Nadeau and Bengio over folds, two-sided; Holm's"
            " adjustment over the pairs of a dataset; seeds that test the same clips are averaged"
            " first, and count as one fold",
            *_untested(tests, board),
            *_clip_counts(board),
        ],
    )


def _untested(tests: Mapping[str, Sequence[PairedTest]], board: Scoreboard) -> list[str]:
    """Datasets that have pairs and no test."""
    return [
        f"{dataset}: no test, which needs two folds that both of a pair have run"
        for dataset in _datasets(board)
        if not tests.get(dataset) and sum(name == dataset for _, name in board) > 1
    ]


def _rule(protocol: Protocol) -> str:
    if protocol == "paper":
        return f"{SELECTION_ON_TEST}: random folds without regard to groups, scores are optimistic"
    if protocol == "given":
        return "folds as the corpus comes with them; the test fold is scored once"
    return "folds share no group where groups are known; the test fold is scored once"


def _clip_counts(board: Scoreboard) -> list[str]:
    """Clips and exclusions of each dataset."""
    evaluations = [scored.evaluation for scored in board.values()]
    counts = [f"{e.dataset}: {e.clips} clips, {len(e.excluded)} excluded" for e in evaluations]
    return list(dict.fromkeys(counts))


def _folds(scored: Sequence[Scored]) -> str:
    run = sum(s.evaluation.folds_run for s in scored)
    asked = sum(s.evaluation.folds_asked * len(s.evaluation.seeds) for s in scored)
    return f"{run} of {asked}"


def _seconds(evaluation: Evaluation) -> str:
    known = [r.facts["seconds"] for r in evaluation.results if "seconds" in r.facts]
    return f"{sum(known):.0f}" if len(known) == evaluation.folds_run else NOTHING


def _number(value: float) -> str:
    """.612, as the published table writes it."""
    return f"{value:.3f}".removeprefix("0") if value == value else NOTHING


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _with_spread(spread: Spread) -> str:
    return f"{_number(spread.mean)} ± {_number(spread.std)}"


def _over_datasets(means: Sequence[float]) -> str:
    std = float(np.std(means)) if len(means) > 1 else float("nan")
    return _with_spread(Spread(float(np.mean(means)), std, len(means)))


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{_number(value)} [{_number(interval[0])}, {_number(interval[1])}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else _number(value)
