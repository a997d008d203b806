"""Traces of updates: where they begin and end, and that no figure depends on them."""

import gzip
import json
from pathlib import Path

import jax
import pytest

from tests import programs
from tests.test_first_step import CONFIG
from tests.test_trainer import Clips, figures
from voc2vec_jax.errors import ConfigError, PreemptedError
from voc2vec_jax.training.log.profiler import profiled_steps
from voc2vec_jax.training.loop import fit
from voc2vec_jax.training.update import Training

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def training() -> Training:
    return programs.training_of(CONFIG)


def run(
    training: Training, workdir: Path, profile: range = range(0), data: Clips | None = None
) -> None:
    workdir.mkdir(exist_ok=True)
    fit(CONFIG, training.task, data or Clips(), workdir, compiled=training, profile=profile)


def traces(workdir: Path) -> list[Path]:
    return sorted((workdir / "profile" / "plugins" / "profile").iterdir())


def traced(trace: Path) -> tuple[list[int], set[str]]:
    """Steps of the updates in a trace, and the names of all its events."""
    (file,) = trace.glob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
    ]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "update"]
    return sorted(map(int, steps)), {event.name for event in events}


def test_a_trace_holds_the_updates_asked_for_and_changes_no_figure(
    training: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(training, tmp_path / "plain")
    run(training, tmp_path / "traced", range(4, 7))
    assert figures(tmp_path / "traced") == figures(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    (trace,) = traces(tmp_path / "traced")
    steps, names = traced(trace)
    assert steps == [4, 5, 6]
    assert names >= {"waiting_for_data", "host_to_device", "step", "checkpoint"}
    with gzip.open(trace / "perfetto_trace.json.gz") as file:
        assert "update" in {event.get("name") for event in json.load(file)["traceEvents"]}
    said = capfd.readouterr().err
    assert "profile: updates 4 to 6 traced" in said
    assert str(tmp_path / "traced" / "profile") in said


def test_a_run_that_stops_or_goes_on_traces_what_it_does_itself(
    training: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Clips()
    data.terminate_at = 5
    with pytest.raises(PreemptedError, match="step 6"):
        run(training, tmp_path, range(5, 9), data)
    assert "profile: updates 5 to 6 traced" in capfd.readouterr().err
    (first,) = traces(tmp_path)
    assert traced(first)[0] == [5, 6]

    data = Clips()
    data.terminate_at = 7
    with pytest.raises(PreemptedError, match="step 8"):
        run(training, tmp_path, range(4, 8), data)
    assert "profile: updates 7 to 7 traced" in capfd.readouterr().err
    (second,) = set(traces(tmp_path)) - {first}
    assert traced(second)[0] == [7]

    run(training, tmp_path, range(4, 8))
    assert "nothing was traced, for none of updates 4 to 7 was" in capfd.readouterr().err
    assert len(traces(tmp_path)) == 2


def test_both_ends_are_included() -> None:
    assert list(profiled_steps("10:15", 15)) == [10, 11, 12, 13, 14, 15]
    assert list(profiled_steps("3:3", 15)) == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("15:10", "--profile 15:10: give FIRST:LAST"),
        ("0:5", "counted from 1"),
        ("7", "give FIRST:LAST"),
        ("-1:5", "give FIRST:LAST"),
        ("10:16", "--profile 10:16: ends behind the last update, train.num_steps=15"),
    ],
)
def test_other_spans_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profiled_steps(text, 15)
