"""What public downloaders of AudioSet call its segments.

`abcdefghijk` stands for a video; seconds are those of the tables.

| name | written by |
|---|---|
| `abcdefghijk_30.0-40.0` | MorenoLaQuatra/audioset-download, audioset_download/Downloader.py |
| `abcdefghijk_30000_40000` | speedyseal/audiosetdl, utils.py; Amphion, egs/datasets/README.md |
| `abcdefghijk_30_40` | AudioSetCaps/AudioSetCaps, example/ |
| `abcdefghijk-30.000-40.000` | rafaelgreca/audioset-downloader, src/core.py |
| `abcdefghijk_30.000` | YuanGongND/ast, egs/audioset/data/datafiles/sample_eval_data.json |
| `abcdefghijk_30`, `abcdefghijk_30.000` | aoifemcdonagh/audioset-processing, core/utils.py |
| `abcdefghijk_30000` | the segment ids of AudioSet's own temporally strong labels |
| `Yabcdefghijk` | qiuqiangkong/audioset_tagging_cnn, utils/dataset.py; XinhaoMei/WavCaps |
| `Yabcdefghijk_30.000_40.000` | turpaultn/DESED, data/real/metadata/train/unlabel_in_domain.tsv |
| `id_abcdefghijk` | dlrudco/Fast-Audioset-Download, download.py |
"""

import re

NUMBER = r"\d+(?:\.\d+)?"
# An id has eleven characters, dashes and underscores among them: a twelfth decides what a Y is.
NAME = re.compile(
    rf"(?:Y|id_)?(?P<video>[\w-]{{11}})(?:[_-](?P<start>{NUMBER})(?:[_-](?P<end>{NUMBER}))?)?",
    re.ASCII,
)
LONGEST_SECONDS = 60
"""A segment lasts 10 s, and a few users cut wider; what is longer is in milliseconds."""
LATEST_START_SECONDS = 1000
"""The tables of balanced train and evaluation end at 590 s."""


def segment_of(stem: str) -> tuple[str, float | None] | None:
    """Video and start of a segment.

    Args:
        stem: File name without its suffix.

    Returns:
        The id of the video and the start in seconds, None if the name has none; None if the name
        is no downloader's.
    """
    name = NAME.fullmatch(stem)
    if name is None:
        return None
    if name["start"] is None:
        return name["video"], None
    start = float(name["start"])
    whole = "." not in name["start"] + (name["end"] or "")
    if name["end"]:
        milliseconds = whole and float(name["end"]) - start > LONGEST_SECONDS
    else:
        milliseconds = whole and start >= LATEST_START_SECONDS
    return name["video"], start / 1000 if milliseconds else start
