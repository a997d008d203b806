"""Nonspeech7k: seven human non-speech sounds cut from the web."""

from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import ManualFiles, read_rows
from data_pipelines.builders.common.matching import Found, join
from data_pipelines.stores.report import Expected

MISSPELT = {"yawm": "yawn"}


class Nonspeech7k(VocalisationBuilder):
    """Label and fold: the metadata. Group: the recording that a clip was cut from."""

    FACTS = Facts(
        title="Nonspeech7k",
        description="Clips of 0.5 to 4 s, 32 kHz, from Freesound, YouTube and Aigei. Four source"
        " recordings occur in both official parts.",
        homepage="https://doi.org/10.5281/zenodo.6967442",
        licence="CC BY 4.0; its description is reported to say CC BY-NC-SA 4.0",
        citation="M. M. Rashid et al.: Nonspeech7k dataset: Classification and analysis of human"
        " non-speech sound. IET Signal Processing, 2023",
        downloads=(Deposit("10.5281/zenodo.6967442", r".*\.(zip|csv)"),),
        obtain="train.zip, test.zip and the two 'metadata of … set.csv' from"
        " https://zenodo.org/records/6967442",
        expected=Expected(
            clips=7014,
            tolerance=0.01,
            paper_clips=6983,
            paper_hours=6.72,
            note="the metadata list 7014; why the paper has 31 fewer is not known",
        ),
        classes=("breath", "cough", "crying", "laugh", "screaming", "sneeze", "yawn"),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """The clips of both metadata files, wherever they lie."""
        rows = {}
        for fold in ("train", "test"):
            # One of the two is published with a space before its suffix.
            table = files.one_named(
                rf"metadata of {fold} set ?\.csv", f"metadata of the {fold} set"
            )
            for row in read_rows(table, "filename", "classname", "fileid", "source"):
                rows[row["filename"].lower()] = (fold, row)
        for pair in join(files.audio(), rows, "the metadata"):
            if isinstance(pair, Found):
                yield pair
                continue
            file, (fold, row) = pair
            label = row["classname"].lower()
            yield self.clip(
                file,
                f"{fold}/{file.stem}",
                label=MISSPELT.get(label, label),
                group=f"{row['source'].lower()}-{row['fileid']}",
                fold=fold,
            )
