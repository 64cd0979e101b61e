"""Parsing of Python modules that others wrote: of every version, and nested as deeply as they like."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import libcst as cst

from longcat.errors import DataError

_MOST_DEPTH = 400
"""Nested expressions up to which LibCST, which recurses, is let at a module: beyond, its parser ends the process."""
_MOST_BRACKETS = 90
_RECURSION = 20_000
_OLD = re.compile(r"\s*(print\s+[\"'\w%]|exec\s+[\"'\w]|raise\s+[\w.]+\s*,|except\s+[\w.]+\s*,\s*\w+\s*:)")
"""A statement of Python 2."""


def parse(text: str) -> cst.Module:
    """Parse a module with LibCST.

    Raises:
        DataError: it does not parse, or is nested too deeply; the message begins with `line N`.
    """
    _check_depth(text)
    try:
        with deep_recursion():
            return cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        number = _line_of(text) or error.raw_line  # the tokenizer always says the first
        line = text.splitlines()[number - 1 : number]
        # of the parser, which lists all that could stand there, only the tokenizer says what is wrong
        said = error.message.splitlines()[0].removeprefix("tokenizer error: ")
        why = "it looks like Python 2" if line and _OLD.match(line[0]) else said
        shown = "" if why.startswith("parser error") else f" ({why})"
        raise DataError(f"line {number}: does not parse{shown}") from error


def check_syntax(text: str) -> None:
    """Refuse a module that does not parse; quicker than `parse`, which is asked where this Python is too old for it.

    Raises:
        DataError: as of `parse`.
    """
    try:
        _tree(text)
    except (SyntaxError, ValueError):
        parse(text)
    except (RecursionError, MemoryError) as error:
        raise DataError("line 1: nested too deeply to be examined") from error


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Let Python's own functions recurse as deeply as the deepest module that `parse` lets through."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _tree(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def compiles(text: str) -> bool:
    """Whether this Python compiles a module, which refuses what a parser lets through, as an argument that is named twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "module", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _line_of(text: str) -> int | None:
    """Return the line in which Python itself finds a fault, if it does."""
    try:
        _tree(text)
    except SyntaxError as error:
        return error.lineno
    except ValueError:
        pass
    return None


def _check_depth(text: str) -> None:
    try:
        tree = _tree(text)
    except (RecursionError, MemoryError) as error:
        raise DataError("line 1: nested too deeply to be examined") from error
    except (SyntaxError, ValueError):  # LibCST says where, unless brackets are nested too deeply for it
        depth = most = 0
        for sign in text:
            depth += (sign in "([{") - (sign in ")]}")
            most = max(most, depth)
        if most > _MOST_BRACKETS:
            raise DataError("line 1: does not parse") from None
        return
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise DataError(f"line {getattr(node, 'lineno', 1)}: nested too deeply to be examined")
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
