"""Convert a checkpoint: `python -m tools.convert_weights SRC DST --to hf|orbax`.

SRC may be a Hugging Face folder or hub id, a fairseq .pt file of wav2vec 2.0 or HuBERT, or the
working directory of a training run. Nothing is lost silently: what the target has no place for is
listed, and only left behind with --encoder-only.

Examples:
  A fairseq checkpoint for transformers:
    python -m tools.convert_weights wav2vec_small.pt exported --to hf
  The newest checkpoint of a run that is still going on:
    python -m tools.convert_weights runs/mine exported --to hf
  A published model for `--init-from` on a machine without a connection:
    python -m tools.convert_weights hf:alkiskoudounas/voc2vec voc2vec_orbax --to orbax
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from voc2vec_jax.checkpoints.loading import from_pretrained, load_encoder
from voc2vec_jax.checkpoints.orbax import write_weights
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.cli.command import parsed, run
from voc2vec_jax.errors import CheckpointError


@dataclass(frozen=True)
class Arguments:
    """What to convert, and to what."""

    source: Annotated[str, tyro.conf.Positional]
    """Hugging Face folder or hub id, fairseq .pt, or a training run's working directory."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder."""
    to: Literal["hf", "orbax"]
    """`hf`: config, safetensors and card, for transformers. `orbax`: for this package."""
    revision: str | None = None
    """Branch, tag, commit or pull request of a hub id."""
    encoder_only: bool = False
    """Leave heads behind."""
    max_shard_gb: float = 5.0
    """Split safetensors beyond this size."""


def convert(arguments: Arguments) -> str:
    """Does it, and returns what became of every tensor."""
    destination = arguments.destination
    if destination.is_dir() and any(destination.iterdir()):
        raise CheckpointError(f"{destination}: is not empty; give a new folder")
    load = load_encoder if arguments.encoder_only else from_pretrained
    model = load(arguments.source, revision=arguments.revision)
    if arguments.to == "orbax":
        write_weights(model, destination)
    else:
        save_pretrained(
            model,
            destination,
            facts={"converted from": Path(arguments.source).name},
            max_shard_bytes=int(arguments.max_shard_gb * 1e9),
        )
    return f"{model.architecture.__name__} -> {destination}\n{model.ledger}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    return run(lambda: print(convert(parsed(Arguments, argv, __doc__, "tools.convert_weights"))))


if __name__ == "__main__":
    sys.exit(main())
