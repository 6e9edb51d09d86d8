"""Objects that print in a few lines: a sentence in a console, a table as text or, in a notebook, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

Row = Sequence[object]


class Shown:
    """Base of what a person looks at. A subclass has a :attr:`sentence` and, where there is more to see, a :meth:`table`."""

    @property
    def sentence(self) -> str:
        """The one thing to know of it."""
        raise NotImplementedError

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """Titles of columns (none: no line of titles), and rows of as many cells."""
        return (), ()

    def summary(self) -> str:
        """The table as plain text, a line a row, below the sentence where it has titles."""
        titles, rows = self.table()
        lines = [[str(cell) for cell in row] for row in ([titles, *rows] if titles else rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.sentence, *text] if titles or not text else text)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.sentence}>"

    def _repr_html_(self) -> str:
        titles, rows = self.table()
        head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
        body = [[html.escape(str(cell)) for cell in row] for row in rows]
        lines = [f"<th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}" for row in body]
        title = f"<caption>{html.escape(self.sentence)}</caption>" if titles or not rows else ""
        return f"<table>{title}{''.join(f'<tr>{line}</tr>' for line in ([head] if head else []) + lines)}</table>"


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 layer", "2 layers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
