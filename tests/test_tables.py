"""Tables of recordings: every cell is used, refused by name, or said to be unused."""

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.corpora.sources import store_from_table
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.segments import WHOLE, Segment
from voc2vec_jax.audio.tables import check_segments, read_table
from voc2vec_jax.errors import DataError

COMPOSED, DECOMPOSED = "caf\u00e9.wav", "cafe\u0301.wav"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate(("a.wav", "b.flac")):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 16_000)
        soundfile.write(folder / name, noise, 16_000)
    return folder


def write(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    table = folder / name
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table


def touch(folder: Path, names: Sequence[str | bytes]) -> None:
    for name in names:
        path = folder / (name if isinstance(name, str) else name.decode(errors="surrogateescape"))
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_a_segment_is_the_clip(recordings: Path, tmp_path: Path) -> None:
    text = "file,start,end,label\na.wav,0,0.25,x\na.wav,0 days 00:00:00.5,NaT,y\nb.flac,0.1,,x\n"
    store = store_from_table(write(recordings, text), tmp_path)
    assert store.ids == ["a.wav#0-0.25", "a.wav#0 days 00:00:00.5-NaT", "b.flac"]
    assert store.sources == ["a.wav", "a.wav", "b.flac"]
    whole = {name: soundfile.read(recordings / name, dtype="int16")[0] for name in store.sources}
    wanted = [whole["a.wav"][:4_000], whole["a.wav"][8_000:], whole["b.flac"][1_600:]]
    for clip, samples in enumerate(wanted):
        found = store.read(clip, 0, int(store.lengths[clip]))
        np.testing.assert_array_equal(np.asarray(found).ravel(), samples)


def test_segments_of_one_recording_are_one_group(
    recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["a.wav,0,0.25,", "a.wav,0.5,,", "a.wav,0.25,0.5,s1", "b.flac,0.1,,"]
    text = "\n".join(["path,start,end,group", *rows])
    with caplog.at_level("WARNING"):
        store = store_from_table(write(recordings, text), tmp_path)
    assert store.groups == ["a.wav", "a.wav", "s1", ""]
    assert "2 segments have no group; those of one recording are taken as one" in caplog.text


def test_another_segment_is_another_store(recordings: Path, tmp_path: Path) -> None:
    def seconds(end: str) -> FlatStore:
        return store_from_table(write(recordings, f"path,end\na.wav,{end}\n"), tmp_path)

    assert [seconds(end).lengths.tolist() for end in ("0.5", "0.25", "")] == [
        [8_000],
        [4_000],
        [16_000],
    ]
    # Seven digits tell these apart: one sample more.
    text = "id,path,start,end\nx,a.wav,0.5000000,{}\n"
    stores = [
        store_from_table(write(recordings, text.format(end)), tmp_path)
        for end in ("0.9000010", "0.9000630")
    ]
    assert [store.lengths.tolist() for store in stores] == [[6_400], [6_401]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,0.5,0.5", r"start '0\.5' and end '0\.5' are no segment"),
        ("a.wav,-0.5,", r"start '-0\.5' .* are no segment"),
        ("a.wav,0,inf", r"start '0' and end 'inf' are no segment"),
        ("a.wav,x,", r"start 'x' is no time; give seconds such as 1\.5"),
        ('a.wav,"0,5",', r"start '0,5' is no time"),
        ("a.wav,0.5,1.01", r"'a\.wav' has 1 s, and the segment from 0\.5 s to 1\.01 s is not in"),
        ("b.flac,1,", r"'b\.flac' has 1 s, and the segment from 1 s to the end is not in it"),
    ],
)
def test_times_that_are_no_segment_are_refused(
    recordings: Path, tmp_path: Path, row: str, message: str
) -> None:
    table = write(recordings, f"path,start,end\nb.flac,,1.0005\n{row}\n")
    with pytest.raises(DataError, match=rf"clips\.csv: line 3: {message}"):
        store_from_table(table, tmp_path)


def test_a_segment_that_only_decoding_refuses_names_its_line(
    recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write(recordings, "path,end,label\na.wav,0.5,x\na.wav,0.01,y\n")
    store = store_from_table(table, tmp_path)
    assert store.ids == ["a.wav#-0.5"]
    assert "reason=line 3: in the segment from 0 s to 0.01 s has 160 samples" in caplog.text
    assert "class 'y'" in caplog.text
    check_segments(table, read_table(table))  # within the recording, though


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,label,fold", "a.wav,x,2"),
        ("path;label;split", "a.wav;x;2"),
        ("Path\tLABEL\tFold", "a.wav\tx\t2"),
        ('"file","label","fold"', '"a.wav","x","2"'),
    ],
)
def test_separators_and_names_of_columns(recordings: Path, header: str, row: str) -> None:
    (found,) = read_table(write(recordings, f"{header}\r\n{row}\r\n"))
    assert (found.id, found.path, found.label, found.fold) == ("a.wav", "a.wav", "x", "2")
    assert (found.segment, found.line) == (WHOLE, 2)
    assert found.file == recordings / "a.wav"


def test_only_line_ends_end_a_row(recordings: Path) -> None:
    odd = "u\u2028n\x85e\x1cl\x0bx"
    text = f'path,id,label\r\na.wav,{odd},x\rb.flac,two,"y\nz"\n\na.wav,three,x\n'
    rows = read_table(write(recordings, text))
    assert [row.id for row in rows] == [odd, "two", "three"]
    assert [row.label for row in rows] == ["x", "y\nz", "x"]
    assert [row.line for row in rows] == [2, 3, 6]


