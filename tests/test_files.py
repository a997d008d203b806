"""Files appear whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from voc2vec_jax.files import sha256_of, write_json, write_text, writing


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "figures.txt"
    path.write_text("old")
    with writing(path) as unfinished:
        unfinished.write_text("new")
        assert unfinished.parent == tmp_path, "a rename is whole on one file system only"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "figures.txt"
    path.write_text("old")

    def write() -> None:
        with writing(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "figures.txt"):
        pass
    assert not any(tmp_path.iterdir())


def test_two_processes_do_not_take_each_others_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures.txt"
    with writing(path, by_many=True) as ours:
        ours.write_text("ours")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            write_text(path, "theirs", by_many=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "figures.txt"
    with writing(path) as unfinished:
        left = unfinished
        left.write_text("")
    left.write_text("half")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_utf8_and_knows_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_json(path, {"label": "weinen – heiß", "loss": 0.5})
    text = path.read_text(encoding="utf-8")
    assert "heiß" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"label": "weinen – heiß", "loss": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text(encoding="utf-8") == text


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_bytes(bytes(range(256)) * 5_000)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
