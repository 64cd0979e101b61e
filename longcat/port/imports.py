"""Imports: packages that belong to CUDA, and names of torch.cuda, which go where nothing needs them any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from longcat.port.exports import ALL
from longcat.port.findings import Edit, Finding
from longcat.port.names import Scope, dotted
from longcat.port.rules import known_rule, package_rule, torch_rule
from longcat.port.support import Support
from longcat.port.visiting import Visiting

_COMPILED = ("_cuda", "_cuda_ext", "_cuda_kernels")
"""How the names of modules end that are compiled by nvcc."""


@dataclass
class _Imported:
    """Name of torch.cuda's, or another name of a module that is given up, and whether all its uses are rewritten."""

    node: cst.ImportAlias
    statement: cst.Import | cst.ImportFrom
    line: cst.CSTNode
    alone: bool
    full: str
    local: str
    scope: Scope
    uses: int = 0
    left: int = 0


class Imports(Visiting):
    """Sees imports, and counts the uses of those from torch.cuda."""

    def __init__(
        self, text: str, module: cst.Module, file: str, support: Support | None, named: bool, taken: frozenset[str]
    ) -> None:
        super().__init__(text, module, file, support, named)
        self._taken = taken
        self._imported: dict[tuple[int, str], _Imported] = {}

    def visit_Import(self, node: cst.Import) -> bool:
        for alias in node.names:
            full = dotted(alias.name)
            local = dotted(alias.asname.name) if alias.asname is not None else full.partition(".")[0]
            self._import(alias, node, full, local)
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        above = dotted(node.module)
        if node.relative or not above:
            return False
        if isinstance(node.names, cst.ImportStar):
            if above.startswith("torch.cuda"):
                self._unsure(node, f"from {above} import *", "which names come from it is not seen here")
            elif (rule := package_rule(above)) is not None:
                self._say_rule(node, above, rule)
            return False
        for alias in node.names:
            name = dotted(alias.name)
            local = dotted(alias.asname.name) if alias.asname is not None else name
            self._import(alias, node, f"{above}.{name}", local)
        return False

    def _import(self, alias: cst.ImportAlias, node: cst.Import | cst.ImportFrom, full: str, local: str) -> None:
        if full == "torch.cuda" or full.startswith("torch.cuda."):
            line = next(
                one
                for one in reversed(self._path)
                if isinstance(one, cst.SimpleStatementLine | cst.SimpleStatementSuite)
            )
            block = self._path[self._path.index(line) - 1]
            alone = (
                isinstance(line, cst.SimpleStatementLine)
                and len(line.body) == 1
                and not isinstance(block, cst.IndentedBlock)
            )
            one = _Imported(alias, node, line, alone, full, local, self._around[-1])
            if (
                isinstance(block, cst.IndentedBlock)
                and isinstance(line, cst.SimpleStatementLine)
                and len(line.body) == 1
            ):
                one.alone = len(block.body) > 1
            self._imported[(id(self._around[-1]), local)] = one
        elif (package := package_rule(full)) is not None:
            self._say_rule(alias, full, package)
        elif full.partition(".")[0].endswith(_COMPILED):
            self._say_rule(alias, full, known_rule("torch.ops.load_library"))
        elif (
            full.startswith("torch")
            and (rule := torch_rule(full)) is not None
            and not rule.to
            and rule.kind in ("none", "differs")
        ):
            self._say_rule(alias, full, rule)

    def _use(self, node: cst.CSTNode, rewritten: bool) -> None:
        """Count a use of a name that was imported from torch.cuda."""
        while isinstance(node, cst.Attribute):
            node = node.value
        if isinstance(node, cst.Name):
            self._use_name(node.value, rewritten)

    def _use_name(self, name: str, rewritten: bool) -> None:
        for scope in reversed(self._around):
            if (one := self._imported.get((id(scope), name))) is not None:
                one.uses += 1
                one.left += not rewritten
                return

    def imports_settled(self) -> list[Finding]:
        """Return all findings, with those of the imports from torch.cuda, which go where nothing needs them any more."""
        by_statement: dict[int, list[_Imported]] = {}
        for one in self._imported.values():
            by_statement.setdefault(id(one.statement), []).append(one)
        for together in by_statement.values():
            first = together[0]
            statement = first.statement
            gone = all(
                (one.uses and not one.left and not isinstance(one.scope, cst.ClassDef))
                or (one.full == "torch.cuda" == dotted(one.node.name) and one.local == "torch")
                for one in together
            )
            names = cst.ensure_type(statement.names[0], cst.ImportAlias) and statement.names  # type: ignore[index]
            whole = len(names) == len(together)  # type: ignore[arg-type]
            begin, end = self.places.span(statement)
            what = f"import of {', '.join(one.full for one in together)}"
            given = [one.local for one in together if self._is_given(one)]
            plain = isinstance(statement, cst.Import) and first.local == "torch" and len(together) == 1 and whole
            if plain:
                keep = any(one.what.startswith("torch.cuda") and not one.edits for one in self.findings)
                edits = () if keep else (Edit(begin, end, "import torch"),)
                self._settle(statement, what, edits)
            elif given:
                why = f"other modules take {', '.join(given)} from here, so that it stays; where they use it, it is CUDA's"
                self._say(statement, what, "differs", "minutes", why, "torch 2.13")
            elif gone and whole and first.alone and not self._commented(first.line):
                self._settle(statement, what, (Edit(*self.places.line_span(first.line), ""),))
            elif gone and whole and not self._commented(first.line):
                self._settle(statement, what, (Edit(begin, end, "pass"),))
            else:
                why = "it can be imported everywhere; what of it is used, and stays, is said at its place"
                self._say(statement, what, "works", "none", why)
        return self.findings

    def _is_given(self, one: _Imported) -> bool:
        """Whether other modules can take an imported name from this one, by what it says or by what they do."""
        if not isinstance(one.scope, cst.Module):
            return False
        said = one.node.asname is not None and dotted(one.node.asname.name) == dotted(one.node.name)
        public = ALL in self._taken and not one.local.startswith("_") and self.names.exported is None
        return said or public or one.local in self._taken or one.local in (self.names.exported or ())

    def _settle(self, statement: cst.CSTNode, what: str, edits: Sequence[Edit]) -> None:
        why = "the names that stand for it are torch's own" if edits else "lines that stay use it"
        self._say(
            statement,
            what,
            "renames" if edits else "works",
            "automatic" if edits else "none",
            why,
            "torch 2.13",
            edits=edits,
        )

    def _commented(self, line: cst.CSTNode) -> bool:
        begin, end = self.places.line_span(line)
        return "#" in self.text[begin:end]
