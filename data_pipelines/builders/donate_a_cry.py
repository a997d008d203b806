"""Donate-a-Cry: why a baby cries, by its parents' guess."""

from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Archive
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.corpora.named_files import DONATEACRY_NAME, DONATEACRY_REASONS
from data_pipelines.stores.report import Expected


class DonateACry(VocalisationBuilder):
    """Label: folder. Group: installation of the app, since one baby is often recorded in a row."""

    FACTS = Facts(
        title="Donate-a-Cry corpus, cleaned and updated",
        description="Baby cries recorded by parents with a phone: 8 kHz, about 7 s each, 84 % of"
        " them 'hungry'. 24 of 221 app installations occur in more than one class, and energy ends"
        " at 4 kHz.",
        homepage="https://github.com/gveres/donateacry-corpus",
        licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
        citation="Gabor Veres: Donate-a-Cry corpus, 2015,"
        " https://github.com/gveres/donateacry-corpus",
        downloads=(
            Archive(
                "https://github.com/gveres/donateacry-corpus/archive/"
                "6baf5aca0460964ad072653585837f968a87c2af.zip"
            ),
        ),
        obtain="git clone https://github.com/gveres/donateacry-corpus, or its zip; only"
        " donateacry_corpus_cleaned_and_updated_data/ is read",
        expected=Expected(clips=457, hours=0.8782, paper_clips=457, paper_hours=0.88),
        classes=DONATEACRY_REASONS,
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Recordings in the five class folders; the raw uploads have other suffixes."""
        for file in files.audio():
            label = file.folders[-1] if file.folders else ""
            if label not in self.class_names or file.path.suffix.lower() != ".wav":
                continue
            name = DONATEACRY_NAME.fullmatch(file.stem)
            if name is None:
                yield Found(file, None, "its name does not begin with an app id, so has no group")
            else:
                yield self.clip(
                    file, f"{label}/{file.stem}", label=label, group=name["app"].lower()
                )
