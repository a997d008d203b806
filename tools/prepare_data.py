"""Prepare a dataset: `python -m tools.prepare_data donate_a_cry --manual-dir ~/downloads`.

Audio becomes 16 kHz mono; what was found, left out and expected goes to report.json. A killed
run goes on where it stopped. Afterwards `python -m voc2vec_jax.train --data.name NAME` reads it.

Examples:
  A dataset from the archive that you have downloaded, or its extracted tree:
    python -m tools.prepare_data donate_a_cry --manual-dir ~/downloads/donateacry-corpus
  Fetch it first, where that is open to all:
    python -m tools.prepare_data vivae --download
  Your own recordings, by a table of `path` and, if known, `id`, `start`, `end`, `label`, `group`:
    python -m tools.prepare_data my_clips --from-table clips.csv
  Every audio file under a folder; with --classes, the first folder below it is the class:
    python -m tools.prepare_data my_clips --from-folder ~/recordings --classes
  What you have of Voc125, one folder for each dataset and named like it:
    python -m tools.prepare_data voc125 --manual-dir ~/downloads
  What there is to prepare, where to get it, and under which licence:
    python -m tools.prepare_data
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from data_pipelines.corpora import voc125
from data_pipelines.corpora.prepared import dataset_names
from data_pipelines.corpora.sources import default_data_dir
from data_pipelines.stores.report import read_report, report_table
from voc2vec_jax.cli.command import RESUMES, parsed, prepare_process, run
from voc2vec_jax.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Dataset, or dataset/variant; for your own recordings the name they get."""
    manual_dir: Path | None = None
    """Where you have put the files; default `DATA_DIR/manual`. A folder in it that is named after
    the dataset wins."""
    data_dir: Path | None = None
    """Gets what is prepared; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""
    from_table: Path | None = None
    """A CSV, see docs/data.md; relative paths start at its folder."""
    from_folder: Path | None = None
    """A folder, searched recursively."""
    classes: bool = False
    """With --from-folder: its folders are the classes, or those in its `train`, `test` …"""
    download: bool = False
    """First fetch the dataset into the manual directory, where it is openly downloadable, and check
    it; its licence is yours to keep."""
    exclude: Path | None = None
    """Ids of clips to leave out, one a line, as `tools.find_overlap` writes them."""
    beam_runner: str | None = None
    """Decode a published dataset on Apache Beam: `DirectRunner`, `DataflowRunner` …; needs the
    extra `[beam]`. Such a run does not go on after a kill."""
    beam_options: tuple[str, ...] = ()
    """Flags for Beam, each with its dashes, such as `--direct_num_workers=2`."""
    overwrite: bool = False
    """Throw away what was prepared under this name before."""


def prepare(arguments: Arguments) -> None:
    """Does what the command line asks for; see `preparation.prepare` for what it raises."""
    # Imported here, so that --help and a wrong flag answer at once.
    from data_pipelines.preparation.prepare import (
        prepare_dataset,
        prepare_folder,
        prepare_table,
        prepare_voc125,
    )

    name, overwrite = arguments.name, arguments.overwrite
    data_dir = (arguments.data_dir or default_data_dir()).expanduser()
    if arguments.from_table and arguments.from_folder:
        raise ConfigError("give either --from-table or --from-folder, not both")
    if arguments.classes and not arguments.from_folder:
        raise ConfigError("--classes goes with --from-folder; a table has a column `label`")
    if arguments.manual_dir and (arguments.from_table or arguments.from_folder):
        raise ConfigError("--manual-dir is for published datasets; leave it out")
    if arguments.exclude and (not name or arguments.from_table or arguments.from_folder):
        raise ConfigError("--exclude is for published datasets; take the clips out of yours")
    own = arguments.from_table or arguments.from_folder
    if arguments.download and (own or name in (None, voc125.NAME)):
        raise ConfigError("--download is for one published dataset at a time")
    if arguments.beam_runner and (own or name in (None, voc125.NAME)):
        raise ConfigError("--beam-runner is for one published dataset at a time")
    if arguments.from_table:
        directory = prepare_table(arguments.from_table, name, data_dir, overwrite=overwrite)
    elif arguments.from_folder:
        directory = prepare_folder(
            arguments.from_folder,
            name,
            data_dir,
            classes=arguments.classes,
            overwrite=overwrite,
        )
    elif name == voc125.NAME:
        reports = prepare_voc125(
            arguments.manual_dir, data_dir, exclude=arguments.exclude, overwrite=overwrite
        )
        Console().print(_compare(reports))
        print(voc125.statement(reports))
        return
    elif name:
        directory = prepare_dataset(
            *(name, arguments.manual_dir, data_dir),
            download=arguments.download,
            exclude=arguments.exclude,
            overwrite=overwrite,
            beam_runner=arguments.beam_runner,
            beam_options=arguments.beam_options,
        )
    else:
        Console().print(_list())
        return
    Console().print(report_table(read_report(directory)))
    print(f"prepared: {directory} (report.json, durations.png)")


def _compare(reports: Mapping[str, dict[str, Any] | None]) -> Table:
    """What of Voc125 there is, beside the paper's table."""
    table = Table("name", "clips", "in the paper", "hours", "in the paper", "unreadable")
    for name, report in reports.items():
        clips, hours = voc125.PAPER[name]
        found = (
            (report["dataset"], str(report["clips"]), f"{report['hours']:.2f}", report["dropped"])
            if report
            else (name, "missing", "", [])
        )
        title, count, duration, dropped = found
        table.add_row(title, count, str(clips), duration, str(hours), str(len(dropped)))
    return table


def _list() -> Table:
    from data_pipelines.preparation.prepare import builder_class

    table = Table("name", "clips", "licence", "where to get it", title="Datasets")
    for name in dataset_names():
        builder = builder_class(name)
        facts = builder.FACTS
        names = "\n".join([name, *(f"  {name}/{config}" for config in builder.builder_configs)])
        table.add_row(names, str(facts.expected.clips or "?"), facts.licence, facts.obtain)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(
        lambda: prepare(parsed(Arguments, argv, __doc__, "tools.prepare_data")), stopped=RESUMES
    )


if __name__ == "__main__":
    prepare_process(sigterm_is_ctrl_c=True)
    sys.exit(main())
