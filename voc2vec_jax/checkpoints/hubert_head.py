"""The pre-training head of HuBERT, for which transformers has no class, in a file of its own.

A folder of `HubertForPreTraining` is a `HubertModel` to transformers: its `config.json` and weights
are those of the encoder. Beside them `pretraining_head.safetensors` holds `final_proj.weight`,
`final_proj.bias` and `label_embs_concat`, under the names and in the layout of fairseq, so that
training can go on from the folder.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.files import writing

FILE = "pretraining_head.safetensors"
WITH_HEAD, ENCODER = "HubertForPreTraining", "HubertModel"
PREFIX = "hubert."
"""Where the class with the head keeps the encoder."""


class WithHead(Mapping[str, np.ndarray]):
    """Tensors of an encoder and of a head as those of the class that has both, read when asked."""

    def __init__(self, encoder: Mapping[str, np.ndarray], head: Mapping[str, np.ndarray]):
        self._encoder, self._head = encoder, head

    def __getitem__(self, name: str) -> np.ndarray:
        if name.startswith(PREFIX):
            return self._encoder[name.removeprefix(PREFIX)]
        return self._head[name]

    def __iter__(self) -> Iterator[str]:
        yield from (PREFIX + name for name in self._encoder)
        yield from self._head

    def __len__(self) -> int:
        return len(self._encoder) + len(self._head)


def as_exported(architecture: str) -> str:
    """The class of transformers that reads the export of `architecture`."""
    return ENCODER if architecture == WITH_HEAD else architecture


def apart(architecture: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """What goes into the weights of a folder, and what into the file of the head, maybe nothing."""
    if architecture != WITH_HEAD:
        return tensors, {}
    encoder = {n.removeprefix(PREFIX): v for n, v in tensors.items() if n.startswith(PREFIX)}
    return encoder, {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}


@contextmanager
def writing_head(folder: Path, head: Tensors) -> Iterator[None]:
    """Has a head ready when the block begins, and puts it in place after it; if empty, none.

    Raises:
        OSError: It could not be written. The folder is as it was.
    """
    if not head:
        yield
        return
    with writing(folder / FILE) as unfinished:
        try:
            save_file(head, unfinished, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{unfinished}: could not be written ({error}); make room") from None
        yield


def remove_head(folder: Path) -> None:
    """Takes away the head of an earlier export, before other weights come beside it."""
    (folder / FILE).unlink(missing_ok=True)
