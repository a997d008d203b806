"""Compare a checkpoint here and in PyTorch, block by block: `python -m tools.verify_parity SRC`.

Runs the same noise through `transformers` and through this package, in float32 on the CPU, and
prints the largest absolute difference after every block. The exit code is 1 if one is above the
bound. Needs PyTorch and transformers: pip install '.[torch]' transformers

Examples:
  python -m tools.verify_parity runs/tiny/export
  python -m tools.verify_parity hf:alkiskoudounas/voc2vec --seconds 3 1.2 0.4
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from voc2vec_jax.audio.signal import SAMPLE_RATE, pad_batch
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.checkpoints.orbax import find_checkpoints
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.checkpoints.source import resolve
from voc2vec_jax.cli.command import parsed, prepare_process, run, say
from voc2vec_jax.errors import DONE, FAILED
from voc2vec_jax.models import HubertForPreTraining, HubertModel
from voc2vec_jax.models.parameters import describe, merge

BOUND = 1e-4


@dataclass(frozen=True)
class Arguments:
    """What to compare, and on what."""

    source: Annotated[str, tyro.conf.Positional]
    """A Hugging Face folder or hub id; of a fairseq file or a run, its export is compared."""
    revision: str | None = None
    """Branch, tag, commit or pull request of a hub id."""
    seconds: tuple[float, ...] = (2.0, 1.3, 0.3)
    """Lengths of the clips of noise, padded to one batch."""
    bound: float = BOUND
    """The largest difference that passes."""


def compare(model: PretrainedModel, reference: Any, seconds: tuple[float, ...]) -> dict[str, float]:
    """Largest absolute difference after every block, over all frames and both kinds of masking.

    Args:
        model: Ours.
        reference: The PyTorch model of the same class, in evaluation mode.
        seconds: Lengths of the clips.
    """
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(int(s * SAMPLE_RATE)).astype(np.float32) for s in seconds]
    waveform, lengths = pad_batch(noise, normalize="clip")
    worst: dict[str, float] = {}
    for attention_mask in (False, True):
        ours = _ours(model, waveform, lengths, attention_mask)
        theirs = _theirs(reference, waveform, lengths, attention_mask)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            # A NaN stays one, and fails.
            worst[name] = float(np.maximum(np.abs(ours[name] - value).max(), worst.get(name, 0)))
    return worst


def _ours(
    model: PretrainedModel, waveform: np.ndarray, lengths: np.ndarray, attention_mask: bool
) -> dict[str, np.ndarray]:
    graphdef, _ = describe(model.architecture, model.config)

    @jax.jit
    def run(params: Any) -> dict[str, jax.Array]:
        whole: Any = merge(graphdef, params)
        out = whole(waveform, lengths, attention_mask=attention_mask, output_hidden_states=True)
        encoder = getattr(whole, model.config.model_type, whole)
        blocks = {}
        x = jnp.asarray(waveform)[:, :, None]
        for index, layer in enumerate(encoder.feature_extractor.conv_layers):
            x = layer(x, None)
            blocks[f"feature_extractor.conv_layers.{index}"] = x
        encoded = getattr(out, "encoder", out)
        hidden, _ = encoder.feature_projection(encoded.conv_features, None)
        blocks["feature_projection"] = hidden
        blocks |= _named_states(encoded.hidden_states)
        blocks["last_hidden_state"] = encoded.last_hidden_state
        if hasattr(out, "logits"):
            blocks["logits"] = out.logits
        if hasattr(out, "predictions"):
            blocks["project_hid"] = out.predictions
        return blocks

    return {name: np.asarray(value) for name, value in run(model.params).items()}


def _named_states(states: Any) -> dict[str, Any]:
    names = ["encoder.pos_conv_embed", *(f"encoder.layers.{i}" for i in range(len(states) - 1))]
    return dict(zip(names, states, strict=True))


def _theirs(
    reference: Any, waveform: np.ndarray, lengths: np.ndarray, attention_mask: bool
) -> dict[str, np.ndarray]:
    import torch

    encoder = getattr(reference, reference.base_model_prefix, reference)
    blocks: dict[str, Any] = {}
    hooks = [
        layer.register_forward_hook(_keep(blocks, f"feature_extractor.conv_layers.{index}", True))
        for index, layer in enumerate(encoder.feature_extractor.conv_layers)
    ]
    hooks.append(
        encoder.feature_projection.register_forward_hook(_keep(blocks, "feature_projection"))
    )
    mask = np.arange(waveform.shape[1]) < lengths[:, None]
    with torch.no_grad():
        whole = reference(
            torch.tensor(waveform),
            attention_mask=torch.tensor(mask.astype(np.int64)) if attention_mask else None,
            output_hidden_states=True,
        )
        encoded = encoder(
            torch.tensor(waveform),
            attention_mask=torch.tensor(mask.astype(np.int64)) if attention_mask else None,
        )
    for hook in hooks:
        hook.remove()
    blocks |= _named_states(whole.hidden_states)
    blocks["last_hidden_state"] = encoded.last_hidden_state
    if hasattr(whole, "logits"):
        blocks["logits"] = whole.logits
    if hasattr(whole, "projected_states"):
        blocks["project_hid"] = whole.projected_states
    return {name: value.numpy() for name, value in blocks.items()}


def _keep(blocks: dict[str, Any], name: str, channels_first: bool = False) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        # A copy: transformers sets padded frames to 0 in place afterwards.
        blocks[name] = value.transpose(1, 2) if channels_first else value.clone()

    return hook


def rows(worst: dict[str, float], bound: float) -> Iterator[tuple[str, str, str]]:
    """Lines of the table: block, difference, verdict."""
    for name, difference in worst.items():
        yield name, f"{difference:.1e}", "ok" if difference <= bound else "ABOVE THE BOUND"


def verify(arguments: Arguments) -> int:
    """Compares, prints the table, and returns 0 if every block is within the bound."""
    try:
        import transformers
    except ImportError:
        say("error: needs PyTorch and transformers")
        return FAILED
    place = resolve(arguments.source, arguments.revision)
    model = from_pretrained(place)
    if model.architecture is HubertForPreTraining:  # PyTorch has no such head
        model = from_pretrained(place, architecture=HubertModel)
    jax.config.update("jax_default_matmul_precision", "float32")
    with tempfile.TemporaryDirectory() as temporary:
        folder = place
        if place.is_file() or find_checkpoints(place):  # what transformers reads is our export
            folder = Path(temporary)
            save_pretrained(model, folder)
        reference = getattr(transformers, model.architecture.__name__).from_pretrained(folder)
    worst = compare(model, reference.eval().float(), arguments.seconds)
    title = f"{model.architecture.__name__}, {place}"
    table = Table("block", "largest difference", "", title=title)
    for row in rows(worst, arguments.bound):
        table.add_row(*row)
    Console().print(table)
    passed = all(difference <= arguments.bound for difference in worst.values())
    print(f"{'equal' if passed else 'NOT EQUAL'} within {arguments.bound:g}")
    return DONE if passed else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    return run(lambda: verify(parsed(Arguments, argv, __doc__, "tools.verify_parity")))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
