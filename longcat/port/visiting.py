"""The walk through a Python module: where it is, what surrounds it, and how something is said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import libcst as cst

from longcat.port.findings import Edit, Finding
from longcat.port.header import Header, find_header
from longcat.port.names import Names, Places, Scope
from longcat.port.rules import Rule
from longcat.port.support import Support

DOUBLE = re.compile(r"torch\.(float64|double)\b|\.double\(\)")
"""An expression that makes 64-bit floats."""
_OWN_IS_CUDA = re.compile(r"def is_cuda\(|\.is_cuda\s*(:[^=\n]*)?=(?!=)|^[ \t]+is_cuda\s*:", re.MULTILINE)
"""What gives a class an `is_cuda` that is no tensor's."""


class Visiting(cst.CSTVisitor):
    """Visits a module once; keeps the way from its root to where it is."""

    def __init__(self, text: str, module: cst.Module, file: str, support: Support | None, named: bool) -> None:
        super().__init__()
        self.text, self.file, self.support = text, file, support
        self.places, self.names = Places(text, module), Names(module)
        self._module, self._named = module, named
        self.findings: list[Finding] = []
        self._path: list[cst.CSTNode] = []
        self._around: list[Scope] = []
        self._kernels = set[str]()
        self._doubles: list[set[str]] = [set()]
        self._has_doubles = DOUBLE.search(text) is not None
        self._own_cuda = re.search(r"def cuda\(", text) is not None
        self._own_is_cuda = _OWN_IS_CUDA.search(text) is not None

    @cached_property
    def header(self) -> Header:
        """Return how the module names the accelerator's type; found out where it is first needed."""
        if not self._named:
            return Header(None, len(self.text), None, None)
        return find_header(self.text, self._module, self.names, self.places)

    def on_visit(self, node: cst.CSTNode) -> bool:
        self._path.append(node)
        if isinstance(node, cst.Module | cst.FunctionDef | cst.ClassDef | cst.Lambda):
            self._around.append(node)
        if isinstance(node, cst.FunctionDef):
            self._doubles.append(set())
        go_on = super().on_visit(node)
        if not go_on:
            self._leave(node)
        return go_on

    def on_leave(self, original_node: cst.CSTNode) -> None:
        super().on_leave(original_node)
        if self._path and self._path[-1] is original_node:
            self._leave(original_node)

    def _leave(self, node: cst.CSTNode) -> None:
        self._path.pop()
        if isinstance(node, cst.Module | cst.FunctionDef | cst.ClassDef | cst.Lambda):
            self._around.pop()
        if isinstance(node, cst.FunctionDef):
            self._doubles.pop()

    def _above(self, levels: int = 1) -> cst.CSTNode:
        return self._path[-1 - levels]

    def _is_type(self) -> bool:
        """Whether what is visited says of what type something is, and is not called by anyone."""
        for above in reversed(self._path[:-1]):
            match above:
                case cst.Annotation() | cst.Call(cst.Name("isinstance" | "issubclass")):
                    return True
                case cst.Call() | cst.BaseStatement() | cst.BaseSmallStatement():
                    return False
        return False

    def _is_target(self) -> bool:
        """Whether what is visited is bound or deleted, and not read."""
        for above, below in zip(reversed(self._path[:-1]), reversed(self._path), strict=False):
            match above:
                case cst.Element() | cst.StarredElement() | cst.Tuple() | cst.List():
                    continue
                case cst.AssignTarget() | cst.Del():
                    return True
                case cst.AsName(name=target):
                    return below is target
                case cst.For() | cst.CompFor() | cst.AugAssign() | cst.AnnAssign() | cst.NamedExpr():
                    return below is above.target
            break
        return False

    def _code(self, node: cst.CSTNode) -> str:
        begin, end = self.places.span(node)
        return self.text[begin:end]

    def _say(
        self,
        node: cst.CSTNode,
        what: str,
        kind: str,
        effort: str,
        why: str,
        source: str = "",
        instead: str = "",
        edits: Sequence[Edit] = (),
    ) -> None:
        line, column = self.places.line(node)
        self.findings.append(Finding(self.file, line, column, what, kind, effort, why, source, instead, tuple(edits)))

    def _say_rule(self, node: cst.CSTNode, what: str, rule: Rule, edits: Sequence[Edit] = ()) -> None:
        self._say(node, what, rule.kind, rule.effort, rule.why, rule.source, rule.instead, edits)

    def _unsure(self, node: cst.CSTNode, what: str, why: str) -> None:
        self._say(node, what, "unsure", "minutes", why)

    def _named_here(self, place: int) -> bool:
        """Whether the accelerator's name is bound at an offset and can be read there, which TorchScript cannot."""
        return self.header.named(place) and not self._in_script()

    def _in_script(self) -> bool:
        """Whether what is visited is compiled by TorchScript, which reads no names of the module and few of torch's."""
        return any(one in self.names.scripted for one in self._around)

    def _accelerator(self, place: int) -> str:
        """Return what stands for the accelerator's type at an offset: its name, or the literal "npu"."""
        return str(self.header.name) if self._named_here(place) else f"{self._quote()}npu{self._quote()}"

    def _quote(self) -> str:
        """Return a quotation mark that may stand here, which within an f-string is another one than the string's."""
        within = next((one for one in reversed(self._path) if isinstance(one, cst.FormattedString)), None)
        return "'" if within is not None and within.end.startswith('"') else '"'

    def _root(self) -> str | None:
        """Return the name that torch has here, or will have."""
        for scope in reversed(self._around):
            for name, full in self.names.scopes[scope].items():
                if full == "torch":
                    return name
        bound = any("torch" in self.names.scopes[scope] for scope in self._around)
        return "torch" if not bound and (self.header.imports is not None or "torch." in self.text) else None
