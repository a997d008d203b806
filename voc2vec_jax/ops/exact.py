"""Products of float32 that are products of float32 on every platform."""

import jax
import jax.numpy as jnp


def exact(operand: jax.Array) -> jax.lax.Precision | None:
    """The precision for a product whose operands have the dtype of `operand`.

    TPUs otherwise round float32 to bfloat16 and GPUs to TF32 before they multiply. What is bfloat16
    already is multiplied without further loss, and needs no more passes.
    """
    return jax.lax.Precision.HIGHEST if operand.dtype == jnp.float32 else None
