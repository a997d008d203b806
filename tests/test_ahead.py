"""Programs for devices that are not there: what their text says, what they need, what it takes."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.tiny import get_config as tiny
from tests.meshes import CONFIG
from tests.test_update import changed
from tools import compile_ahead, scaling_report
from tools.ahead import hlo, scaling, sweep, topologies
from tools.ahead.chips import (
    CHIPS,
    COMPUTE_UTILISATION,
    HOP_SECONDS,
    LINK_UTILISATION,
    MEMORY_UTILISATION,
    all_reduce_seconds,
    step_time,
)
from tools.ahead.program import Request, abstract_batch, compile_step
from tools.ahead.sweep import largest, with_clips
from tools.ahead.topologies import find_topology, parse_name
from voc2vec_jax.config import Config, MeshConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.objectives import build_task
from voc2vec_jax.training.update import Training

pytestmark = pytest.mark.unoptimised

PROGRAM = (Path(__file__).parent / "collectives.hlo").read_text()


def test_collectives_are_counted_once_and_as_often_as_their_loop_runs() -> None:
    found, unknown = hlo.collectives(PROGRAM)
    assert unknown == 0
    seen = sorted((c.kind, c.payload_bytes, c.group, c.times) for c in found)
    assert seen == [
        ("all-gather", 32, 4, 1),
        ("all-gather", 64, 2, 1),  # inside an asynchronous pair
        ("all-reduce", 32 + 16, 4, 1),
        ("all-reduce", 64, 2, 4),  # in a loop whose condition says how long it is
        ("all-reduce", 1024, 4, 12),
        ("collective-permute", 32, 0, 1),  # in one side of a conditional
        ("reduce-scatter", 16, 2, 1),
        ("reduce-scatter", 128, 2, 1),  # fused with the slice of its sum
    ]
    kinds = hlo.summary(found, 4)
    assert kinds["all-reduce"] == {
        "count": 17,
        "bytes": 12 * 1024 + 48 + 4 * 64,
        "wire_bytes": 2 * 3 / 4 * (12 * 1024 + 48) + 2 * 1 / 2 * 4 * 64,
    }
    assert kinds["reduce-scatter"]["wire_bytes"] == (16 + 128) / 2


def test_a_loop_of_unknown_length_counts_once_and_is_reported() -> None:
    text = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"12"}}', "")
    found, unknown = hlo.collectives(text)
    assert unknown == 1
    assert ("all-reduce", 1024, 1) in [(c.kind, c.payload_bytes, c.times) for c in found]


@pytest.mark.parametrize(("shared", "fewer"), [("3", 1), (hlo.OF_ALL_MANUAL, 0)])
def test_parts_of_one_exchange_share_their_channel(shared: str, fewer: int) -> None:
    """But what JAX wrote out shares one as a whole."""
    text = PROGRAM.replace("channel_id=2", f"channel_id={shared}")
    assert len(hlo.collectives(text)[0]) == len(hlo.collectives(PROGRAM)[0]) - fewer


def test_bytes_of_types() -> None:
    assert hlo.array_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[], pred[5], s4[3])") == [24, 2, 5, 2]


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("all-reduce", 1.5),
        ("all-gather", 0.75),
        ("reduce-scatter", 0.75),
        ("all-to-all", 0.75),
        ("collective-permute", 1.0),
    ],
)
def test_rings_send_what_they_must(kind: str, share: float) -> None:
    assert hlo.Collective(kind, 100, 4, times=2).wire_bytes(99) == 200 * share
    assert hlo.Collective(kind, 100, 0).wire_bytes(4) == 100 * share


def test_a_step_takes_the_larger_of_compute_and_memory_and_the_network() -> None:
    chip = CHIPS["v5e"]
    work = {
        "flops": 197e12 * COMPUTE_UTILISATION,
        "bytes_accessed": 2 * 819e9 * MEMORY_UTILISATION,
        "wire_bytes": 4.5e10 * 2 * LINK_UTILISATION,  # one way on each axis: 4 is no ring
    }
    time = step_time(chip, (4, 4), precision="bf16", **work)
    assert dataclasses.astuple(time) == pytest.approx((1, 2, 1))
    assert time.seconds == pytest.approx(3)
    ring = step_time(chip, (16, 16), precision="bf16", **work)
    assert ring.network == pytest.approx(0.5)
    half = step_time(CHIPS["h100"], (8,), precision="fp32", **work)
    assert half.compute == pytest.approx(2 * 197 / 989.4)


def test_sums_over_all_chips_take_as_long_as_the_arithmetic_says() -> None:
    payload, chip = 380e6, CHIPS["v5e"]
    rate = 4 * 4.5e10 * LINK_UTILISATION  # both ways on both axes
    within = 2 * 255 / 256 * payload / rate + 60 * HOP_SECONDS
    assert all_reduce_seconds(payload, chip, (16, 16)) == pytest.approx(within)
    # Four slices: each chip exchanges its 256th part with its like in the others.
    between = 2 * 3 / 4 * payload / 256 / (3.125e9 * LINK_UTILISATION)
    assert all_reduce_seconds(payload, chip, (16, 16), 4) == pytest.approx(within + between)
    assert all_reduce_seconds(payload, chip, (1,)) == 0


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(-5, 300), st.integers(1, 150))
def test_the_largest_that_fits_is_found_wherever_the_search_begins(
    limit: int, guess: int, most: int
) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= limit

    assert largest(fits, guess, most) == min(limit, most)
    assert all(1 <= number <= most for number in tried)
    assert len(tried) == len(set(tried)) <= 4 * math.log2(most + 1) + 4


def test_names_of_topologies() -> None:
    assert parse_name("v5e:4x4") == ("v5e", (4, 4))
    for name in ("v5e-16", "v5e", "v9:2x2", "v5e:4x"):
        with pytest.raises(ConfigError, match=rf"--topology {name}: not known; try one of v4:"):
            parse_name(name)
    with pytest.raises(ConfigError, match="shows 4 CPU devices"):
        find_topology("cpu:64")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[aot\]'"):
        find_topology("v5e:4x4")
    with pytest.raises(ConfigError, match=r"pip install 'jax\[cuda12-local\]'"):
        find_topology("h100:8")


def config_of(clips: int, **train: Any) -> Config:
    return with_clips(changed(CONFIG, train=train), clips, 0.5)


def test_the_batch_is_that_of_training(tmp_path: Path) -> None:
    from data_pipelines.batches.pretraining import open_training_corpus

    for index in range(24):
        noise = 0.1 * np.random.default_rng(index).standard_normal(63_000)
        (tmp_path / "audio").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "audio" / f"{index}.wav", noise, 16_000)
    places = {"folder": str(tmp_path / "audio"), "data_dir": str(tmp_path / "data")}
    config = changed(tiny(), data=places)
    corpus = open_training_corpus(config.data, 0)
    placed = sharding.place_batch(
        next(b for b in corpus.batches(0, 99) if b["waveform"].shape[1] == 64_000),
        mesh := sharding.build_mesh(MeshConfig()),
    )
    described = abstract_batch(config, mesh, 4.0)
    assert described.keys() == placed.keys()
    for name, value in placed.items():
        assert (value.shape, value.dtype) == (described[name].shape, described[name].dtype)
        assert value.sharding.is_equivalent_to(described[name].sharding, value.ndim)


@functools.cache
def report_of(accumulate_steps: int = 1, fsdp: int = 1) -> dict[str, Any]:
    """The tiny program on four CPU devices; compiling one takes seconds."""
    config = config_of(32, accumulate_steps=accumulate_steps)
    config = changed(config, mesh={"data": -1, "fsdp": fsdp})
    return compile_step(Request(config, find_topology("cpu:4"), 0.5))


@pytest.mark.thorough
def test_micro_batches_are_counted_as_often_as_they_run() -> None:
    """The compiler counts a loop once."""
    whole, split = report_of(), report_of(accumulate_steps=4)
    assert split["flops"] == pytest.approx(whole["flops"], rel=0.1)
    assert split["bytes"]["temporaries"] < whole["bytes"]["temporaries"]
    assert split["bytes"]["arguments"] == whole["bytes"]["arguments"]
    assert split["loops_of_unknown_length"] == 0


@pytest.mark.thorough
def test_sharding_the_parameters_shows_in_memory_and_exchanges() -> None:
    replicated, sharded = report_of(), report_of(fsdp=4)
    assert replicated["fits"]
    assert replicated["bytes"]["parameters"] == 4 * replicated["parameters"]
    assert replicated["bytes"]["optimizer"] >= 2 * replicated["bytes"]["parameters"]
    assert sharded["bytes"]["parameters"] < 0.4 * replicated["bytes"]["parameters"]
    # All gradients are added up once; what a figure or a count takes is small.
    gradients = replicated["collectives"]["all-reduce"]["bytes"]
    assert 1 <= gradients / replicated["bytes"]["parameters"] < 1.3
    # Each parameter is made whole once, and no activation moves.
    gathered = [
        report["collectives"].get("all-gather", {"bytes": 0}) for report in (replicated, sharded)
    ]
    parameters = replicated["bytes"]["parameters"]
    assert 0.9 < (gathered[1]["bytes"] - gathered[0]["bytes"]) / parameters < 1.1
    assert "all-to-all" not in sharded["collectives"]


def test_every_device_computes_with_its_own_clips_only() -> None:
    """Left to itself the partitioner gathers all clips for some convolutions and conditionals."""
    config = changed(config_of(32), model={"layerdrop": 0.1})
    mesh = sharding.build_mesh(config.mesh, find_topology("cpu:4").devices)
    training = Training(config, build_task(config), mesh)
    lines = training.lower_step(abstract_batch(config, mesh, 0.5)).as_text().splitlines()
    work = [line for line in lines if "stablehlo.convolution" in line or "dot_general" in line]
    assert any("(tensor<8x" in line for line in work)
    assert not [line for line in work if "tensor<32x" in line]


class Compiler:
    """A stand-in that knows how memory grows: 100 bytes, and 10 for each clip."""

    def __init__(self, limit: int):
        self.limit = limit
        self.asked: list[int] = []

    def __call__(self, request: Request) -> dict[str, Any]:
        clips = request.config.data.clips_per_batch(request.seconds)
        self.asked.append(clips)
        peak = 100 + 10 * clips
        memory = {"arguments": 100, "temporaries": 10 * clips, "peak": peak, "limit": self.limit}
        return {"batch": {"clips": clips}, "bytes": memory, "fits": peak <= self.limit}


@pytest.mark.parametrize(("limit", "clips"), [(1_000, 88), (140, 4), (139, 4), (12_345, 1_224)])
def test_the_largest_batch(monkeypatch: pytest.MonkeyPatch, limit: int, clips: int) -> None:
    """In multiples of clips that divide over the devices; the first guess is all but right."""
    compiler = Compiler(limit)
    monkeypatch.setattr(sweep, "compile_step", compiler)
    report = sweep.largest_batch(Request(config_of(4), find_topology("cpu:4"), 0.5), 4)
    assert report["batch"]["clips"] == clips
    assert report["fits"] == (limit > 139)
    assert len(compiler.asked) <= 4


def test_a_sweep_goes_through_meshes_and_remat(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compiler(request: Request) -> dict[str, Any]:
        mesh, train = request.config.mesh, request.config.train
        seen.append((mesh.data, mesh.fsdp, train.remat))
        return Compiler(500)(request)

    monkeypatch.setattr(sweep, "compile_step", compiler)
    reports = list(sweep.sweep(Request(config_of(4), find_topology("cpu:4"), 0.5)))
    assert list(dict.fromkeys(seen)) == [
        (4 // fsdp, fsdp, remat) for fsdp in (1, 4) for remat in ("none", "layers", "all")
    ]
    assert len(reports) == 6


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command wrote and said of a small model with two lengths of batch."""

    path: Path
    out: str
    err: str

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run once, for it compiles two programs."""
    folder = tmp_path_factory.mktemp("command")
    path, file = folder / "out.json", folder / "small.py"
    file.write_text(
        "import dataclasses\n"
        "from tests.meshes import CONFIG\n"
        "from voc2vec_jax.config import DataConfig\n"
        "def get_config():\n"
        "    data = DataConfig(max_seconds=0.5, bucket_seconds=(0.25, 0.5), batch_seconds=8.0)\n"
        "    return dataclasses.replace(CONFIG, data=data)\n"
    )
    words = ["--config", str(file), "--topology", "cpu:4", "--json", "--out", str(path)]
    words += ["--every-bucket", "--data.batch-seconds", "16"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert compile_ahead.main(words) == 0
    return Command(path, out.getvalue(), err.getvalue())


def test_the_command_sweeps(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = {k: v for k, v in command.report.items() if k not in ("config", "buckets")}

    def compiler(request: Request) -> dict[str, Any]:
        found = Compiler(2_000)(request)
        memory = {**real["bytes"], **found["bytes"]}
        batch = {**found["batch"], "seconds": request.seconds}
        return {**real, **found, "bytes": memory, "batch": batch}

    monkeypatch.setattr(sweep, "compile_step", compiler)
    path = tmp_path / "out.json"
    words = ["--config", "configs/tiny.py", "--topology", "cpu:4", "--out", str(path)]
    assert compile_ahead.main([*words, "--sweep"]) == 0
    found = json.loads(path.read_text())["sweep"]
    assert [report["batch"] for report in found] == 6 * [{"clips": 184, "seconds": 4.0}]
    assert "largest batches" in capsys.readouterr().out
    assert scaling_report.main([str(path)]) == 0
    assert capsys.readouterr().out.count("| tiny | cpu:4 |") == 6


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    topology = find_topology("cpu:4")
    with pytest.raises(ConfigError, match="exactly the 4 devices"):
        compile_step(Request(changed(config_of(8), mesh={"data": 3}), topology, 0.5))
    with pytest.raises(ConfigError, match=r"6 clips .* data × fsdp = 4 devices"):
        compile_step(Request(config_of(6), topology, 0.5))


def test_the_command_writes_its_contract(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = command.report
    assert report.keys() >= {
        "config", "topology", "devices", "mesh", "parameters", "bytes", "flops", "fits",
        "compile_seconds", "collectives",
    }  # fmt: skip
    assert report["bytes"].keys() >= {"arguments", "temporaries", "peak", "limit"}
    assert report["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
    assert report["devices"] == 4
    assert report["batch"] == {"clips": 32, "seconds": 0.5}
    assert [bucket["batch"]["seconds"] for bucket in report["buckets"]] == [0.25]
    assert json.loads(command.out) == report
    assert "temporaries" in command.err
    assert "all-reduce" in command.err

    assert scaling_report.main([str(command.path), "--collect", str(tmp_path / "all.json")]) == 0
    collected = json.loads((tmp_path / "all.json").read_text())
    assert collected == [{k: v for k, v in report.items() if k != "buckets"}, *report["buckets"]]
    assert capsys.readouterr().out.count("| small | cpu:4 | 4×1×1 | fp32 |") == 2


def test_wrong_usage_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_ahead.main(["--config", "configs/tiny.py", "--topology", "v5e-16"]) == 2
    assert "v5e:{" in capsys.readouterr().err


REPORT: dict[str, Any] = {
    "config": "configs/wav2vec2_base.py",
    "topology": "v5e:8x8",
    "devices": 64,
    "mesh": {"data": 64, "fsdp": 1, "tensor": 1},
    "batch": {"clips": 320, "seconds": 15.625},
    "precision": "bf16",
    "flops": 197e12 * COMPUTE_UTILISATION * 0.1,
    "bytes_accessed": 0.0,
    "collectives": {
        "all-reduce": {"count": 9, "bytes": 380e6, "wire_bytes": 0},
        "all-gather": {"count": 1, "bytes": 1e6, "wire_bytes": 0},
    },
}


def test_efficiency_falls_with_the_chips_as_the_arithmetic_says() -> None:
    points = [scaling.weak(REPORT, chips) for chips in (8, 64, 256, 1024)]
    assert [point.slices for point in points] == [1, 1, 1, 4]
    assert [point.shape for point in points] == [(2, 4), (8, 8), (16, 16), (16, 16)]
    assert [point.audio_seconds for point in points] == [78.125 * c for c in (8, 64, 256, 1024)]
    for point in points:
        assert point.step.compute == pytest.approx(0.1)
        network = all_reduce_seconds(380e6, CHIPS["v5e"], point.shape, point.slices)
        assert point.efficiency == pytest.approx(0.1 / (0.1 + network))
        assert point.overlapped_efficiency == 1
    # Rings on 16 × 16 carry twice what the lines of 8 × 8 do; four slices pay for their network.
    assert points[2].efficiency > points[3].efficiency
    assert points[2].efficiency > points[1].efficiency


def test_a_fixed_batch_leaves_less_work_to_each_chip() -> None:
    assert scaling.fixed(REPORT, 256) is None  # of 320 clips
    assert scaling.fixed(REPORT, 64) == scaling.weak(REPORT, 64)
    few = scaling.fixed(REPORT, 8)
    assert few is not None
    assert few.audio_seconds == 320 * 15.625
    assert few.step.compute == pytest.approx(0.8)
    assert few.step.network == all_reduce_seconds(380e6, CHIPS["v5e"], (2, 4))
    assert few.efficiency > scaling.weak(REPORT, 8).efficiency


def test_only_data_parallel_programs_are_scaled() -> None:
    sharded = REPORT | {"mesh": {"data": 8, "fsdp": 8, "tensor": 1}}
    with pytest.raises(ValueError, match="not data-parallel"):
        scaling.weak(sharded, 64)


@pytest.fixture
def compiler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """libtpu neither asks the network where it is nor takes a chip."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install '.[aot]'",
)


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("compiler_alone")
def test_a_tpu_that_is_not_there() -> None:
    """With every way of rematerialising: less memory, more work, the same sum of gradients."""
    topology = find_topology("v5e:2x2")
    deeper = changed(CONFIG, model={"num_hidden_layers": 4}, train={"precision": "bf16"})
    reports = []
    for remat in ("none", "layers", "all"):
        config = with_clips(changed(deeper, train={"remat": remat}), 64, 4.0)
        reports.append(compile_step(Request(config, topology, 4.0)))
    for report in reports:
        assert report["fits"]
        assert report["bytes"]["limit"] == int(15.75 * 2**30)
        assert report["collectives"]["all-reduce"]["bytes"] > 0
        assert report["loops_of_unknown_length"] == 0
        assert report["estimate"]["step_seconds"] > 0
    for more, less in itertools.pairwise(reports):
        assert less["bytes"]["temporaries"] < more["bytes"]["temporaries"]
        assert less["flops"] > more["flops"] > 0


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("compiler_alone")
def test_what_a_tpu_cannot_hold() -> None:
    config = with_clips(CONFIG, 16_384, 60.0)
    report = compile_step(Request(config, find_topology("v5e:2x2"), 60.0))
    assert report["fits"] is False
    assert "RESOURCE_EXHAUSTED" in report["compiler_says"]
    assert report["bytes"]["peak"] > report["bytes"]["limit"] == int(15.75 * 2**30)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ABORTED: error when accessing libtpu multi-process lockfile", "another process holds"),
        ("INVALID_ARGUMENT: no such shape", "libtpu does not know it"),
    ],
)
def test_a_lock_of_libtpu_is_no_unknown_topology(
    said: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(*names: str, **options: object) -> None:
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(topologies.topologies, "get_topology_desc", describe)
    with pytest.raises(ConfigError, match=told):
        find_topology("v5e:2x2")


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("compiler_alone")
def test_a_shape_that_no_slice_has() -> None:
    with pytest.raises(ConfigError, match="libtpu does not know it; try one of v5e"):
        find_topology("v5e:3x7")


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="the CUDA compiler is not installed: pip install 'jax[cuda12-local]==0.10.2'",
)
@pytest.mark.slow
def test_gpus_do_not_gather_the_clips_of_a_block_that_may_be_dropped() -> None:
    gathered = {}
    for layerdrop in (0.0, 0.1):
        model = {"num_hidden_layers": 2, "layerdrop": layerdrop}
        config = changed(CONFIG, model=model, train={"precision": "bf16", "remat": "layers"})
        report = compile_step(Request(with_clips(config, 64, 4.0), find_topology("h100:8"), 4.0))
        gathered[layerdrop] = report["collectives"]["all-gather"]
    assert gathered[0.1] == gathered[0.0]
