"""Embed recordings: `python -m voc2vec_jax.embed CLIPS --model MODEL --out embeddings.npz`.

Each clip becomes one vector (the mean over its frames) or its frames, 50 in a second. What a clip
becomes does not depend on the other clips; one longer than 100 s is heard in equal pieces of at
most 10 s. Run the same command again to resume after a stop. A result that is there is not made
again, and refused if it is of another model, other files or other settings, whatever their names.

Examples:
  A folder, with the last hidden layer of a published model:
    python -m voc2vec_jax.embed ~/recordings --model hf:alkiskoudounas/voc2vec --out clips.npz
  The sixth layer of a model trained here, for pandas, polars or R:
    python -m voc2vec_jax.embed ~/recordings --model runs/mine/export --layer 6 --out clips.parquet
  A column for each number of a vector, e0, e1, …, for a spreadsheet or a statistics program:
    python -m voc2vec_jax.embed ~/recordings --model MODEL --wide --out clips.parquet
  Every frame instead of the mean; files that cannot be read are listed and left out:
    python -m voc2vec_jax.embed a.wav b.mp3 --model MODEL --pool frames --skip-bad --out frames.npz
  The segments of a table with the columns path, start and end:
    python -m voc2vec_jax.embed segments.csv --model MODEL --out segments.parquet
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from voc2vec_jax.cli.command import RESUMES, parsed, run, say
from voc2vec_jax.errors import ConfigError

SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Audio files, folders that are searched recursively, and tables (`FILE.csv` or `FILE.tsv`
    with a column `path` and, if known, `id`, `start` and `end` in seconds)."""
    model: str
    """A checkpoint: folder, fairseq `.pt`, training run, or hub id (`hf:org/name`)."""
    out: Path
    """The file to write, `.npz` or `.parquet`."""
    layer: int | None = None
    """Hidden layer, 0 for the input of the first block; default is the model's output."""
    pool: Literal["mean", "frames"] = "mean"
    """One vector for each clip, or all its frames."""
    wide: bool = False
    """Parquet with a column for each number of a vector, instead of one column of lists."""
    skip_bad: bool = False
    """List files that cannot be read and go on, instead of stopping at them."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("INPUT: give files, folders or tables of audio")
        if self.out.suffix not in SUFFIXES:
            raise ConfigError(f"--out {self.out}: must end in {' or '.join(SUFFIXES)}")
        if self.wide and self.out.suffix != ".parquet":
            raise ConfigError(f"--wide --out {self.out}: columns are of Parquet; end in .parquet")
        if self.wide and self.pool == "frames":
            raise ConfigError(
                "--wide --pool frames: a row is a clip; use --pool mean, or no --wide"
            )


def embed(arguments: Arguments) -> None:
    """Does what the command line asks for; see `embedding.embed_files` for what it raises."""
    # Imported here, so that --help and a wrong flag answer at once.
    from voc2vec_jax.audio.input_files import find_inputs
    from voc2vec_jax.checkpoints.loading import load_encoder
    from voc2vec_jax.features.embedding import Encoding, embed_files

    inputs = find_inputs(arguments.inputs)
    model = load_encoder(arguments.model, padding="masked")
    encoding = Encoding(model, arguments.layer, arguments.pool)
    made = embed_files(
        inputs, encoding, arguments.out, skip_bad=arguments.skip_bad, wide=arguments.wide
    )
    for clip_id, reason in made.left_out.items():
        say(f"left out: {clip_id}: {reason}")
    did = "nothing to do, it is there already" if made.already else "done"
    print(f"{did}: {arguments.out}, {made.clips} clips, {len(made.left_out)} left out")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    return run(
        lambda: embed(parsed(Arguments, argv, __doc__, "voc2vec_jax.embed")), stopped=RESUMES
    )
