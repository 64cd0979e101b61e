"""The line that names the accelerator's type in a rewritten module, and the import that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from longcat.port.findings import Edit
from longcat.port.names import Names, Places, dotted

# where there is no accelerator, "cuda" is what it was before: no device is equal to it, and autocast for it is off
_LINE = '{name} = (torch.accelerator.current_accelerator() or torch.device("cuda")).type  # npu, cuda, ...'
_MARK = "torch.accelerator.current_accelerator()"
ACCELERATORS = ("ACCELERATOR", "ACCELERATOR_TYPE", "LONGCAT_ACCELERATOR_TYPE")
"""Names for it: the first that a module does not use itself, in any scope."""


@dataclass(frozen=True)
class Header:
    """How a module names the accelerator's type."""

    name: str | None
    """Name that stands for it; None if the module does not import torch at its top: then it is the literal "npu"."""
    after: int
    """Offset from which on the name is bound."""
    line: Edit | None
    """What binds it, unless the module does."""
    imports: Edit | None
    """`import torch`, unless it is there."""

    def named(self, place: int) -> bool:
        """Whether the name is bound at an offset."""
        return self.name is not None and place >= self.after


def find_header(text: str, module: cst.Module, names: Names, places: Places) -> Header:
    """Find out how a module can name the accelerator's type."""
    newline = module.default_newline
    existing = _bound_already(module, text, places)
    if existing is not None:
        return Header(existing[0], existing[1], None, None)
    plain, first, block = None, None, True
    end = None
    for statement in module.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            block = block and _only_imports(statement)
            if block and plain is not None:
                end = places.line_span(statement)[1]
            continue
        importing = [one for one in statement.body if isinstance(one, cst.Import | cst.ImportFrom)]
        if not importing:
            docstring = isinstance(statement.body[0], cst.Expr) and isinstance(
                statement.body[0].value, cst.SimpleString
            )
            if plain is not None and not docstring:
                break
            continue
        for one in importing:
            if _imports_torch(one):
                plain = plain or statement
            if first is None and _of_torch(one):
                first = statement
        if plain is not None or first is not None:
            end = places.line_span(statement)[1]
        block = True
    name = next((one for one in ACCELERATORS if not any(one in bound for bound in names.scopes.values())), None)
    start = plain or first
    if start is None or end is None or name is None or not text[:end].endswith(("\n", "\r")):
        return Header(None, len(text), None, None)
    imports = None
    if plain is None:
        before = places.line_span(start)[0]
        imports = Edit(before, before, f"import torch{newline}")
    line = Edit(end, end, f"{newline}{_LINE.format(name=name)}{newline}")
    return Header(name, end, line, imports)


def binds_accelerator(node: cst.CSTNode, text: str, places: Places) -> bool:
    """Whether a statement is the line that a rewrite has written."""
    match node:
        case cst.Assign([cst.AssignTarget(cst.Name(name))], value) if name in ACCELERATORS:
            begin, end = places.span(value)
            return _MARK in text[begin:end]
    return False


def _bound_already(module: cst.Module, text: str, places: Places) -> tuple[str, int] | None:
    for statement in module.body:
        match statement:
            case cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(cst.Name(name))]) as bound]):
                if binds_accelerator(bound, text, places):
                    return name, places.line_span(statement)[1]
    return None


def _imports_torch(node: cst.Import | cst.ImportFrom) -> bool:
    return isinstance(node, cst.Import) and any(
        dotted(alias.name).partition(".")[0] == "torch" and alias.asname is None for alias in node.names
    )


def _of_torch(node: cst.Import | cst.ImportFrom) -> bool:
    if isinstance(node, cst.ImportFrom):
        return not node.relative and dotted(node.module).partition(".")[0] == "torch"
    return any(dotted(alias.name).partition(".")[0] == "torch" for alias in node.names)


def _only_imports(statement: cst.CSTNode) -> bool:
    """Whether a compound statement at the top only guards imports, so that the block of imports goes on after it."""
    match statement:
        case cst.Try(body=cst.IndentedBlock(body)) | cst.If(body=cst.IndentedBlock(body)):
            parts = [
                part for line in body for part in (line.body if isinstance(line, cst.SimpleStatementLine) else [line])
            ]
            return any(isinstance(one, cst.Import | cst.ImportFrom) for one in parts) and all(
                isinstance(one, cst.Import | cst.ImportFrom | cst.Pass | cst.Assign) for one in parts
            )
    return False
