"""Every field of every family, missing, null and wrong: one line that names file and field, never anything else."""

import ast
import importlib
import math
import tracemalloc
from pathlib import Path

import pytest

import longcat.costs.families
from longcat.costs.families import FAMILIES, from_config
from longcat.costs.families.fields import complete
from longcat.errors import ConfigError
from tests.costs.families.test_dense import REMOTE

PLAIN = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "vocab_size_per_layer_input": 97,
}  # fmt: skip
MIXTURE = {
    "num_experts": 8, "num_shared_experts": 1, "layer_group_size": 3, "q_lora_rank": 20, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12, "v_head_dim": 10, "attention_q_lora_dim": 20, "attention_kv_lora_dim": 16,
    "attention_qk_rope_dim": 8, "attention_qk_dim": 12, "attention_v_dim": 10, "num_dense_layers": 1,
    "share_q_dim": 20, "share_expert_dim": 24, "moe_layers_enum": "2,3", "head_dim": 12,
}  # fmt: skip
EXAMPLES: dict[str, list[dict]] = {family: [] for family in FAMILIES}
for path in sorted(Path(__file__).parent.glob("test_*.py")):
    if path != Path(__file__):
        for row in getattr(importlib.import_module(f"tests.costs.families.{path.stem}"), "CASES", ()):
            if row[0] in FAMILIES:
                EXAMPLES[row[0]].append(row[1])
for fields, _ in REMOTE:
    EXAMPLES[fields["model_type"]].append(fields)
for family, fields in EXAMPLES.items():
    del fields[3:]
    if not fields:
        fields.append(PLAIN)
        try:
            from_config({"model_type": family} | PLAIN)
        except ConfigError:  # a mixture, or latent attention
            fields[0] = PLAIN | MIXTURE
"""Files of every family: those that are compared with transformers, or else one that will do for most."""
NAMES = sorted(
    {
        node.value
        for file in Path(longcat.costs.families.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    }
    - {"model_type", "architectures"}
)
"""Whatever may be a field of some family."""


class Spy(dict):
    """A file that remembers which of its fields were asked for, and whether it was copied."""

    def __init__(self, values):
        super().__init__(values)
        self.asked, self.copied = set(values), False

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name):
        self.asked.add(name)
        return super().__contains__(name)

    def keys(self):
        self.copied = True
        return super().keys()

    def items(self):
        self.copied = True
        return super().items()

    def __or__(self, other):
        self.copied = True
        return super().__or__(other)


def names_read(monkeypatch, examples):
    """Return the fields that a family reads: all that there are where its reader passes them on."""
    spies = []
    with monkeypatch.context() as patch:
        patch.setattr(
            longcat.costs.families, "complete", lambda *given: spies.append(Spy(complete(*given))) or spies[-1]
        )
        for fields in examples:
            from_config(fields)
    return NAMES if any(spy.copied for spy in spies) else sorted(set().union(*(spy.asked for spy in spies)) & {*NAMES})


WRONG_TYPE = (
    "seven",
    "",
    [],
    {},
    [[]],
    [{}],
    ["seven"],
    [None] * 6,
    {"0": 3},
    {"seven": {}},
    [[["x"], 1]],
    -1,
    [-1] * 6,
)
NUMBERS = (0, 1, True, False, 1.5, math.nan, math.inf, 10**9, 10**12, 10**30, 10**5000, [0] * 6, [10**9] * 6)
CUT = object()


def judged(fields):
    """Return what the error says, none where there is a workload that makes sense."""
    try:
        found = from_config(fields, "c.json")
        flops = found.training_flops(4096)
    except ConfigError as error:
        text = str(error)
        assert text.startswith("c.json: ") and "\n" not in text and len(text) < 600
        return text
    assert 0 < flops < math.inf and 0 < found.activated_parameters < math.inf
    assert isinstance(found.total_parameters, int) and found.total_parameters > 0
    return None


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.timeout(120)
def test_a_wrong_field_is_named(family, monkeypatch):
    examples = [{"model_type": family} | fields for fields in EXAMPLES[family]]
    names = names_read(monkeypatch, examples)
    assert len(names) > 4
    for whole in examples:
        for name in names:
            for value in (CUT, None, *WRONG_TYPE):
                changed = {key: one for key, one in whole.items() if key != name or value is not CUT}
                text = judged(changed if value is CUT else changed | {name: value})
                said = (
                    name.removeprefix("swa_"),
                    FAMILIES[family].names.get(name, name),
                    "layer_types",
                    "is more than",
                )  # depend on others
                assert text is None or any(one in text for one in said), (name, value)
            for value in NUMBERS:
                judged(whole | {name: value})


def corrupted(value):
    """Yield an object or a list with each thing within it missing and wrong."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        for wrong in (CUT, None, *WRONG_TYPE, *NUMBERS, *corrupted(one)):
            changed = dict(value) if isinstance(value, dict) else list(value)
            if wrong is CUT:
                del changed[key]
            else:
                changed[key] = wrong
            yield changed


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.timeout(120)
def test_a_wrong_field_within_another_is_refused(family):
    for fields in EXAMPLES[family]:
        for name, value in fields.items():
            for changed in corrupted(value):
                judged({"model_type": family} | fields | {name: changed})


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.timeout(120)
def test_a_huge_model_takes_no_memory(family):
    """A list of a thousand million layers would take all there is."""
    fields = EXAMPLES[family][0]
    for name in (
        *(one for one in fields if "layer" in one or one.startswith("num_")), "sliding_window", "vocab_size",
    ):  # fmt: skip
        tracemalloc.start()
        judged({"model_type": family} | fields | {name: 10**9})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6, name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "qwen33"}, ("c.json: model_type 'qwen33' is not known; the nearest known are qwen3",)),
        (
            {"model_type": "x", "architectures": ["Gemma3ForCausalLMs"]},
            ("model_type 'x' is not known, nor is architecture 'Gemma3ForCausalLMs'", "nearest known are gemma3_text"),
        ),
        (
            {"architectures": ["Step9ForCausalLM"]},
            ("architecture 'Step9ForCausalLM' is not known, and there is no model_type", "step3p"),
        ),
        ({"model_type": "zzz", "architectures": [{"a": 1}]}, ("'zzz' is not known; docs/benchmark.md lists",)),
        ({"model_type": {"a": [1]}}, ("model_type {'a': [1]} is not known",)),
        ({"model_type": "q" * 10**6}, ("is not known",)),
        ({}, ("model_type None is not known",)),
    ],
)
def test_an_unknown_family_is_told_in_one_line(fields, words):
    text = judged(PLAIN | fields)
    assert all(word in text for word in words)
    options = ("parameters N", "total-parameters T", "layers L", "hidden-size H", "vocabulary V", "attention-width")
    assert all(f"--{option}" in text for option in options)
    assert all(f"{matrix}" in text for matrix in ("attention", "feed-forward", "router", "experts", "head"))
