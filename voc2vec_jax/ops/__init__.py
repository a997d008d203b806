"""Every formulation that exists for the speed of one platform, beside the formula that it computes.

An operation is one function that models call, with its plain form beside it (`gelu`, `plain_gelu`):
the textbook formula, and XLA's own derivative. Attention and layer norm have one fast form for all
platforms, the others a form of their own for CPUs. `tests/test_ops.py` holds the two together.
Inside `with ops.plain():` all of them take the plain form, for reading, for debugging, and for
exporters that know neither custom derivatives nor a choice by platform. None of them checks its
arguments: shapes that do not go together are errors of JAX.

Axes: B batch · N samples · T frames · C, O channels in and out · D model width · H heads ·
K head size.
"""

from voc2vec_jax.ops.attention import attention, plain_attention
from voc2vec_jax.ops.exact import exact
from voc2vec_jax.ops.gelu import gelu, plain_gelu
from voc2vec_jax.ops.layer_norm import layer_norm, plain_layer_norm
from voc2vec_jax.ops.linear import linear_product, plain_linear_product
from voc2vec_jax.ops.normalised_convolution import normalised_conv, plain_normalised_conv
from voc2vec_jax.ops.positional_convolution import grouped_conv, plain_grouped_conv
from voc2vec_jax.ops.strided_convolution import plain_strided_conv, strided_conv
from voc2vec_jax.ops.switch import plain

__all__ = [
    "attention",
    "exact",
    "gelu",
    "grouped_conv",
    "layer_norm",
    "linear_product",
    "normalised_conv",
    "plain",
    "plain_attention",
    "plain_gelu",
    "plain_grouped_conv",
    "plain_layer_norm",
    "plain_linear_product",
    "plain_normalised_conv",
    "plain_strided_conv",
    "strided_conv",
]
