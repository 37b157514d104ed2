"""The command line: parse, call the API, print; end in order when a signal asks for it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from napari_xt.cli.parser import parser
from napari_xt.cli.printing import decoding_shown
from napari_xt.cli.verbs import DONE
from napari_xt.errors import XTError, printable

WRONG_INPUT = 2  # exit code; stopped by a signal: 128 + its number
CLOSED_PIPE = 128 + 13  # SIGPIPE, which Windows does not have
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    SIGINT, SIGTERM and, but for ``nohup``, SIGHUP end it in order while it runs on the main thread.

    Parameters
    ----------
    arguments
        Default: those of the process.
    """
    chosen = argparse.Namespace(verb=lambda _: DONE, keeps=False)
    with _signals():
        try:
            chosen = _chosen(arguments) or chosen
            with decoding_shown():
                code: int = chosen.verb(chosen)
            print(end="", flush=True)  # a pipe that nobody reads is noticed here, not when Python ends
        except XTError as error:
            return _fail(str(error), WRONG_INPUT)
        except _Stopped as stopped:
            why = f"stopped by {signal.Signals(stopped.number).name}"
            kept = "what is done is kept; run the same command again to go on"
            return _fail(f"{why}: {kept if chosen.keeps else 'nothing was written'}", 128 + stopped.number)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE
        except OSError as error:
            return _fail(str(XTError(error.filename or "the system", error.strerror or str(error))), WRONG_INPUT)
        return code


@contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    hung_up = getattr(signal, "SIGHUP", None)
    heard = [number for number in SIGNALS if number != hung_up or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for later in SIGNALS:
        if signal.getsignal(later) is _stop:
            signal.signal(later, signal.SIG_DFL)  # a second time ends at once, to the very end
    raise _Stopped(number)


def _chosen(arguments: Sequence[str] | None) -> argparse.Namespace | None:
    """What is to be done; None where --help or --version has said all."""
    try:
        return parser().parse_args(arguments)
    except SystemExit:
        return None


def _fail(sentence: str, code: int) -> int:
    print(f"napari-xt: error: {printable(sentence)}", file=sys.stderr)
    return code
