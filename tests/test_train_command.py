"""The command as users run it: killed in a process of its own, resumed, and given bad input.

Where no process is what is tested it runs in this one. `test_faults.py` kills it more often,
`test_processes.py` runs several of it.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers
from safetensors.numpy import load_file

from voc2vec_jax import from_pretrained
from voc2vec_jax.cli.train import main
from voc2vec_jax.config import Config
from voc2vec_jax.errors import BAD_DATA, DONE, FAILED, STOPPED, WRONG_USAGE

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

ROOT = Path(__file__).parents[1]
CONFIG = """
from voc2vec_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            conv_dim=(8, 8, 8), conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8),
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            num_codevectors_per_group=4, codevector_dim=8, proj_codevector_dim=8, num_negatives=5,
        ),
        data=DataConfig(
            max_seconds=1.0, bucket_seconds=(1.0,), batch_seconds=8.0, batch_multiple=4,
            eval_share=0.2,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        train=TrainConfig(
            num_steps=40, log_every_steps=5, eval_every_steps=20, checkpoint_every_steps=10
        ),
    )

def nothing():
    return None
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration file and a handful of recordings."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "small.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir()
    for index in range(12):
        noise = 0.1 * rng.standard_normal(rng.integers(6_000, 30_000))
        soundfile.write(folder / "audio" / f"{index}.wav", noise, 16_000)
    (folder / "audio" / "notes.txt").write_text("not audio")
    return folder


