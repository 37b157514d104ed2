"""Carries out a pickle's instructions on plain containers only: no class is looked up, none is imported or called.

Python's own unpicklers are no base for this. The one in C sizes its memo by whatever index a file states, and hashes
nested keys without a bound on depth; the one in Python is private; both call what the file names unless every path to
it is overridden. A pickle as torch writes it needs some fifty instructions, and every one here costs steps, of which
there is a limit: so memory and time are bounded whatever the file says.

Knows bytes; knows no files and no tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

STEPS = 1_000_000  # instructions and copied items; a checkpoint of 500 tensors with its optimizer takes some 100,000
WORD = 2**63  # beyond it numbers are no keys: they could be chosen to collide


class PickleRefused(ValueError):
    """The pickle can't or must not be rebuilt; the message says why."""


@dataclass(frozen=True, slots=True)
class Inert:
    """Stands for whatever is not rebuilt, and swallows all that is done to it."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or a function that the pickle names; nothing has been looked up."""

    name: str


INERT: Final = Inert()
Known = Mapping[str, Callable[..., object]]


def unpickle(data: bytes, known: Known, persistent: Callable[[object], object]) -> tuple[object, frozenset[str]]:
    """What a pickle holds: dicts, lists, tuples, sets, numbers, text, bytes, None, and what ``known`` builds.

    Parameters
    ----------
    data
        The pickle, of protocol 2 to 5.
    known
        What to call instead of the callables that the pickle names as ``module.name``; the others give `INERT`.
    persistent
        What to call with a persistent id.

    Returns
    -------
    tuple
        The object, and the names that were not looked up.

    Raises
    ------
    PickleRefused
        The pickle is damaged, takes more than `STEPS` steps, or has an instruction that torch does not write.
    """
    machine = _Machine(data, {**CONTAINERS, **known}, persistent)
    try:
        return machine.run(), frozenset(machine.strange)
    except PickleRefused:
        raise
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise PickleRefused(f"its pickle makes no sense at byte {machine.at}") from error


