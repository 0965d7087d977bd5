"""Draws which package imports which, as Mermaid, into docs/architecture.md.

`python tools/draw_packages.py` writes the drawings, `--check` only says whether they are current.
An arrow means "imports". An arrow that follows from others is left out (transitive reduction), so
the longest way through a drawing is the order of its layers. Raises CircularImport for a circle.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"

DRAWINGS: Mapping[str, tuple[str, ...]] = {
    # name of the drawing: packages whose children are its boxes
    "applications": ("shared", "models", "edge_agent", "match_server"),
    "edge_agent": ("edge_agent",),
    "match_server": ("match_server", "match_server.services"),
    "models": ("models",),
    "shared": ("shared",),
}

Edges = dict[str, set[str]]


class CircularImport(Exception):
    """Packages import each other in a circle."""


def imports_between(graph: grimp.ImportGraph, parents: tuple[str, ...], name: str) -> Edges:
    """Returns for each box of a drawing the boxes that its modules import."""
    boxes = set(parents)
    if name != "applications":
        boxes = {child for parent in parents for child in graph.find_children(parent)}
        boxes -= set(parents)

    def box_of(module: str) -> str | None:
        while module and module not in boxes:
            module = module.rpartition(".")[0]
        return module or None

    edges: Edges = {box: set() for box in boxes}
    for module in graph.modules:
        importer = box_of(module)
        for imported in graph.find_modules_directly_imported_by(module) if importer else ():
            target = box_of(imported)
            if importer and target and target != importer:
                edges[importer].add(target)
    return {box: targets for box, targets in edges.items() if targets or box in _used(edges)}


def _used(edges: Edges) -> set[str]:
    return {target for targets in edges.values() for target in targets}


def reduced(edges: Edges) -> Edges:
    """Returns the edges without those that follow from others."""
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise CircularImport(" → ".join(error.args[1])) from error
    reachable: dict[str, set[str]] = {}
    kept: Edges = {}
    for box in order:  # those that it imports came before it
        targets = edges.get(box, set())
        indirect = {far for target in targets for far in reachable[target]}
        kept[box] = targets - indirect
        reachable[box] = targets | indirect
    return kept


def _parent(box: str) -> str:
    return box.rpartition(".")[0] or box


def mermaid(edges: Edges, parents: tuple[str, ...]) -> Iterator[str]:
    """Yields the lines of a Mermaid flow chart; packages of a package in a frame of their own."""
    yield "flowchart TD"
    for parent in parents:
        members = sorted(box for box in edges if _parent(box) == parent)
        framed = "." in parent
        if framed:
            yield f"  subgraph {parent.rpartition('.')[2]}"
        for box in members:
            yield f'  {box.replace(".", "_")}["{box.removeprefix(f"{parent}.")}"]'
        if framed:
            yield "  end"
    for box in sorted(edges):
        for target in sorted(edges[box]):
            yield f"  {box.replace('.', '_')} --> {target.replace('.', '_')}"


def with_drawings(text: str) -> str:
    """Returns the document with every drawing between its markers made from the code."""
    graph = grimp.build_graph("shared", "models", "edge_agent", "match_server")
    for name, parents in DRAWINGS.items():
        edges = reduced(imports_between(graph, parents, name))
        chart = "\n".join(mermaid(edges, parents))
        begin, end = f"<!-- drawing: {name} -->\n", "\n<!-- end of drawing -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        drawing = f"{begin}```mermaid\n{chart}\n```{end}"
        text, count = pattern.subn(drawing.replace("\\", r"\\"), text)
        if count != 1:
            raise ValueError(f"{DOCUMENT.name} has {count} places for the drawing {name!r}, not 1")
    return text


def main(arguments: list[str]) -> int:
    before = DOCUMENT.read_text(encoding="utf-8")
    try:
        after = with_drawings(before)
    except CircularImport as error:
        print(f"circular import: {error}", file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        if after != before:
            print(
                "docs/architecture.md is not current: run tools/draw_packages.py", file=sys.stderr
            )
        return int(after != before)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
