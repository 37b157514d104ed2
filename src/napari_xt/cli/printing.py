"""What the command line prints: names and texts in columns, warnings, bars. Knows no verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from napari_xt.errors import printable
from napari_xt.io.images.decoding import DECODING, telling


def table(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and texts in two columns, whatever they hold and whatever standard output can show."""
    width = max((len(name) for name, _ in lines), default=0) + 2
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for name, text in lines:
        line = printable(f"{name:<{width}}{text}".rstrip())
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def words(value: object) -> str:
    """A value as a person reads it."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(" x ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return str(value)


def warn(warnings: Sequence[str]) -> None:
    """Say again on stderr what is on the card: it must be seen where the card goes into a file."""
    for text in warnings if sys.stderr is not None else ():
        print(f"napari-xt: warning: {printable(text)}", file=sys.stderr)


@contextmanager
def decoding_shown() -> Iterator[None]:
    """A bar, or one line where there is no terminal, once a large picture is being decoded inside."""
    with ExitStack() as stack:
        shown = list[Callable[[int, int], None]]()

        def show(done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(progress(unit="strip", desc=DECODING, leave=False)))
                if sys.stderr is not None and not sys.stderr.isatty():
                    print(f"napari-xt: {DECODING} ...", file=sys.stderr)
            if total:
                shown[0](done, total)

        with telling(show):
            yield


@contextmanager
def progress(**style: Any) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, of tqdm's ``style``; what is yielded moves it to ``(done, total)``."""
    from tqdm.auto import tqdm

    with tqdm(disable=sys.stderr is None or not sys.stderr.isatty(), **style) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
