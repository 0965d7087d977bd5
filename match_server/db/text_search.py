"""Search for names that contain a text, without regard to case and accents."""

import re
import unicodedata

from sqlalchemy import ColumnElement, SQLColumnExpression, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

FOLDED = "muster_folded"
"""The name under which `folded` is a function of SQLite."""

_MARKS = "[\u0300-\u036f]"  # combining characters: accents after decomposition


def folded(text: str) -> str:
    """The text in lower case, without accents: `MÜLLER` and `muller` are the same."""
    return re.sub(_MARKS, "", unicodedata.normalize("NFKD", text.lower()))


class _Folded(FunctionElement[str]):
    """`folded` of a column, which the database computes."""

    type = Text()
    inherit_cache = True


@compiles(_Folded, "sqlite")
def _on_sqlite(element: _Folded, compiler: SQLCompiler, **options: object) -> str:
    return f"{FOLDED}({compiler.process(element.clauses, **options)})"


@compiles(_Folded, "postgresql")
def _on_postgresql(element: _Folded, compiler: SQLCompiler, **options: object) -> str:
    """The locale of the database decides which letters have lower case: in `C` only ASCII."""
    text = compiler.process(element.clauses, **options)
    return f"regexp_replace(normalize(lower({text}), NFKD), '{_MARKS}', '', 'g')"


def contains(column: SQLColumnExpression[str], text: str) -> ColumnElement[bool]:
    """Whether a column contains a text; both are compared `folded`."""
    return _Folded(column).contains(folded(text), autoescape=True)
