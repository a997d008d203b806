"""`python -m voc2vec_jax.train`: see `cli/train.py`."""

import os
import sys

from voc2vec_jax.cli.train import main

if __name__ == "__main__":
    # TensorFlow only feeds batches; its chatter would bury the messages of this command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
