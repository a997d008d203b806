"""Audio files in, padded batches of 16 kHz mono float32 out; no JAX in it."""
