"""Pickles as plain data. Nothing that a file names is ever imported, called or given attributes.

`pickle.Unpickler` runs whatever a file asks for, and can be kept from it only as far as one thinks
of everything. This reader works the other way round: the standard library splits the file into its
instructions (`pickletools.genops`, which calls nothing), and the few that checkpoints need are
carried out here. Names in a file stay names: those in a table of makers stand for a function of
ours, those on a list of harmless ones become `Opaque` records, and any other ends the reading.
"""

import mmap
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

from voc2vec_jax.errors import PickleError

INERT = (
    "argparse",
    "datetime",
    "enum",
    "fairseq",
    "numpy",
    "omegaconf",
    "pathlib",
    "typing",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytes", "complex", "dict", "float", "int", "list", "object", "str")
    ),
)
"""Modules, and names, that fairseq's checkpoints hold besides tensors and plain data."""

PUSHED = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
"""Instructions that put their own argument on the stack."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Global:
    """The name of a class or function, `module.name`."""

    name: str


@dataclass(eq=False, repr=False)
class Opaque:
    """What a file stores about an object of some class: data only, never that class."""

    class_name: str
    arguments: tuple[object, ...] = ()
    state: object = None
    contents: list[object] = field(default_factory=list)
    """What a subclass of `list` holds, or the (key, value) pairs of a subclass of `dict`."""


Makers = Mapping[str, Callable[..., object]]


def read_pickle(
    file: IO[bytes] | mmap.mmap, makers: Makers, load_persistent: Callable[[Any], object]
) -> object:
    """The next pickle of a file; the file is left at the pickle's end.

    Args:
        file: Anything with `read`, `readline` and `tell`.
        makers: Functions by the name under which a pickle asks for their result. `OrderedDict`,
            sets and bytes have theirs already.
        load_persistent: Gives what a persistent id stands for.

    Raises:
        PickleError: The first name that is neither made nor inert, or an instruction that plain
            data does not need.
        ValueError, TypeError, IndexError, KeyError: A damaged file.
    """
    machine = _Machine({**MAKERS, **makers}, load_persistent)
    # The arguments' lengths are checked against the file before any memory is taken for them.
    for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
        machine.step(opcode.name, argument)
    (result,) = machine.stack
    return result


class _Machine:
    def __init__(self, makers: Makers, load_persistent: Callable[[Any], object]):
        self.makers = makers
        self.load_persistent = load_persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """Stacks under the marks, the last under the topmost."""
        self.memo: dict[int, object] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in PUSHED:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            stack.append(tuple([stack.pop() for _ in range(TUPLES[name])][::-1]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        else:
            self._structure(name, argument)

    def _structure(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                items = self._pop_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = [stack.pop()] if name == "APPEND" else self._pop_mark()
                _extend(self.stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._pop_mark()
                _set_items(self.stack[-1], items)
            case "GLOBAL":
                stack.append(self._global(".".join(argument.split(" ", 1))))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self._global(f"{module}.{attribute}"))
            case "BINPERSID":
                stack.append(self.load_persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._make(called, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Opaque):
                    stack[-1].state = state
                elif type(stack[-1]) is not dict:  # an OrderedDict's attributes, such as _metadata
                    raise PickleError(f"gives attributes to a {type(stack[-1]).__name__}")
            case _:
                raise PickleError(f"holds the instruction {name}, which plain data does not need")

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _global(self, name: str) -> Global:
        parts = name.split(".")
        starts = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if name not in self.makers and starts.isdisjoint(INERT):
            raise PickleError(f"asks for {name[:200]!r}, which is none of what checkpoints hold")
        return Global(name)

    def _make(self, called: object, arguments: object) -> object:
        if type(called) is not Global or type(arguments) is not tuple:
            raise PickleError(f"calls a {type(called).__name__}")
        if called.name in self.makers:
            return self.makers[called.name](*arguments)
        return Opaque(called.name, arguments)


def _extend(target: object, items: Any) -> None:
    if type(target) is set:
        target.update(map(_key, items))
    elif isinstance(target, Opaque):
        target.contents.extend(items)
    elif type(target) is list:
        target.extend(items)
    else:
        raise PickleError(f"adds items to a {type(target).__name__}")


def _set_items(target: object, items: list[Any]) -> None:
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(target, Opaque):
        target.contents.extend(pairs)
    elif type(target) is dict:
        target.update((_key(key), value) for key, value in pairs)
    else:
        raise PickleError(f"sets items of a {type(target).__name__}")


def _key(value: Any) -> Any:
    """Keys of a dictionary; hashing tuples in tuples in tuples would exhaust the C stack."""
    plain = (str, int, float, bytes, type(None), Global, Opaque)
    if isinstance(value, plain) or (
        type(value) is tuple and all(isinstance(item, plain) for item in value)
    ):
        return value
    raise PickleError(f"has a {type(value).__name__} as a key")


def _dict(*arguments: Any) -> dict[Any, object]:
    """An OrderedDict: made empty, or in Python 2 from pairs; a defaultdict: from its factory."""
    result: dict[Any, object] = {}
    if arguments and type(arguments[0]) is list:
        for pair in arguments[0]:
            _set_items(result, list(pair))
    return result


def _set(items: Any = ()) -> set[Any]:
    return set(map(_key, items))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 stores bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise PickleError(f"encodes a {type(text).__name__}")
    return text.encode("latin-1")


MAKERS: Makers = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "_codecs.encode": _encode,
}