def test_columns_that_are_not_used_are_said_once(
    recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_table(write(recordings, "path,file,onset,label,note\na.wav,x,1,y,z\n"))
    read_table(write(recordings, "path,label,start,end,group,fold,id\na.wav,y\n"))
    (said,) = caplog.messages
    assert said.endswith("clips.csv: columns not used: file, onset, note")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,fold,split\na.wav,1,2\n", "line 1: columns 'fold' and 'split' both say fold"),
        ("path,label\na.wav,x,y\n", "line 2: 3 cells for 2 columns; put quotes around"),
        ('path,label\na.wav,"x\n', "cannot be read as CSV"),
        ("path\nb\\a.wav\n", r"line 2: no such file: .*looks like a path of Windows: write it"),
        (b"path\0\n", "is UTF-16, or no text"),
        ("path\na.wav\n./a.wav\na.wav\n", r"line 4: id 'a\.wav' is that of line 2"),
    ],
)
def test_tables_that_are_refused(recordings: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"clips\.csv: {message}"):
        read_table(write(recordings, text))


def test_spellings_of_accents_meet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, [f"d{DECOMPOSED}/{COMPOSED}", DECOMPOSED])
    cells = [f"d{COMPOSED}/{DECOMPOSED}", COMPOSED]
    rows = read_table(write(tmp_path, "\n".join(["path", *cells])))
    assert [row.id for row in rows] == cells  # as written
    assert [row.file for row in rows] == [
        tmp_path / f"d{DECOMPOSED}" / COMPOSED,
        tmp_path / DECOMPOSED,
    ]
    assert "2 paths are spelt otherwise on disk" in caplog.text


def test_a_name_as_it_stands_wins_and_others_may_not_be_guessed(tmp_path: Path) -> None:
    touch(tmp_path, [COMPOSED, DECOMPOSED, "\u212bA\u030a.wav", "\u00c5\u00c5.wav"])
    rows = read_table(write(tmp_path, f"path\n{COMPOSED}\n{DECOMPOSED}\n"))
    assert [row.file.name for row in rows] == [COMPOSED, DECOMPOSED]
    other = unicodedata.normalize("NFD", "\u00c5\u00c5.wav")
    with pytest.raises(DataError, match=r"line 2: .* is not spelt like any file, and .* and "):
        read_table(write(tmp_path, f"path\n{other}\n"))


def test_two_spellings_of_one_file_are_one_row_too_many(tmp_path: Path) -> None:
    touch(tmp_path, [COMPOSED])
    with pytest.raises(DataError, match=r"line 3: .* in spelling only, and means the same file"):
        read_table(write(tmp_path, f"path\n{COMPOSED}\n{DECOMPOSED}\n"))


def test_cells_that_are_no_utf8_find_their_files(tmp_path: Path) -> None:
    touch(tmp_path, [b"ni\xf1o.wav", "\u00fcn\u00eb.wav"])
    table = write(tmp_path, b"path\nni\xf1o.wav\n\xfcn\xeb.wav\n")
    first, second = read_table(table)
    assert (first.id, second.id) == (r"ni\xf1o.wav", r"\xfcn\xeb.wav")
    assert (first.file.name, second.file.name) == ("ni\udcf1o.wav", "\u00fcn\u00eb.wav")
    # In UTF-8, and as ids are written; both are kept as they stand.
    for cell in ("ni\u00f1o.wav", r"ni\xf1o.wav"):
        (row,) = read_table(write(tmp_path, f"path\n{cell}\n"))
        assert (row.id, row.file.name) == (cell, "ni\udcf1o.wav")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["laugh", "cough", "laugh;cough"], r"line 4: `label` 'laugh;cough' holds 2 classes"),
        (["a|b", "b|c", "d"], r"line 2: `label` 'a\|b' holds 2 classes"),
        (["a", "b", '"a, b"'], r"line 4: `label` 'a, b' holds 2 classes"),
        (["1", "0.37"], r"line 3: `label` '0\.37' is a number; labels are classes"),
        (["1e-3", "2"], r"line 2: `label` '1e-3' is a number"),
        ([str(7 * n) for n in range(51)], r"`label` holds 51 different numbers from 0 to 350"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    recordings: Path, tmp_path: Path, labels: list[str], message: str
) -> None:
    rows = "".join(f"a.wav,{number},{label}\n" for number, label in enumerate(labels))
    with pytest.raises(DataError, match=rf"clips\.csv: {message}"):
        store_from_table(write(recordings, f"path,id,label\n{rows}"), tmp_path)


def test_names_of_classes_may_hold_commas_and_accents(
    recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'path,id,label\na.wav,1,"crying, sobbing"\na.wav,2,cri\u00e9\na.wav,3,crie\u0301\n'
    store = store_from_table(write(recordings, text), tmp_path)
    assert store.class_names == ["cri\u00e9", "crying, sobbing"]
    assert store.labels.tolist() == [1, 0, 0]
    assert "is written in 2 ways" in caplog.text


def test_numbers_of_classes_are_classes(recordings: Path, tmp_path: Path) -> None:
    rows = "".join(f"a.wav,{number},{number}\n" for number in range(60))
    store = store_from_table(write(recordings, f"path,id,label\n{rows}"), tmp_path)
    assert store.labels.tolist() == list(range(60))


@pytest.mark.parametrize(("start", "end"), [(-1.0, None), (1.0, 1.0), (0.0, float("nan"))])
def test_a_segment_has_a_beginning_and_an_end(start: float, end: float | None) -> None:
    with pytest.raises(ValueError, match="0 <= start < end"):
        Segment(start, end)


def test_a_logged_table_is_no_error(recordings: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_table(write(recordings, "path,label\na.wav,x\n"))
    assert caplog.messages == []
