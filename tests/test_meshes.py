"""One rule places every parameter, and no loss depends on where it lies."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import PartitionSpec

from tests.meshes import CONFIG, CONFIGS, MESHES, STEPS
from voc2vec_jax.config import MeshConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
LAYER = "wav2vec2.encoder.layers.0."


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Runs on 8 virtual devices, in a process that has as many."""
    # Twelve programs to compile: without LLVM's optimisations that takes half the time, and how
    # arrays are split over devices was settled before.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags}
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.meshes"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,  # two minutes of one core
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    assert found["devices"] == 8
    return found


OTHERS = [name for name in MESHES if name != "one device"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.thorough
@pytest.mark.parametrize("task", CONFIGS)
def test_losses_do_not_depend_on_the_mesh(report: dict[str, Any], task: str, name: str) -> None:
    """Dropout and layer drop included. A code that flips on a tie ends the comparison there."""
    seen = report[task]["meshes"][name]
    assert seen["difference"] <= 1e-5
    if seen["flipped_gap"] is None:
        assert seen["compared"] == STEPS
    else:
        assert task == "wav2vec2"
        assert seen["flipped_gap"] < 1e-5
    assert report[task]["losses"][0] != report[task]["losses"][-1]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.thorough
@pytest.mark.parametrize("task", ["hubert", "classify"])
def test_nor_does_any_other_figure(report: dict[str, Any], task: str, name: str) -> None:
    figures = report[task]["meshes"][name]["figures"]
    assert "gradient_norm" in figures
    assert {k: v for k, v in figures.items() if v > 1e-5} == {}


@pytest.mark.thorough
def test_parameters_lie_where_the_rule_says(report: dict[str, Any]) -> None:
    placed = report["wav2vec2"]["meshes"]["all three"]["shardings"]
    assert placed[LAYER + "attention.q_proj.kernel"] == ["fsdp", "tensor"]
    assert placed[LAYER + "attention.out_proj.kernel"] == ["tensor", "fsdp"]
    assert placed[LAYER + "feed_forward.output_dense.kernel"] == ["tensor", "fsdp"]
    assert placed["wav2vec2.encoder.layer_norm.scale"] == ["fsdp"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", MESHES)
def test_a_state_saved_on_eight_devices_goes_on_anywhere(report: dict[str, Any], name: str) -> None:
    """Parameters and optimiser bit by bit, of a model in the layout of large ones."""
    seen, at_home = report["moved"][name], report["moved"]["fsdp"]
    assert seen["leaves"] > 100
    assert seen["equal"]
    assert seen["in place"]
    assert seen["next loss"] == pytest.approx(at_home["next loss"], rel=1e-6)


RULE = {
    ("attention.k_proj.kernel", (16, 16)): PartitionSpec(None, "tensor"),
    ("attention.v_proj.bias", (16,)): PartitionSpec("tensor"),
    ("attention.out_proj.kernel", (16, 16)): PartitionSpec("tensor", None),
    ("attention.out_proj.bias", (16,)): PartitionSpec(),
    ("feed_forward.intermediate_dense.kernel", (16, 64)): PartitionSpec(None, "tensor"),
    ("feed_forward.output_dense.kernel", (64, 16)): PartitionSpec("tensor", None),
    ("feed_forward.output_dense.bias", (16,)): PartitionSpec(),
    ("final_layer_norm.scale", (16,)): PartitionSpec(),
}


@pytest.mark.parametrize(("name", "shape"), RULE)
def test_the_tensor_axis_splits_attention_and_feed_forward_only(
    name: str, shape: tuple[int, ...]
) -> None:
    mesh = sharding.build_mesh(MeshConfig(data=2, tensor=2))
    assert sharding.parameter_spec(LAYER + name, shape, mesh) == RULE[name, shape]


def test_fsdp_takes_the_largest_axis_that_is_left_and_divides() -> None:
    mesh = sharding.build_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
    spec = sharding.parameter_spec
    assert spec(LAYER + "attention.q_proj.kernel", (16, 16), mesh) == PartitionSpec(
        "fsdp", "tensor"
    )
    assert spec("project_q.kernel", (6, 10), mesh) == PartitionSpec(None, "fsdp")
    assert spec("project_q.kernel", (6, 9), mesh) == PartitionSpec("fsdp", None)
    assert spec("project_q.bias", (7,), mesh) == PartitionSpec()
    assert spec("", (), mesh) == PartitionSpec()


def test_a_tensor_axis_that_does_not_divide_is_refused() -> None:
    mesh = sharding.build_mesh(MeshConfig(data=1, tensor=4))
    with pytest.raises(ConfigError, match=r"mesh\.tensor=4: .* model\.num_attention_heads=2"):
        sharding.check_model(CONFIG.model, mesh)


def test_devices_of_several_slices_are_refused() -> None:
    devices: Any = [
        types.SimpleNamespace(platform="tpu", slice_index=index // 2) for index in range(4)
    ]
    with pytest.raises(ConfigError, match="belong to 2 TPU slices"):
        sharding.build_mesh(MeshConfig(), devices)


def test_random_numbers_do_not_depend_on_how_arrays_are_split() -> None:
    assert jax.config.jax_threefry_partitionable
