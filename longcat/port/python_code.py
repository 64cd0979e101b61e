"""A Python module: what in it belongs to CUDA, and how each place is rewritten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import libcst as cst

from longcat.errors import DataError
from longcat.port import strings
from longcat.port.findings import Edit, Finding, apply
from longcat.port.header import Header, find_header
from longcat.port.names import Names, Places, Scope, dotted
from longcat.port.rules import Rule, package_rule, torch_rule, variable_rule
from longcat.port.support import Support

MARKS = re.compile(
    r"torch|cuda|nccl|nvidia|apex|triton|flash_attn|xformers|bitsandbytes|transformer_engine|gpu|cudnn|cublas",
    re.IGNORECASE,
)
"""What a module has somewhere in it if anything can be found there."""
_POSITIONAL = {"autocast": ("enabled", "dtype", "cache_enabled")}
_COLLECTIVES = {
    "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor", "broadcast", "reduce",
    "all_to_all", "all_to_all_single", "send", "recv", "isend", "irecv", "gather", "scatter",
}  # fmt: skip
_DOUBLE = re.compile(r"torch\.(float64|double)\b|\.double\(\)")
_KNOWN_OPS = {
    "aten",
    "prims",
    "npu",
    "profiler",
    "c10d",
    "c10d_functional",
    "_c10d_functional",
    "higher_order",
    "inductor",
}
_SHAPE_METHODS = {"nonzero", "unique", "unique_consecutive", "masked_select", "argwhere", "bincount"}
_OTHERS_METHODS = {"unique": re.compile(r"(?i)df|frame|series|column|pd|\bnp\b"), "nonzero": re.compile(r"\bnp\b")}


@dataclass(frozen=True)
class Analysis:
    """What was found in a text, and the text after the rewrite."""

    findings: tuple[Finding, ...]
    rewritten: str


def analyse(text: str, file: str, support: Support | None = None, *, named: bool = True) -> Analysis:
    """Find what belongs to CUDA in a Python module, and rewrite what can be rewritten.

    Args:
        text: the module.
        file: its name, for the findings.
        support: what the installed torch_npu registers; without it nothing is said of operators.
        named: bind a name to the accelerator's type where it is used; else it is the literal "npu".

    Raises:
        DataError: it does not parse; the message begins with `line N`.
    """
    try:
        module = cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        raise DataError(f"line {error.raw_line}: does not parse ({' '.join(error.message.split())})") from error
    except RecursionError as error:
        raise DataError("line 1: does not parse (nested too deeply)") from error
    if MARKS.search(text) is None:
        return Analysis((), text)
    try:
        visitor = _Visitor(text, module, file, support, named)
        module.visit(visitor)
    except RecursionError as error:
        raise DataError("line 1: nested too deeply to be examined") from error
    return _settled(text, visitor.header, visitor.imports_settled())


def _settled(text: str, header: Header, findings: list[Finding]) -> Analysis:
    """Make the edits; if what comes out would not parse, the lines stay as they are."""
    findings.sort(key=lambda one: (one.line, one.column, one.what))
    edits = [edit for one in findings for edit in one.edits]
    if not edits:
        return Analysis(tuple(findings), text)
    extra = []
    named = header.name is not None and any(re.search(rf"\b{header.name}\b", edit.text) for edit in edits)
    if named and header.line is not None:
        extra.append(header.line)
    if header.imports is not None and (named or any(re.search(r"\btorch\.", edit.text) for edit in edits)):
        extra.append(header.imports)
    try:
        rewritten = apply(text, [*edits, *extra])
        cst.parse_module(rewritten)
    except (ValueError, cst.ParserSyntaxError):
        left = [
            one.left("the rewrite of this file would not parse; " + one.why) if one.edits else one for one in findings
        ]
        return Analysis(tuple(left), text)
    return Analysis(tuple(findings), rewritten)


@dataclass
class _Imported:
    """Name of torch.cuda's, or another name of a module that is given up, and whether all its uses are rewritten."""

    node: cst.ImportAlias
    statement: cst.Import | cst.ImportFrom
    line: cst.CSTNode
    alone: bool
    full: str
    local: str
    uses: int = 0
    left: int = 0


