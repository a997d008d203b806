"""`python -m voc2vec_jax.predict`: see `cli/predict.py`."""

import sys

from voc2vec_jax.cli.command import prepare_process
from voc2vec_jax.cli.predict import main

if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
