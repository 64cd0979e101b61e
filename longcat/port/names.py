"""Names of a Python module: what they are imported as, where they are shadowed, and where everything stands in the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import libcst as cst
from libcst import matchers
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from longcat.errors import DataError

Scope = cst.Module | cst.FunctionDef | cst.ClassDef | cst.Lambda
"""What names belong to; comprehensions are taken for a part of what they stand in."""
_LINE_END = re.compile(r"\r\n|\r|\n")
UNKNOWN = ""
"""What a name stands for that is bound to something else than an import."""


class Places:
    """Offsets of nodes in a module's text."""

    def __init__(self, text: str, module: cst.Module) -> None:
        self._text, self._module = text, module

    @cached_property
    def _ranges(self) -> Mapping[cst.CSTNode, CodeRange]:
        # the dear part, which a module in which nothing is found is spared
        code = self._module.code
        if not self._text.startswith(code) or self._text[len(code) :].strip("\r\n"):
            pairs = zip(_LINE_END.split(code), _LINE_END.split(self._text), strict=False)
            line = next((number for number, (one, other) in enumerate(pairs, 1) if one != other), 1)
            raise DataError(f"line {line}: a form feed within an indentation; without it this file can be read")
        return MetadataWrapper(self._module, unsafe_skip_copy=True).resolve(PositionProvider)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in _LINE_END.finditer(self._text))]

    def line(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return line and column where a node begins, both counted from 1."""
        start = self._ranges[node].start
        return start.line, start.column + 1

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the offsets at which a node begins and ends, within the brackets that are put round it."""
        found = self._ranges[node]
        return (
            self._starts[found.start.line - 1] + found.start.column,
            self._starts[found.end.line - 1] + found.end.column,
        )

    def whole(self, node: cst.BaseExpression) -> tuple[int, int]:
        """Return the offsets of an expression with the brackets round it: what is put before or behind it goes there."""
        begin, end = self.span(node)
        before, after = ("".join(map(self._module.code_for_node, one)) for one in (node.lpar, node.rpar))
        return begin - len(before), end + len(after)

    def line_span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the offsets of the whole lines that a node stands in, with the last one's end."""
        found = self._ranges[node]
        after = self._starts[found.end.line] if found.end.line < len(self._starts) else self.span(node)[1]
        return self._starts[found.start.line - 1], after


class Names:
    """What the names of a module stand for, scope by scope."""

    def __init__(self, module: cst.Module) -> None:
        collector = _Bindings()
        module.visit(collector)
        self.scopes: dict[Scope, dict[str, str]] = collector.scopes
        self.module = self.scopes[module]
        self._values = collector.values
        self.exported = frozenset(collector.exported) if collector.exports else None
        """What `__all__` has; None if there is none."""
        self.scripted = self._compiled_by_script(collector)
        """Functions and classes that TorchScript compiles, as far as this module says so."""

    def resolve(self, node: cst.BaseExpression, around: Sequence[Scope]) -> str | None:
        """Return the full name that an expression stands for, such as `torch.cuda.synchronize`; None if it is not known.

        Args:
            node: a name, or attributes of one.
            around: the scopes that it stands in, outermost first.
        """
        match node:
            case cst.Name(value):
                for scope in reversed(around):
                    bound = self.scopes[scope]
                    if value in bound and (not isinstance(scope, cst.ClassDef) or scope is around[-1]):
                        return bound[value] or None
                return value if value == "torch" else None  # by `from others import *`
            case cst.Attribute(value, cst.Name(name)):
                above = self.resolve(value, around)
                return above and f"{above}.{name}"
        return None

    def values(self, name: str, around: Sequence[Scope]) -> list[cst.BaseExpression] | None:
        """Return all that a name is assigned where it stands; None if it is bound by something else, too."""
        for scope in reversed(around):
            if name in self.scopes[scope]:
                found = self._values[scope].get(name, [])
                known = [one for one in found if one is not None]
                return known if known and len(known) == len(found) else None
        return None

    def _compiled_by_script(self, collector: _Bindings) -> frozenset[Scope]:
        """Return what is decorated by `torch.jit.script`, or given to it, and the functions that are called from there."""
        found, waiting = set[Scope](), list[Scope]()
        for maker, around, compiled in collector.scripts:
            if (self.resolve(maker, around) or "").startswith("torch.jit."):
                named = [compiled] if not isinstance(compiled, str) else self._defined(compiled, around, collector)
                waiting += named
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                for name in collector.called.get(one, ()):
                    waiting += [
                        other for other in collector.defined.get(name, ()) if isinstance(other, cst.FunctionDef)
                    ]
        return frozenset(found)

    def _defined(self, name: str, around: Sequence[Scope], collector: _Bindings) -> list[Scope]:
        """Return the functions, or the methods besides `__init__` of classes, that a name or its value stands for."""
        made = [dotted(one.func) for one in self.values(name, around) or [] if isinstance(one, cst.Call)]
        found = list[Scope]()
        for one in (name, *made):
            for definition in collector.defined.get(one, ()):
                if isinstance(definition, cst.ClassDef):
                    methods = (each for each in definition.body.body if isinstance(each, cst.FunctionDef))
                    found += [each for each in methods if each.name.value != "__init__"]
                else:
                    found.append(definition)
        return found


def dotted(node: cst.CSTNode | None) -> str:
    """Return the text of a dotted name; empty for anything else."""
    match node:
        case cst.Name(value):
            return value
        case cst.Attribute(value, cst.Name(name)):
            above = dotted(value)
            return f"{above}.{name}" if above else ""
    return ""


def _may_script(node: cst.BaseExpression) -> bool:
    return dotted(node).rpartition(".")[2] in ("script", "script_if_tracing", "script_method", "export")


def _nearness(full: str) -> int:
    """Return how much an import counts where several bind one name: torch's own before CUDA's, and others' before none."""
    cuda = full.startswith("torch.cuda.")
    return 0 if not full else 2 if cuda else 3 if full.partition(".")[0] == "torch" else 1


class _Bindings(cst.CSTVisitor):
    """Collects what each scope binds; an import counts more than another binding of the same scope."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: dict[Scope, dict[str, str]] = {}
        self.values: dict[Scope, dict[str, list[cst.BaseExpression | None]]] = {}
        """What names are assigned; None stands for each other way in which they are bound."""
        self.defined: dict[str, list[Scope]] = {}
        self.called: dict[Scope, set[str]] = {}
        self.scripts: list[tuple[cst.BaseExpression, tuple[Scope, ...], Scope | str]] = []
        """What may be TorchScript's compiler, where it stands, and what it is given."""
        self.exports, self.exported = False, set[str]()
        self._around: list[Scope] = []

    def _enter(self, scope: Scope) -> None:
        self.scopes[scope], self.values[scope] = {}, {}
        self._around.append(scope)

    def _define(self, node: cst.FunctionDef | cst.ClassDef) -> None:
        self._bind(node.name.value)
        self.defined.setdefault(node.name.value, []).append(node)
        for one in node.decorators:
            self.scripts += [(one.decorator, tuple(self._around), node)] if _may_script(one.decorator) else []

    def _bind(self, name: str, full: str = UNKNOWN, value: cst.BaseExpression | None = None) -> None:
        bound = self.scopes[self._around[-1]]
        if name not in bound or (full and _nearness(full) >= _nearness(bound[name])):
            bound[name] = full
        self.values[self._around[-1]].setdefault(name, []).append(value)

    def visit_Module(self, node: cst.Module) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._define(node)
        self._enter(node)

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        self._around.pop()

    def visit_Lambda(self, node: cst.Lambda) -> None:
        self._enter(node)

    def leave_Lambda(self, original_node: cst.Lambda) -> None:
        self._around.pop()

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self._define(node)
        self._enter(node)

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:
        self._around.pop()

    def visit_Param(self, node: cst.Param) -> None:
        self._bind(node.name.value)

    def visit_Import(self, node: cst.Import) -> None:
        for alias in node.names:
            full = dotted(alias.name)
            if alias.asname is not None:
                self._bind(dotted(alias.asname.name), full)
            else:
                first = full.partition(".")[0]
                self._bind(first, first)

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        above = dotted(node.module)
        if isinstance(node.names, cst.ImportStar):
            return
        for alias in node.names:
            name = dotted(alias.name)
            local = dotted(alias.asname.name) if alias.asname is not None else name
            self._bind(local, UNKNOWN if node.relative or not above else f"{above}.{name}")

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        match node.body[0]:
            case cst.Assign([cst.AssignTarget(target), *_]) | cst.AnnAssign(target) | cst.AugAssign(target):
                named = dotted(target)
            case cst.Expr(cst.Call(cst.Attribute(owner))):  # `__all__.append("autocast")`
                named = dotted(owner)
            case _:
                return
        if named == "__all__":
            self.exports = True
            texts = matchers.findall(node, matchers.SimpleString())
            self.exported |= {str(cst.ensure_type(one, cst.SimpleString).evaluated_value) for one in texts}

    def visit_Call(self, node: cst.Call) -> None:
        if isinstance(node.func, cst.Name):
            self.called.setdefault(self._around[-1], set()).add(node.func.value)
        if node.args and _may_script(node.func):
            given = node.args[0].value
            name = dotted(given.func if isinstance(given, cst.Call) else given)
            self.scripts.append((node.func, tuple(self._around), name))

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        if not isinstance(node.target, cst.Name):  # a name is bound with its value
            self._bind_target(node.target)

    def visit_Assign(self, node: cst.Assign) -> None:
        # another name of a module: `tc = torch.cuda`
        match node:
            case cst.Assign([cst.AssignTarget(cst.Name(name))], (cst.Name() | cst.Attribute()) as value):
                parts = dotted(value)
                first = parts.partition(".")[0]
                full = next(
                    (self.scopes[one][first] for one in reversed(self._around) if first in self.scopes[one]), ""
                )
                if full and parts:
                    whole = full + parts[len(first) :]
                    if whole.startswith("torch.") and name not in self.scopes[self._around[-1]]:
                        self._bind(name, whole)
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                self._bind(target.target.value, value=node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._bind_target(node.target)

    def visit_For(self, node: cst.For) -> None:
        self._bind_target(node.target)

    def visit_AsName(self, node: cst.AsName) -> None:
        if not isinstance(node.name, cst.Name) or node.name.value not in self.scopes[self._around[-1]]:
            self._bind_target(node.name)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        self._bind_target(node.target)

    def _bind_target(self, node: cst.CSTNode) -> None:
        match node:
            case cst.Name(value):
                self._bind(value)
            case cst.Tuple(elements) | cst.List(elements):
                for element in elements:
                    self._bind_target(element.value)
