"""Train a model: `python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny`.

The configuration file decides everything; flags override single values of it. Run the same command
again to resume.

Examples:
  Pre-train a tiny model on the corpus that comes with the project:
    python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny
  On a folder of your own recordings, with another learning rate:
    python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/mine \\
        --data.folder ~/recordings --optim.learning-rate 1e-4
  Continue from a Hugging Face checkpoint (a folder, or hf:org/name):
    python -m voc2vec_jax.train --config configs/wav2vec2_base.py --workdir runs/continued \\
        --data.folder ~/recordings --init-from hf:facebook/wav2vec2-base
  See what a run would do, and do one update, without writing anything to the workdir:
    python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny --dry-run
  Take a trace of the updates 10 to 15:
    python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny --profile 10:15
  One of four processes that share a run (docs/launching.md):
    python -m voc2vec_jax.train --config configs/wav2vec2_base.py --workdir /shared/base \\
        --processes.coordinator host0:1234 --processes.count 4 --processes.index 2
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from voc2vec_jax.audio.spelling import escaped, is_text
from voc2vec_jax.cli.command import run, say
from voc2vec_jax.cli.config_files import given_fields, parse_over_config
from voc2vec_jax.config import Config
from voc2vec_jax.distributed import processes
from voc2vec_jax.distributed.processes import Processes
from voc2vec_jax.errors import DONE, FAILED, STOPPED, ConfigError

if TYPE_CHECKING:
    from data_pipelines.batches.fine_tuning import LabelledClips
    from data_pipelines.batches.pretraining import TrainingCorpus


@dataclass(frozen=True)
class Arguments:
    """The command line; `run` holds the configuration with its overrides."""

    config: str
    """Configuration file; `FILE.py:NAME` picks another function of it than `get_config`."""
    workdir: Path
    """Gets metrics, checkpoints, curves and the export. A run in it is resumed."""
    run: Annotated[Config, tyro.conf.arg(name="")]
    init_from: str | None = None
    """Start with the weights of a Hugging Face folder or hub id (`hf:org/name`), a fairseq file or
    another workdir. The architecture is theirs, whatever the configuration file says; what differs
    is shown. Optimiser, step and Gumbel temperature begin anew (see `objective`)."""
    resume: Path | None = None
    """Start from another workdir's newest checkpoint, optimiser and step included."""
    accept_changes: bool = False
    """Resume though the configuration now says to learn something else, or otherwise, than the run
    did so far. Another architecture, other frozen parameters and other data stay refused."""
    dry_run: bool = False
    """Build everything, do one update, print what was seen, leave the workdir alone."""
    profile: str | None = None
    """`FIRST:LAST`: trace these updates, counted from 1, into `profile/` of the workdir."""
    processes: Processes = field(default_factory=Processes)
    model_flags: Annotated[frozenset[str], tyro.conf.Suppress, tyro.conf.Fixed] = frozenset()
    """No flag: the fields of `model.*` that the command line gives, see `adopting.adopt`."""


def parse(argv: Sequence[str]) -> Arguments:
    """The command line on top of the configuration file that it names; see `parse_over_config`."""
    arguments = parse_over_config(Arguments, argv, __doc__, "voc2vec_jax.train")
    return replace(arguments, model_flags=given_fields(argv, "model"))


def train(arguments: Arguments) -> None:
    """Does what the command line asks for; see `loop.fit` for what it raises."""
    # Imported here, so that --help and a wrong flag answer at once.
    from data_pipelines.batches.fine_tuning import LabelledClips
    from voc2vec_jax.checkpoints import loading
    from voc2vec_jax.distributed.lock import LOCK, WorkdirLock
    from voc2vec_jax.objectives import build_task
    from voc2vec_jax.training import loop
    from voc2vec_jax.training.dry_run import dry_run
    from voc2vec_jax.training.export import export_run
    from voc2vec_jax.training.first_step import table
    from voc2vec_jax.training.log import trackers
    from voc2vec_jax.training.log.profiler import profiled_steps

    config, workdir = arguments.run, arguments.workdir
    if ":/" in workdir.as_posix():  # `Path` makes one slash of two
        raise ConfigError(
            f"--workdir {workdir}: remote paths are not written; mount the bucket (gcsfuse), or"
            " give a local folder"
        )
    if not is_text(str(workdir.absolute())):
        raise ConfigError(
            f"--workdir {escaped(str(workdir))}: checkpoints are written only to folders whose"
            " names are UTF-8; give another"
        )
    profile = range(0)
    if arguments.profile is not None:
        profile = profiled_steps(arguments.profile, config.train.num_steps)
    trackers.check_installed(config)  # before the corpus is decoded, which may take long
    if arguments.init_from is not None and arguments.resume is not None:
        raise ConfigError(
            f"--init-from {arguments.init_from}: --resume {arguments.resume} has weights already; "
            "give one of them"
        )
    config = _with_architecture(config, arguments)
    config, data = _open_data(config)
    task = build_task(config)
    _say_once(data.summary())
    if config.mask.equalize and not (
        isinstance(data, LabelledClips) or data.plan.has_equal_lengths
    ):
        raise ConfigError(
            "mask.equalize=True: batches of this corpus hold clips of different lengths, and the "
            "shortest would take the masks of all others; leave it off, or give a corpus of "
            "equally long clips that data.max_seconds does not cut"
        )

    def initial_params() -> Mapping[str, np.ndarray]:
        assert arguments.init_from is not None
        params, ledger = loading.load_params(
            arguments.init_from, task.architecture, config.model, redrawn=task.redrawn
        )
        _say_once(f"{arguments.init_from}: {ledger}\n{task.restart_rules()}")
        return params

    start = initial_params if arguments.init_from else None
    if arguments.dry_run:
        processes.first_does(lambda: _compare(config, data.fingerprint, arguments), "comparing")
        report = dry_run(config, task, data, start)
        _say_once(table(report))
        if processes.is_first():
            print(json.dumps(report, indent=2))
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:

        def take_lock() -> None:
            lock.enter_context(WorkdirLock(workdir))

        processes.first_does(take_lock, "locking the working directory")
        processes.require_shared(workdir, LOCK)
        params = loop.fit(
            *(config, task, data, workdir, start, arguments.resume),
            profile=profile,
            accept_changes=arguments.accept_changes,
            began_with=arguments.init_from,
        )
        params = processes.whole(params)
        corpus = data.store.name
        processes.first_does(lambda: export_run(config, task, corpus, params, workdir), "exporting")


