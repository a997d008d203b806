"""Compiling a training step for devices that are not there, and what its program says of them."""
