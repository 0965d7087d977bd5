"""Reports private words in code: `python tools/check_words.py [FOLDER ...]`, exit code 1 if any.

A name is a noun of the trade, and a docstring has a subject, a verb and an object. This check knows
only the words that came up most often in their place; CONTRIBUTING.md says what to write instead.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "shared",
    "models",
    "edge_agent",
    "match_server",
    "tools",
    "demo",
    "tests",
    "docs",
    "systemd",
)

# Names of variables, arguments, attributes, functions, classes and modules, or of parts of them
# (`_` and capitals separate parts): what to write instead.
NAMES = {
    "one": "a noun: candidate, row, request, report, event",
    "ones": "a noun: candidates, rows, requests",
    "anew": "again, or a name with `re`: reopen, rebuild",
    "asked": "requested, query",
    "bell": "commit_signal, notification",
    "found": "result, matches, row",
    "given": "value, argument, the noun of what it is",
    "heard": "received",
    "knobs": "load_profile",
    "law": "audit, privacy, auth",
    "lives": "runs",
    "ours": "local, valid, own",
    "owner": "the noun of who or what: process, collection, lock_holder",
    "patience": "timeout",
    "road": "transport",
    "roads": "transports",
    "said": "message, status, reported",
    "somebody": "person, candidate",
    "someone": "person, candidate",
    "telling": "notification, webhook",
    "theirs": "remote, other",
    "told": "notified, reported",
    "wanted": "requested, expected, configured",
    "warden": "device_monitor",
    "whoever": "caller, client",
}

# Whole expressions in docstrings and comments.
TEXT = {
    r"whoever": "the caller, the client, the process that",
    r"anew": "again",
    r"(?:none|one|some|all) of ours": "invalid, unknown, own",
    r"worth nothing": "invalid, revoked",
    r"knobs?": "load profile",
    r"the warden": "the device monitor",
    r"roads?": "transport",
    r"patience": "timeout",
    r"(?:is|are|was|were) told": "receives a notification, is notified",
    r"(?:has|have) the turn": "holds the leader lock",
    r"(?:its|their|his|a) turn": "the leader lock, its place in the queue",
    r"word for word": "unchanged",
    r"by (?:its|their) own hand": "itself",
}

_ALLOWED = {"one_or_none", "scalar_one", "scalar_one_or_none", "one"}  # SQLAlchemy's methods
_ALLOWED |= {"DecisionGiven"}  # a schema of the public API: generated clients name a class by it
_ALLOWED |= {"NotFound"}  # the usual name of this error
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_TEXT = re.compile(r"\b(" + "|".join(TEXT) + r")\b", re.IGNORECASE)


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and name of all that the module binds: definitions, arguments, variables."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if not node.name.startswith("test_"):  # the name of a test is a sentence
                    yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and text of every statement that is a string alone."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and text of every comment."""
    for number, line in enumerate(source.splitlines(), start=1):
        _, sign, text = line.partition("# ")
        if sign:
            yield number, text


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and message of every private word in one file of Python or Markdown."""
    source = path.read_text(encoding="utf-8")
    texts: Iterable[tuple[int, str]]
    if path.suffix == ".md":
        texts = enumerate(source.splitlines(), start=1)
    else:
        tree = ast.parse(source)
        yield from _private_names(tree)
        texts = (*docstrings(tree), *comments(source))
    for number, text in texts:
        if text.startswith("Answers "):
            yield number, "verb `Answers`: instead `Returns`"
        for match in _TEXT.finditer(text):
            yield number, f"text `{match.group()}`"


def _private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, name in dict.fromkeys(bound_names(tree)):
        for part in dict.fromkeys(part.lower() for part in _PART.findall(name)):
            if part in NAMES and name not in _ALLOWED:
                yield line, f"name `{name}`: instead of `{part}` {NAMES[part]}"


def _files_of(folder: Path) -> list[Path]:
    return [*folder.rglob("*.py"), *folder.rglob("*.md")]


def main(arguments: list[str]) -> int:
    folders = [Path(argument) for argument in arguments] or [ROOT / name for name in FOLDERS]
    files = [file for path in folders for file in ([path] if path.is_file() else _files_of(path))]
    count = 0
    for file in sorted(files):
        for line, message in findings(file):
            print(f"{file}:{line}: {message}")
            count += 1
    if count:
        print(f"{count} private words in {len(files)} files", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
