"""What all builders share: from downloaded files to TFDS records, decoded once, with a report.

A builder states facts (`Facts`) and finds its clips among the files; see `donate_a_cry.py`. Each is
an ordinary `tfds.core.GeneratorBasedBuilder` with one TFDS split, `train`, that holds everything:
parts that a dataset comes with stand in the field `fold`.

    <data_dir>/donate_a_cry/1.0.0/
        *.array_record…          records: audio, scale, id, label, group, fold, source
        dataset_info.json, …     TFDS metadata
        report.json              what was found, left out and expected
        index.arrow              order, lengths and hashes of the clips
        durations.png
"""

import json
import logging
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.download import Source
from data_pipelines.builders.common.ids import whole_id
from data_pipelines.builders.common.manual_files import File, ManualFiles
from data_pipelines.builders.common.matching import Found, without_copies
from data_pipelines.builders.common.records import features, record_of
from data_pipelines.corpora.sources import file_states, store_name
from data_pipelines.stores.building import build_store, write_facts
from data_pipelines.stores.decode import decode_clips
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.index import INDEX, read_index
from data_pipelines.stores.report import ON_THE_LIST, Expected, plot_durations
from data_pipelines.stores.sound import Sound
from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.errors import DataError

logger = logging.getLogger(__name__)

SPLIT = "train"
ENTRIES = "entries"


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset before any of its files is read."""

    title: str
    description: str
    homepage: str
    licence: str
    citation: str
    obtain: str
    """Where to get it, and what belongs in the manual directory."""
    expected: Expected
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, …; empty where clips have no class."""
    downloads: tuple[Source, ...] = ()
    """What `--download` fetches; empty where one must ask, register or choose."""


@dataclass(frozen=True)
class Survey:
    """What lies in a manual directory."""

    paths: list[Path]
    clips: list[Clip]
    """As many as paths."""
    rejected: list[dict[str, str]]
    """`file` and `reason` of what belongs to the dataset and cannot be used."""
    about: dict[str, Any]
    """For the report; see `stores.building.build_store`."""
    store_name: str


class StoreBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes a flat store as TFDS records; what both datasets and users' own corpora need."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def title(self) -> str:
        """Dataset and variant, as one names them in commands."""
        return "/".join([self.name, *([self.builder_config.name] if self.builder_config else [])])

    def _log_download_bytes(self) -> None:
        """Nothing: TFDS would announce a download, and there is none."""

    def _log_download_done(self) -> None:
        """Nothing, likewise."""

    def _generate_examples(self, store: FlatStore) -> Iterator[tuple[str, dict[str, Any]]]:
        """TFDS keys and records; also leaves the report beside them."""
        for name in ("report.json", INDEX):
            shutil.copyfile(store.directory / name, self.data_path / name)
        self._complete_report(store.directory.name)
        for number in range(len(store.ids)):
            clip = Clip(
                store.ids[number],
                store.sources[number],
                int(store.labels[number]),
                store.groups[number],
                store.folds[number],
            )
            samples = store.read(number, 0, int(store.lengths[number]))
            yield clip.id, record_of(clip, Sound(samples, float(store.scales[number])))

    def _complete_report(self, store_name: str) -> None:
        """Adds to report.json what a flat store does not know, and draws the histogram."""
        path = Path(self.data_path) / "report.json"
        report = json.loads(path.read_text()) | {"dataset": self.title, "store": store_name}
        path.write_text(json.dumps(report, indent=2) + "\n")
        lengths = read_index(path.parent).column("length").to_numpy()
        plot_durations(lengths, self.title, path.with_name("durations.png"))


