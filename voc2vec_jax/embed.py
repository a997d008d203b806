"""`python -m voc2vec_jax.embed`: see `cli/embed.py`."""

import signal
import sys

from voc2vec_jax.cli.embed import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
