"""What others report, to stand beside what is measured here. None of it was measured here."""

from dataclasses import dataclass

SOURCE = "README of github.com/koudounasalkis/voc2vec, April 2025"
PROTOCOL = (
    "means over six datasets of ten random folds, the epoch selected on the reported fold; their ±"
    " is not explained, and large enough to be the spread over datasets"
)


@dataclass(frozen=True)
class PublishedRow:
    """Mean and ± of the scores over six datasets, as published."""

    model: str
    architecture: str
    pretraining: str
    uar: tuple[float, float]
    macro_f1: tuple[float, float]


VOC2VEC_TABLE = (
    PublishedRow("voc2vec", "wav2vec 2.0", "Voc125", (0.612, 0.212), (0.580, 0.230)),
    PublishedRow(
        "voc2vec-as-pt", "wav2vec 2.0", "AudioSet + Voc125", (0.603, 0.183), (0.574, 0.194)
    ),
    PublishedRow(
        "voc2vec-ls-pt", "wav2vec 2.0", "LibriSpeech + Voc125", (0.661, 0.206), (0.636, 0.223)
    ),
    PublishedRow(
        "voc2vec-hubert-ls-pt", "HuBERT", "LibriSpeech + Voc125", (0.696, 0.189), (0.678, 0.200)
    ),
    PublishedRow("wav2vec2-ls", "wav2vec 2.0", "LibriSpeech", (0.599, 0.237), (0.569, 0.259)),
    PublishedRow("hubert-ls", "HuBERT", "LibriSpeech", (0.627, 0.214), (0.611, 0.222)),
)
DATASETS = ("asvp_esd", "asvp_esd_babies", "cnvve", "donate_a_cry", "deeply_nonverbal", "vivae")
"""The six, by the names that this project prepares them under."""
