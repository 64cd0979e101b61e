"""Names that the modules of a repository take from each other: an import from torch.cuda whose name is taken has to stay."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from longcat.port.files import Source

ALL = "*"
"""Stands for every name of a module."""
_GIVES = re.compile(r"^[ \t]*(?:from\s+torch(?:\.cuda[\w.]*)?\s+import\b|import\s+torch\.cuda)", re.MULTILINE)
_TAKES = re.compile(r"\bfrom\s+([.\w]+)\s+import\b\s*(\([^()]*\)|(?:\\\r?\n|[^\n;#])*)")


def with_taken(sources: list[Source], root: Path) -> list[Source]:
    """Return the sources of a repository, each with the names that others of them take from it.

    This goes by the text, so that files count that do not parse, and by the last part of a module's name: what is taken
    from one counts for all that are called so. Too much is found rather than too little.
    """
    readers = [one for one in sources if one.kind in ("python", "notebook")]
    givers = frozenset(_called(one, root) for one in readers if one.kind == "python" and _GIVES.search(_text(one)))
    if not givers:
        return sources
    mentioned = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(givers)))})\b|\bfrom\s+\.+\s+import\b")
    taken = defaultdict[str, set[str]](set)
    for one in readers:
        text = _text(one)
        if mentioned.search(text):
            for module, name in _taken(text, one, root, givers):
                taken[module].add(name)
    return [replace(one, taken=frozenset(taken.get(_called(one, root), ()))) for one in sources]


def _taken(text: str, source: Source, root: Path, givers: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield the modules, by the last parts of their names, that a module takes names from, with the names."""
    own = _called(source, root)
    others = {one: one for one in givers if one != own}
    for found in _TAKES.finditer(text):
        above = found[1].rpartition(".")[2] or _package(source, len(found[1]), root)
        if found[1].partition(".")[0] == "torch":
            continue
        names = re.findall(r"(\w+)(?:\s+as\s+(\w+))?", found[2])
        if above in givers:
            yield from ((above, name) for name, _ in names)
            if "*" in found[2]:
                yield above, ALL
        others |= {local: name for name, local in names if local and name in givers}
    others |= {found[2]: found[1] for found in re.finditer(r"\bimport\s+(?:\w+\.)*(\w+)\s+as\s+(\w+)", text)}
    for found in re.finditer(r"\b(\w+)\s*\.\s*(?=(\w+))", text):
        if (module := others.get(found[1])) in givers:
            yield str(module), found[2]


def _called(source: Source, root: Path) -> str:
    """Return the last part of a module's name: a package is called as its folder."""
    path = Path(source.name)
    return _package(source, 1, root) if path.stem == "__init__" else path.stem


def _package(source: Source, level: int, root: Path) -> str:
    """Return what the package is called that a number of dots stand for in a module."""
    parts = (root.resolve().name, *Path(source.name).parts[:-1])
    return parts[-level] if level <= len(parts) else ""


def _text(source: Source) -> str:
    try:
        return source.path.read_bytes().decode("latin-1")
    except OSError:
        return ""
