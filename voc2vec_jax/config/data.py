"""What a run reads, and how clips become batches of static shape."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config.model import require, require_share, require_types


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how clips become batches of static shape."""

    name: str = "synthetic"
    """A prepared dataset, or several joined by `+`; `voc125` is what is prepared of the ten of
    Voc125, `synthetic` the corpus that comes with this project."""
    mixture_temperature: float = 1.0
    """Each of several datasets is heard in proportion to its hours to the power of 1 / this; at
    least 1: every clip once an epoch."""
    folder: str | None = None
    """An unprepared folder of audio, searched recursively, links included; wins over `name`."""
    table: str | None = None
    """An unprepared table (CSV) with a column `path` (or `file`) and, if known, `id`, `start` and
    `end` in seconds, `label`, `group` and `fold` (or `split`); relative paths start at its folder.
    Wins over `name`."""
    data_dir: str | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""
    normalize: Literal["none", "clip", "padded"] = "clip"
    """`clip`: zero mean and unit variance over the whole clip, before cropping; over what is left
    of it where `classify.crop=first` ends it. `padded`: over the padded signal, as transformers
    does without an attention mask. `none`: as recorded."""
    min_seconds: float = MIN_SAMPLES / SAMPLE_RATE
    """Shorter clips are left out, counted and reported."""
    max_seconds: float = 15.625
    """Longer clips are heard in several windows."""
    bucket_seconds: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 15.625)
    """The padded lengths; one compilation each."""
    batch_seconds: float = 125.0
    """Padded audio per global batch."""
    batch_clips: int | None = None
    """Clips per batch, whatever their length, as fine-tuning recipes have it; wins over
    `batch_seconds` and `batch_multiple`."""
    batch_multiple: int = 8
    """Clips per batch are a multiple of this, so that a mesh of as many devices divides them."""
    gain_db: float = 0.0
    """In training, the level of each window changes by up to this much either way, after it was
    normalised. 0: not at all."""
    noise_snr_db: tuple[float, float] | None = None
    """In training, white noise this far below each window's own power, evenly between the two.
    None: no noise."""
    eval_share: float = 0.0
    """Share of the clips that is held out and never trained on, whole groups at a time (a clip
    without a group is one of its own); `train.seed` decides which. 0: none."""
    labels: str | None = None
    """A store of frame labels, as `python -m tools.make_labels` makes it; each frame's label goes
    along with the samples as `targets`."""
    label_rate_hz: float | None = None
    """What the rate of those labels must be; None: whatever it is."""
    label_alignment: Literal["nearest", "fairseq"] = "nearest"
    """`nearest`: a frame has the label whose centre is nearest to its own. `fairseq`: its
    rounding, under which some last frames have none."""

    def __post_init__(self) -> None:
        if isinstance(self.bucket_seconds, list):
            object.__setattr__(self, "bucket_seconds", tuple(self.bucket_seconds))
        if isinstance(self.noise_snr_db, list):
            object.__setattr__(self, "noise_snr_db", tuple(self.noise_snr_db))
        require_types("data", self)
        shortest = MIN_SAMPLES / SAMPLE_RATE
        require(
            self.min_seconds >= shortest,
            "data.min_seconds",
            self.min_seconds,
            f"a frame needs {MIN_SAMPLES} samples, so at least {shortest}",
        )
        require(
            self.min_seconds <= self.max_seconds < math.inf,
            "data.max_seconds",
            self.max_seconds,
            f"must be finite and at least data.min_seconds={self.min_seconds}",
        )
        buckets = self.bucket_seconds
        require(
            len(buckets) > 0
            and buckets[0] >= shortest
            and all(a < b for a, b in itertools.pairwise(buckets)),
            "data.bucket_seconds",
            buckets,
            f"needs increasing lengths of at least {shortest} s",
        )
        require(
            buckets[-1] >= self.max_seconds,
            "data.bucket_seconds",
            buckets,
            f"the last one must hold data.max_seconds={self.max_seconds}",
        )
        for name in ("folder", "table", "data_dir"):
            path = getattr(self, name)
            require(
                path is None or "://" not in path,
                f"data.{name}",
                path,
                "remote paths are not read; mount the bucket (gcsfuse) or copy it to a local disk",
            )
        require_share("data", self, "eval_share")
        require(0 <= self.gain_db < 60, "data.gain_db", self.gain_db, "must lie in [0, 60) dB")
        snr = self.noise_snr_db or (0.0, 0.0)
        require(
            -math.inf < snr[0] <= snr[1] < math.inf,
            "data.noise_snr_db",
            self.noise_snr_db,
            "needs the lower and the upper end, in dB",
        )
        require(self.batch_multiple >= 1, "data.batch_multiple", self.batch_multiple, "at least 1")
        longest = self.used_bucket_seconds[-1]
        require(
            self.batch_clips is None or self.batch_clips >= 1,
            "data.batch_clips",
            self.batch_clips,
            "must be at least 1, or None for data.batch_seconds",
        )
        require(
            self.batch_clips is not None
            or self.batch_multiple * longest <= self.batch_seconds < math.inf,
            "data.batch_seconds",
            self.batch_seconds,
            f"the longest bucket needs {self.batch_multiple} × {longest} s (data.batch_multiple"
            " × data.bucket_seconds); raise it, or lower one of those",
        )
        require(
            self.folder is None or self.table is None,
            "data.folder",
            self.folder,
            f"give either data.folder or data.table={self.table!r}, not both",
        )

    def clips_per_batch(self, seconds: float) -> int:
        """Clips of a global batch that is padded to `seconds`."""
        if self.batch_clips is not None:
            return self.batch_clips
        # The small term keeps a quotient such as 0.3 / 0.1 from falling below its integer.
        clips = int(self.batch_seconds / seconds + 1e-6)
        return clips - clips % self.batch_multiple

    @property
    def used_bucket_seconds(self) -> tuple[float, ...]:
        """The buckets that a window of at most `max_seconds` can fall into."""
        needed = sum(bucket < self.max_seconds for bucket in self.bucket_seconds) + 1
        return self.bucket_seconds[:needed]
