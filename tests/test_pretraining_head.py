"""HuBERT with its head in Hugging Face folders: for transformers an encoder, here the whole."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tests.conftest import ARCHITECTURES, FEW, TINY
from tests.reference import clips, hf_model, sample_mask
from tests.small_models import random_params
from tests.test_hubert import LABELS, batch_of, draws_for
from tools import convert_weights, verify_parity
from voc2vec_jax.checkpoints import loading
from voc2vec_jax.checkpoints.hubert_head import FILE
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.checkpoints.orbax import write_weights
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import Config, ModelConfig, ObjectiveConfig
from voc2vec_jax.errors import CheckpointError, ConversionError, FreshHeadError
from voc2vec_jax.models import HubertForPreTraining, HubertModel
from voc2vec_jax.models.parameters import Params, describe, merge, split
from voc2vec_jax.objectives import HubertTask

HEAD = {"final_proj.weight": (9, 32), "final_proj.bias": (9,), "label_embs_concat": (11, 9)}
NEW = {"final_proj.kernel", "final_proj.bias", "label_embs_concat"}


def config_of(layout: str = "base", **fields: object) -> ModelConfig:
    return ModelConfig(
        **{
            **TINY,
            **FEW,
            "num_hidden_layers": 1,
            **ARCHITECTURES[layout],
            "model_type": "hubert",
            "final_dim": 9,
            "num_clusters": 11,
            **fields,
        }
    )


def model_of(config: ModelConfig, seed: int = 0) -> PretrainedModel:
    params = random_params(HubertForPreTraining, config, seed)
    return PretrainedModel(HubertForPreTraining, config, params, preprocessor=Preprocessor())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(model_of(config_of()), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("layout", ARCHITECTURES)
def test_transformers_sees_an_encoder_with_equal_outputs(tmp_path: Path, layout: str) -> None:
    model = model_of(config_of(layout))
    save_pretrained(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", FILE, "preprocessor_config.json", "README.md"
    }  # fmt: skip
    theirs, report = transformers.HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(transformers.AutoModel.from_pretrained(tmp_path)) is transformers.HubertModel
    waveform, lengths = clips([9_000, 5_000])
    masked = PretrainedModel(
        model.architecture,
        model.config,
        model.params,
        preprocessor=model.preprocessor,
        attention_mask=True,
    )
    ours = masked(waveform, lengths).encoder
    with torch.no_grad():
        expected = theirs.eval()(
            torch.tensor(waveform), attention_mask=sample_mask(lengths, 9_000)
        ).last_hidden_state.numpy()
    real = np.asarray(ours.frame_mask)
    np.testing.assert_allclose(
        np.asarray(ours.last_hidden_state)[real], expected[real], atol=1e-5, rtol=0
    )


def test_the_head_lies_beside_under_fairseqs_names(folder: Path) -> None:
    held = load_file(folder / FILE)
    assert {name: value.shape for name, value in held.items()} == HEAD
    fields = json.loads((folder / "config.json").read_text())
    assert fields["architectures"] == ["HubertModel"]
    assert (fields["final_dim"], fields["num_clusters"]) == (9, 11)
    assert FILE in (folder / "README.md").read_text()


def test_every_tensor_comes_back(folder: Path) -> None:
    model, back = model_of(config_of()), from_pretrained(folder)
    assert back.architecture is HubertForPreTraining
    assert back.config == model.config
    assert back.ledger is not None
    assert (back.ledger.new, back.ledger.dropped) == ((), ())
    assert back.params.keys() == model.params.keys()
    for path, value in model.params.items():
        np.testing.assert_array_equal(back.params[path], value, err_msg=path)


def test_the_encoder_alone_is_to_be_had_and_says_what_it_drops(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = from_pretrained(folder, architecture=HubertModel)
    assert model.architecture is HubertModel
    assert "  dropped  label_embs_concat" in caplog.text
    waveform, lengths = clips([5_000])
    whole = from_pretrained(folder)(waveform, lengths)
    np.testing.assert_array_equal(
        model(waveform, lengths).last_hidden_state, whole.last_hidden_state
    )
    assert whole.predictions.shape == (1, 15, 9)
    assert whole.first_frames(4).predictions.shape == (1, 4, 9)


def test_a_classifier_may_start_from_it(folder: Path) -> None:
    model = from_pretrained(folder, labels=("laugh", "cry"))
    assert model.ledger is not None
    assert set(model.ledger.dropped) == set(HEAD)


def task_of(label_embeddings: str, **fields: object) -> HubertTask:
    objective = ObjectiveConfig(label_embeddings=label_embeddings)  # type: ignore[arg-type]
    return HubertTask(
        Config(task="hubert", model=config_of(**fields), data=LABELS, objective=objective)
    )


def started(task: HubertTask, source: Path) -> tuple[Params, loading.convert.Ledger]:
    """What a run that starts from `source` begins with, and what it says of it."""
    model = task.config.model
    given, ledger = loading.load_params(source, task.architecture, model, redrawn=task.redrawn)
    fresh = split(task.init(jax.random.key(5)))[1] if ledger.new else {}
    return {**fresh, **{path: jnp.asarray(value) for path, value in given.items()}}, ledger


@pytest.mark.unoptimised
def test_training_goes_on_bit_for_bit_from_the_export(folder: Path) -> None:
    task = task_of("keep")
    before, (after, ledger) = model_of(config_of()).params, started(task, folder)
    assert (ledger.new, ledger.dropped) == ((), ())
    batch = batch_of(task.config.model, [9_000, 5_000])
    draws, graphdef = draws_for(task, batch), describe(HubertForPreTraining, task.config.model)[0]

    @jax.jit
    def update(params: Params) -> tuple[jax.Array, Params]:
        return jax.value_and_grad(
            lambda p: task.loss(merge(graphdef, p), batch, draws, jnp.asarray(0))[0]
        )(params)

    for ours, theirs in zip(
        jax.tree.leaves(update(before)), jax.tree.leaves(update(after)), strict=True
    ):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("clusters", [11, 30])
def test_label_embeddings_are_drawn_anew_unless_they_are_to_be_kept(
    folder: Path, clusters: int
) -> None:
    """Of whichever number the old ones were: other labels often have another k."""
    params, ledger = started(task_of("reset", num_clusters=clusters), folder)
    assert ledger.new == ledger.dropped == ("label_embs_concat",)
    assert params["label_embs_concat"].shape == (clusters, 9)
    held = load_file(folder / FILE)
    np.testing.assert_array_equal(params["final_proj.kernel"], held["final_proj.weight"].T)
    if clusters != 11:
        with pytest.raises(ConversionError, match=r"mis-shaped  label_embs_concat  \[11, 9\]"):
            started(task_of("keep", num_clusters=clusters), folder)


def test_a_folder_without_a_head_gives_a_new_one(tmp_path: Path) -> None:
    hf_model("HubertModel", config_of()).save_pretrained(tmp_path)
    task = task_of("reset")
    _, ledger = started(task, tmp_path)
    assert set(ledger.new) == NEW
    assert ledger.dropped == ()
    assert "  new      final_proj.kernel" in str(ledger)
    assert "label embeddings reset (objective.label_embeddings" in task.restart_rules()
    with pytest.raises(ConversionError, match=r"missing     label_embs_concat"):
        from_pretrained(tmp_path, architecture=HubertForPreTraining)


def test_the_head_of_an_earlier_export_does_not_stay(folder: Path) -> None:
    encoder = from_pretrained(folder, architecture=HubertModel)
    save_pretrained(encoder, folder)
    assert not (folder / FILE).exists()
    assert from_pretrained(folder).architecture is HubertModel


def test_a_head_beside_another_class_is_left_behind(folder: Path) -> None:
    """As when a classifier was fine-tuned in transformers and saved over the folder."""
    config = dataclasses.replace(config_of(), labels=("laugh", "cry"))
    hf_model("HubertForSequenceClassification", config).save_pretrained(folder)
    model = from_pretrained(folder)
    assert model.ledger is not None
    assert model.ledger.dropped == (FILE,)


def test_a_damaged_head_is_named(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=FILE):
        from_pretrained(folder)


def test_a_head_that_cannot_be_written_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("voc2vec_jax.checkpoints.hubert_head.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(model_of(config_of(), seed=1), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_fresh_head_is_not_written(tmp_path: Path) -> None:
    model = model_of(config_of())
    model.ledger = loading.convert.Ledger(kept=(), new=("label_embs_concat",))
    with pytest.raises(FreshHeadError, match="label_embs_concat"):
        save_pretrained(model, tmp_path / "b")


def test_orbax_and_back(folder: Path, tmp_path: Path) -> None:
    write_weights(from_pretrained(folder), tmp_path / "orbax")
    assert convert_weights.main([str(tmp_path / "orbax"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    for name in ("model.safetensors", FILE, "config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_export_is_verified_against_pytorch(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_parity.main([str(folder), "--seconds", "0.6", "0.4"]) == 0
    assert "equal within 0.0001" in capsys.readouterr().out
