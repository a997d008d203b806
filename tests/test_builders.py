"""Each builder on a miniature of its dataset's tree, with the quirks of the real one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data_pipelines.builders.common.audioset_labels import (
    BORDERLINE,
    CORE,
    MUSIC,
    SINGING,
    SPEECH,
    SPEECH_SINGING_AND_MUSIC,
)
from data_pipelines.builders.common.audioset_names import segment_of
from data_pipelines.builders.common.ids import whole_id
from data_pipelines.corpora.prepared import open_prepared
from data_pipelines.preparation.prepare import builder_class, make_builder, prepare_dataset
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.errors import DataError

BROKEN = b"RIFF, but no more of it"


def write(root: Path, *names: str, rate: int = 16_000, channels: int = 1) -> None:
    """Recordings of noise, each of its own; the suffix is free, the content always wav."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(list(name.encode()))
        samples = 0.1 * random.standard_normal((rate // 10, channels))
        with open(path, "wb") as file:
            soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")


class Prepared:
    """A dataset that was prepared from a miniature."""

    def __init__(self, name: str, manual: Path, data_dir: Path) -> None:
        directory = prepare_dataset(name, manual, data_dir)
        self.report: dict[str, Any] = json.loads((directory / "report.json").read_text())
        self.store: FlatStore = open_prepared(name, data_dir)
        assert len(set(self.store.ids)) == len(self.store.ids)

    @property
    def clips(self) -> dict[str, tuple[str, str, str]]:
        """Label, group and fold by id."""
        names = [*self.store.class_names, ""]
        return {
            clip_id: (names[label], group, fold)
            for clip_id, label, group, fold in zip(
                self.store.ids,
                self.store.labels,
                self.store.groups,
                self.store.folds,
                strict=True,
            )
        }

    @property
    def dropped(self) -> dict[str, str]:
        """Reason by file name."""
        return {Path(drop["file"]).name: drop["reason"] for drop in self.report["dropped"]}


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    (tmp_path / "manual").mkdir()
    return tmp_path / "manual"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_human_voice(manual: Path, data_dir: Path) -> None:
    root = manual / "human-voice-dataset-master" / "data" / "voices" / "martin"
    write(root, "notes/exports/mono/C#3-2.wav", "voyels/exports/mono/_-ou-c3.wav", rate=44_100)
    write(root, "notes/exports/stereo/C#3-2.wav", rate=44_100, channels=2)
    write(root, "notes/sources/notes.mp3", "voyels/sources/c2-voyels.MP3")
    found = Prepared("human_voice", manual, data_dir)
    assert found.clips == {
        "martin/notes/mono/C#3-2": ("", "martin", ""),
        "martin/notes/stereo/C#3-2": ("", "martin", ""),
        "martin/voyels/mono/_-ou-c3": ("", "martin", ""),
    }
    assert found.store.lengths.tolist() == [1600] * 3
    assert sum(found.report["ignored_audio"].values()) == 2
    mono = Prepared("human_voice/mono", manual, data_dir)
    assert mono.clips.keys() == found.clips.keys() - {"martin/notes/stereo/C#3-2"}
    assert open_prepared("human_voice", data_dir).ids == found.store.ids  # the default


def test_donate_a_cry(manual: Path, data_dir: Path) -> None:
    android = "0a983cd2-0078-4698-a048-99ac01eb167a-1433917038889-1.7-f-04-hu"
    ios = "10A40438-09AA-4A21-83B4-8119F03F7A11-1430925142-1.0-f-26-dc"
    corpus = manual / "donateacry_corpus_cleaned_and_updated_data"
    write(corpus, f"hungry/{android}.wav", f"discomfort/{ios}.WAV", rate=8_000)
    write(corpus, f"tired/{ios.lower()}.wav", f"burping/{android[:36]}.wav", rate=8_000)
    (corpus / "hungry" / f"{android}x.wav").write_bytes(BROKEN)
    bucket = manual / "donateacry-android-upload-bucket"
    write(bucket, f"{android}.3gp")
    found = Prepared("donate_a_cry", manual, data_dir)
    assert found.clips == {
        f"discomfort/{ios}": ("discomfort", "10a40438-09aa-4a21-83b4-8119f03f7a11", ""),
        f"hungry/{android}": ("hungry", "0a983cd2-0078-4698-a048-99ac01eb167a", ""),
        f"tired/{ios.lower()}": ("tired", "10a40438-09aa-4a21-83b4-8119f03f7a11", ""),
    }
    assert found.report["groups"] == 2
    assert found.dropped.keys() == {f"{android[:36]}.wav", f"{android}x.wav"}
    assert found.report["ignored_audio"] == {"donateacry-android-upload-bucket": 1}


@pytest.mark.parametrize("folder", ["VIVAE/full_set", "VIVAE/Full_set/Pain", "."])
def test_vivae(manual: Path, data_dir: Path, folder: str) -> None:
    write(manual / folder, "S04_pain_peak_10.wav", "S11_anger_low_011.WAV", rate=44_100)
    write(manual / "VIVAE" / "core_set", "S04_pain_peak_10.wav", rate=44_100)
    (manual / folder / "S01_fear_strong_99.wav").write_bytes(BROKEN)
    found = Prepared("vivae", manual, data_dir)
    assert found.clips == {
        "S04_pain_peak_10": ("pain", "S04", ""),
        "S11_anger_low_011": ("anger", "S11", ""),
    }
    assert found.dropped.keys() == {"S01_fear_strong_99.wav"}
    assert sum(found.report["ignored_audio"].values()) == 1


def test_vivae_names_that_do_not_fit(manual: Path, data_dir: Path) -> None:
    write(manual / "full_set", "S04_pain_peak_10.wav", "S04_joy_peak_1.wav", "notes.wav")
    found = Prepared("vivae", manual, data_dir)
    assert found.clips.keys() == {"S04_pain_peak_10"}
    assert "unknown class 'joy'" in found.dropped["S04_joy_peak_1.wav"]
    assert "<speaker>_<emotion>" in found.dropped["notes.wav"]


def test_cnvve(manual: Path, data_dir: Path) -> None:
    data = manual / "CNVVE" / "data"
    write(data / "cleaned", "ahem/ahem_07_1.wav", "Hush/hush_12_3.wav", "noise/x.wav")
    write(data / "raw", "ahem/session/ahem_07_1.wav", "ahem/other/ahem_07_1.wav", rate=48_000)
    write(data / "padded", "psst/psst_01_1.wav")
    write(data, "padded_augmented/psst/psst_01_1_1.wav", "stretched/psst/psst_01_1.wav")
    found = Prepared("cnvve", manual, data_dir)
    assert found.clips == {"ahem/ahem_07_1": ("ahem", "", ""), "hush/hush_12_3": ("hush", "", "")}
    assert found.store.labels.tolist() == [3, 5]
    grouped = Prepared("cnvve/cleaned_actors", manual, data_dir)
    assert [group for _, group, _ in grouped.clips.values()] == ["12", "07"]
    assert found.report["ignored_audio"]["cnvve/data/padded_augmented/psst"] == 1
    raw = Prepared("cnvve/raw", manual, data_dir)
    assert raw.clips.keys() == {"ahem/session/ahem_07_1", "ahem/other/ahem_07_1"}


@pytest.mark.parametrize("folder", ["dataset", "NonverbalVocalization", "."])
def test_deeply_nonverbal(manual: Path, data_dir: Path, folder: str) -> None:
    write(manual / folder, "crying/a12_11_0_1_23_0_0_0.wav", "screaming/b7_15_2_0_31_1_0_0.wav")
    write(manual / folder, "crying/a12_12_0_1_23_0_0_0.wav", "crying/odd.wav")
    write(manual / folder, "crying/a12_16_0_1_23_0_0_0.wav")
    (manual / folder / "Nonverbal_Vocalization.json").write_text("{}")
    found = Prepared("deeply_nonverbal", manual, data_dir)
    assert found.clips == {
        "a12_11_0_1_23_0_0_0": ("crying", "a12", ""),
        "b7_15_2_0_31_1_0_0": ("screaming", "b7", ""),
    }
    assert found.store.labels.tolist() == [11, 15]
    assert "says laughing, its folder crying" in found.dropped["a12_12_0_1_23_0_0_0.wav"]
    assert found.dropped.keys() >= {"odd.wav", "a12_16_0_1_23_0_0_0.wav"}
    assert "README" in found.report["verdict"]


def test_asvp_esd_and_its_babies(manual: Path, data_dir: Path) -> None:
    root = manual / "ASVP-ESD-Update"
    write(root / "Audio" / "actor_12", "03-01-06-01-02-12-02-01-01-16.wav", rate=48_000)
    write(root / "audio" / "Actor_7", "03-02-13-02-02-07-02-03.wav", "03-02-17-01-01-07-02-01.WAV")
    write(root / "Audio" / "actor_7", "03-02-99-01-01-07-02-01.wav", "readme.wav")
    write(root / "Bonus" / "actor_50", "03-02-04-01-02-50-04-01-01.wav")
    write(root / "Bonus" / "actor_150", "03-02-17-01-02-150-04-01-01-77.wav")
    write(root / "Bonus" / "actor_150", "03-02-05-01-02-150-04-01-01.wav")
    write(root / "Bonus" / "actor_150", "03-02-04-01-52-150-04-01-00-14 -03.wav")
    write(root / "Audio" / "actor_", "03-02-13-01-41-116-02-02-02-06.wav")
    found = Prepared("asvp_esd/all", manual, data_dir)
    assert found.clips == {
        "actor_12/03-01-06-01-02-12-02-01-01-16": ("fearful", "actor_12", ""),
        "actor_7/03-02-13-02-02-07-02-03": ("breath", "actor_7", ""),
        "actor_7/03-02-17-01-01-07-02-01": ("disgust", "actor_7", ""),
        "actor_/03-02-13-01-41-116-02-02-02-06": ("breath", "actor_116", ""),
    }
    assert found.dropped.keys() == {"03-02-99-01-01-07-02-01.wav", "readme.wav"}
    nonspeech = Prepared("asvp_esd/nonspeech", manual, data_dir)
    assert nonspeech.clips.keys() == found.clips.keys() - {"actor_12/03-01-06-01-02-12-02-01-01-16"}
    babies = Prepared("asvp_esd_babies", manual, data_dir)
    assert babies.clips == {
        "actor_50/03-02-04-01-02-50-04-01-01": ("sad", "", ""),
        "actor_150/03-02-17-01-02-150-04-01-01-77": ("disgust", "", ""),
        "actor_150/03-02-04-01-52-150-04-01-00-14 -03": ("sad", "", ""),
    }
    assert babies.dropped.keys() == {"03-02-05-01-02-150-04-01-01.wav"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_nonspeech7k(manual: Path, data_dir: Path, encoding: str) -> None:
    write(manual / "train" / "train", "100.wav", "101.WAV", "stray.wav", rate=32_000)
    write(manual / "test", "200.wav", rate=32_000)
    (manual / "metadata of train set .csv").write_text(
        "Filename,File ID,Duration in ms,Class ID,Classname,augmentation  id,"
        "Augmentation  type,source\n"
        "100.wav,77,4000,1,cough,0,Orignal,Freesound\n"
        "101.wav,77,4000,3,Laugh,0,Orignal,YouTube\n"
        "102.wav,78,4000,3,Laugh,0,Orignal,YouTube\n",
        encoding=encoding,
    )
    (manual / "Metadata of test set.csv").write_text(
        "Filename,File_ID,Durationin ms,Class_id,Classname,Augment Id,Augmentation type,source\n"
        "200.wav,77,500,6,yawm,0,Original,Freesound\n",
        encoding=encoding,
    )
    found = Prepared("nonspeech7k", manual, data_dir)
    assert found.clips == {
        "train/100": ("cough", "freesound-77", "train"),
        "train/101": ("laugh", "youtube-77", "train"),
        "test/200": ("yawn", "freesound-77", "test"),
    }
    assert found.dropped == {
        "stray.wav": "is not in the metadata",
        "102.wav": "is in the metadata but not among the files",
    }
    (manual / "Metadata of test set.csv").write_text("Filename,Class\n200.wav,yawn\n")
    with pytest.raises(DataError, match=r"test set\.csv: line 1: no column classname, fileid"):
        prepare_dataset("nonspeech7k", manual, data_dir / "other")
    (manual / "Metadata of test set.csv").unlink()
    with pytest.raises(DataError, match="no metadata of the test set"):
        prepare_dataset("nonspeech7k", manual, data_dir / "other")


def test_recanvo(manual: Path, data_dir: Path) -> None:
    names = (
        "200126_2142_00-13-22.32--00-13-23.06.wav",
        "200306_2047SelfTalk-Frustrated_00-01-02.03--00-01-03.04c.wav",
        "200126_2142_00-010-03.963--00-10-05.wav",
    )
    write(manual / "ReCANVo", *names, rate=44_100, channels=2)
    write(manual / "ReCANVo", "200126_2142_00-00-00.00--00-00-01.00.wav")
    (manual / "ReCANVo" / "dataset_file_directory.csv").write_text(
        "Filename,Participant,Label\n"
        f"{names[0]},P01,selftalk\n{names[1]},P08,delighted\n"
        f"{names[2]},P01,dysregulation-sick\nü.wav,P02,yes\n",
        encoding="latin-1",
    )
    found = Prepared("recanvo", manual, data_dir)
    assert found.clips == {
        names[0][:-4]: ("selftalk", "P01", ""),
        names[1][:-4]: ("delighted", "P08", ""),
        names[2][:-4]: ("dysregulation-sick", "P01", ""),
    }
    assert found.dropped.keys() == {"ü.wav", "200126_2142_00-00-00.00--00-00-01.00.wav"}


def test_vocalsound(manual: Path, data_dir: Path) -> None:
    write(manual / "audio_16k", "f0003_0_cough.wav", "m1234_1_throatclearing.wav", "m1_0_sigh.wav")
    write(manual / "data_44k", "f0003_0_cough.wav", "f0004_0_sniff.wav", rate=44_100)
    (manual / "audio_16k" / "f0005_0_sneeze.wav").write_bytes(b"")
    (manual / "datafiles" / "subtest").mkdir(parents=True)
    for stem, name in (("tr", "f0003_0_cough"), ("te", "m1234_1_throatclearing"), ("val", "x")):
        entry = {"wav": f"/data/sls/authors/{name}.wav", "labels": "/m/01b_21"}
        (manual / "datafiles" / f"{stem}.json").write_text(json.dumps({"data": [entry]}))
    (manual / "datafiles" / "subtest" / "te_age1.json").write_text("{}")
    found = Prepared("vocalsound", manual, data_dir)
    assert found.clips == {
        "f0003_0_cough": ("cough", "f0003", "train"),
        "m1234_1_throatclearing": ("throatclearing", "m1234", "test"),
    }
    assert found.dropped.keys() == {"m1_0_sigh.wav", "f0005_0_sneeze.wav"}
    assert found.report["ignored_audio"] == {"data_44k": 2}
    fine = Prepared("vocalsound/44k", manual, data_dir)
    assert fine.clips.keys() == {"f0003_0_cough", "f0004_0_sniff"}


def test_vocalsketch(manual: Path, data_dir: Path) -> None:
    root = manual / "interactiveaudiolab-VocalSketchDataSet-6c9f381"
    write(root / "vocal_imitations", "included/accordian - 4567890123456789.wav", rate=48_000)
    write(root / "vocal_imitations", "excluded/Train - whistle - 1234567890123456.wav")
    write(root / "vocal_imitations_set2", "included/Pulse - 2345678901234567.wav", "included/x.wav")
    write(root / "sound_recordings", "accordian.wav")
    (root / "vocal_imitations.csv").write_text(
        "id,filename,participant_id,participants_sound_recording_description\n"
        '1,accordian - 4567890123456789.wav,31,"a squeeze\nbox, ""old"""\n'
    )
    (root / "vocal_imitaitons_set2.csv").write_text(
        "id,filename,participant_id\n2,Pulse - 2345678901234567.wav,99\n"
    )
    found = Prepared("vocalsketch", manual, data_dir)
    assert found.clips == {
        "4567890123456789": ("", "31", ""),
        "1234567890123456": ("", "", ""),
        "2345678901234567": ("", "99", ""),
    }
    assert found.dropped.keys() == {"x.wav"}
    included = Prepared("vocalsketch/included", manual, data_dir)
    assert included.clips.keys() == {"4567890123456789", "2345678901234567"}


def test_ids_of_vocalsketch_that_the_release_has_rounded_are_unknown(
    manual: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(manual / "included_vocal_imitations", "subsynth 2043 - 5721941054849024.wav")
    names = ("anti matter clouds - 5707451445805056.wav", "piano - 5942087790886912.wav")
    write(manual / "vocal_imitations_set2" / "included", *names)
    (manual / "vocal_imitations.csv").write_text(
        "id,filename,participant_id\n"
        "5721941054849024,subsynth 2043 - 5721941054849024.wav,5689413791121408\n"
    )
    (manual / "vocal_imitaitons_set2.csv").write_text(
        f"id,filename,participant_id\n5.71E+15,{names[0]},5.69E+15\n5.94E+15,{names[1]},6E+15\n"
    )
    builder = make_builder("vocalsketch", manual.parent / "data")
    survey = builder.survey(manual, manual.parent / "scratch")
    assert {clip.id: clip.group for clip in survey.clips} == {
        "5721941054849024": "5689413791121408",
        "5707451445805056": "",
        "5942087790886912": "",
    }
    assert "ids_rounded=2" in caplog.text
    assert "rounded" in builder.expected.note


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("5.69E+15", ""),
        ("6e+15", ""),
        ("5,69E+15", ""),
        ("freesound-5.69E+05", ""),
        ("5689413791121408", "5689413791121408"),
        ("7E12", "7E12"),
        ("actor_7", "actor_7"),
    ],
)
def test_rounded_ids(group: str, known: str) -> None:
    assert whole_id(group) == known


def test_nnime(manual: Path, data_dir: Path) -> None:
    root = manual / "Sentence Level" / "Sentence Level"
    write(root, "Speech/angry_01_A_001.wav", "Laugh/happy_4_B_002.wav", "Sigh/sad_22_A_003.WAV")
    write(root, "Audien_Laugh/happy_07_A_004.wav", "Others/odd.wav")
    write(manual / "Recordings", "angry_01_A.wav")
    found = Prepared("nnime/all", manual, data_dir)
    assert found.clips == {
        "speech/angry_01_A_001": ("speech", "01", ""),
        "laugh/happy_4_B_002": ("laugh", "04+22", ""),
        "sigh/sad_22_A_003": ("sigh", "04+22", ""),
        "audien_laugh/happy_07_A_004": ("audien_laugh", "07", ""),
    }
    assert found.dropped.keys() == {"odd.wav"}
    assert found.report["ignored_audio"] == {"recordings": 1}
    assert Prepared("nnime/speech", manual, data_dir).clips.keys() == {"speech/angry_01_A_001"}
    nonspeech = Prepared("nnime/nonspeech", manual, data_dir)
    assert nonspeech.clips.keys() == found.clips.keys() - {"speech/angry_01_A_001"}
    assert nonspeech.report["expected"]["clips"] == 858


def test_singing_database(manual: Path, data_dir: Path) -> None:
    write(manual, "monophonic/chinese/fem_01/neg_1.wav", "monophonic/western/fem_12/pos_3.wav")
    write(manual, "polyphonic/chinese/fem_01/neg_1.wav", "monophonic/loose.wav", channels=2)
    (manual / "CrossculturalDataSet.xlsx").write_bytes(b"")
    found = Prepared("singing_database/all", manual, data_dir)
    assert found.clips == {
        "monophonic/chinese/fem_01/neg_1": ("", "chinese/fem_01", ""),
        "monophonic/western/fem_12/pos_3": ("", "western/fem_12", ""),
        "polyphonic/chinese/fem_01/neg_1": ("", "chinese/fem_01", ""),
    }
    assert found.dropped.keys() == {"loose.wav"}
    voices = Prepared("singing_database/monophonic", manual, data_dir)
    assert len(voices.clips) == 2


def test_freesound_babies(manual: Path, data_dir: Path) -> None:
    write(manual, "12345__anna__baby-cry.wav", "cries/678.aiff", "cries/99 giggle.FLAC")
    write(manual, "baby.wav", "other/12345_preview.ogg")
    (manual / "sounds.csv").write_text("id,username,license,query\n12345,anna,CC0,baby cry\n")
    found = Prepared("freesound_babies", manual, data_dir)
    assert found.clips == {
        "12345": ("", "anna", ""),
        "678": ("", "", ""),
        "99": ("", "", ""),
    }
    assert "does not begin with the number" in found.dropped["baby.wav"]
    assert "whose content differs" in found.dropped["12345_preview.ogg"]


def test_tut_babies(manual: Path, data_dir: Path) -> None:
    root = manual / "TUT-rare-sound-events-2017-development" / "data"
    mixtures = root / "mixture_data" / "devtrain" / "20b255387a2d0cddc0a3dff5014875e7"
    cry, none = "mixture_devtrain_babycry_000_ab12", "mixture_devtrain_babycry_001_cd34"
    write(mixtures / "audio", f"{cry}.wav", f"{none}.wav", "mixture_devtrain_gunshot_000_ef.wav")
    (mixtures / "meta").mkdir()
    (mixtures / "meta" / "event_list_devtrain_babycry.csv").write_text(
        f"{cry}.wav\t3.2\t5.1\tbabycry\n{none}.wav\n"
    )
    evaluation = manual / "TUT-rare-sound-events-2017-evaluation" / "data" / "mixture_data"
    write(evaluation / "evaltest" / "bbb8" / "audio", "mixture_evaltest_babycry_000_99.wav")
    write(root / "source_data" / "events", "babycry/22.wav", "gunshot/23.wav", rate=48_000)
    write(root / "source_data" / "bgs" / "audio", "b01.wav")
    found = Prepared("tut_babies/all", manual, data_dir)
    assert found.clips == {
        cry: ("", "", "devtrain"),
        none: ("", "", "devtrain"),
        "mixture_evaltest_babycry_000_99": ("", "", "evaltest"),
        "event/22": ("", "", ""),
    }
    assert Prepared("tut_babies/cries", manual, data_dir).clips.keys() == {cry, "event/22"}
    assert len(Prepared("tut_babies/mixtures", manual, data_dir).clips) == 3


def test_audioset(manual: Path, data_dir: Path) -> None:
    official = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=22160\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00002"\n'
        '-0xzrMun0Rs, 30.000, 40.000, "/m/01j3sz"\n'
        "a_B-c_D-e_F,0.0,10.0,/m/0lyf6\n"
        'zzzzzzzzzzz, 0.000, 10.000, "/m/0bt9lr"\n'
    )
    (manual / "balanced_train_segments.csv").write_text(official)
    write(manual / "audio", "--PJHxphWEs.flac", "a_B-c_D-e_F_0.0-10.0.ogg", "zzzzzzzzzzz.wav")
    write(manual / "Laughter", "-0xzrMun0Rs_30.0-40.0.wav", "not a video.wav")
    write(manual / "Baby_cry,_infant_cry", "bbbbbbbbbbb_1-11.wav")
    found = Prepared("audioset_vocalization/all", manual, data_dir)
    assert found.clips == {
        "--PJHxphWEs": ("Baby cry, infant cry", "--PJHxphWEs", ""),
        "-0xzrMun0Rs-30": ("Laughter", "-0xzrMun0Rs", ""),
        "a_B-c_D-e_F-0": ("Breathing", "a_B-c_D-e_F", ""),
        "bbbbbbbbbbb-1": ("Baby cry, infant cry", "bbbbbbbbbbb", ""),
    }
    assert found.dropped.keys() == {"not a video.wav"}
    assert found.report["ignored_audio"] == {"audio": 1}
    pure = Prepared("audioset_vocalization/pure", manual, data_dir)
    assert pure.clips.keys() == {"-0xzrMun0Rs-30", "a_B-c_D-e_F-0"}
    assert "in no table" in pure.dropped["bbbbbbbbbbb_1-11.wav"]


AUDIOSET_MIXED = {
    "child speech": "/m/0ytgt",
    "singing": "/m/015lz1",
    "child singing": "/t/dd00005",
    "yodeling": "/m/01swy6",
    "guitar": "/m/0342h",
    "babbling": "/m/0261r1",
    "dog": "/m/0bt9lr",
}


def test_pure_audioset_is_refused_without_a_table_and_has_no_speech_or_song(
    manual: Path, data_dir: Path
) -> None:
    names = {key: f"{key.replace(' ', '-'):x<11.11}" for key in AUDIOSET_MIXED}
    write(manual / "Laughter", *(f"{name}.wav" for name in names.values()))
    builder = make_builder("audioset_vocalization/pure", data_dir)
    with pytest.raises(DataError, match=r"no table of labels .* eval_segments\.csv"):
        builder.survey(manual, data_dir)
    (manual / "eval_segments.csv").write_text(
        "".join(
            f'{names[key]}, 30.000, 40.000, "/m/01j3sz,{mid}"\n'
            for key, mid in AUDIOSET_MIXED.items()
        )
    )
    clips = builder.survey(manual, data_dir).clips
    assert {clip.group for clip in clips} == {names["babbling"], names["dog"]}
    (manual / "vocalization_labels.txt").write_text("Laughter\nSinging\n")
    clips = builder.survey(manual, data_dir).clips
    assert {clip.group for clip in clips} == {names["singing"], names["dog"]}


def test_audioset_segment_that_a_downloader_put_into_a_folder_for_each_label(
    manual: Path, data_dir: Path
) -> None:
    write(manual / "Laughter", "abcdefghijk_30-40.wav", "bbbbbbbbbbb_0-10.wav")
    for folder in ("Baby_cry", "Speech"):
        (manual / folder).mkdir()
        shutil.copy(manual / "Laughter" / "abcdefghijk_30-40.wav", manual / folder)
    builder = make_builder("audioset_vocalization/all", data_dir)
    labels = {clip.id: clip.label for clip in builder.survey(manual, data_dir).clips}
    assert labels == {
        "abcdefghijk-30": -1,  # laughter and crying
        "bbbbbbbbbbb-0": builder.class_names.index("Laughter"),
    }


def test_audioset_labels_count_for_their_segment_only(manual: Path, data_dir: Path) -> None:
    (manual / "eval_segments.csv").write_text("abcdefghijk,30,40,/m/01j3sz\n")
    write(manual, "abcdefghijk_30.000_40.000.wav", "abcdefghijk_50000_60000.wav")
    survey = make_builder("audioset_vocalization", data_dir).survey(manual, data_dir)
    assert [clip.id for clip in survey.clips] == ["abcdefghijk-30"]
    assert "begins at 50 s; the tables label that video from 30 s" in survey.rejected[0]["reason"]


@pytest.mark.parametrize(
    ("stem", "segment"),
    [
        ("abcdefghijk", ("abcdefghijk", None)),
        ("abcdefghijk_0-10", ("abcdefghijk", 0.0)),
        ("abcdefghijk_30.0-40.0", ("abcdefghijk", 30.0)),
        ("abcdefghijk_30000_40000", ("abcdefghijk", 30.0)),
        ("abcdefghijk_0_10000", ("abcdefghijk", 0.0)),
        ("abcdefghijk_30.000_40.000", ("abcdefghijk", 30.0)),
        ("---1_cCGK4M_0_10000", ("---1_cCGK4M", 0.0)),
        ("_7Xe9vD3Hpg_4_10", ("_7Xe9vD3Hpg", 4.0)),
        ("abcdefghijk-30.000-40.000", ("abcdefghijk", 30.0)),
        ("--4gqARaEJE_0.000", ("--4gqARaEJE", 0.0)),
        ("abcdefghijk_30", ("abcdefghijk", 30.0)),
        ("abcdefghijk_590", ("abcdefghijk", 590.0)),
        ("abcdefghijk_30000", ("abcdefghijk", 30.0)),
        ("Yabcdefghijk", ("abcdefghijk", None)),
        ("YYQSuFyFm3Lc", ("YQSuFyFm3Lc", None)),
        ("YQSuFyFm3Lc", ("YQSuFyFm3Lc", None)),
        ("Y--CE2f-ttEQ_30.000_40.000", ("--CE2f-ttEQ", 30.0)),
        ("Yb0RFKhbpFJA_30000", ("b0RFKhbpFJA", 30.0)),
        ("YQSuFyFm3Lc_30.000_40.000", ("YQSuFyFm3Lc", 30.0)),
        ("id_abcdefghijk", ("abcdefghijk", None)),
        ("not a video", None),
        ("abcdefghij", None),
        ("abcdefghijk_cut", None),
    ],
)
def test_names_of_audioset_downloaders(stem: str, segment: tuple[str, float | None] | None) -> None:
    assert segment_of(stem) == segment


def test_audioset_with_labels_of_ones_own(manual: Path, data_dir: Path) -> None:
    write(manual / "laughter", "aaaaaaaaaaa.wav")
    write(manual / "Whistling", "bbbbbbbbbbb.wav")
    (manual / "vocalization_labels.txt").write_text("whistling\n\n/m/0lyf6\n")
    found = Prepared("audioset_vocalization", manual, data_dir)
    assert found.clips == {"bbbbbbbbbbb": ("Whistling", "bbbbbbbbbbb", "")}
    (manual / "vocalization_labels.txt").write_text("Elephants\n")
    with pytest.raises(DataError, match=r"vocalization_labels\.txt: 'Elephants' is none"):
        prepare_dataset("audioset_vocalization", manual, data_dir / "other")


def test_audioset_labels_are_those_of_the_ontology() -> None:
    assert len(CORE) == 35
    assert len(BORDERLINE) == 18
    assert not CORE.keys() & BORDERLINE.keys()
    assert len({*CORE.values(), *BORDERLINE.values()}) == 53
    assert all(mid.startswith(("/m/", "/t/dd")) for mid in {**CORE, **BORDERLINE})
    assert len(SINGING) == 10
    assert len(SPEECH) == 8
    assert len(MUSIC) == 147
    # What is a sound of its own and no speech, song or music stays in `pure`.
    assert SPEECH_SINGING_AND_MUSIC & CORE.keys() == {"/m/0261r1"}


CLASSES = {
    "asvp_esd": 13,
    "asvp_esd_babies": 7,
    "cnvve": 6,
    "deeply_nonverbal": 16,
    "donate_a_cry": 5,
    "nnime": 6,
    "nonspeech7k": 7,
    "recanvo": 22,
    "vivae": 6,
    "vocalsound": 6,
}


@pytest.mark.parametrize("name", CLASSES)
def test_class_lists_are_complete(name: str, tmp_path: Path) -> None:
    assert len(builder_class(name).FACTS.classes) == CLASSES[name]
    builder = make_builder(name, tmp_path)
    assert builder.info.features["label"].num_classes == CLASSES[name]
