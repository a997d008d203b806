"""Clips that are the same recording never lie on two sides of a grouped fold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.preparation import copies as finding
from data_pipelines.preparation.copies import copies_of
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.sound import to_int16
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.evaluation.baselines import majority_row
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.division import Division, divide
from voc2vec_jax.evaluation.independent_units import units_of
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus

BARE: dict[str, Any] = {"content": {}, "settings": {}}


def noise(seed: int, level: float = 0.1, samples: int = 16_000) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def store_of(folder: Path, waveforms: list[np.ndarray]) -> FlatStore:
    decoded = [
        (Clip(f"{clip}", f"{clip}.wav", clip % 2, f"s{clip}"), to_int16(wave))
        for clip, wave in enumerate(waveforms)
    ]
    return build_store(folder / "store", decoded, dataset="d", class_names=["a", "b"])


def test_copies_are_found_as_they_are_and_changed_but_not_in_near_silence(tmp_path: Path) -> None:
    loud, other = noise(0), noise(1)
    quiet = np.pad(noise(2, level=4e-3, samples=6_000), (0, 154_000))  # a click in ten seconds
    assert 2e-4 < np.sqrt(np.mean(quiet**2)) < 1e-3
    store = store_of(
        tmp_path,
        [loud, other, 0.3 * loud, other, quiet, 0.9 * quiet, loud[3_000:], quiet, noise(3)],
    )
    assert copies_of(store) == [[0, 2, 6], [1, 3], [4, 7]]


def test_copies_are_looked_for_once_and_a_damaged_list_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path, [noise(0), noise(1), noise(0)])
    assert copies_of(store) == [[0, 2]]
    monkeypatch.setattr(finding, "fingerprint", lambda samples: pytest.fail("listens again"))
    assert copies_of(store) == [[0, 2]]
    (path,) = tmp_path.glob("store-copies-*.json")
    assert json.loads(path.read_text()) == {"clips": 3, "copies": [[0, 2]]}
    path.write_text('{"clips": 4, "copies": []}')
    with pytest.raises(DataError, match=r"is damaged \(of 4 clips, not 3\); delete it"):
        copies_of(store)


def test_a_place_that_may_only_be_read_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, [noise(0), noise(1), noise(0)])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(finding, "write_json", refuse)
    assert copies_of(store) == [[0, 2]]
    assert "reason=read-only" in caplog.text


def test_results_and_intervals_know_the_joined_groups(tmp_path: Path) -> None:
    labels, groups, copies = twice()
    corpus = LabelledCorpus(
        name="twice",
        ids=[str(clip) for clip in range(120)],
        labels=labels,
        groups=groups,
        class_names=["a", "b", "c"],
        fingerprint="f",
        waveforms=lambda: iter(()),
        copies=copies,
    )
    row = majority_row(corpus)
    found = CrossValidation(
        row, "m", corpus, "grouped", tmp_path / "out", folds=3, **BARE
    ).run_all()
    tested = {
        clip: group for r in found.results for clip, group in zip(r.clip_ids, r.groups, strict=True)
    }
    assert all(tested[str(2 * i)] == tested[str(2 * i + 1)] == f"s0_{i}" for i in range(60))
    assert "120 clips are copies of one another, of 60 recordings" in found.warnings
    apart = dataclasses.replace(corpus, copies=[])
    with pytest.raises(ConfigError, match="labels, groups or folds of the clips"):
        CrossValidation(row, "m", apart, "grouped", tmp_path / "out", folds=3, **BARE).run_all()


def twice() -> tuple[np.ndarray, list[str], list[list[int]]]:
    """60 recordings, each of which two speakers claim: 120 clips, three classes."""
    labels = np.repeat(np.arange(60) % 3, 2)
    return labels, [f"s{k}_{i}" for i in range(60) for k in (0, 1)], [
        [2 * i, 2 * i + 1] for i in range(60)
    ]  # fmt: skip


def leaking(division: Division, copies: list[list[int]]) -> float:
    """Share of the test clips with a copy in the training or validation part."""
    recording = {clip: number for number, clips in enumerate(copies) for clip in clips}
    found = tested = 0
    for fold in division.folds:
        sides = [fold.train] if fold.validation is None else [fold.train, fold.validation]
        learnt = {recording.get(clip) for side in sides for clip in side.tolist()} - {None}
        found += sum(recording.get(clip) in learnt for clip in fold.test.tolist())
        tested += len(fold.test)
    return found / tested


def test_copies_share_a_side_of_every_grouped_fold() -> None:
    labels, groups, copies = twice()
    unaware = divide("grouped", labels, groups, "abc", folds=5)
    assert leaking(unaware, copies) > 0.7
    assert unaware.warnings[-1].startswith("copies of clips were not looked for")
    division = divide("grouped", labels, groups, "abc", folds=5, copies=copies)
    assert leaking(division, copies) == 0
    assert division.warnings[-2:] == (
        "120 clips are copies of one another, of 60 recordings",
        "copies share a side of every fold: 120 groups were joined into 60",
    )
    assert division.grouped
    assert not unaware.grouped
    assert not any("stratified only" in text for text in division.warnings)
    none = divide("grouped", labels, groups, "abc", folds=5, copies=[])
    for one, two in zip(none.folds, unaware.folds, strict=True):
        np.testing.assert_array_equal(one.test, two.test)


def test_groups_are_joined_through_chains_of_copies() -> None:
    groups = ["b", "c", "", "a", "d", "d", "", ""]
    units = units_of(groups, [[0, 2], [1, 2, 3], [6, 7]])
    assert units.names == ("a", "a", "a", "a", "d", "d", *["copies of clip 6"] * 2)
    assert len(set(units.of_clip.tolist())) == 3
    assert units.joined == (("a", "b", "c"), ()) or units.joined == ((), ("a", "b", "c"))
    assert units.largest_joined == 4 / 8
    assert units_of(groups, None).names == tuple(groups)


def test_a_large_joined_group_and_conflicting_labels_are_said() -> None:
    labels, groups, copies = twice()
    labels = labels.copy()
    labels[0] = (labels[1] + 1) % 3
    chain = [[2 * i, 2 * i + 1, 2 * i + 2] for i in range(3)]  # s0_0 to s0_3, 7 clips
    said = divide("grouped", labels, groups, "abc", folds=5, copies=[*copies[10:], *chain]).warnings
    assert "a joined group has 6% of the clips: folds may be unequal" in said
    assert any(text.endswith("have copies with different labels") for text in said)
    assert not any("joined group has" in text for text in divide(
        "grouped", labels, groups, "abc", folds=5, copies=copies).warnings)  # fmt: skip


@pytest.mark.parametrize("protocol", ["paper", "given"])
def test_other_protocols_only_say_what_leaks(protocol: Protocol) -> None:
    labels, groups, copies = twice()
    marks = [str(clip % 4) for clip in range(120)]
    with_copies, without = (
        divide(protocol, labels, groups, "abc", copies=found, given=marks) for found in (copies, [])
    )
    for one, two in zip(with_copies.folds, without.folds, strict=True):
        np.testing.assert_array_equal(one.test, two.test)
    share = np.mean(
        [
            clip ^ 1 in fold.train  # the copy of each clip is its neighbour
            for fold in with_copies.folds
            for clip in fold.test
        ]
    )
    expected = f"{share:.0%} of the test clips have a copy of themselves in the training part"
    assert expected in with_copies.warnings
    assert not any("copy of themselves" in text for text in without.warnings)
