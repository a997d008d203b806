"""The report of a first update: what it says, and that it costs no second compilation."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from tests import programs
from tests.meshes import CONFIG as SMALL
from tests.test_trainer import CONFIG as TRAINED
from tests.test_trainer import Clips
from voc2vec_jax.config import MeshConfig, OptimConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import PreemptedError, TrainingDivergedError
from voc2vec_jax.training.dry_run import dry_run
from voc2vec_jax.training.first_step import block_of, first_update, table
from voc2vec_jax.training.loop import fit
from voc2vec_jax.training.update import Training

pytestmark = pytest.mark.unoptimised

CONFIG = dataclasses.replace(
    TRAINED,
    model=SMALL.model,
    mesh=MeshConfig(data=1, fsdp=4),
    optim=OptimConfig(
        learning_rate=3e-3, warmup_steps=2, frozen=(r"wav2vec2\.feature_extractor\..*",)
    ),
)


@pytest.fixture(scope="module")
def training() -> Training:
    return programs.training_of(CONFIG)


def batch(training: Training) -> dict[str, jax.Array]:
    return sharding.place_batch(next(Clips().batches(0, 1)), training.mesh)


def held_by_the_first_device(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_sizes_are_those_of_the_arrays(training: Training) -> None:
    state, metrics, report = first_update(training, training.initial_state(), batch(training))
    sizes, parameters = report["bytes_per_device"], report["parameters"]
    assert sizes["parameters"] == held_by_the_first_device(state["params"])
    assert sizes["optimizer_state"] == held_by_the_first_device(state["opt_state"])
    everything = sum(leaf.nbytes for leaf in state["params"].values())
    assert sizes["parameters"] < everything / 3, "most are split over four devices"
    assert parameters["trained"] + parameters["frozen"] == everything / 4
    for kind in ("trained", "frozen"):
        in_blocks = sum(counts[kind] for counts in parameters["blocks"].values())
        assert in_blocks == parameters[kind]
    assert set(parameters["blocks"]) == {
        *("feature_extractor", "feature_projection", "masked_spec_embed", "quantizer"),
        *("encoder.pos_conv_embed", "encoder.layer_norm", "encoder.layers"),
        *("project_hid", "project_q"),
    }
    assert parameters["blocks"]["feature_extractor"]["trained"] == 0
    assert parameters["blocks"]["encoder.layers"]["frozen"] == 0
    # The first argument of the program is the state, and almost all of what goes in.
    held = held_by_the_first_device(state)
    assert held <= sizes["arguments"] < held + 20_000
    assert sizes["temporaries"] > 0
    assert report["first_loss"] == float(metrics["loss"].total / metrics["loss"].count)
    assert report["step"] == 1
    assert report["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert report["devices"] == {"count": 4, "kind": "cpu", "processes": 1}
    assert report["batch"] == {"waveform": [4, 4000], "lengths": [4]}
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_an_update_is_compiled_once(training: Training) -> None:
    compilations: list[str] = []

    def listen(event: str, seconds: float, **more: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(str(more))

    fresh = Training(CONFIG, training.task, training.mesh)
    state, placed = fresh.initial_state(), batch(training)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first_update(fresh, state, placed)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert sum("_step" in of_what for of_what in compilations) == 1, compilations
    assert fresh.compiled_programs == 1


def test_operations_bear_the_names_of_their_blocks(training: Training) -> None:
    """What a trace calls them by."""
    shapes = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)
        for name, value in batch(training).items()
    }
    text = training.lower_step(shapes).as_text(debug_info=True)
    for block in ("feature_extractor", "pos_conv_embed", "attention", "quantizer", "optimizer"):
        assert re.search(rf"[/(]{block}[)/]", text), block


def test_a_run_keeps_the_report_and_a_dry_run_gives_the_same(
    training: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Clips()
    data.terminate_at = 3
    with pytest.raises(PreemptedError):
        fit(CONFIG, training.task, data, tmp_path, compiled=training)
    kept = json.loads((tmp_path / "first_step.json").read_text())
    assert table(kept) in capfd.readouterr().err
    depends_on_the_clock = {"compile_seconds", "update_seconds", "host_peak_memory_mib"}
    dry = dry_run(CONFIG, training.task, Clips())
    assert dry.keys() == kept.keys()
    for name in kept.keys() - depends_on_the_clock:
        assert dry[name] == kept[name], name

    fit(CONFIG, training.task, Clips(), tmp_path, compiled=training)
    resumed = json.loads((tmp_path / "first_step.json").read_text())
    assert resumed["step"] == 5, "the first update of the process that goes on"


def test_a_loss_that_is_no_number_is_reported_before_the_run_fails(
    training: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Clips()
    data.poisoned = [0]
    train = dataclasses.replace(CONFIG.train, max_skipped_updates=1)
    config = dataclasses.replace(CONFIG, train=train)
    with pytest.raises(TrainingDivergedError):
        fit(config, training.task, data, tmp_path, compiled=training)
    assert json.loads((tmp_path / "first_step.json").read_text())["first_loss"] is None
    assert "loss not a number" in capfd.readouterr().err


def test_a_run_inside_another_one_leaves_no_report(training: Training, tmp_path: Path) -> None:
    fit(CONFIG, training.task, Clips(), tmp_path, compiled=training, inner=True)
    assert not (tmp_path / "first_step.json").exists()


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("hubert.feature_extractor.conv_layers.0.conv.kernel", "feature_extractor"),
        ("hubert.encoder.layers.11.attention.q_proj.bias", "encoder.layers"),
        ("hubert.masked_spec_embed", "masked_spec_embed"),
        ("label_embs_concat", "label_embs_concat"),
        ("classifier.kernel", "classifier"),
    ],
)
def test_blocks_bear_the_names_of_their_modules(path: str, block: str) -> None:
    assert block_of(path, "hubert") == block


def test_the_table_says_what_the_report_holds() -> None:
    report = {
        "step": 1,
        "first_loss": 3.9321,
        "compile_seconds": 21.26,
        "update_seconds": 1.04,
        "devices": {"count": 8, "kind": "TPU v4", "processes": 2},
        "mesh": {"data": 4, "fsdp": 2, "tensor": 1},
        "batch": {"waveform": [8, 16000], "lengths": [8]},
        "parameters": {
            "trained": 1_200,
            "frozen": 34,
            "blocks": {
                "feature_extractor": {"trained": 0, "frozen": 34},
                "encoder.layers": {"trained": 1_200, "frozen": 0},
            },
        },
        "bytes_per_device": {"parameters": 3 * 2**20, "arguments": 2**19, "temporaries": None},
        "device_memory": {"peak_bytes_in_use": 7 * 2**20, "bytes_limit": 32 * 2**30},
        "host_peak_memory_mib": 1_234,
    }
    assert table(report).splitlines() == [
        "parameters                         trained        frozen",
        "feature_extractor                        0            34",
        "encoder.layers                       1,200             0",
        "all                                  1,200            34",
        "devices   8 × TPU v4 (data 4, fsdp 2, tensor 1), processes 2",
        "batch     waveform [8, 16000], lengths [8]",
        "MiB per device: parameters 3.0, arguments 0.5",
        "MiB of the first device: peak bytes in use 7, bytes limit 32,768",
        "first update (step 1): loss 3.932, compiled in 21.3 s, done in 1.0 s, host peak 1,234 MiB",
    ]
