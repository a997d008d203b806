"""`python -m voc2vec_jax.evaluate`: see `cli/evaluate.py`."""

import sys

from voc2vec_jax.cli.command import prepare_process
from voc2vec_jax.cli.evaluate import main

if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
