"""Calls and attributes of what is not known: methods of tensors, arguments with well-known names, indexing by masks."""

from __future__ import annotations

import re
from collections.abc import Callable

import libcst as cst

from longcat.port import strings
from longcat.port.findings import Edit
from longcat.port.header import ACCELERATORS, binds_accelerator
from longcat.port.interfaces import Interfaces
from longcat.port.names import dotted
from longcat.port.rules import known_rule, packages, torch_rule, variable_rule
from longcat.port.visiting import DOUBLE

_COLLECTIVES = {
    "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor", "broadcast", "reduce",
    "all_to_all", "all_to_all_single", "send", "recv", "isend", "irecv", "gather", "scatter",
}  # fmt: skip
_SHAPE_METHODS = {"nonzero", "unique", "unique_consecutive", "masked_select", "argwhere", "bincount"}
_OTHERS_METHODS = {"unique": re.compile(r"(?i)df|frame|series|column|pd|\bnp\b"), "nonzero": re.compile(r"\bnp\b")}


_NEVER_NONE = {
    "int", "len", "min", "max", "str", "device", "current_device", "device_count", "get_rank", "get_node_local_rank", "index",
    "format",
}  # fmt: skip
"""Functions whose results are devices or numbers of devices, and never None."""
_OF_TO = {"device", "non_blocking", "memory_format"}
"""Names of arguments that `cuda()` and `to()` both take."""
_THROUGH = re.compile(r"\.torch\.cuda(\.\w+)+")


