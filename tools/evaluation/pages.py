"""What a suite writes of all rows together: tables, tests, and the figures behind them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.evaluation import published
from voc2vec_jax.evaluation.report import finite, report
from voc2vec_jax.evaluation.significance import PairedTest, compare_all
from voc2vec_jax.evaluation.tables import (
    Scoreboard,
    Scored,
    Table,
    gap_table,
    main_table,
    pooled_table,
    significance_table,
)
from voc2vec_jax.files import write_json, write_text

Boards = dict[Protocol, dict[tuple[str, str], Scored]]


def by_dataset(board: Scoreboard) -> dict[str, list[Scored]]:
    """The rows of each dataset."""
    found: dict[str, list[Scored]] = {}
    for (_, dataset), scored in board.items():
        found.setdefault(dataset, []).append(scored)
    return found


def write_tables(out: Path, boards: Mapping[Protocol, Scoreboard]) -> None:
    """Tables and figures of all that is finished."""
    tables: list[Table] = []
    tests: dict[Protocol, dict[str, list[PairedTest]]] = {}
    for protocol, board in boards.items():
        if not board:
            continue
        tests[protocol] = {
            dataset: compare_all([s.evaluation for s in found])
            for dataset, found in by_dataset(board).items()
        }
        tables += [main_table(board, protocol), pooled_table(board, protocol)]
        tables.append(significance_table(tests[protocol], board, protocol))
    if boards.get("grouped") and boards.get("paper"):
        tables.append(gap_table(boards["grouped"], boards["paper"]))
    warnings = _warnings(boards)
    text = "\n".join([*(table.markdown() for table in tables), *warnings]) + "\n"
    # By many: two suites may run into one folder.
    write_text(out / "tables.md", text, by_many=True)
    latex = "\n".join(table.latex() for table in tables)
    write_text(out / "tables.tex", latex, by_many=True)
    write_json(out / "suite.json", _figures(boards, tests), by_many=True)


def _warnings(boards: Mapping[Protocol, Scoreboard]) -> list[str]:
    """What readers have to know of each dataset and protocol."""
    lines = [
        f"- {dataset}, {protocol}: {warning}"
        for protocol, board in boards.items()
        for (_, dataset), scored in board.items()
        for warning in scored.evaluation.warnings
    ]
    return ["### What to know", "", *dict.fromkeys(lines)] if lines else []


def _figures(
    boards: Mapping[Protocol, Scoreboard], tests: Mapping[Protocol, Mapping[str, list[PairedTest]]]
) -> dict[str, Any]:
    """The scores of `results.json` of each evaluation, the tests, and the published rows."""
    left_out = ("per_fold", "excluded", "confusion", "settings")
    return {
        "evaluations": [
            {name: value for name, value in report(s.evaluation).items() if name not in left_out}
            for board in boards.values()
            for s in board.values()
        ],
        "paired_tests": [
            # JSON has no infinity: t of folds that all differ by the same.
            {"protocol": protocol, "dataset": dataset, **finite(asdict(test))}
            for protocol, by_dataset in tests.items()
            for dataset, found in by_dataset.items()
            for test in found
        ],
        "published": {
            "source": published.SOURCE,
            "protocol": published.PROTOCOL,
            "rows": [asdict(row) for row in published.VOC2VEC_TABLE],
        },
    }
