"""Baby sounds from Freesound, as the user has searched for and downloaded them."""

import re
from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.manual_files import ManualFiles, read_rows
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NUMBER = re.compile(r"(?P<id>\d+)(?:\D.*)?")


class FreesoundBabies(VocalisationBuilder):
    """No label. Group: Freesound user, where a table names him."""

    FACTS = Facts(
        title="Baby sounds of Freesound",
        description="Whole recordings, about a minute each, with silence, toys and adults. No list"
        " of what the paper used is public, so this is what you have found yourself.",
        homepage="https://freesound.org",
        licence="by sound: CC0, CC BY, CC BY-NC or Sampling+",
        citation="F. Font, G. Roma, X. Serra: Freesound technical demo. ACM Multimedia, 2013",
        obtain="sounds that the Freesound API finds for baby, baby cry, infant, baby laugh or"
        " toddler, in files whose names begin with the number of the sound; and, to have groups, a"
        " CSV with the columns id and username",
        expected=Expected(
            paper_clips=1450, paper_hours=23.42, note="the paper's list is not public"
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Every audio file; its name begins with the number of the sound."""
        users = {
            row["id"]: row["username"]
            for table in files.named(r".*\.csv")
            for row in read_rows(table)
            if "id" in row and "username" in row
        }
        for file in files.audio():
            number = NUMBER.fullmatch(file.stem)
            if number is None:
                yield Found(file, None, "its name does not begin with the number of the sound")
            else:
                yield self.clip(file, number["id"], group=users.get(number["id"], ""))
