"""What a resumed run may change: every field, what is refused, what is named, and the event."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.batches.planned_corpus import PLACES, counted_rules
from tests.test_faults import flip_a_bit
from tests.test_trainer import CONFIG, Clips, run
from voc2vec_jax.checkpoints.metadata import read_metadata, saved_steps
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.config import Config, DataConfig, families
from voc2vec_jax.errors import WRONG_USAGE, CheckpointMismatchError, exit_code
from voc2vec_jax.objectives import Wav2Vec2Task
from voc2vec_jax.training import resuming
from voc2vec_jax.training.log.metrics_file import read_events, read_metrics
from voc2vec_jax.training.loop import fit
from voc2vec_jax.training.resuming import FIELDS, TASKS, Change, Effect, changes, refuse
from voc2vec_jax.training.starting_point import Progress

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

TINY = families.tiny_wav2vec2()


def changed(config: Config, field: str, value: object) -> Config:
    section, _, name = field.partition(".")
    part = dataclasses.replace(getattr(config, section), **{name: value})
    return dataclasses.replace(config, **{section: part})


def only(config: Config, field: str, value: object, step: int = 100) -> Change:
    """What another value of a field is, for a run of `config`."""
    (change,) = changes(changed(config, field, value), config.to_dict(), step)
    assert change.field == field
    return change


def test_every_field_has_its_rule() -> None:
    fields = {
        f"{section}.{name}" if isinstance(held, dict) else section
        for section, held in Config().to_dict().items()
        for name in (held if isinstance(held, dict) else [""])
    }
    assert FIELDS.keys() == fields
    assert all(set(rule.tasks) <= set(TASKS) for rule in FIELDS.values())
    # What the fingerprint of the data has in it cannot be accepted.
    of_data = {field.name for field in dataclasses.fields(DataConfig)}
    bound = {name for name in of_data if FIELDS[f"data.{name}"].effect is Effect.ANOTHER_RUN}
    assert bound == of_data - set(PLACES) - {"labels", "label_rate_hz"}
    assert changes(TINY, TINY.to_dict(), 100) == []


RECIPE = {
    "mask.prob": 0.3,
    "mask.sampler": "hf",
    "objective.feature_penalty_weight": 10.0,
    "objective.gumbel_temperature_decay": 0.999995,
    "optim.learning_rate": 0.1,
    "optim.beta2": 0.999,
    "optim.epsilon_placement": "torch",
    "optim.warmup_steps": 60,
    "train.precision": "bf16",
    "train.accumulate_steps": 2,
    "model.hidden_dropout": 0.2,
    "model.diversity_loss_weight": 0.5,
}


@pytest.mark.parametrize("field", RECIPE)
def test_what_is_learnt_changes_only_if_asked_for(field: str) -> None:
    change = only(TINY, field, RECIPE[field])
    with pytest.raises(CheckpointMismatchError, match="--accept-changes") as error:
        refuse([change], same_data=True, accept_changes=False)
    assert f"{field}: {change.then} then, {RECIPE[field]} now" in str(error.value)
    assert "\n" not in str(error.value)
    assert exit_code(error.value) == WRONG_USAGE
    refuse([change], same_data=True, accept_changes=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.num_codevectors_per_group", 8, "another architecture"),
        ("optim.frozen", ("project_q.bias",), "no state for what was frozen"),
        ("data.gain_db", 6.0, r"other data \(data.gain_db: 0.0 then, 6.0 now\)"),
        ("train.seed", 1, r"other data \(train.seed: 0 then, 1 now\)"),
    ],
)
def test_another_run_is_never_gone_on_with(field: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=message):
        refuse([only(TINY, field, value)], same_data=True, accept_changes=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.data_dir", "/elsewhere"),
        ("mesh.fsdp", 2),
        ("train.remat", "layers"),
        ("train.log_every_steps", 3),
        ("train.keep_checkpoints", 5),
        ("objective.logit_temperature", 0.2),  # of HuBERT
        ("model.mask_time_length", 12),  # of fine-tuning
        ("classify.padding", "hf"),
    ],
)
def test_what_this_run_does_not_learn_by_is_named(field: str, value: object) -> None:
    change = only(TINY, field, value)
    assert change.effect is Effect.NAMED
    refuse([change], same_data=True, accept_changes=False)


def test_without_a_mask_embedding_it_is_another_model() -> None:
    classify = Config(task="classify")
    assert only(classify, "model.mask_time_prob", 0.1).effect is Effect.LEARNT
    assert only(classify, "model.mask_time_prob", 0.0).effect is Effect.ANOTHER_RUN


def test_micro_batches_are_refused_where_diversity_is_theirs() -> None:
    plain = changed(TINY, "model.diversity_loss_weight", 0.0)
    hubert = families.tiny_hubert(labels="labels", num_clusters=8)
    change = only(TINY, "train.accumulate_steps", 2)
    assert (change.effect, change.note) == (
        Effect.LEARNT,
        "the diversity term is that of each micro-batch",
    )
    for config in (plain, hubert):
        change = only(config, "train.accumulate_steps", 2)
        assert (change.effect, change.note) == (Effect.NAMED, "they add up to the same update")
    # Switched off in the same breath: what is learnt differs from then all the same.
    two = changed(plain, "train.accumulate_steps", 2)
    assert {c.field: c.effect for c in changes(two, TINY.to_dict(), 100)} == {
        "model.diversity_loss_weight": Effect.MEASURED,
        "train.accumulate_steps": Effect.LEARNT,
    }


@pytest.mark.parametrize(("now", "step"), [(30_000, 299), (3_000, 285), (120, 110)])
def test_a_jump_of_the_rate_is_asked_for(now: int, step: int) -> None:
    """A run that was stopped shortly before its end is no other than one that had ended."""
    change = only(TINY, "train.num_steps", now, step=step)
    assert change.effect is Effect.LEARNT
    assert change.note.endswith(": a jump")


def test_other_data_are_named_by_what_was_given() -> None:
    moved = only(TINY, "data.folder", "elsewhere")
    refuse([moved], same_data=True, accept_changes=False)
    with pytest.raises(CheckpointMismatchError, match=r"data\.folder: None then, elsewhere now"):
        refuse([moved], same_data=False, accept_changes=True)
    assert only(TINY, "data.label_alignment", "fairseq").effect is Effect.NAMED


def test_another_length_says_what_it_does_to_the_schedule() -> None:
    longer = only(TINY, "train.num_steps", 550, step=100)  # 50 of 250 or 500 updates down the slope
    assert longer.effect is Effect.NAMED
    assert longer.note == "at step 100 the learning rate is 0.0009 instead of 0.0008"
    shorter = only(TINY, "train.num_steps", 150, step=100)
    assert shorter.effect is Effect.NAMED
    assert "is 0.0005 instead of 0.0008" in shorter.note

    ended = only(TINY, "train.num_steps", 550, step=300)
    assert ended.effect is Effect.LEARNT
    assert "is 0.0005 instead of 0: the run had ended, and its rate would rise again" in ended.note

    share = changed(TINY, "optim.warmup_share", 0.1)
    warming = only(share, "train.num_steps", 3_000, step=100)
    assert warming.effect is Effect.LEARNT
    assert "a warm-up of 300 updates instead of 30: the warm-up was over" in warming.note
    assert only(share, "train.num_steps", 600, step=100).effect is Effect.NAMED


def test_a_field_that_the_run_did_not_know_has_the_default_of_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    then = TINY.to_dict()
    del then["optim"]["clip_norm"], then["classify"]
    assert changes(TINY, then, 100) == []
    clipping = changes(changed(TINY, "optim.clip_norm", 1.0), then, 100)
    assert [str(change) for change in clipping] == ["optim.clip_norm: None then, 1.0 now"]
    monkeypatch.setitem(resuming.DEFAULTS_OF_THEN, "optim.clip_norm", 5.0)
    assert [str(change) for change in changes(TINY, then, 100)] == [
        "optim.clip_norm: 5.0 then, None now (what its version did, which had no such field)"
    ]


def test_a_field_that_this_version_does_not_know_is_named() -> None:
    then = TINY.to_dict()
    then["optim"]["momentum"] = 0.5
    (change,) = changes(TINY, then, 100)
    assert str(change) == (
        "optim.momentum: 0.5 then, None now (a field of the version that wrote it, which this one "
        "does not know)"
    )
    assert change.effect is Effect.LEARNT
    then["model"]["width"] = 3
    with pytest.raises(CheckpointMismatchError, match=r"another architecture \(model\.width: 3"):
        refuse(changes(TINY, then, 100), same_data=True, accept_changes=True)


def test_a_new_field_of_the_data_leaves_old_fingerprints_alone() -> None:
    @dataclass(frozen=True)
    class Newer(DataConfig):
        reverberation: float = 0.0

    assert counted_rules(Newer()) == counted_rules(DataConfig())
    assert counted_rules(Newer(reverberation=1.0))["reverberation"] == 1.0


def start(config: Config, workdir: Path, **how: Any) -> dict[str, bytes]:
    workdir.mkdir(exist_ok=True)
    params = fit(config, Wav2Vec2Task(config), Clips(), workdir, **how)
    return {path: value.tobytes() for path, value in params.items()}


HELD_OUT = dataclasses.replace(
    CONFIG,
    data=dataclasses.replace(CONFIG.data, eval_share=0.2),
    train=dataclasses.replace(
        CONFIG.train, eval_every_steps=2, keep_checkpoints=1, export_checkpoint="best"
    ),
)
OTHER = changed(changed(HELD_OUT, "mask.prob", 0.3), "train.log_every_steps", 1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine updates that broke off with the checkpoints of steps 2, the best, and 4."""

    def unbeatable(self: Progress, train: object, step: int, value: float) -> None:
        if self.best_step is None:
            self.best_step, self.best_value = step, -1.0

    workdir, data = tmp_path_factory.mktemp("interrupted"), Clips()
    data.fail_at = 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "judge", unbeatable)
        with pytest.raises(OSError, match="disk"):
            run(workdir, data, HELD_OUT)
    return workdir


