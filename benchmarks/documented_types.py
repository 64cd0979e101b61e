"""Types of tensors that the documentation of torch_npu's operators names, as `longcat/emulator/documented_types.json` has them.

    longcat emulate -- python benchmarks/documented_types.py OP_PLUGIN [--write]

OP_PLUGIN is a checkout of op-plugin, whose `docs/zh/custom_APIs` is read beside the wheel's own texts. An argument has the
types that any text names for any product; one for which a text names a type that torch has not (int4, float8) is left
out. Prints the table, or with `--write` puts it into its place. Runs under the emulator, whose wheel knows the operators.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch_npu

from longcat.emulator.documented import TABLE
from longcat.emulator.kernels import full_name, schema
from longcat.emulator.reference import DIFFERENTIABLE, REFERENCES

_TYPES = {
    "half": "float16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32", "double": "float64",
}  # fmt: skip
_TYPE = re.compile(
    r"(?<![A-Za-z0-9_.])(?:torch\.)?(bfloat16|bf16|float16|fp16|half|float32|fp32|float64|double|float|u?int(?:8|16|32|64)|bool|"
    r"complex64|complex128)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_INCOMPLETE = {
    "npu_grouped_matmul": ("scale", "per_token_scale"), "npu_grouped_matmul_swiglu_quant_v2": ("weight_scale", "x_scale"),
    "npu_clear_float_status": ("input",), "npu_get_float_status": ("input",),
    "npu_grouped_matmul_swiglu_quant": ("weight",), "npu_fused_causal_conv1d": ("weight", "bias"),
    "npu_quant_matmul": ("x2", "scale", "pertoken_scale"), "npu_add_quant_matmul_": ("x2",), "npu_sparse_lightning_indexer_grad_kl_loss": ("softmax_max", "softmax_sum"),
    "npu_fused_linear_cross_entropy_loss_with_max_sum_backward": ("weight",),
    "npu_bounding_box_encode": ("anchor_box", "ground_truth_box"), "npu_rotated_iou": ("input", "query_boxes"), "npu_rotated_overlaps": ("input", "query_boxes"),
    "npu_multi_head_attention": ("dropout_mask",),
}  # fmt: skip
"""Arguments of which the texts leave out what the wheel's meta kernel, another text or upstream's tests ask for, such as shared exponents."""
_LIKE_IN_SOME_CASES = {
    "npu_mm_all_reduce_base": ("x2", "antiquant_scale"), "npu_mm_reduce_scatter_base": ("bias", "x2"),
    "npu_moe_token_unpermute_with_routing_map": ("probs",),
}  # fmt: skip
"""Arguments that a text says to be of another's type, and then that they are not where something is quantised or bfloat16."""
_IN_OTHER_WORDS = (
    "npu_mhc_post",
    "npu_mhc_post_backward",
    "npu_transpose_batchmatmul",
    "npu_transpose_quant_batchmatmul",
)
"""Operators whose references refuse types in the wheel's own words."""
_OTHERS = ("int4", "int2", "float8", "fp8", "e8m0", "e4m3", "e5m2", "hif8", "float4", "fp4", "mxfp", "qint", "quint")
_LIKE = re.compile(r"(?:与|和|同)(?:输入|入参|参数)*[\s`“\"]*([A-Za-z][A-Za-z0-9_]*)")
_SENTENCE = re.compile(r"(?:类型|dtype)[^。；;\n]*")
_ARGUMENT = re.compile(
    r"^[-*“\"]*\s*(?:\*\*|<strong>)?\s*(?P<kind>Tensor\??\s+)?`?(?P<name>[A-Za-z]\w*)`?\s*(?:\*\*|</strong>)?”?\s*"
    r"(?:[（(](?P<type>[^)）]*)[)）])?\s*[：:](?P<text>.*)$"
)
Texts = dict[str, str]
"""What is said of each tensor among the arguments, in their order."""


def texts_of(lines: list[str]) -> Texts:
    """Take apart what a text says of its arguments; lines that are indented go on."""
    texts: Texts = {}
    current = None
    for line in lines:
        found = _ARGUMENT.match(line)
        if found is not None:
            is_tensor = "ensor" in (found["type"] if found["type"] is not None else line)
            current = found["name"] if found["kind"] or is_tensor else None
            if current is not None:
                texts[current] = found["text"]
        elif current is not None and line.strip():
            texts[current] += f"\n{line}"
    return texts


