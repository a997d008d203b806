"""`python -m voc2vec_jax.embed`: see `cli/embed.py`."""

import sys

from voc2vec_jax.cli.command import prepare_process
from voc2vec_jax.cli.embed import main

if __name__ == "__main__":
    prepare_process(sigterm_is_ctrl_c=True)
    sys.exit(main())
