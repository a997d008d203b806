"""`train --init-from`: the architecture is that of the weights, shown, and kept on resuming."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests import test_hubert_command, test_train_classify, test_train_command
from tests.small_models import random_params
from voc2vec_jax import from_pretrained
from voc2vec_jax.checkpoints import adopting
from voc2vec_jax.checkpoints.checksums import write_sums
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.checkpoints.source import read_source
from voc2vec_jax.cli.config_files import given_fields
from voc2vec_jax.cli.train import main
from voc2vec_jax.config import Config, ModelConfig, ObjectiveConfig, families
from voc2vec_jax.errors import DONE, WRONG_USAGE, ConfigError, CorruptCheckpointError
from voc2vec_jax.models import HubertForPreTraining, HubertModel, Wav2Vec2ForPreTraining
from voc2vec_jax.models.architectures import Architecture

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

OTHER = ModelConfig(
    hidden_size=24,  # the recipes of these tests have 16, one layer and three convolutions
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    conv_dim=(8, 8, 8, 8),
    conv_kernel=(10, 4, 4, 4),
    conv_stride=(5, 4, 4, 4),
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=3,
    num_codevectors_per_group=3,
    codevector_dim=10,
    proj_codevector_dim=12,
)
OTHER_HUBERT = dataclasses.replace(
    OTHER, model_type="hubert", final_dim=10, num_clusters=9, num_special_classes=4
)


def save(folder: Path, architecture: Architecture, config: ModelConfig) -> Path:
    params = random_params(architecture, config)
    save_pretrained(
        PretrainedModel(architecture, config, params, preprocessor=Preprocessor()), folder
    )
    return folder


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("source") / "w", Wav2Vec2ForPreTraining, OTHER)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("source") / "h", HubertForPreTraining, OTHER_HUBERT)


place = test_train_command.place
hubert_place = pytest.fixture(scope="module")(test_hubert_command.place.__wrapped__)
classify_place = pytest.fixture(scope="module")(test_train_classify.place.__wrapped__)


def as_theirs(workdir: Path, theirs: ModelConfig, *more: str) -> None:
    """The run and its export have the architecture of the weights."""
    names = (*adopting.FUNCTION_FIELDS, *more)
    wanted = {name: getattr(theirs, name) for name in names}
    exported = from_pretrained(workdir / "export").config
    assert {name: getattr(exported, name) for name in names} == wanted
    noted = json.loads((workdir / "config.json").read_text())["model"]
    assert {name: noted[name] for name in names} == json.loads(json.dumps(wanted))


def test_the_same_command_goes_on_when_the_source_is_gone(
    wav2vec2: Path, place: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(wav2vec2, tmp_path / "source")
    more = ("--init-from", str(source), "--train.num-steps", "4")
    arguments = test_train_command.command(place, tmp_path / "run", *more)
    said = test_train_command.finish(arguments)
    assert (
        f"{source}: its architecture\n  model.hidden_size: 24 of the checkpoint, not 16 of" in said
    )
    assert "  model.conv_kernel: (10, 4, 4, 4) of the checkpoint, not (10, 8, 8) of the rec" in said
    assert said.count("model.codevector_dim: 10 of the checkpoint, not 8 of the recipe") == 1
    assert "0 new, 0 dropped" in said
    as_theirs(tmp_path / "run", OTHER, *adopting.HEADS["wav2vec2"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert config["num_negatives"] == 5, "of the recipe"

    shutil.rmtree(source)
    said = test_train_command.finish(arguments)
    assert "resumed at step 4 of 4" in said
    assert f"{tmp_path / 'run' / 'checkpoints' / '4'}: its architecture\n  model.hidden_s" in said
    assert "resumed with another value" not in said

    # Without the flag too, here and in a workdir of its own that goes on from there.
    plain = test_train_command.command(place, tmp_path / "run", "--train.num-steps", "4")
    assert "resumed at step 4 of 4" in test_train_command.finish(plain)
    more = ("--resume", str(tmp_path / "run"), "--train.num-steps", "4")
    said = test_train_command.finish(test_train_command.command(place, tmp_path / "next", *more))
    assert "resumed at step 4 of 4" in said


def test_a_source_may_be_named_from_where_one_stands(
    wav2vec2: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone or there, by a relative or an absolute path; a dry run takes its architecture too."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(wav2vec2, tmp_path / "source")
    short = ("--train.num-steps", "4")
    relative = test_train_command.command(place, tmp_path / "run", "--init-from", "source", *short)
    test_train_command.finish(relative)
    shutil.rmtree(tmp_path / "source")
    assert "resumed at step 4 of 4" in test_train_command.finish(relative)
    absolute = ("--init-from", str(tmp_path / "source"), *short)
    said = test_train_command.finish(test_train_command.command(place, tmp_path / "run", *absolute))
    assert "resumed at step 4 of 4" in said
    dry = test_train_command.command(place, tmp_path / "run", *short, "--dry-run")
    assert "a run goes on from step 4" in test_train_command.finish(dry)
    other = test_train_command.command(place, tmp_path / "run", "--init-from", "elsewhere", *short)
    assert main(other) == WRONG_USAGE


def test_a_run_of_an_older_version_says_that_the_source_is_not_read(
    wav2vec2: Path, place: Path, tmp_path: Path
) -> None:
    source = ("--init-from", str(wav2vec2), "--train.num-steps", "4")
    arguments = test_train_command.command(place, tmp_path / "run", *source)
    test_train_command.finish(arguments)
    checkpoint = tmp_path / "run" / "checkpoints" / "4"
    meta = json.loads((checkpoint / "meta" / "metadata").read_text())
    del meta["progress"]["began_with"]
    (checkpoint / "meta" / "metadata").write_text(json.dumps(meta))
    write_sums(checkpoint)
    said = test_train_command.finish(arguments)
    older = f"{checkpoint}: of an older version, which drew other dropout"
    assert f"{older}; --init-from {wav2vec2} is not read\n" in said


def test_a_dry_run_says_what_a_run_would_go_on_with(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    test_train_command.finish(test_train_command.command(place, workdir, "--train.num-steps", "4"))
    dry = ("--train.num-steps", "4", "--dry-run")
    said = test_train_command.finish(test_train_command.command(place, workdir, *dry))
    assert f"{workdir}: a run goes on from step 4; this is the first of a fresh one\n" in said
    other = test_train_command.command(place, workdir, *dry, "--train.seed", "7")
    assert main(other) == WRONG_USAGE
    assert "train.seed: 0 then, 7 now" in capsys.readouterr().err


def test_a_run_that_began_with_other_weights_does_not_go_on(
    wav2vec2: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    test_train_command.finish(test_train_command.command(place, workdir))
    source = ("--init-from", str(wav2vec2))
    assert main(test_train_command.command(place, workdir, *source)) == WRONG_USAGE
    said = capsys.readouterr().err
    assert f"error: --init-from {wav2vec2}: the run began with random weights and is at" in said
    both = (*source, "--resume", str(workdir))
    assert main(test_train_command.command(place, tmp_path / "next", *both)) == WRONG_USAGE
    assert f"--resume {workdir} has weights already; give one" in capsys.readouterr().err


def test_hubert_takes_the_encoder_and_the_width_of_its_projection(
    hubert: Path, hubert_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--init-from", str(hubert), "--train.num-steps", "3")
    assert main(test_hubert_command.command(hubert_place, tmp_path, "mfcc6", *more)) == DONE
    said = capsys.readouterr().err
    assert "model.final_dim: 10 of the checkpoint, not 8 of the recipe" in said
    assert "num_special_classes" not in said, "label embeddings are drawn anew"
    as_theirs(tmp_path, OTHER_HUBERT, "final_dim")
    exported = from_pretrained(tmp_path / "export")
    assert exported.params["label_embs_concat"].shape == (6, 10), "as the labels have it"


def test_a_classifier_may_be_of_the_other_family(
    hubert: Path, classify_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--init-from", str(hubert), "--train.num-steps", "3")
    assert test_train_classify.run(classify_place, tmp_path, *more) == DONE
    assert "model.model_type: hubert of the checkpoint, not wav2vec2" in capsys.readouterr().err
    as_theirs(tmp_path, OTHER_HUBERT)
    exported = from_pretrained(tmp_path / "export")
    assert exported.architecture.__name__ == "HubertForSequenceClassification"


def test_a_dry_run_does_the_first_update_of_that_architecture(
    wav2vec2: Path, place: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "none"
    more = ("--init-from", str(wav2vec2), "--train.num-steps", "4", "--dry-run")
    said = test_train_command.finish(test_train_command.command(place, workdir, *more))
    assert "model.num_hidden_layers: 2 of the checkpoint, not 1 of the recipe" in said
    assert '"first_loss"' in said
    assert not workdir.exists()


REFUSED = {
    "width": (["--model.hidden-size", "32"], "--model.hidden-size=32: {w} has 24; leave the flag"),
    "as the recipe": (["--model.hidden_size=16"], "--model.hidden-size=16: {w} has 24; leave"),
    "switch": (["--model.conv-bias"], "--model.conv-bias=True: {w} has False"),
    "head": (["--model.codevector-dim", "20"], "--model.codevector-dim=20: {w} has 10"),
    "family": (["--init-from", "{h}"], "{h}: holds a hubert model, and task='wav2vec2' trains"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_the_weights_is_refused_before_data_are_read(
    wav2vec2: Path,
    hubert: Path,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    flags, message = REFUSED[case]
    more = ["--init-from", str(wav2vec2), "--data.folder", "/nowhere"]
    more += [flag.format(h=hubert) for flag in flags]
    assert main(test_train_command.command(place, tmp_path / "run", *more)) == WRONG_USAGE
    assert f"error: {message.format(w=wav2vec2, h=hubert)}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_heads_that_are_kept_decide(wav2vec2: Path, hubert: Path, tmp_path: Path) -> None:
    def heads(source: Path, config: Config) -> set[str]:
        fields = adopting.of_source(read_source(source), config).fields
        return fields.keys() - set(adopting.FUNCTION_FIELDS)

    recipe = families.tiny_wav2vec2()
    assert heads(wav2vec2, recipe) == set(adopting.HEADS["wav2vec2"])
    reset = dataclasses.replace(recipe, objective=ObjectiveConfig(codebook="reset"))
    assert heads(wav2vec2, reset) == {"proj_codevector_dim"}, "project_hid is not redrawn"

    recipe = families.tiny_hubert(labels="labels", num_clusters=9)
    assert heads(hubert, recipe) == {"final_dim"}
    kept = dataclasses.replace(recipe, objective=ObjectiveConfig(label_embeddings="keep"))
    assert heads(hubert, kept) == {"final_dim", "num_special_classes"}

    bare = save(tmp_path / "bare", HubertModel, OTHER_HUBERT)
    assert heads(bare, kept) == set()


def test_a_head_of_a_reset_codebook_fits_whatever_its_size(
    wav2vec2: Path, place: Path, tmp_path: Path
) -> None:
    more = ("--init-from", str(wav2vec2), "--train.num-steps", "3")
    more += ("--objective.codebook", "reset", "--dry-run")
    said = test_train_command.finish(test_train_command.command(place, tmp_path, *more))
    assert "5 new, 5 dropped" in said
    assert "model.proj_codevector_dim: 12 of the checkpoint, not 8 of the recipe" in said
    assert "model.codevector_dim" not in said


def test_a_run_says_what_it_is_without_its_weights(tmp_path: Path) -> None:
    assert adopting.of_run(tmp_path, "wav2vec2") is None
    for step in (3, 12):
        meta = tmp_path / "checkpoints" / str(step) / "meta" / "metadata"
        meta.parent.mkdir(parents=True)
        meta.write_text(json.dumps({"config": {"model": {"hidden_size": step}}}))
    found = adopting.of_run(tmp_path, "wav2vec2")
    assert found is not None
    assert found.place.endswith("/12")
    assert (found.fields["hidden_size"], found.fields["conv_bias"]) == (12, False)
    meta.write_text("garbage")
    found = adopting.of_run(tmp_path, "wav2vec2")
    assert found is not None
    assert found.fields["hidden_size"] == 3
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    with pytest.raises(CorruptCheckpointError, match="no checkpoint is whole"):
        adopting.of_run(tmp_path, "wav2vec2")


def test_a_recipe_whose_clips_are_too_short_for_the_weights_says_so() -> None:
    wide = {name: getattr(OTHER, name) for name in adopting.FUNCTION_FIELDS}
    wide |= {"conv_stride": (5, 8, 8, 8), "conv_kernel": (10, 8, 8, 8)}
    with pytest.raises(ConfigError, match=r"data\.min_seconds.*the convolutions of this model"):
        adopting.adopt(Config(), adopting.Architecture("x", wide), ())


def test_flags_are_told_from_values() -> None:
    argv = ["--model.hidden-size", "32", "--model.no-conv-bias", "--model.conv-dim", "8", "--x.y"]
    given = given_fields([*argv, "--model.layer_norm_eps=1e-6", "model.labels"], "model")
    assert given & set(vars(OTHER)) == {"hidden_size", "conv_bias", "conv_dim", "layer_norm_eps"}