def command(place: Path, workdir: Path, *more: str, config: str = "small.py") -> list[str]:
    return [
        *("--config", str(place / config), "--workdir", str(workdir)),
        *("--data.folder", str(place / "audio"), "--data.data-dir", str(place / "cache")),
        *more,
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    # The flags and devices of this process, and its precision: so both run the same programs.
    environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "float32"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "voc2vec_jax.train", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(arguments: list[str]) -> str:
    """Runs the command in this process to its end; its output."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(arguments)
    assert code == DONE, said.getvalue()
    return said.getvalue()


def finish_apart(arguments: list[str], expected: int = DONE) -> str:
    """The same in a process of its own."""
    process = start(arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expected, output
    return output


def wait_for_checkpoint(workdir: Path, step: int) -> None:
    path, deadline = workdir / "checkpoints" / str(step), time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.01)


def figures(workdir: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in entry.items() if not name.startswith("time_")}
        for entry in entries
        if "event" not in entry
    ]


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Path:
    workdir = place / "undisturbed"
    output = finish(command(place, workdir))
    assert "step=40/40 loss=" in output
    assert "\nclips=10 " in output
    assert "held out: clips=2 " in output
    assert "exporting the parameters after step 40" in output
    return workdir


def test_a_run_leaves_what_it_promises(undisturbed: Path) -> None:
    assert [entry["step"] for entry in figures(undisturbed)] == list(range(5, 41, 5))
    evaluated = [entry["step"] for entry in figures(undisturbed) if "eval_loss" in entry]
    assert evaluated == [20, 40]
    assert {path.name for path in (undisturbed / "export").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    assert (undisturbed / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((undisturbed / "config.json").read_text())["train"]["num_steps"] == 40


def test_transformers_loads_the_export(undisturbed: Path) -> None:
    _, report = transformers.Wav2Vec2ForPreTraining.from_pretrained(
        undisturbed / "export", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    model = from_pretrained(undisturbed / "export", padding="masked")
    waveform, lengths = model.preprocess([np.ones(5_000, np.float32)])
    assert model(waveform, lengths).predictions.shape == (1, 15, 8)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    place: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = command(place, tmp_path)
    process = start(arguments)
    wait_for_checkpoint(tmp_path, 10)
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == (STOPPED if number == signal.SIGTERM else -9), output
    go_on = finish_apart if number == signal.SIGTERM else finish
    assert "resumed at step" in go_on(arguments)
    assert figures(tmp_path) == figures(undisturbed)
    for name in ("model.safetensors", "config.json", "README.md", "preprocessor_config.json"):
        ours = (tmp_path / "export" / name).read_bytes()
        assert ours == (undisturbed / "export" / name).read_bytes(), name


@pytest.mark.thorough
def test_clips_of_two_lengths_are_of_one_run(place: Path, tmp_path: Path) -> None:
    finish(command(place, tmp_path, "--data.bucket-seconds", "0.5", "1.0"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Updates of clips of either length, and evaluations of one or both.
    assert lines[-1]["time_compiled_programs"] in (3, 4)


def test_another_seed_gives_another_export(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    finish(command(place, tmp_path, "--train.seed", "1", "--train.num-steps", "3"))
    ours = load_file(tmp_path / "export" / "model.safetensors")
    theirs = load_file(undisturbed / "export" / "model.safetensors")
    assert not np.array_equal(ours["project_q.weight"], theirs["project_q.weight"])


def test_init_from_prints_its_ledger_and_starts_there(
    place: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """With a learning rate of nothing, what goes in comes out."""
    output = finish(
        command(
            *(place, tmp_path, "--init-from", str(undisturbed / "export")),
            *("--train.num-steps", "3", "--optim.learning-rate", "1e-30"),
        )
    )
    assert "0 new, 0 dropped" in output
    assert "restart: Gumbel temperature begins at 2.0" in output
    ours = load_file(tmp_path / "export" / "model.safetensors")
    for name, tensor in load_file(undisturbed / "export" / "model.safetensors").items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


def test_a_dry_run_writes_nothing(place: Path, tmp_path: Path) -> None:
    output = finish(command(place, tmp_path / "none", "--dry-run"))
    assert '"first_loss"' in output
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def help_text() -> str:
    return finish_apart(["--help"])


def test_help_shows_examples(help_text: str) -> None:
    assert "Examples:" in help_text
    assert "--optim.learning-rate" in help_text


WRONG = {
    "no config file": (["--config", "nowhere.py"], WRONG_USAGE, "no file nowhere.py"),
    "no function": (["--config", "{place}/small.py:other"], WRONG_USAGE, "no function other"),
    "not a config": (["--config", "{place}/small.py:nothing"], WRONG_USAGE, "NoneType"),
    "bad value": (["--optim.learning-rate", "-1"], WRONG_USAGE, "optim.learning_rate=-1.0"),
    "warm-up too long": (["--optim.warmup-steps", "40"], WRONG_USAGE, "optim.warmup_steps=40"),
    "equal masks for unequal clips": (["--mask.equalize"], WRONG_USAGE, "mask.equalize=True"),
    "trace backwards": (["--profile", "15:10"], WRONG_USAGE, "--profile 15:10: give FIRST:LAST"),
    "trace beyond": (["--profile", "30:41"], WRONG_USAGE, "train.num_steps=40"),
    "rule for nothing": (["--optim.frozen", "decoder"], WRONG_USAGE, "optim.frozen='decoder'"),
    "no such dataset": (["--data.folder", "None", "--data.name", "x"], WRONG_USAGE, "'x'"),
    "no folder": (["--data.folder", "/nowhere/at/all"], BAD_DATA, "/nowhere/at/all"),
    "folder without audio": (["--data.folder", "{place}/empty"], BAD_DATA, "empty"),
    "no checkpoint": (["--init-from", "{place}/empty"], BAD_DATA, "config.json"),
    "nothing to resume": (["--resume", "{place}/empty"], WRONG_USAGE, "no checkpoint"),
    "workdir is remote": (["--workdir", "gs://bucket/run"], WRONG_USAGE, "mount the bucket"),
    "workdir is a file": (["--workdir", "{place}/small.py"], FAILED, "small.py"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_gives_one_clear_error(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    more, code, message = WRONG[case]
    arguments = command(place, tmp_path, *(word.format(place=place) for word in more))
    try:
        returned = main(arguments)
    except SystemExit as exit:  # tyro's own refusals
        returned = int(exit.code or 0)
    errors = capsys.readouterr().err
    assert returned == code, errors

    assert message in errors
    assert "Traceback" not in errors


def test_unknown_flags_are_refused_with_a_suggestion(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(command(place, tmp_path, "--optim.learning-rat", "1"))
    assert exit_info.value.code == WRONG_USAGE
    assert "--optim.learning-rate" in capsys.readouterr().err


def test_another_architecture_in_the_workdir_is_refused(
    place: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.stat().st_mtime_ns for path in undisturbed.rglob("*.safetensors"))
    config = (undisturbed / "config.json").read_text()
    assert main(command(place, undisturbed, "--model.do-stable-layer-norm")) == WRONG_USAGE
    assert (undisturbed / "config.json").read_text() == config
    assert "model.do_stable_layer_norm: False then, True now" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in undisturbed.rglob("*.safetensors")) == before


def test_another_recipe_in_the_workdir_is_gone_on_with_if_asked_for(
    place: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    other = command(place, workdir, "--optim.beta2", "0.9", "--train.log-every-steps", "4")
    assert main(other) == WRONG_USAGE
    assert (
        "what is learnt would change (optim.beta2: 0.98 then, 0.9 now)" in capsys.readouterr().err
    )
    said = finish([*other, "--accept-changes"])
    assert "resumed with another value of optim.beta2: 0.98 then, 0.9 now\n" in said
    assert "resumed with another value of train.log_every_steps: 5 then, 4 now\n" in said


def test_every_field_of_the_configuration_has_a_flag(help_text: str) -> None:
    for section, fields in Config().to_dict().items():
        for name in fields if isinstance(fields, dict) else ():
            if name != "other_fields":
                assert f"--{section}.{name.replace('_', '-')}" in help_text, name
