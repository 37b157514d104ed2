"""A table of lines for notebooks and rich labels: what is in it is only text. Knows nothing of what it says."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def html_table(lines: Iterable[tuple[str, str]]) -> str:
    """Lines of two columns as HTML."""
    rows = (f"<tr><td>{escape(name)}&nbsp;&nbsp;</td><td>{escape(text)}</td></tr>" for name, text in lines)
    return f"<table>{''.join(rows)}</table>"
