"""`python -m voc2vec_jax.evaluate`: see `cli/evaluate.py`."""

import os
import sys

from voc2vec_jax.cli.evaluate import main

if __name__ == "__main__":
    # TensorFlow only unpacks prepared datasets; its chatter would bury the messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