class _Visitor(cst.CSTVisitor):
    """Visits a module once; keeps the way from its root to where it is."""

    def __init__(self, text: str, module: cst.Module, file: str, support: Support | None, named: bool) -> None:
        super().__init__()
        self.text, self.file, self.support = text, file, support
        self.places, self.names = Places(text, module), Names(module)
        self.header = (
            find_header(text, module, self.names, self.places) if named else Header(None, len(text), None, None)
        )
        self.findings: list[Finding] = []
        self._path: list[cst.CSTNode] = []
        self._around: list[Scope] = []
        self._imported: dict[tuple[int, str], _Imported] = {}
        self._kernels = set[str]()
        self._doubles: list[set[str]] = [set()]
        self._own_cuda = re.search(r"def cuda\(", text) is not None

    # -------------------------------------------------------------------------------------------- walking

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

    def _root(self) -> str | None:
        """Return the name that torch has here, or will have."""
        for scope in reversed(self._around):
            for name, full in self.names.scopes[scope].items():
                if full == "torch":
                    return name
        return "torch" if self.header.imports is not None else None

    # -------------------------------------------------------------------------------------------- imports

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
            one = _Imported(alias, node, line, alone, full, local)
            if (
                isinstance(block, cst.IndentedBlock)
                and isinstance(line, cst.SimpleStatementLine)
                and len(line.body) == 1
            ):
                one.alone = len(block.body) > 1
            self._imported[(id(self._around[-1]), local)] = one
        elif (package := package_rule(full)) is not None and not full.startswith("torch"):
            self._say_rule(alias, full, package)
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
            for scope in reversed(self._around):
                if (one := self._imported.get((id(scope), node.value))) is not None:
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
                (one.uses and not one.left)
                or one.full == "torch.cuda" == dotted(one.node.name)
                and one.local == "torch"
                for one in together
            )
            names = cst.ensure_type(statement.names[0], cst.ImportAlias) and statement.names  # type: ignore[index]
            whole = len(names) == len(together)  # type: ignore[arg-type]
            begin, end = self.places.span(statement)
            what = f"import of {', '.join(one.full for one in together)}"
            plain = isinstance(statement, cst.Import) and first.local == "torch" and len(together) == 1 and whole
            if plain:
                keep = any(one.what.startswith("torch.cuda") and not one.edits for one in self.findings)
                edits = () if keep else (Edit(begin, end, "import torch"),)
                self._settle(statement, what, edits)
            elif gone and whole and first.alone and not self._commented(first.line):
                self._settle(statement, what, (Edit(*self.places.line_span(first.line), ""),))
            elif gone and whole and not self._commented(first.line):
                self._settle(statement, what, (Edit(begin, end, "pass"),))
            else:
                why = "it can be imported everywhere; what of it is used, and stays, is said at its place"
                self._say(statement, what, "works", "none", why)
        return self.findings

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

    # -------------------------------------------------------------------------------------------- names

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        full = self.names.resolve(node, self._around)
        if full is None:
            self._attribute(node)
            return True
        self._name(node, full)
        return False

    def visit_Name(self, node: cst.Name) -> None:
        above = self._above()
        if isinstance(
            above, cst.Param | cst.FunctionDef | cst.ClassDef | cst.AssignTarget | cst.ImportAlias | cst.AsName
        ):
            return
        if (isinstance(above, cst.Attribute) and above.attr is node) or (
            isinstance(above, cst.Arg) and above.keyword is node
        ):
            return
        full = self.names.resolve(node, self._around)
        if full is not None and "." in full:
            self._name(node, full)

    def _name(self, node: cst.Name | cst.Attribute, full: str) -> None:
        """Say what a name that is known stands for here, and rewrite it."""
        above = self._above()
        call = above if isinstance(above, cst.Call) and above.func is node else None
        if not full.startswith("torch"):
            if (
                (package := package_rule(full)) is not None
                and (call is not None or isinstance(above, cst.Decorator))
                and not full.startswith("triton.language")
            ):
                self._say_rule(node, full, package)
            return
        parts, inner, depth = full, node, 0
        rule = torch_rule(full)
        while isinstance(inner, cst.Attribute) and (rule is None or rule.name != parts) and not (rule and not rule.to):
            parts, inner, depth = parts.rpartition(".")[0], inner.value, depth + 1  # type: ignore[assignment]
            found = torch_rule(parts)
            if found is not None and found.name == parts and found.to:
                rule = found
                break
        mirrored = (
            rule is not None
            and rule.to.rpartition(".")[2] in ("npu", "memory", "amp", "random")
            and rule.kind == "differs"
        )
        if rule is not None and rule.to and depth and mirrored:
            rule = None
        if rule is None:
            if full.startswith(("torch.cuda", "torch.backends.cud")):
                self._use(node, False)
                self._unsure(node, full, "this name of torch's CUDA interfaces is in no rule")
            else:
                self._operator(node, full, call)
            return
        if rule.kind == "shapes" and call is None:
            return
        if full.startswith("torch.ops") or (rule.name in ("torch.float64", "torch.double") and depth):
            return
        edits = (
            self._renamed(inner, rule, call if not depth else None, isinstance(above, cst.Decorator))
            if rule.to
            else None
        )
        if rule.to and edits is None:
            self._use(node, False)
            left = Finding(self.file, *self.places.line(node), full, rule.kind, rule.effort, rule.why, rule.source)
            self.findings.append(left.left(f"{rule.to} stands for it, and this way of using it is left to you"))
            return
        self._use(node, bool(edits))
        self._say_rule(node, full, rule, edits or ())

    def _renamed(
        self, node: cst.Name | cst.Attribute, rule: Rule, call: cst.Call | None, decorator: bool
    ) -> list[Edit] | None:
        """Return the edits that put a rule's name in place of a name, and change the call; None if it is not sure how."""
        begin, end = self.places.span(node)
        root = self._root()
        if root is None:
            return None
        edits = [Edit(begin, end, root + rule.to.removeprefix("torch"))]
        accelerator = self.header.expression(begin)
        if rule.call in ("", "positional"):
            if call is not None and rule.call:
                for argument in call.args:
                    if argument.star:
                        return None
                    if argument.keyword is not None:
                        if argument.keyword.value not in ("device", "peer_device"):
                            return None
                        edits.append(
                            Edit(self.places.span(argument.keyword)[0], self.places.span(argument.value)[0], "")
                        )
            return edits
        if call is None:
            if rule.call == "device_type" and decorator:
                return [replace(edits[0], text=f"{edits[0].text}(device_type={accelerator})")]
            return (
                edits
                if rule.call == "device_first"
                and isinstance(node, cst.Name | cst.Attribute)
                and rule.to.endswith("GradScaler")
                else None
            )
        if any(argument.star for argument in call.args):
            return None
        place = self._inside(call)
        tail = ", " if call.args else ""
        if rule.call == "device_type":
            return (
                [*edits, Edit(place, place, f"device_type={accelerator}{tail}")]
                if all(one.keyword for one in call.args)
                else None
            )
        for argument, keyword in zip(
            [one for one in call.args if one.keyword is None], _POSITIONAL.get(rule.call, ()), strict=False
        ):
            start = self.places.span(argument.value)[0]
            edits.append(Edit(start, start, f"{keyword}="))
            if argument is call.args[0]:
                edits[-1] = Edit(start, start, f"{accelerator}, {keyword}=")
                place = -1
        if place >= 0:
            edits.append(Edit(place, place, f"{accelerator}{tail}"))
        return edits

    def _inside(self, call: cst.Call) -> int:
        """Return the offset behind a call's opening bracket, or of its first argument."""
        if call.args:
            return self.places.span(call.args[0])[0]
        return self.text.index("(", self.places.span(call.func)[1]) + 1

    def _operator(self, node: cst.CSTNode, full: str, call: cst.Call | None) -> None:
        """Say of an operator that torch_npu does not register it, or what its results cost."""
        if full == "torch.where" and call is not None and len(call.args) == 1:
            rule = torch_rule("torch.nonzero")
            assert rule is not None
            self._say_rule(node, full, rule)
        parts = full.split(".")
        if parts[:2] == ["torch", "ops"] and len(parts) > 3 and parts[2] not in _KNOWN_OPS:
            rule = torch_rule("torch.ops.load_library")
            assert rule is not None
            self._say_rule(node, full, rule)
        if self.support is not None and call is not None and (absent := self.support.absent_in(full)):
            self._absent(node, full, absent)

    def _absent(self, node: cst.CSTNode, what: str, operators: Sequence[str]) -> None:
        assert self.support is not None
        shown = ", ".join(operators[:3]) + (" ..." if len(operators) > 3 else "")
        self._say(
            node,
            what,
            "operator",
            "hours",
            f"{self.support.version} registers no kernel for {shown}; it runs on the host, with copies both ways",
            self.support.source,
        )

    # -------------------------------------------------------------------------------------------- what is not resolved

    def _attribute(self, node: cst.Attribute) -> None:
        """Say what an attribute of something unknown is: `x.is_cuda`."""
        above, name = self._above(), node.attr.value
        if name == "is_cuda" and not isinstance(above, cst.AssignTarget):
            begin, end = self.places.span(node)
            base = self.places.span(node.value)[1]
            simple = isinstance(
                above,
                cst.If
                | cst.While
                | cst.Assert
                | cst.BooleanOperation
                | cst.Assign
                | cst.Arg
                | cst.Return
                | cst.IfExp
                | cst.Element,
            )
            opening, closing = ("", "") if simple else ("(", ")")
            edits = [Edit(begin, begin, opening), Edit(base, end, f'.device.type != "cpu"{closing}')]
            if not opening:
                del edits[0]
            self._say(
                node,
                ".is_cuda",
                "renames",
                "automatic",
                "it asks for CUDA alone; a tensor's device is asked for by its type",
                "torch 2.13, torch.device",
                edits=edits,
            )

    def visit_Call(self, node: cst.Call) -> bool:
        match node.func:
            case cst.Name(("getattr" | "hasattr") as asking) if asking not in self.names.module and len(node.args) > 1:
                return self._asked_by_name(node, asking)
            case cst.Attribute(value, cst.Name(method)):
                base = self.names.resolve(value, self._around)
                if base is None or not base.startswith("torch"):
                    self._method(node, value, method, base)
        if (
            isinstance(node.func, cst.Subscript)
            and isinstance(node.func.value, cst.Name)
            and node.func.value.value in self._kernels
        ):
            rule = package_rule("triton")
            assert rule is not None
            self._say_rule(node, f"{node.func.value.value}[...]", rule)
        self._keywords(node)
        return True

    def _asked_by_name(self, node: cst.Call, asking: str) -> bool:
        """Say what `getattr(torch.cuda, ...)` asks for; a name that stands there is as good as written out."""
        base = self.names.resolve(node.args[0].value, self._around)
        if base is None or not base.startswith("torch"):
            return True
        asked = node.args[1].value
        name = asked.evaluated_value if isinstance(asked, cst.SimpleString) else None
        if isinstance(name, str):
            full = f"{base}.{name}"
            rule = torch_rule(full)
            if not full.startswith(("torch.cuda", "torch.backends.cud")):
                return True
            root = self._root()
            if (
                asking == "getattr"
                and len(node.args) == 2
                and rule is not None
                and rule.to
                and rule.name == full
                and rule.call in ("", "positional")
                and root
            ):
                self._use(node.args[0].value, True)
                self._say_rule(node, full, rule, [Edit(*self.places.span(node), root + rule.to.removeprefix("torch"))])
                return False
            self._use(node.args[0].value, False)
            self._unsure(
                node,
                f"{asking}({base}, {name!r})",
                "asked for by its name"
                if rule is None
                else f"asked for by its name; {rule.to or rule.instead or rule.why} stands for it",
            )
            return False
        if base.startswith("torch.cuda"):
            self._use(node.args[0].value, False)
            self._unsure(
                node,
                f"{asking}({base}, ...)",
                "the name is made up while it runs; torch.npu mirrors most of torch.cuda",
            )
            return False
        return True

    def _method(self, node: cst.Call, value: cst.BaseExpression, method: str, base: str | None) -> None:
        """Say what a method of something unknown is: `x.cuda()`, `x.double()`, `mask.nonzero()`."""
        func = cst.ensure_type(node.func, cst.Attribute)
        if base is None and method == "cuda":
            edits = self._moved(node, func, value)
            why = "it names CUDA; to() takes any device"
            if edits is None:
                self._unsure(
                    func.attr, ".cuda()", "what is asked for here is not clear; to() with a device stands for it"
                )
            else:
                self._say(func.attr, ".cuda()", "renames", "automatic", why, "torch 2.13, Tensor.to", edits=edits)
        elif base is None and method == "double" and not node.args:
            rule = torch_rule("torch.float64")
            assert rule is not None
            self._say_rule(func.attr, ".double()", rule)
        elif base is None and method in _SHAPE_METHODS:
            others = _OTHERS_METHODS.get(method)
            if others is None or not others.search(self._code(value)):
                rule = torch_rule(f"torch.{method}")
                assert rule is not None
                self._say_rule(func.attr, f".{method}()", rule)
        elif base is None and method == "pin_memory":
            self._say(
                func.attr,
                ".pin_memory()",
                "works",
                "none",
                "memory is pinned for the accelerator that is there",
                "torch 2.13, Tensor.pin_memory",
            )
        elif base is None and self.support is not None and (absent := self.support.absent_in_method(method)):
            self._absent(func.attr, f".{method}()", absent)
        name = self.names.resolve(func, self._around) or ""
        if method in _COLLECTIVES and (base is None or "distributed" in name) and node.args:
            self._collective(node, method)

    def _collective(self, node: cst.Call, method: str) -> None:
        """Say of a collective that it is given float64, which HCCL refuses."""
        for argument in node.args[:2]:
            code = self._code(argument.value)
            if _DOUBLE.search(code) or code in self._doubles[-1]:
                self._say(
                    node,
                    f"{method} of float64",
                    "none",
                    "hours",
                    "HCCL refuses float64",
                    "torch_npu 2.13.0, ProcessGroupHCCL",
                    "float32, or gloo on the host",
                )
                return

    def visit_Assign(self, node: cst.Assign) -> None:
        code = self._code(node.value)
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                name = target.target.value
                (self._doubles[-1].add if _DOUBLE.search(code) else self._doubles[-1].discard)(name)

    def _moved(self, node: cst.Call, func: cst.Attribute, value: cst.BaseExpression) -> list[Edit] | None:
        """Return the edits that make `to()` of `cuda()`."""
        arguments = node.args
        own = self._own_cuda and dotted(value) in ("self", "")
        if own or any(one.star for one in arguments) or any(dotted(one.value) == "None" for one in arguments):
            return None
        edits = [Edit(*self.places.span(func.attr), "to")]
        positional = [one for one in arguments if one.keyword is None]
        if len(positional) == 2:
            start = self.places.span(positional[1].value)[0]
            edits.append(Edit(start, start, "non_blocking="))
        if not positional and not any(one.keyword is not None and one.keyword.value == "device" for one in arguments):
            place = self._inside(node)
            quote = self._quote()
            edits.append(Edit(place, place, self.header.expression(place, quote) + (", " if arguments else "")))
        return edits

    def _quote(self) -> str:
        """Return a quotation mark that may stand here, which within an f-string is another one than the string's."""
        within = next((one for one in reversed(self._path) if isinstance(one, cst.FormattedString)), None)
        return "'" if within is not None and within.end.startswith('"') else '"'

    def _keywords(self, node: cst.Call) -> None:
        """Say what arguments of well-known names ask of CUDA."""
        called = dotted(node.func).rpartition(".")[2]
        for argument in node.args:
            if argument.keyword is None:
                continue
            name, value = argument.keyword.value, dotted(argument.value)
            text = argument.value.evaluated_value if isinstance(argument.value, cst.SimpleString) else ""
            match name, value or text:
                case "pin_memory", "True":
                    self._say(
                        argument,
                        "pin_memory=True",
                        "works",
                        "none",
                        "memory is pinned for the accelerator that is there",
                        "torch 2.13, DataLoader",
                    )
                case "tf32", "True":
                    self._say(
                        argument,
                        "tf32=True",
                        "precision",
                        "minutes",
                        "refused without a GPU; torch.npu.matmul.allow_hf32 is the Ascend's",
                        "transformers, TrainingArguments",
                    )
                case "torch_compile", "True":
                    rule = torch_rule("torch.compile")
                    assert rule is not None
                    self._say_rule(argument, "torch_compile=True", rule)
                case (("accelerator" | "gpus"), str(asked)) if asked == "gpu" or (
                    name == "gpus" and called.endswith("Trainer")
                ):
                    self._say(
                        argument,
                        f"{name}={asked or '...'}",
                        "differs",
                        "hours",
                        "Lightning has no accelerator npu of its own",
                        "lightning.pytorch.accelerators",
                        'accelerator="auto" with a package that brings one',
                    )
                case (("attn_implementation" | "_attn_implementation"), str(asked)) if asked.startswith(
                    "flash_attention"
                ):
                    self._say(
                        argument,
                        f'{name}="{asked}"',
                        "differs",
                        "minutes",
                        "the package flash_attn is CUDA's; sdpa goes to torch_npu's fused attention",
                        "transformers, attention",
                        'attn_implementation="sdpa"',
                    )
                case "optim", str(asked) if "apex" in asked or "bnb" in asked or "8bit" in asked:
                    self._say(
                        argument,
                        f'optim="{asked}"',
                        "none",
                        "minutes",
                        "an optimizer of apex or bitsandbytes",
                        "transformers, TrainingArguments",
                        'optim="adamw_torch" or "adamw_torch_npu_fused"',
                    )
                case "padding", ("True" | "longest"):
                    rule = torch_rule("torch.nn.utils.rnn.pad_sequence")
                    assert rule is not None
                    self._say_rule(argument, "padding to the longest", rule)

    def visit_Subscript(self, node: cst.Subscript) -> None:
        above = self._above()
        if isinstance(above, cst.AssignTarget | cst.AugAssign | cst.Del) or len(node.slice) != 1:
            return
        index = node.slice[0].slice
        if isinstance(index, cst.Index):
            compared = isinstance(index.value, cst.Comparison) and not any(
                isinstance(one.operator, cst.In | cst.NotIn) for one in index.value.comparisons
            )
            named = isinstance(index.value, cst.Name) and (
                index.value.value == "mask" or index.value.value.endswith("_mask")
            )
            if compared or named:
                rule = torch_rule("torch.nonzero")
                assert rule is not None
                self._say_rule(node, f"[{self._code(index)}]", rule)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        for decorator in node.decorators:
            full = (
                self.names.resolve(
                    decorator.decorator.func if isinstance(decorator.decorator, cst.Call) else decorator.decorator,
                    self._around,
                )
                or ""
            )
            if full.startswith("triton."):
                self._kernels.add(node.name.value)

    # -------------------------------------------------------------------------------------------- strings

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        value = node.evaluated_value
        if (
            not isinstance(value, str)
            or strings.is_docstring(self._path)
            or isinstance(self._above(), cst.ConcatenatedString)
        ):
            return
        begin, end = self.places.span(node)
        if value.startswith("cuda") and strings.BACKEND.fullmatch(value) and "nccl" in value:
            text = f"{node.prefix}{node.quote}{value.replace('cuda', 'npu').replace('nccl', 'hccl')}{node.quote}"
            self._say(
                node,
                f'"{value}"',
                "renames",
                "automatic",
                "the backend of an Ascend is hccl",
                "torch_npu 2.13.0, torch.distributed",
                edits=[Edit(begin, end, text)],
            )
        elif value == "cuda" or strings.NUMBERED.fullmatch(value):
            self._device(node, value, begin, end)
        elif value == "nccl":
            self._backend(node, begin, end)
        elif strings.VARIABLE.fullmatch(value):
            self._variable(node, value, begin, end)
        elif strings.TENSOR_TYPE.fullmatch(value):
            at = self.text.index("cuda", begin)
            self._say(
                node,
                f'"{value}"',
                "renames",
                "automatic",
                "torch_npu has the same types",
                "torch_npu 2.13.0, torch.npu",
                edits=[Edit(at, at + 4, "npu")],
            )
        elif strings.INTERFACE.fullmatch(value):
            self._unsure(node, f'"{value}"', "a name of torch's CUDA interfaces in a string")
        elif strings.SOURCE.search(value):
            rule = torch_rule("torch.utils.cpp_extension.CUDAExtension")
            assert rule is not None
            self._say_rule(node, "CUDA source in a string", rule)
        elif "nvidia-smi" in value or "nvcc" in value.split():
            self._say(
                node,
                "nvidia-smi" if "nvidia-smi" in value else "nvcc",
                "differs",
                "minutes",
                "a program of NVIDIA's driver",
                "CANN, npu-smi",
                "npu-smi info, with options and output of its own",
            )
        elif "cuda_time" in value and " " not in value:
            self._say(
                node,
                f'"{value}"',
                "differs",
                "minutes",
                "a column of torch's profiler that an Ascend does not fill",
                "torch_npu 2.13.0, torch_npu.profiler",
                "torch_npu.profiler, whose results MindStudio shows",
            )
        elif (
            found := re.search(
                r"\b(CUDA_VISIBLE_DEVICES|PYTORCH_CUDA_ALLOC_CONF|CUDA_LAUNCH_BLOCKING|NCCL_\w+)=", value
            )
        ) is not None:
            self._unsure(node, found[1], "an environment variable within a text")
        elif re.search(r"(^|\s)cuda:\d", value) and " " not in value.strip():
            self._unsure(node, f'"{value}"', "a device within a text")

    def _device(self, node: cst.SimpleString, value: str, begin: int, end: int) -> None:
        if value == "cuda" and not strings.is_device_here(self._path):
            if (
                isinstance(self._above(), cst.Arg)
                and isinstance(self._above(2), cst.Call)
                and dotted(cst.ensure_type(self._above(2), cst.Call).func).endswith("skipif")
            ):
                return
            self._unsure(node, '"cuda"', "whether this is a device is not seen here")
            return
        rest = value[4:]
        quote, raw = node.quote, "r" in node.prefix.lower()
        if not self.header.named(begin):
            edits = [Edit(begin, end, f"{node.prefix}{quote}npu{rest}{quote}")]
        elif not rest:
            edits = [Edit(begin, end, str(self.header.name))]
        elif "{" in rest or raw:
            edits = [Edit(begin, end, f"({self.header.name} + {quote}{rest}{quote})")]
        else:
            edits = [Edit(begin, end, f"f{quote}{{{self.header.name}}}{rest}{quote}")]
        self._say(
            node,
            f'"{value}"',
            "renames",
            "automatic",
            "a device of CUDA; the accelerator that is there is asked for its type",
            "torch 2.13, torch.accelerator",
            edits=edits,
        )

    def _backend(self, node: cst.SimpleString, begin: int, end: int) -> None:
        if not strings.is_backend_here(self._path):
            self._unsure(node, '"nccl"', "whether this is a backend is not seen here")
            return
        root = self._root()
        if self.header.named(begin) and root is not None:
            text = f"{root}.distributed.get_default_backend_for_device({self.header.name})"
        else:
            text = f"{node.quote}hccl{node.quote}"
        self._say(
            node,
            '"nccl"',
            "renames",
            "automatic",
            "the backend that belongs to the accelerator: hccl on an Ascend",
            "torch 2.13, torch.distributed.get_default_backend_for_device",
            edits=[Edit(begin, end, text)],
        )

    def _variable(self, node: cst.SimpleString, value: str, begin: int, end: int) -> None:
        if (rule := variable_rule(value)) is not None:
            at = self.text.index(value, begin) if rule.to else 0
            self._say_rule(node, value, rule, [Edit(at, at + len(value), rule.to)] if rule.to else ())

    def visit_FormattedString(self, node: cst.FormattedString) -> None:
        first = node.parts[0] if node.parts else None
        if not isinstance(first, cst.FormattedStringText):
            return
        if first.value == "cuda:":
            begin = self.places.span(first)[0]
            named = self.header.named(begin)
            edits = [Edit(begin, begin + 4, f"{{{self.header.name}}}" if named else "npu")]
            self._say(
                node,
                'f"cuda:..."',
                "renames",
                "automatic",
                "a device of CUDA; the accelerator that is there is asked for its type",
                "torch 2.13, torch.accelerator",
                edits=edits,
            )
        else:
            code = self._code(node)
            if (found := re.search(r"\b(CUDA_VISIBLE_DEVICES|NCCL_\w+)=", code)) is not None:
                self._unsure(node, found[1], "an environment variable within a text")
            elif "nvidia-smi" in code:
                self._say(
                    node,
                    "nvidia-smi",
                    "differs",
                    "minutes",
                    "a program of NVIDIA's driver",
                    "CANN, npu-smi",
                    "npu-smi info, with options and output of its own",
                )
