"""Tables as HTML, for notebooks; every text is escaped, since names come from models."""

from collections.abc import Iterable, Sequence
from html import escape


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table with a line of titles; what is no text stands at the right.

    >>> table(["name", "size"], [["<a>", 3]])[-73:]
    '<td style="text-align:left">&lt;a&gt;</td><td>3</td></tr></tbody></table>'
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{named}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraphs(lines: Iterable[str]) -> str:
    """Lines below one another."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f'<td style="text-align:left">{escape(value)}</td>'
    return f"<td>{escape(str(value))}</td>"
