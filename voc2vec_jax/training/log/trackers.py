"""TensorBoard and W&B as listeners: they are told what `metrics.jsonl` is told, nothing more."""

import importlib.util
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from voc2vec_jax.config import Config
from voc2vec_jax.errors import ConfigError


class Listener(Protocol):
    """Someone who wants to hear of every log line."""

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """Takes the figures of a log line."""
        ...

    def close(self) -> None:
        """Hands on what is still held back."""
        ...


def open_listeners(config: Config, workdir: Path, resumed_at: int | None) -> list[Listener]:
    """The listeners that `train.tracking` names.

    Args:
        config: The run.
        workdir: Where they may keep files.
        resumed_at: The restored step, or None for a fresh start.

    Raises:
        ConfigError: One of them is not installed.
    """
    check_installed(config)
    makers: dict[str, Callable[[Config, Path, int | None], Listener]] = {
        "tensorboard": TensorBoard,
        "wandb": WandB,
    }
    return [makers[name](config, workdir, resumed_at) for name in config.train.tracking]


def check_installed(config: Config) -> None:
    """Refuses a listener whose package is not there."""
    for name in config.train.tracking:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.tracking={config.train.tracking}: {name} is not installed; "
                f"pip install {name}"
            )


class TensorBoard:
    """Event files in `tensorboard/`; a resumed run takes back what lies beyond its step."""

    def __init__(self, config: Config, workdir: Path, resumed_at: int | None):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(workdir / "tensorboard"))
        if resumed_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = self._event(wall_time=time.time(), step=resumed_at + 1, session_log=start)
            self._writer.add_event(event)

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """See `Listener.log`."""
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in entry.items()]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """See `Listener.close`."""
        self._writer.close()


class WandB:
    """A run on Weights & Biases, resumed when the working directory is."""

    def __init__(self, config: Config, workdir: Path, resumed_at: int | None):
        import wandb

        known = workdir / "wandb_run_id"
        if resumed_at is None or not known.exists():
            known.write_text(secrets.token_hex(4), encoding="utf-8")
        self._run = wandb.init(
            project="voc2vec_jax",
            name=workdir.resolve().name,
            id=known.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(workdir),
            config=config.to_dict(),
        )

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """See `Listener.log`."""
        # W&B drops what it has heard before: after a resume, the same steps with the same figures.
        self._run.log(dict(entry), step=step)

    def close(self) -> None:
        """See `Listener.close`."""
        self._run.finish()
