"""The works in PyTorch with transformers; never loads JAX."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.wav2vec2 import modeling_wav2vec2

from tools.benchmarking import work
from tools.benchmarking.work import WORKS, Request, Work

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def versions() -> dict[str, str]:
    """What was measured."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def write_checkpoint(name: str, size: str, folder: Path, suffix: str) -> None:
    """A randomly initialised model of a work, as a folder that both sides load.

    Args:
        name: Of the work.
        size: Of the model.
        folder: Made here.
        suffix: `.safetensors` or `.bin`.
    """
    torch.manual_seed(0)
    given = WORKS[name]
    architecture = getattr(transformers, given.architecture)
    model = architecture(architecture.config_class(**given.checkpoint_fields(size)))
    model.save_pretrained(folder)
    if suffix == ".bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def prepare(request: Request) -> Callable[[], float]:
    """A function that does the work once and returns a figure to compare."""
    torch.set_num_threads(request.threads)
    torch.manual_seed(0)
    given, folder = WORKS[request.work], request.folder
    if request.work == "load":
        return lambda: _load(given, folder)
    if request.work == "inference":
        return _inference(given, folder)
    if request.work == "labels":
        return _labels(given, folder)
    return (_pretraining if request.work == "pretrain" else _fine_tuning)(given, folder)


def _model(given: Work, folder: str) -> Any:
    model = getattr(transformers, given.architecture).from_pretrained(folder)
    return model.train(given.trains)


def _load(given: Work, folder: str) -> float:
    values = (value.detach().reshape(-1) for value in _model(given, folder).parameters())
    return float(sum(float(torch.vdot(value, value)) for value in values))


def _inference(given: Work, folder: str) -> Callable[[], float]:
    model, waveform = _model(given, folder), torch.from_numpy(given.waveform())

    def run() -> float:
        with torch.inference_mode():
            return float(model(waveform).last_hidden_state.abs().mean())

    return run


def _labels(given: Work, folder: str) -> Callable[[], float]:
    """Clip by clip, as fairseq does: padding would change what the model says."""
    from sklearn.cluster import KMeans

    model, clips = _model(given, folder), given.waveforms()
    del model.encoder.layers[len(model.encoder.layers) // 2 :]  # those above are not wanted
    centroids = work.centroids(model.config.hidden_size)
    clusters = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)

    def run() -> float:
        labels = []
        for clip in clips:
            signal = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
            with torch.inference_mode():
                hidden = model(torch.from_numpy(signal)[None]).last_hidden_state[0]
            labels.append(clusters.predict(hidden.numpy()))
        return float(np.mean(np.concatenate(labels)))

    return run


def _optimizer(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=work.LEARNING_RATE, weight_decay=work.WEIGHT_DECAY, fused=True
    )


def _fine_tuning(given: Work, folder: str) -> Callable[[], float]:
    model = _model(given, folder)
    optimizer = _optimizer(model)
    waveform = torch.from_numpy(given.waveform())
    labels = torch.from_numpy(given.labels()).long()

    def run() -> float:
        loss = torch.nn.functional.cross_entropy(model(waveform).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return run


def _pretraining(given: Work, folder: str) -> Callable[[], float]:
    """What transformers' own pre-training script does, and fairseq's feature penalty."""
    model = _model(given, folder)
    model.set_gumbel_temperature(work.GUMBEL_TEMPERATURE)
    optimizer = _optimizer(model)
    waveform = torch.from_numpy(given.waveform())
    frames = int(model._get_feat_extract_output_lengths(waveform.shape[1]))
    shape = (given.clips, frames)
    features: list[torch.Tensor] = []

    def scaled(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.register_hook(lambda grad: grad * work.FEATURE_GRAD_MULT)
        features.append(output)

    model.wav2vec2.feature_extractor.register_forward_hook(scaled)

    def run() -> float:
        mask = modeling_wav2vec2._compute_mask_indices(shape, work.MASK_PROB, work.MASK_LENGTH)
        negatives = modeling_wav2vec2._sample_negative_indices(
            shape, model.config.num_negatives, mask
        )
        out = model(
            waveform,
            mask_time_indices=torch.from_numpy(mask),
            sampled_negative_indices=torch.from_numpy(negatives),
        )
        penalty = features.pop().float().pow(2).mean()
        loss = out.loss / mask.sum() + work.FEATURE_PENALTY_WEIGHT * penalty
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return run


if __name__ == "__main__":
    write_checkpoint(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