@pytest.fixture
def workdir(interrupted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(interrupted, tmp_path / "run")


def best_of(workdir: Path, step: int) -> int | None:
    meta = read_metadata(workdir / "checkpoints", step)
    assert meta is not None
    best: int | None = meta["progress"]["best_step"]
    return best


def test_metadata_are_those_of_orbax(interrupted: Path) -> None:
    directory = interrupted / "checkpoints"
    assert saved_steps(directory) == [4, 2]
    with Checkpoints(directory, keep=None) as checkpoints:
        assert read_metadata(directory, 4) == checkpoints.read_meta(4)
    assert read_metadata(directory, 5) is None


def test_a_changed_recipe_goes_on_where_it_is_accepted(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointMismatchError, match=r"mask\.prob: 0\.65 then, 0\.3 now \(held-"):
        start(OTHER, workdir)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before

    start(OTHER, workdir, accept_changes=True)
    (event,) = read_events(workdir / "metrics.jsonl", "resume")
    assert [(c["field"], c["then"], c["now"]) for c in event["changed"]] == [
        ("mask.prob", 0.65, 0.3),
        ("train.log_every_steps", 2, 1),
    ]
    said = capsys.readouterr().err
    assert "resumed with another value of mask.prob: 0.65 then, 0.3 now" in said
    assert "resumed with another value of train.log_every_steps: 2 then, 1 now\n" in said
    assert [e["step"] for e in read_metrics(workdir / "metrics.jsonl")] == [2, 4, 5, 6, 7, 8, 9]
    # A held-out loss under other masks says nothing beside those of before.
    assert best_of(workdir, 9) in (6, 8, 9)
    # From here on it is the run's own.
    start(OTHER, workdir)
    events = read_events(workdir / "metrics.jsonl", "resume")
    assert events == [event, {"event": "resume", "step": 9}]


def test_another_workdir_is_resumed_by_the_same_rules(interrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"mask\.prob: 0\.65 then, 0\.3 now"):
        start(OTHER, tmp_path, resume=interrupted)
    start(OTHER, tmp_path, resume=interrupted, accept_changes=True)
    (event,) = read_events(tmp_path / "metrics.jsonl", "resume")
    assert [change["field"] for change in event["changed"]] == [
        "mask.prob",
        "train.log_every_steps",
    ]


def test_a_run_is_lengthened_before_it_ends_and_restarted_after(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = changed(HELD_OUT, "train.num_steps", 11)
    start(longer, workdir)
    note = "at step 4 the learning rate is 0.002333 instead of 0.002143"
    assert f"train.num_steps: 9 then, 11 now ({note})\n" in capsys.readouterr().err
    (event,) = read_events(workdir / "metrics.jsonl", "resume")
    assert event["changed"] == [{"field": "train.num_steps", "then": 9, "now": 11, "note": note}]
    rates = {e["step"]: e["learning_rate"] for e in read_metrics(workdir / "metrics.jsonl")}
    assert rates[6] == pytest.approx(3e-3 * (1 - 2.5 / 9), rel=1e-6)  # a mean of two updates

    longest = changed(HELD_OUT, "train.num_steps", 20)
    with pytest.raises(CheckpointMismatchError, match="its rate would rise again"):
        start(longest, workdir)
    start(longest, workdir, accept_changes=True)
    assert read_metrics(workdir / "metrics.jsonl")[-1]["step"] == 20


@pytest.mark.parametrize("what", ["corrupt", "gone", "whole"])
def test_a_corrupt_best_checkpoint_is_found_when_the_run_goes_on(
    workdir: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    checkpoints = workdir / "checkpoints"
    if what == "corrupt":
        flip_a_bit(checkpoints / "2")
    elif what == "gone":
        shutil.rmtree(checkpoints / "2")
    run(workdir, Clips(), HELD_OUT)
    best, said = best_of(workdir, 9), capsys.readouterr().err
    assert (best == 2) == (what == "whole")
    assert f"exporting the parameters after step {best}\n" in said
    events = read_events(workdir / "metrics.jsonl", "corrupt_checkpoint")
    assert (checkpoints / "corrupt-2").is_dir() == (what == "corrupt")
    if what == "whole":
        assert events == []
        return
    (event,) = events
    assert event["step"] == 4
    assert f"checkpoint 2, the best so far, is {what}" in event["what"]
    assert f"WARNING: {event['what']}\n" in said


def test_weights_alone_are_nothing_to_resume(interrupted: Path, tmp_path: Path) -> None:
    other = shutil.copytree(interrupted, tmp_path / "other")
    path = other / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["progress"]
    path.write_text(json.dumps(meta))
    (other / "checkpoints" / "4" / "checksums.json").unlink()
    with pytest.raises(
        CheckpointMismatchError, match=r"without the state of a run; .* --init-from"
    ):
        start(HELD_OUT, tmp_path / "run", resume=other)
