"""`python -m voc2vec_jax.predict`: see `cli/predict.py`."""

import sys

from voc2vec_jax.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