class VocalisationBuilder(StoreBuilder):
    """A published dataset in a manual directory."""

    FACTS: ClassVar[Facts]
    excluded: Container[str] = ()
    """Ids of clips to leave out, with or without the dataset's name and a slash in front."""
    on_beam: bool = False
    """Decode on Apache Beam; TFDS's download configuration says with which runner."""
    _rounded_ids: int = 0
    """Clips whose group is unknown, since the release has rounded its id."""

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """TFDS asks for this before it gives the manual directory."""
        return self.FACTS.obtain

    @property
    def expected(self) -> Expected:
        """How much this variant holds when complete."""
        return self.FACTS.expected

    @property
    def downloads(self) -> tuple[Source, ...]:
        """What `--download` fetches for this variant."""
        return self.FACTS.downloads

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, … of this variant."""
        return self.FACTS.classes

    @abstractmethod
    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Every file that belongs to the dataset, as a clip or with the reason why it is none."""

    def clip(
        self, file: File, clip_id: str, *, label: str = "", group: str = "", fold: str = ""
    ) -> Found:
        """A clip by the name of its class; rejected if there is no such class."""
        if label and label not in self.class_names:
            known = ", ".join(self.class_names)
            return Found(file, None, f"unknown class {label!r}; known are {known}")
        number = self.class_names.index(label) if label else -1
        known = whole_id(group)
        self._rounded_ids += known != group
        clip_id, source, known, fold = map(escaped, (clip_id, file.place, known, fold))
        return Found(file, Clip(clip_id, source, number, known, fold))

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self.FACTS
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{facts.title}. {facts.description}",
            features=features(self.class_names),
            homepage=facts.homepage,
            citation=facts.citation,
            license=facts.licence,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        survey = self.survey(Path(dl_manager.manual_dir), self.scratch)
        if self.on_beam:
            from data_pipelines.builders.common.on_beam import DecodeClips

            self._survey = survey
            return {SPLIT: DecodeClips(survey.clips, survey.paths, str(self.data_path / ENTRIES))}
        store = build_store(
            Path(self.data_dir_root) / survey.store_name,
            decode_clips(survey.clips, survey.paths, self.title),
            rejected=survey.rejected,
            **survey.about,
        )
        shutil.rmtree(self.scratch, ignore_errors=True)
        return {SPLIT: self._generate_examples(store)}

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        """Called by TFDS when Beam is done."""
        from data_pipelines.builders.common.on_beam import read_entries

        entries = read_entries(Path(self.data_path) / ENTRIES)
        write_facts(Path(self.data_path), entries, self._survey.rejected, self._survey.about)
        self._complete_report(self._survey.store_name)
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        """Where archives are extracted to, and removed from when the dataset is done."""
        return Path(self.data_dir_root) / "extracted" / self.name

    def survey(self, manual_dir: Path, scratch: Path) -> Survey:
        """Find the clips; nothing is decoded.

        Args:
            manual_dir: The archive or its extracted tree, at any nesting and letter case.
            scratch: Where archives are extracted to.

        Raises:
            DataError: There is nothing of this dataset, or an archive is damaged.
        """
        files = ManualFiles(manual_dir, scratch)
        self._rounded_ids = 0
        found = without_copies(list(self.find_clips(files)))
        if self._rounded_ids:
            logger.warning(
                "dataset=%s ids_rounded=%d: several speakers or sources share an id such as"
                " 5.69E+15, so these clips have no group",
                self.title,
                self._rounded_ids,
            )
        if not found:
            raise DataError(
                f"{manual_dir}: none of its {len(files.files)} files belongs to {self.title}; put"
                f" there: {self.FACTS.obtain}"
            )
        found = [self._unless_excluded(item) for item in found]
        kept = [(item.file, item.clip) for item in found if item.clip is not None]
        paths, clips = [file.path for file, _ in kept], [clip for _, clip in kept]
        claimed = {item.file.path for item in found}
        ignored = [file for file in files.files if file.path not in claimed]
        states = file_states([clip.source for clip in clips], paths)
        left_out: dict[str, list[dict[str, str]]] = {"dropped": [], "copies": [], "excluded": []}
        for item in found:
            if item.clip is None:
                left_out[item.kind].append(
                    {"file": escaped(item.file.place), "reason": escaped(item.reason)}
                )
        return Survey(
            paths=paths,
            clips=clips,
            rejected=left_out["dropped"],
            about={
                "copies": left_out["copies"],
                "excluded": left_out["excluded"],
                "dataset": self.title,
                "class_names": self.class_names,
                "ignored_files": len(ignored),
                "ignored_audio": Counter(
                    escaped("/".join(file.folders)) or "." for file in ignored if file.is_audio
                ),
                "expected": self.expected,
            },
            store_name=store_name("prepared", self.title, [str(clip) for clip in clips], states),
        )

    def _unless_excluded(self, item: Found) -> Found:
        ids = (item.clip.id, f"{self.name}/{item.clip.id}") if item.clip else ()
        if any(clip_id in self.excluded for clip_id in ids):
            return Found(item.file, None, ON_THE_LIST, "excluded")
        return item
