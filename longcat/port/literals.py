"""Strings of a Python module: devices, backends, environment variables, sources of kernels."""

from __future__ import annotations

import re
from dataclasses import replace

import libcst as cst

from longcat.port import strings
from longcat.port.calls import Calls
from longcat.port.findings import Edit
from longcat.port.names import dotted
from longcat.port.rules import known_rule, packages, variable_rule


class Literals(Calls):
    """Sees strings."""

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        value = node.evaluated_value
        if not isinstance(value, str) or strings.is_docstring(self._path):
            return
        if any(isinstance(one, cst.Annotation) for one in self._path):
            self._annotation(node, value)
        if not isinstance(self._above(), cst.ConcatenatedString):
            self._text(node, value, node.prefix, node.quote)

    def visit_ConcatenatedString(self, node: cst.ConcatenatedString) -> None:
        value = node.evaluated_value
        if isinstance(self._above(), cst.ConcatenatedString | cst.Expr):
            return
        begins = value if isinstance(value, str) else "".join(strings.choices(node.left))
        if strings.DEVICE.fullmatch(begins) and (
            value is None or strings.NUMBERED.fullmatch(begins) or begins == "cuda"
        ):
            self._unsure(node, self._code(node), "a device in several pieces")

    def _annotation(self, node: cst.SimpleString, value: str) -> None:
        """Say what a type in quotes has of CUDA's, and keep the imports that it needs."""
        for name in re.findall(r"(?<![\w.])\w+", value):
            self._use_name(name, False)
        if strings.INTERFACE.search(value) and not strings.INTERFACE.fullmatch(value):
            self._unsure(node, f'"{value}"', "a name of torch's CUDA interfaces in a string")

    def _text(self, node: cst.BaseString, value: str, prefix: str, quote: str) -> None:
        """Say what a text without fields is, written with a prefix and quotation marks."""
        begin, end = self.places.span(node)
        if value != "nccl" and strings.BACKEND.fullmatch(value) and "nccl" in value:
            text = f"{prefix}{quote}{value.replace('cuda', 'npu').replace('nccl', 'hccl')}{quote}"
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
            self._device(node, value, prefix, quote)
        elif value == "nccl":
            self._backend(node, quote)
        elif (found := strings.OPTION.fullmatch(value)) is not None:
            self._option(node, found, prefix)
        elif strings.OPTIMIZER.fullmatch(value) and not self._is_asked_for():
            rule = packages()["bitsandbytes" if "apex" not in value else "apex"]
            self._say_rule(
                node, f'"{value}"', replace(rule, effort="minutes", instead="adamw_torch, adamw_torch_npu_fused")
            )
        elif strings.ATTENTION.fullmatch(value) and not self._is_asked_for():
            self._say(
                node,
                f'"{value}"',
                "differs",
                "minutes",
                "the package flash_attn is CUDA's; sdpa goes to torch_npu's fused attention",
                "transformers, attention",
                'attn_implementation="sdpa"',
            )
        elif strings.FAILURE.search(value) and strings.is_looked_for(self._path):
            self._failure(node, value)
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
        elif value == "is_cuda" and isinstance(self._above(), cst.Arg):
            self._unsure(node, '"is_cuda"', "asked for by its name; a tensor's device.type stands for it")
        elif strings.INTERFACE.fullmatch(value):
            self._unsure(node, f'"{value}"', "a name of torch's CUDA interfaces in a string")
        elif strings.LIBRARY.search(value):
            self._say_rule(node, value, known_rule("torch.cuda.cudart"))
        elif value == "CUDA" and self._registers_operators():
            self._say(
                node,
                '"CUDA"',
                "differs",
                "hours",
                "a kernel is registered for CUDA alone; an Ascend's dispatch key is PrivateUse1",
                "torch 2.13, torch.library",
            )
        elif strings.SOURCE.search(value):
            rule = known_rule("torch.utils.cpp_extension.CUDAExtension")
            self._say_rule(node, "CUDA source in a string", rule)
        elif "nvidia-smi" in value or value == "nvcc":
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

    def _registers_operators(self) -> bool:
        """Whether what is visited is an argument by which a kernel is registered with the dispatcher."""
        call = next((one for one in reversed(self._path) if isinstance(one, cst.Call)), None)
        return call is not None and dotted(call.func).rpartition(".")[2] in ("impl", "Library", "register_kernel")

    def _is_asked_for(self) -> bool:
        """Whether a text is compared, or is a key, so that it chooses nothing."""
        above = self._above()
        return isinstance(above, cst.Comparison | cst.ComparisonTarget | cst.SubscriptElement | cst.Index) or (
            isinstance(above, cst.DictElement) and above.key is self._path[-1]
        )

    def _failure(self, node: cst.BaseString, value: str) -> None:
        """Say of a text that is looked for in the message of an error, and is CUDA's."""
        place = self._code(node).find("CUDA out of memory")
        asked = isinstance(self._above(), cst.Comparison) and place >= 0
        at = self.places.span(node)[0] + place
        self._say(
            node,
            f'"{value}"',
            "renames" if asked else "differs",
            "automatic" if asked else "minutes",
            'an Ascend\'s message begins with another word: "NPU out of memory"'
            if place >= 0
            else "a message of CUDA's libraries",
            "torch_npu 2.13.0, NPUCachingAllocator",
            "except torch.OutOfMemoryError" if place >= 0 else "what torch_npu says of the same failure",
            edits=[Edit(at, at + len("CUDA "), "")] if asked else (),
        )

    def _device(self, node: cst.BaseString, value: str, prefix: str, quote: str) -> None:
        begin, end = self.places.span(node)
        if isinstance(self._above(), cst.MatchValue):
            self._case(node, value)
            return
        call = next((one for one in reversed(self._path) if isinstance(one, cst.Call)), None)
        called = self.names.resolve(call.func, self._around) if call is not None else None
        owner = (called or "").partition(".")[0]
        if owner in strings.OTHERS_DEVICES:
            if self._above_argument() != "accelerator":  # which is said with the argument
                self._unsure(node, f'"{value}"', f"{owner} has names of its own for devices")
            return
        if self._above_argument() == "accelerator":
            return
        if self._beside(node, value, "npu"):
            return
        given = (
            called is not None and called.startswith("torch.") and called.rpartition(".")[2] in strings.TAKES_DEVICES
        )
        if value == "cuda" and not strings.is_device_here(self._path) and not (given and self._is_argument_of(call)):
            if (
                isinstance(self._above(), cst.Arg)
                and isinstance(self._above(2), cst.Call)
                and dotted(cst.ensure_type(self._above(2), cst.Call).func).endswith("skipif")
            ):
                return
            self._unsure(node, '"cuda"', "whether this is a device is not seen here")
            return
        rest = value[4:]
        raw = "r" in prefix.lower()
        if not self._named_here(begin):
            edits = [Edit(begin, end, f"{prefix}{quote}npu{rest}{quote}")]
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

    def _is_argument_of(self, call: cst.Call | None) -> bool:
        """Whether what is visited is, as a whole, an argument of a call."""
        return isinstance(self._above(), cst.Arg) and self._above(2) is call

    def _option(self, node: cst.BaseString, found: re.Match[str], prefix: str) -> None:
        """Rewrite an option with its value that is a word of a command: `"--device=cuda"`."""
        begin, end = self.places.span(node)
        old, new = ("cuda", "npu") if found[1] else ("nccl", "hccl")
        at = self.text.find(f"={old}", begin, end) + 1
        if not at:
            self._unsure(node, f'"{found[0]}"', "an option that is written in another way")
        elif found[1] and not prefix and self._named_here(begin):
            edits = [Edit(begin, begin, "f"), Edit(at, at + 4, f"{{{self.header.name}}}")]
            self._say(node, f'"{found[0]}"', "renames", "automatic", "a device of CUDA", "torch 2.13", edits=edits)
        else:
            why = "a device of CUDA" if found[1] else "the backend of an Ascend is hccl"
            edits = [Edit(at, at + 4, new)]
            self._say(node, f'"{found[0]}"', "renames", "automatic", why, "torch_npu 2.13.0", edits=edits)

    def _beside(self, node: cst.BaseString, value: str, other: str) -> bool:
        """Let a type of literals have the Ascend's beside CUDA's, as a type takes no name; return whether it is one."""
        above = self._above(3) if len(self._path) > 3 else None
        if not isinstance(above, cst.Subscript) or dotted(above.value).rpartition(".")[2] != "Literal":
            return False
        texts = {text for one in above.slice for text in strings.choices(cst.ensure_type(one.slice, cst.Index).value)}
        new = value.replace("cuda", other).replace("nccl", other)
        if new in texts:
            return True
        if not texts & strings.HOSTS:
            return False
        end = self.places.span(node)[1]
        code = self._code(node).replace(value, new)
        why = "a type has no names as its values, so that the Ascend's stands beside it"
        self._say(
            node, f'"{value}"', "renames", "automatic", why, "torch_npu 2.13.0", edits=[Edit(end, end, f", {code}")]
        )
        return True

    def _above_argument(self) -> str:
        """Return the name of the argument that what is visited is given for, also as one of two choices."""
        for one in reversed(self._path[:-1]):
            if isinstance(one, cst.Arg):
                return one.keyword.value if one.keyword is not None else ""
            if not isinstance(one, cst.IfExp | cst.BooleanOperation):
                break
        return ""

    def _case(self, node: cst.BaseString, value: str) -> None:
        """Let a case for CUDA be one for an Ascend, too: a pattern can be no name."""
        other = self._code(node).replace("cuda", "npu", 1)
        either = self._above(3)
        if isinstance(either, cst.MatchOr) and any(self._code(one.pattern) == other for one in either.patterns):
            return
        end = self.places.span(node)[1]
        self._say(
            node,
            f'case "{value}"',
            "renames",
            "automatic",
            "a device of CUDA; a pattern takes no name, so that the Ascend's stands beside it",
            "torch_npu 2.13.0",
            edits=[Edit(end, end, f" | {other}")],
        )

    def _backend(self, node: cst.BaseString, quote: str) -> None:
        begin, end = self.places.span(node)
        if self._beside(node, "nccl", "hccl"):
            return
        if not strings.is_backend_here(self._path):
            self._unsure(node, '"nccl"', "whether this is a backend is not seen here")
            return
        root = self._root()
        if self._named_here(begin) and root is not None:
            text = f"{root}.distributed.get_default_backend_for_device({self.header.name})"
        else:
            text = f"{quote}hccl{quote}"
        self._say(
            node,
            '"nccl"',
            "renames",
            "automatic",
            "the backend that belongs to the accelerator: hccl on an Ascend",
            "torch 2.13, torch.distributed.get_default_backend_for_device",
            edits=[Edit(begin, end, text)],
        )

    def _variable(self, node: cst.BaseString, value: str, begin: int, end: int) -> None:
        if (rule := variable_rule(value)) is not None:
            at = self.text.index(value, begin) if rule.to else 0
            self._say_rule(node, value, rule, [Edit(at, at + len(value), rule.to)] if rule.to else ())

    def visit_FormattedString(self, node: cst.FormattedString) -> None:
        first = node.parts[0] if node.parts else None
        if not isinstance(first, cst.FormattedStringText):
            return
        if len(node.parts) == 1 and not re.search(r"[{}\\]", first.value):
            prefix = node.start.rstrip("\"'").replace("f", "").replace("F", "")
            self._text(node, first.value, prefix, node.end)
        elif first.value == "cuda:":
            begin = self.places.span(first)[0]
            named = self._named_here(begin)
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
