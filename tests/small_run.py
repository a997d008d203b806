"""A small run of the real command in processes of its own, for tests of what runs survive."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import soundfile

ROOT = Path(__file__).parents[1]
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"  # as in the Makefile
)
TIMEOUT_SECONDS = 400
"""A start that takes longer than this hangs."""
CONFIG = """
from voc2vec_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            conv_dim=(8, 8, 8), conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8),
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            num_codevectors_per_group=4, codevector_dim=8, proj_codevector_dim=8, num_negatives=5,
        ),
        data=DataConfig(
            max_seconds=0.5, bucket_seconds=(0.5,), batch_seconds=4.0, batch_multiple=8,
            eval_share=0.2, gain_db=6.0,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        train=TrainConfig(
            num_steps=8, log_every_steps=1, eval_every_steps=4, checkpoint_every_steps=4
        ),
    )

def classify():
    config = get_config()
    return Config(
        task="classify", model=config.model, data=config.data, optim=config.optim,
        train=config.train,
    )

def hubert():
    import dataclasses
    config = get_config()
    model = dataclasses.replace(config.model, model_type="hubert", num_clusters=8)
    data = dataclasses.replace(config.data, labels="labels")
    return Config(
        task="hubert", model=model, data=data, optim=config.optim, train=config.train,
    )
"""


def make_place(folder: Path) -> Path:
    """A folder with a configuration file and a handful of recordings of two classes."""
    (folder / "small.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for index in range(24):
        noise = 0.1 * rng.standard_normal(rng.integers(1_500, 15_000))
        path = folder / "audio" / "ab"[index % 2] / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise, 16_000)
    return folder


def train_command(
    place: Path, workdir: Path, *more: str, function: str = "get_config"
) -> list[str]:
    """The command for one process."""
    return [
        *(sys.executable, "-W", "error", "-m", "voc2vec_jax.train"),
        *("--config", f"{place / 'small.py'}:{function}", "--workdir", str(workdir)),
        *("--data.folder", str(place / "audio"), "--data.data-dir", str(place / "cache")),
        *more,
    ]


def launch_command(processes: int, devices: int, command: list[str], *more: str) -> list[str]:
    """The command for several processes."""
    return [
        *(sys.executable, "-m", "tools.launch_local", "--processes", str(processes)),
        *("--devices-per-process", str(devices), *more, "--", *command),
    ]


def start(command: list[str], devices: int = 1) -> subprocess.Popen[str]:
    """Starts a command on some virtual CPU devices, its output into one pipe."""
    # Compiling takes longer than these runs do.
    flags = f"{QUICK_TO_COMPILE} --xla_force_host_platform_device_count={devices}"
    environment = {
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(command: list[str], devices: int = 1, expected: int = 0) -> str:
    """Runs a command to its end; its output."""
    process = start(command, devices)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == expected, output
    return output


def figures(workdir: Path) -> list[dict[str, Any]]:
    """What was logged, without events and without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "event" not in entry]
    return [{k: v for k, v in e.items() if not k.startswith("time_")} for e in entries]


def events(workdir: Path) -> list[dict[str, Any]]:
    """The events that were logged."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "event" in entry]


def state_of(workdir: Path, step: int) -> Mapping[str, np.ndarray]:
    """Parameters, optimiser state and step of a checkpoint, by path."""
    path = (workdir / "checkpoints" / str(step) / "state").absolute()
    checkpointer = ocp.PyTreeCheckpointer()
    wanted = jax.tree.map(
        lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(path).item_metadata.tree,
    )
    state = checkpointer.restore(path, restore_args=wanted)
    return {
        jax.tree_util.keystr(place): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def digest(workdir: Path, step: int) -> str:
    """SHA-256 of the whole state of a checkpoint."""
    found = hashlib.sha256()
    for place, leaf in sorted(state_of(workdir, step).items()):
        found.update(place.encode() + str(leaf.dtype).encode() + leaf.tobytes())
    return found.hexdigest()