class Calls(Interfaces):
    """Sees calls, attributes and indexing."""

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        unknown = super().visit_Attribute(node)
        if unknown:
            self._attribute(node)
        return unknown

    def _attribute(self, node: cst.Attribute) -> None:
        """Say what an attribute of something unknown is: `x.is_cuda`."""
        above, name = self._above(), node.attr.value
        if not isinstance(above, cst.Attribute) and (found := _THROUGH.search(dotted(node))) is not None:
            self._unsure(node, found[0][1:], "torch is reached through something else here")
        if name == "is_cuda" and not self._is_target():
            if self._own_is_cuda and dotted(node.value) == "self":
                self._unsure(node, ".is_cuda", "this module has an is_cuda of its own")
                return
            begin = self.places.span(node)[0]
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
                | cst.Element
                | cst.NamedExpr,
            )
            opening, closing = ("", "") if simple or node.lpar else ("(", ")")
            asked = f"device.type == {self._accelerator(begin)}{closing}"
            edits = [Edit(begin, begin, opening)] if opening else []
            edits.append(Edit(*self.places.span(node.attr), asked))
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
                if method in _COLLECTIVES and (base is None or base.startswith("torch.distributed")) and node.args:
                    self._collective(node, method)
        if (
            isinstance(node.func, cst.Subscript)
            and isinstance(node.func.value, cst.Name)
            and node.func.value.value in self._kernels
        ):
            rule = packages()["triton"]
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
                and "#" not in self._code(node)
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
            rule = known_rule("torch.float64")
            self._say_rule(func.attr, ".double()", rule)
        elif base is None and method in _SHAPE_METHODS:
            others = _OTHERS_METHODS.get(method)
            if others is None or not others.search(self._code(value)):
                rule = known_rule(f"torch.{method}")
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

    def _collective(self, node: cst.Call, method: str) -> None:
        """Say of a collective that it is given float64, which HCCL refuses."""
        for argument in node.args[:2]:
            code = self._code(argument.value)
            if DOUBLE.search(code) or code in self._doubles[-1]:
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

    def visit_Assign(self, node: cst.Assign) -> bool:
        if binds_accelerator(node, self.text, self.places):
            return False
        if self._has_doubles:
            self._noted_doubles(node)
        return True

    def _noted_doubles(self, node: cst.Assign) -> None:
        code = self._code(node.value)
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                name = target.target.value
                (self._doubles[-1].add if DOUBLE.search(code) else self._doubles[-1].discard)(name)

    def _moved(self, node: cst.Call, func: cst.Attribute, value: cst.BaseExpression) -> list[Edit] | None:
        """Return the edits that make `to()` of `cuda()`."""
        arguments = node.args
        own = self._own_cuda and dotted(value) in ("self", "")
        if own or any(one.star or (one.keyword and one.keyword.value not in _OF_TO) for one in arguments):
            return None
        edits = [Edit(*self.places.span(func.attr), "to")]
        # a storage, as map_location is given, takes its device by name
        device = "device=" if "storage" in dotted(value) else ""
        positional = [one for one in arguments if one.keyword is None]
        if len(positional) == 2:
            start = self.places.whole(positional[1].value)[0]
            edits.append(Edit(start, start, "non_blocking="))
        given = next((one for one in arguments if one.keyword is not None and one.keyword.value == "device"), None)
        given = given or next(iter(positional), None)
        place = self._inside(node)
        if given is None:
            edits.append(Edit(place, place, device + self._accelerator(place) + (", " if arguments else "")))
            return edits
        filled = self._without_none(given.value)
        if filled is None:
            return None
        if given.keyword is None and device:
            edits.append(Edit(place, place, device))
        return edits + filled

    def _without_none(self, value: cst.BaseExpression, tested: str = "") -> list[Edit] | None:
        """Return the edits after which a device is never None, which `cuda()` takes for the current one, and `to()` for none.

        Args:
            value: the expression that is given for the device.
            tested: code of which it is known here that it is not None.

        Returns:
            No edits if it cannot be None; None if it is not seen how to write it.
        """
        begin, end = self.places.span(value)
        code = self.text[begin:end]
        if self._never_none(value):
            return []
        match value:
            case cst.Name("None"):
                return [Edit(begin, end, self._accelerator(begin))]
            case cst.IfExp(test, body, orelse):
                arms = self._without_none(body, _not_none(test, self._code)), self._without_none(orelse)
                return None if arms[0] is None or arms[1] is None else arms[0] + arms[1]
            case cst.BooleanOperation(operator=cst.Or(), right=right):
                return self._without_none(right)
            case cst.Name() | cst.Attribute() | cst.Subscript() if code == tested:
                return []
            case cst.Name() | cst.Attribute() | cst.Subscript(cst.Name() | cst.Attribute()):
                if self.names.resolve(value, self._around) is not None:
                    return None
                inside = f"{code} if {code} is not None else {self._accelerator(end)}"
                return [Edit(begin, end, inside if self._is_argument(value) else f"({inside})")]
        return None

    def _never_none(self, value: cst.BaseExpression) -> bool:
        """Whether it is seen that an expression is not None, by what it is made of or what its name is assigned."""
        match value:
            case cst.Name("None"):
                return False
            case cst.Name(name):
                assigned = self.names.values(name, self._around) or []
                return bool(assigned) and all(
                    not isinstance(one, cst.Name) and self._never_none(one) for one in assigned
                )
            case cst.Call(called):
                full = self.names.resolve(called, self._around) or dotted(called)
                return full.rpartition(".")[2] in _NEVER_NONE
        return isinstance(value, cst.BaseNumber | cst.BaseString | cst.BinaryOperation | cst.UnaryOperation)

    def _is_argument(self, value: cst.BaseExpression) -> bool:
        """Whether an expression is an argument, as a whole, of the call that is visited."""
        return any(one.value is value for one in cst.ensure_type(self._path[-1], cst.Call).args)

    def _keywords(self, node: cst.Call) -> None:
        """Say what arguments of well-known names ask of CUDA."""
        called = dotted(node.func).rpartition(".")[2]
        for argument in node.args:
            if argument.keyword is None:
                continue
            name, value = argument.keyword.value, dotted(argument.value)
            if strings.VARIABLE.fullmatch(name):
                self._variable_by_keyword(argument.keyword, called)
            choices = strings.choices(argument.value)
            if name == "accelerator" and (asked := next((one for one in choices if one in ("gpu", "cuda")), "")):
                self._lightning(argument, f"accelerator={asked}")
            match name, value or next(iter(choices), ""):
                case (("pin_memory" | "dataloader_pin_memory"), "True"):
                    self._say(
                        argument,
                        f"{name}=True",
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
                    rule = known_rule("torch.compile")
                    self._say_rule(argument, "torch_compile=True", rule)
                case "gpus", _ if called.endswith("Trainer"):
                    self._lightning(argument, "gpus=...")
                case "padding", ("True" | "longest"):
                    rule = known_rule("torch.nn.utils.rnn.pad_sequence")
                    self._say_rule(argument, "padding to the longest", rule)

    def _variable_by_keyword(self, keyword: cst.Name, called: str) -> None:
        """Say what an environment variable is that an argument is named for: `dict(os.environ, NCCL_DEBUG="INFO")`."""
        rule = variable_rule(keyword.value)
        if rule is None:
            return
        if rule.to and called not in ("dict", "update"):
            self._unsure(keyword, keyword.value, "whether this is an environment variable is not seen here")
        else:
            self._say_rule(keyword, keyword.value, rule, [Edit(*self.places.span(keyword), rule.to)] if rule.to else ())

    def _lightning(self, argument: cst.Arg, what: str) -> None:
        self._say(
            argument,
            what,
            "differs",
            "hours",
            "Lightning has no accelerator npu of its own",
            "lightning.pytorch.accelerators",
            'accelerator="auto" with a package that brings one',
        )

    def visit_Subscript(self, node: cst.Subscript) -> None:
        above = self._above()
        if isinstance(above, cst.AssignTarget | cst.AugAssign | cst.Del) or len(node.slice) != 1:
            return
        index = node.slice[0].slice
        if isinstance(index, cst.Index):
            compared = isinstance(index.value, cst.Comparison) and not (
                any(isinstance(one.operator, cst.In | cst.NotIn) for one in index.value.comparisons)
                or any(
                    isinstance(one, cst.BaseString) or dotted(one) in ACCELERATORS
                    for one in (index.value.left, *(each.comparator for each in index.value.comparisons))
                )
            )
            named = isinstance(index.value, cst.Name) and (
                index.value.value == "mask" or index.value.value.endswith("_mask")
            )
            if compared or named:
                rule = known_rule("torch.nonzero")
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


def _not_none(test: cst.BaseExpression, code: Callable[[cst.CSTNode], str]) -> str:
    """Return the code of what cannot be None where a test holds: `rank` of `rank`, `rank >= 0` and `rank is not None`."""
    match test:
        case cst.Comparison(left, [cst.ComparisonTarget(cst.IsNot() | cst.NotEqual(), cst.Name("None"))]):
            return code(left)
        case cst.Comparison(left, [cst.ComparisonTarget(cst.LessThan() | cst.LessThanEqual())]):
            return code(left)
        case cst.Comparison(left, [cst.ComparisonTarget(cst.GreaterThan() | cst.GreaterThanEqual())]):
            return code(left)
        case cst.Name() | cst.Attribute() | cst.Subscript():
            return code(test)
    return ""