def of_the_wheel() -> Iterator[tuple[str, Texts]]:
    """Yield operators and what the wheel's own texts say."""
    source = (Path(torch_npu.__file__).parent / "_op_plugin_docs.py").read_text(encoding="utf-8")
    for name, text in re.findall(r'_add_torch_npu_docstr\(\s*"(\w+)",\s*r?"""(.*?)"""', source, re.DOTALL):
        if "参数说明" in text:
            part = re.split("输出说明|返回值|约束说明", text.partition("参数说明")[2])[0]
            yield name, texts_of(part.splitlines())


def of_a_checkout(folder: Path) -> Iterator[tuple[str, Texts]]:
    """Yield operators and what the pages of a checkout say."""
    for page in sorted(folder.rglob("*torch_npu-*.md")):
        sections = re.split(r"^#+ *", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for section in sections:
            if section.startswith("参数说明"):
                yield page.stem.partition("torch_npu-")[2], texts_of(section.splitlines()[1:])


def like_in(text: str, tensors: list[str]) -> set[str]:
    """Return `=` and the name of the tensor whose type a text says to be this one's; nothing if it says none."""
    for clause in re.split(r"[。；;，,\n]", text):
        if "类型" in clause and ("一致" in clause or "相同" in clause):
            named = ("input" if name == "self" and "input" in tensors else name for name in _LIKE.findall(clause))
            if other := next((name for name in named if name in tensors), None):
                return {f"={other}"}
    return set()


def types_in(text: str) -> set[str] | None:
    """Return the types that a text names; None if there are some that torch has not."""
    if any(other in text.lower() for other in _OTHERS):
        return None
    named = {found.lower() for part in _SENTENCE.findall(text) for found in _TYPE.findall(part)}
    return {_TYPES.get(name, name) for name in named}


def tensors_of(name: str) -> list[str]:
    """Return the tensors among the arguments of all overloads that have references, in the order of the first."""
    names = {}
    for one in {**REFERENCES, **DIFFERENTIABLE}:
        full = full_name(one)
        if (
            full is not None
            and full.partition("::")[2].partition(".")[0] == name
            and (found := schema(full)) is not None
        ):
            names |= {argument.name: None for argument in found.arguments if "Tensor" in str(argument.type)}
    return list(names)


def table(documented: Iterable[tuple[str, Texts]]) -> dict[str, dict[str, list[str]]]:
    """Return the types of each operator's tensors, as far as its texts name them."""
    found: dict[str, dict[str, set[str] | None]] = {}
    like: dict[tuple[str, str], set[str]] = {}
    for name, texts in documented:
        tensors = tensors_of(name)
        for place, (argument, text) in enumerate(() if name in _IN_OTHER_WORDS else texts.items()):
            if argument == "self" and "input" in tensors:  # as the wheel's schemas have it
                argument = "input"
            if argument not in tensors and len(texts) == len(tensors) and tensors[place] not in texts:
                argument = tensors[place]  # it is documented under another name
            if argument in tensors and argument not in _INCOMPLETE.get(name, ()):
                of_operator, types = found.setdefault(name, {}), types_in(text)
                before = of_operator.get(argument, set())
                of_operator[argument] = None if types is None or before is None else before | types
                other = set() if argument in _LIKE_IN_SOME_CASES.get(name, ()) else like_in(text, tensors)
                like[name, argument] = like.get((name, argument), other) & other  # as all texts have it
    named = {
        name: {
            one: sorted(every) for one, types in of.items() if types is not None and (every := types | like[name, one])
        }
        for name, of in found.items()
    }
    return {name: named[name] for name in sorted(named) if named[name]}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = options.checkout / "docs" / "zh" / "custom_APIs"
    if not folder.is_dir():
        parser.error(f"{options.checkout} is no checkout of op-plugin: there is no {folder}")
    documented = (*of_the_wheel(), *of_a_checkout(folder))
    rows = [f'"{name}": {json.dumps(types)}' for name, types in table(documented).items()]
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    if options.write:
        TABLE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
