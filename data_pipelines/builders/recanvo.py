"""ReCANVo: vocalizations of eight minimally speaking persons, labelled by their families."""

from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import ManualFiles, read_rows
from data_pipelines.builders.common.matching import Found, join
from data_pipelines.stores.report import Expected


class Recanvo(VocalisationBuilder):
    """Label: the table, never the name. Group: participant.

    Compared with the table and the 7,077 names in julianrosen/erdos_dl_recanvo_project, data/
    (6b6842b): each name has one row, and no session has two participants.
    """

    FACTS = Facts(
        title="ReCANVo: Real-World Communicative and Affective Nonverbal Vocalizations",
        description="Recorded in daily life; the background tells sessions apart.",
        homepage="https://doi.org/10.5281/zenodo.5786860",
        licence="not confirmed (see its Zenodo page)",
        citation="K. T. Johnson, J. Narain, T. Quatieri, R. Picard, P. Maes: ReCANVo: A database"
        " of real-world communicative and affective nonverbal vocalizations. Scientific Data,"
        " 2023, doi:10.1038/s41597-023-02405-7",
        downloads=(Deposit("10.5281/zenodo.5786860"),),
        obtain="the recordings and dataset_file_directory.csv from"
        " https://zenodo.org/records/5786860",
        expected=Expected(clips=7077, paper_clips=7077, paper_hours=2.46),
        classes=(
            *("selftalk", "frustrated", "delighted", "dysregulated", "social", "request"),
            *("affectionate", "yes", "laughter", "dysregulation-sick", "happy", "help", "more"),
            *("protest", "bathroom", "dysregulation-bathroom", "no", "glee", "laugh", "tablet"),
            *("hunger", "greeting"),
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """The clips that the table lists."""
        table = files.one_named(r"dataset_file_directory\.csv", "table of the clips")
        listed = read_rows(table, "filename", "participant", "label")
        rows = {row["filename"].lower(): row for row in listed}
        for pair in join(files.audio(), rows, table.name):
            if isinstance(pair, Found):
                yield pair
            else:
                file, row = pair
                yield self.clip(
                    file, file.stem, label=row["label"].lower(), group=row["participant"]
                )