def _compare(config: Config, fingerprint: str, arguments: Arguments) -> None:
    """For a dry run: whether a run would go on from a checkpoint, and how it would differ."""
    from voc2vec_jax.checkpoints.metadata import read_metadata, saved_steps
    from voc2vec_jax.training.resuming import changes, refuse

    for workdir in filter(None, (arguments.workdir, arguments.resume)):
        for step in saved_steps(workdir / "checkpoints")[:1]:
            meta = read_metadata(workdir / "checkpoints", step) or {}
            if "progress" in meta:
                changed = changes(config, meta["config"], step)
                same_data = meta["data_fingerprint"] == fingerprint
                refuse(changed, same_data=same_data, accept_changes=arguments.accept_changes)
                line = (
                    f"{workdir}: a run goes on from step {step}; this is the first of a fresh one"
                )
                say("\n  ".join([line, *map(str, changed)]))
                return


def _with_architecture(config: Config, arguments: Arguments) -> Config:
    """The configuration with the architecture of the weights that the run starts or started with.

    One that goes on does not read them, and they may be gone: its checkpoints say what they were.
    """
    from voc2vec_jax.checkpoints import adopting
    from voc2vec_jax.checkpoints.source import read_source
    from voc2vec_jax.training.starting_point import RANDOM

    def saved() -> dict[str, Any] | None:
        for workdir in (arguments.workdir, arguments.resume):
            found = None if workdir is None else adopting.of_run(workdir, config.task)
            if found is not None:
                return asdict(found)
        return None

    found = None
    # A dry run does the first update of a fresh run, which reads its source.
    if not arguments.dry_run or arguments.init_from is None:
        found = processes.first_does(saved, "looking at checkpoints")
    if found is not None:
        architecture = adopting.Architecture(**found)
        if architecture.began_with is None:  # which older versions did not keep
            unread = (
                f"; --init-from {arguments.init_from} is not read" if arguments.init_from else ""
            )
            _say_once(
                f"{architecture.place}: of an older version, which drew other dropout{unread}"
            )
        if architecture.began_with == RANDOM or (
            architecture.began_with is None and arguments.init_from is None
        ):
            return config  # its recipe was all that there was
    elif arguments.init_from is None:
        return config
    else:
        architecture = adopting.of_source(read_source(arguments.init_from), config)
    config, lines = adopting.adopt(config, architecture, arguments.model_flags)
    if lines:
        _say_once("\n  ".join([f"{architecture.place}: its architecture", *lines]))
    return config


def _open_data(config: Config) -> "tuple[Config, LabelledClips | TrainingCorpus]":
    """The corpus, this process's rows of it, and the configuration with its classes."""
    from data_pipelines.batches.fine_tuning import open_labelled_corpus
    from data_pipelines.batches.pipeline import Share
    from data_pipelines.batches.pretraining import open_training_corpus
    from voc2vec_jax.distributed import sharding

    processes.require_same(json.dumps(config.to_dict()), "the configuration")

    def open_data() -> "tuple[Config, LabelledClips | TrainingCorpus]":
        if config.task == "classify":
            return open_labelled_corpus(config)
        return config, open_training_corpus(
            config.data,
            config.train.seed,
            conv_kernel=config.model.conv_kernel,
            conv_stride=config.model.conv_stride,
            clusters=config.model.num_clusters if config.task == "hubert" else None,
        )

    if not processes.several():
        return open_data()

    def decode() -> None:
        open_data()

    # Where all see one folder it is decoded by process 0 alone, else then by every host for itself.
    processes.first_does(decode, "opening the corpus")
    config, data = open_data()
    processes.require_same(data.fingerprint, "the corpus")
    share = Share(*sharding.batch_share(sharding.build_mesh(config.mesh)))
    return config, replace(data, share=share)


def _say_once(text: str) -> None:
    if processes.is_first():
        say(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> None:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        arguments.processes.start()
        train(arguments)

    try:
        code = run(work)
    except Exception as error:
        processes.say_and_leave(error, FAILED)
        raise
    if code not in (DONE, STOPPED):
        processes.leave(code)
    return code