class _Machine:
    """The stack, the marks on it and the memo."""

    def __init__(self, data: bytes, known: Known, persistent: Callable[[object], object]) -> None:
        self.data, self.known, self.persistent = data, known, persistent
        self.at = self.steps = 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.strange: set[str] = set()

    def run(self) -> object:
        while (code := self.take(1)) != b".":
            self.spend(1)
            if code in VALUES:
                self.stack.append(VALUES[code](self))
            elif code in ACTIONS:
                ACTIONS[code](self)
            else:
                raise PickleRefused(f"its pickle has the instruction {code!r}, which torch does not write")
        return self.stack.pop()

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS:
            raise PickleRefused(f"its pickle takes more than {STEPS} steps")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise PickleRefused("its pickle ends too early")
        self.at, start = end, self.at
        return self.data[start:end]

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def counted(self, width: int) -> bytes:
        return self.take(self.number(width))

    def line(self) -> str:
        return self.take(self.data.index(b"\n", self.at) + 1 - self.at)[:-1].decode()

    def slice(self) -> list[object]:
        """Take what lies above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pair(self) -> tuple[object, object]:
        second = self.stack.pop()
        return self.stack.pop(), second

    def tail(self, count: int) -> tuple[object, ...]:
        items = [self.stack.pop() for _ in range(count)]
        return tuple(reversed(items))

    def name(self, module: object, name: object) -> Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefused("its pickle names a class by something that is no text")
        self.spend(len(module) + len(name))
        named = Named(f"{module}.{name}")
        if named.name not in self.known:
            self.strange.add(named.name)
        return named

    def call(self, named: object, args: object) -> object:
        """Build what is known; its arguments may be copied, so their length counts."""
        if not isinstance(named, Named) or named.name not in self.known or not isinstance(args, tuple):
            return INERT
        self.spend(sum(len(arg) for arg in args if isinstance(arg, (list, tuple, dict, set, str, bytes))))
        return self.known[named.name](*args)

    def put(self, width: int) -> None:
        self.memo[self.number(width)] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def append(self, items: list[object]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)

    def set_items(self, items: list[object]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def add_items(self, items: list[object]) -> None:
        if isinstance(target := self.stack[-1], set):
            target.update(map(_key, items))


def _key(value: object) -> object:
    """The value if it may be a key; a nested one could be too deep to hash."""
    if isinstance(value, int):
        return value if -WORD <= value < WORD else INERT
    return value if value is None or isinstance(value, (str, bytes, float, Named)) else INERT


def _dict(pairs: object = ()) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    items = pairs if isinstance(pairs, (list, tuple)) else ()
    return {_key(key): value for key, value in items}


def _defaultdict(_factory: object = None, pairs: object = ()) -> dict[object, object]:
    return _dict(pairs)


def _items(of: object = ()) -> Iterable[object]:
    return of if isinstance(of, (list, tuple, set)) else ()


def _set(of: object = ()) -> set[object]:
    return set(map(_key, _items(of)))


def _tuple(of: object = ()) -> tuple[object, ...]:
    return tuple(_items(of))


def _list(of: object = ()) -> list[object]:
    return list(_items(of))


def _encode(text: object, encoding: object = "latin1") -> object:
    """Bytes as protocol 2 writes them: text of the first 256 characters."""
    return text.encode("latin1") if isinstance(text, str) and encoding == "latin1" else INERT


_BUILTINS = {"set": _set, "frozenset": _set, "list": _list, "tuple": _tuple, "dict": _dict}
CONTAINERS: Known = {
    **{f"{module}.{name}": build for module in ("builtins", "__builtin__") for name, build in _BUILTINS.items()},
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _defaultdict,
    "_codecs.encode": _encode,
}


def _constant(value: object) -> Callable[[_Machine], object]:
    return lambda _: value


def _text(width: int) -> Callable[[_Machine], object]:
    return lambda m: m.counted(width).decode("utf-8", "surrogatepass")


def _bytes(width: int) -> Callable[[_Machine], object]:
    return lambda m: m.counted(width)


def _long(width: int) -> Callable[[_Machine], object]:
    return lambda m: int.from_bytes(m.counted(width), "little", signed=True)


# Instructions that leave one value on the stack, and the others; names as in `pickletools`.
VALUES: Final[dict[bytes, Callable[[_Machine], object]]] = {
    b"N": _constant(None),  # NONE
    b"\x88": _constant(True),  # NEWTRUE
    b"\x89": _constant(False),  # NEWFALSE
    b"J": lambda m: m.number(4, signed=True),  # BININT
    b"K": lambda m: m.number(1),  # BININT1
    b"M": lambda m: m.number(2),  # BININT2
    b"\x8a": _long(1),  # LONG1
    b"\x8b": _long(4),  # LONG4
    b"G": lambda m: struct.unpack(">d", m.take(8))[0],  # BINFLOAT
    b"X": _text(4),  # BINUNICODE
    b"\x8c": _text(1),  # SHORT_BINUNICODE
    b"\x8d": _text(8),  # BINUNICODE8
    b"B": _bytes(4),  # BINBYTES
    b"C": _bytes(1),  # SHORT_BINBYTES
    b"\x8e": _bytes(8),  # BINBYTES8
    b"\x96": _bytes(8),  # BYTEARRAY8
    b"]": lambda _: [],  # EMPTY_LIST
    b"}": lambda _: {},  # EMPTY_DICT
    b")": lambda _: (),  # EMPTY_TUPLE
    b"\x8f": lambda _: set(),  # EMPTY_SET
    b"t": lambda m: tuple(m.slice()),  # TUPLE
    b"\x85": lambda m: m.tail(1),  # TUPLE1
    b"\x86": lambda m: m.tail(2),  # TUPLE2
    b"\x87": lambda m: m.tail(3),  # TUPLE3
    b"\x91": lambda m: _set(m.slice()),  # FROZENSET
    b"h": lambda m: m.memo[m.number(1)],  # BINGET
    b"j": lambda m: m.memo[m.number(4)],  # LONG_BINGET
    b"2": lambda m: m.stack[-1],  # DUP
    b"c": lambda m: m.name(m.line(), m.line()),  # GLOBAL
    b"\x93": lambda m: m.name(*m.pair()),  # STACK_GLOBAL
    b"R": lambda m: m.call(*m.pair()),  # REDUCE
    b"\x81": lambda m: m.call(*m.pair()),  # NEWOBJ
    b"\x92": lambda m: m.call(None, m.tail(3)),  # NEWOBJ_EX
    b"Q": lambda m: m.persistent(m.stack.pop()),  # BINPERSID
}
ACTIONS: Final[dict[bytes, Callable[[_Machine], object]]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.marks.append(len(m.stack)),  # MARK
    b"0": lambda m: m.stack.pop(),  # POP
    b"1": lambda m: m.slice(),  # POP_MARK
    b"b": lambda m: m.stack.pop(),  # BUILD: a state is never applied
    b"a": lambda m: m.append([m.stack.pop()]),  # APPEND
    b"e": lambda m: m.append(m.slice()),  # APPENDS
    b"s": lambda m: m.set_items(list(m.pair())),  # SETITEM
    b"u": lambda m: m.set_items(m.slice()),  # SETITEMS
    b"\x90": lambda m: m.add_items(m.slice()),  # ADDITEMS
    b"q": lambda m: m.put(1),  # BINPUT
    b"r": lambda m: m.put(4),  # LONG_BINPUT
    b"\x94": lambda m: m.memoize(),  # MEMOIZE
}
