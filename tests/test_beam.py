"""The builders on Apache Beam; wants the extra `[beam]`, which does not go with constraints.txt."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.corpora.prepared import open_prepared
from data_pipelines.preparation.prepare import prepare_dataset
from tools.prepare_data import main
from voc2vec_jax.errors import WRONG_USAGE


@pytest.fixture
def cries(tmp_path: Path) -> Path:
    """Thirty bursts of VIVAE, two of them broken."""
    folder = tmp_path / "manual" / "full_set"
    folder.mkdir(parents=True)
    for number in range(30):
        noise = 0.1 * np.random.default_rng(number).standard_normal(4_000 + 100 * number)
        soundfile.write(folder / f"S{number % 4:02d}_pain_low_{number}.wav", noise, 44_100)
    (folder / "S01_fear_low_1.wav").write_bytes(b"RIFF, but no more of it")
    (folder / "S01_fear_low_2.wav").write_bytes(b"")
    return tmp_path / "manual"


@pytest.mark.filterwarnings("default")  # Beam's own
def test_beam_prepares_what_threads_prepare(cries: Path, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    # Its successor, Prism, would be downloaded.
    runner = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    there = prepare_dataset("vivae", cries, tmp_path / "beam", beam_runner=runner)
    here = prepare_dataset("vivae", cries, tmp_path / "threads")
    for name in ("report.json", "index.arrow"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert {path.name.partition("-")[0] for path in there.iterdir()} == {
        path.name.partition("-")[0] for path in here.iterdir()
    }
    on_beam, in_threads = (open_prepared("vivae", tmp_path / n) for n in ("beam", "threads"))
    assert len(on_beam.ids) == 30
    assert on_beam.fingerprint == in_threads.fingerprint
    assert not (tmp_path / "beam" / "extracted" / "vivae").exists()


@pytest.mark.filterwarnings("default")
def test_beam_options_reach_the_pipeline(cries: Path, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    with pytest.raises(ValueError, match="NoSuchRunner"):
        prepare_dataset("vivae", cries, tmp_path, beam_runner="NoSuchRunner")


def test_without_the_extra_the_fix_is_named(
    cries: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    where = ["--manual-dir", str(cries), "--data-dir", str(tmp_path)]
    assert main(["vivae", *where, "--beam-runner", "DirectRunner"]) == WRONG_USAGE
    assert "pip install apache-beam" in capsys.readouterr().err
    assert main(["voc125", *where, "--beam-runner", "DirectRunner"]) == WRONG_USAGE
    assert "one published dataset at a time" in capsys.readouterr().err
