"""What recipes start from: a base for each family of models, and what two corpora change in it.

A recipe, yours or one of `configs/`, takes a base and says by `dataclasses.replace` what it
changes. The base and large families are fairseq's recipes, files of its folders
`examples/wav2vec/config/pretraining` and `examples/hubert/config/pretrain`. They differ from
fairseq in that clips are padded to buckets and the padding is masked, instead of being cropped to
the shortest of a batch, in that clips shorter than 2 s are kept, since most non-verbal sounds are,
and in that signals are normalised for base models too: quiet recordings are the rule here, and a
group-norm model is not scale-invariant for them.
"""

from dataclasses import replace

from voc2vec_jax.config.data import DataConfig
from voc2vec_jax.config.model import ModelConfig
from voc2vec_jax.config.recipe import MaskConfig, ObjectiveConfig, OptimConfig
from voc2vec_jax.config.run import Config
from voc2vec_jax.config.train import TrainConfig

# The encoders, which wav2vec 2.0 and HuBERT share; what each adds stands in its families.
_BASE_ENCODER = ModelConfig(
    hidden_dropout=0.1,
    attention_dropout=0.1,
    activation_dropout=0.0,
    feat_proj_dropout=0.1,
    layerdrop=0.05,
)
_LARGE_ENCODER = ModelConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    conv_bias=True,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
)
_TINY_ENCODER = ModelConfig(
    # Seven convolutions with the base model's strides, so frames mean the same as there.
    conv_dim=(64, 64, 96, 128, 128, 128, 128),
    hidden_size=144,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=576,
    num_conv_pos_embeddings=64,
    num_conv_pos_embedding_groups=8,
    hidden_dropout=0.05,
    attention_dropout=0.05,
    activation_dropout=0.0,
    feat_proj_dropout=0.05,
    layerdrop=0.0,
)


def wav2vec2_base() -> Config:
    """fairseq's `wav2vec2_base_librispeech.yaml`."""
    return Config(
        task="wav2vec2",
        model=replace(_BASE_ENCODER, feat_quantizer_dropout=0.1),
        data=DataConfig(batch_seconds=5_600.0, batch_multiple=64),
        mask=MaskConfig(prob=0.65, length=10),
        objective=ObjectiveConfig(feature_grad_mult=0.1, feature_penalty_weight=10.0),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=32_000),
        train=TrainConfig(num_steps=400_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )


def wav2vec2_large() -> Config:
    """fairseq's `wav2vec2_large_librivox.yaml`, for Libri-Light.

    The learning rate is that of fairseq's file, 5e-3; the paper gives 3e-4 for a large model on
    LibriSpeech.
    """
    base = wav2vec2_base()
    return replace(
        base,
        model=replace(_LARGE_ENCODER, codevector_dim=768, proj_codevector_dim=768),
        data=DataConfig(
            max_seconds=20.0,
            bucket_seconds=(1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 15.0, 20.0),
            batch_seconds=9_600.0,
            batch_multiple=128,
        ),
        objective=ObjectiveConfig(
            feature_grad_mult=1.0, feature_penalty_weight=0.0, gumbel_temperature_stop=0.1
        ),
        optim=replace(base.optim, learning_rate=5e-3),
        train=replace(base.train, num_steps=1_000_000),
    )


def hubert_base(*, labels: str, num_clusters: int) -> Config:
    """fairseq's `hubert_base_librispeech.yaml`, which leaves open what is predicted.

    Args:
        labels: The store of frame labels, `data.labels`.
        num_clusters: How many clusters they were made with, `model.num_clusters`.
    """
    base = wav2vec2_base()
    return replace(
        base,
        task="hubert",
        model=replace(_BASE_ENCODER, model_type="hubert", final_dim=256, num_clusters=num_clusters),
        data=replace(base.data, labels=labels, batch_seconds=2_800.0, batch_multiple=32),
        mask=replace(base.mask, prob=0.8),
        optim=replace(base.optim, clip_norm=10.0),
    )


def hubert_large(*, labels: str, num_clusters: int) -> Config:
    """fairseq's `hubert_large_librivox.yaml`, for Libri-Light; arguments: see `hubert_base`.

    The convolutions have the bias of the published model, which fairseq's file leaves out.
    """
    base = hubert_base(labels=labels, num_clusters=num_clusters)
    return replace(
        base,
        model=replace(
            _LARGE_ENCODER, model_type="hubert", final_dim=768, num_clusters=num_clusters
        ),
        data=replace(base.data, batch_seconds=7_200.0, batch_multiple=128),
        objective=replace(base.objective, feature_grad_mult=1.0),
        optim=replace(base.optim, learning_rate=1.5e-3, clip_norm=1.0),
    )


def tiny_wav2vec2() -> Config:
    """1.4 M parameters, for two CPU cores; a recipe of our own.

    At this size and number of updates the recipe of the base model (320 entries, a gradient
    multiplier of 0.1, a penalty of 10) does not leave chance level.
    """
    return Config(
        task="wav2vec2",
        model=replace(
            _TINY_ENCODER,
            num_codevectors_per_group=16,
            codevector_dim=64,
            proj_codevector_dim=64,
            num_negatives=50,
        ),
        data=DataConfig(
            max_seconds=4.0,
            bucket_seconds=(1.0, 2.0, 3.0, 4.0),
            batch_seconds=32.0,
            batch_multiple=8,
        ),
        mask=MaskConfig(prob=0.65, length=10),
        objective=ObjectiveConfig(
            feature_grad_mult=1.0, feature_penalty_weight=1.0, gumbel_temperature_decay=0.9995
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50),
        train=TrainConfig(num_steps=300, log_every_steps=10, checkpoint_every_steps=50),
    )


def tiny_hubert(*, labels: str, num_clusters: int) -> Config:
    """`tiny_wav2vec2` with HuBERT's objective and masks; arguments: see `hubert_base`."""
    base = tiny_wav2vec2()
    return replace(
        base,
        task="hubert",
        model=replace(_TINY_ENCODER, model_type="hubert", final_dim=64, num_clusters=num_clusters),
        data=replace(base.data, labels=labels),
        mask=replace(base.mask, prob=0.8),
        objective=ObjectiveConfig(feature_grad_mult=1.0, feature_penalty_weight=1.0),
    )


def on_voc125(base: Config) -> Config:
    """`base` on the ten datasets of the voc2vec paper, or what is prepared of them.

    The buckets are for the durations of the ten; `tests/test_voc125.py -k padding` has shares.
    """
    buckets = (1.4, 2.3, 3.1, 3.9, 4.8, 5.9, 7.4, 10.2, 15.625)
    return replace(base, data=replace(base.data, name="voc125", bucket_seconds=buckets))


def on_short_recordings(base: Config) -> Config:
    """`base`, a tiny one, on about two hours of real recordings (docs/a_model_that_learnt.md)."""
    return replace(
        base,
        # Without dropout, whose random numbers cost time on a CPU.
        model=replace(base.model, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0),
        # Most clips are 1.9 s long, so that one bucket pads little and compiles once.
        # Batches are small so that 3,000 updates take half an hour.
        data=replace(
            base.data, max_seconds=2.0, bucket_seconds=(2.0,), batch_seconds=8.0, batch_multiple=4
        ),
        optim=replace(base.optim, warmup_steps=100),
        train=replace(base.train, num_steps=3_000, checkpoint_every_steps=500),
    )
