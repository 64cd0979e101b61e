"""Names that are known by their imports: interfaces of torch, packages, operators, and what stands for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import libcst as cst

from longcat.port.findings import Edit, Finding
from longcat.port.imports import Imports
from longcat.port.rules import Rule, known_rule, package_rule, torch_rule

_POSITIONAL = {"autocast": ("enabled", "dtype", "cache_enabled")}
"""Names of arguments that may be given by their place, and may not where the device comes first."""
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
    "fsdp",
}


class Interfaces(Imports):
    """Sees names that stand for something of torch or of a package."""

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        full = self.names.resolve(node, self._around)
        if full is None:
            return True
        self._name(node, full)
        return False

    def visit_Name(self, node: cst.Name) -> None:
        above = self._above()
        if isinstance(above, cst.Param | cst.FunctionDef | cst.ClassDef | cst.AssignTarget | cst.ImportAlias):
            return
        if (isinstance(above, cst.Attribute) and above.attr is node) or (
            isinstance(above, cst.Arg) and above.keyword is node
        ):
            return
        if self._is_target():
            self._use(node, False)
            return
        full = self.names.resolve(node, self._around)
        if full is not None and "." in full:
            self._name(node, full)

    def _name(self, node: cst.Name | cst.Attribute, full: str) -> None:
        """Say what a name that is known stands for here, and rewrite it."""
        above = self._above()
        call = above if isinstance(above, cst.Call) and above.func is node else None
        if full.partition(".")[0] != "torch":
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
        if rule.name in ("torch.float64", "torch.double") and depth:
            return
        if rule.to and self._in_script():
            self._use(node, False)
            self._unsure(node, full, f"TorchScript compiles this function, and knows no {rule.to}")
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
        if root is None or "#" in self.text[begin:end]:
            return None
        edits = [Edit(begin, end, root + rule.to.removeprefix("torch"))]
        accelerator = self._accelerator(begin)
        if rule.call == "value":
            return [replace(edits[0], text=f"{edits[0].text}({accelerator})")] if call is None else None
        if rule.call in ("", "positional"):
            if call is not None and rule.call:
                for argument in call.args:
                    if argument.star:
                        return None
                    if argument.keyword is not None:
                        if argument.keyword.value not in ("device", "peer_device"):
                            return None
                        named = self.places.span(argument.keyword)[0], self.places.whole(argument.value)[0]
                        if "#" in self.text[slice(*named)]:
                            return None
                        edits.append(Edit(*named, ""))
            return edits
        if call is None:
            if rule.call == "device_type" and decorator:
                return [replace(edits[0], text=f"{edits[0].text}(device_type={accelerator})")]
            return edits if rule.to.endswith(("GradScaler", "autocast")) and self._is_type() else None
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
            start = self.places.whole(argument.value)[0]
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
        return self.text.index("(", self.places.whole(call.func)[1]) + 1

    def _operator(self, node: cst.CSTNode, full: str, call: cst.Call | None) -> None:
        """Say of an operator that torch_npu does not register it, or what its results cost."""
        if full == "torch.where" and call is not None and len(call.args) == 1:
            rule = known_rule("torch.nonzero")
            self._say_rule(node, full, rule)
        parts = full.split(".")
        if parts[:2] == ["torch", "ops"] and len(parts) > 3 and parts[2] not in _KNOWN_OPS:
            rule = known_rule("torch.ops.load_library")
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
