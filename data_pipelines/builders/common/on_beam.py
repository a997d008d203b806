"""Decoding on Apache Beam, for more audio than one machine can take (extra `[beam]`)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from data_pipelines.builders.common.records import record_of
from data_pipelines.stores.decode import decode_file
from data_pipelines.stores.flat_store import Clip
from data_pipelines.stores.journal import describe

_ENTRIES = "entries"


class Decode(beam.DoFn):
    """A clip's record, and beside it, numbered, what the report needs."""

    def process(self, item: tuple[int, Clip, str]) -> Iterator[Any]:
        """Yields TFDS key and record of (number, clip, path), unless the file is unreadable."""
        number, clip, path = item
        sound = decode_file(Path(path))
        entry = describe(clip, sound)
        yield beam.pvalue.TaggedOutput(_ENTRIES, json.dumps([number, entry]))
        if not isinstance(sound, str) and "reason" not in entry:
            yield clip.id, record_of(clip, sound)


class DecodeClips(beam.PTransform):
    """Decodes files wherever Beam runs; the files must be readable there by the same paths.

    Args:
        clips: What is known of each.
        paths: As many.
        entries: Prefix of the text files that get the entries.
    """

    def __init__(self, clips: Sequence[Clip], paths: Sequence[Path], entries: str) -> None:
        super().__init__()
        numbers = range(len(clips))
        self._items = list(zip(numbers, clips, map(str, paths), strict=True))
        self._entries = entries

    def expand(self, pipeline: Any) -> Any:
        """The collection of TFDS keys and records."""
        outputs = (
            pipeline
            | beam.Create(self._items)
            | beam.Reshuffle()
            | beam.ParDo(Decode()).with_outputs(_ENTRIES, main="records")
        )
        _ = outputs[_ENTRIES] | beam.io.WriteToText(self._entries)
        return outputs["records"]


def read_entries(prefix: Path) -> Iterator[dict[str, Any]]:
    """The entries in the order of the clips; removes their files."""
    files = list(prefix.parent.glob(f"{prefix.name}-*"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    for file in files:
        file.unlink()
    # Lines take a fraction of what their content does.
    lines.sort(key=lambda line: int(line[1 : line.index(",")]))
    return (json.loads(line)[1] for line in lines)
