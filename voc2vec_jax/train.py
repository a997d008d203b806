"""`python -m voc2vec_jax.train`: see `cli/train.py`."""

import sys

from voc2vec_jax.cli.command import prepare_process
from voc2vec_jax.cli.train import main

if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
