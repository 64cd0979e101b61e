"""Agreement of `longcat mfu` with transformers, torch's counter, published figures and the logs' own counters.

    python benchmarks/mfu_agreement.py [--parts parameters figures] [--runs 9] [--json]

parameters  every public config.json of the tests: total parameters against transformers' model on the meta device
cards       those that transformers has no class for: total parameters against the model's card
flops       the same configs at their real width, cut to a few layers: FLOP of a step against FlopCounterMode on meta
small       every small copy in the tests of families: parameters, and FLOP of a step against FlopCounterMode
figures     every published figure of the tests: at most 1 % off in the source's own convention, or explained by name
logs        every log sample of the tests: tokens/s within 1 % of what the log's own counters say
startup     time of `longcat mfu` in a process that cannot import torch, beside transformers counting the same model

Prints a table and ends with status 1 if anything is off.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' configs, figures and samples

CONFIGS = ROOT / "tests/costs/families/configs"
LAYERS = 4
LIMIT_S = 0.5
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass
class Part:
    """What a part compared, and what was off."""

    checked: int = 0
    off: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def compare(self, name: str, ours: float, theirs: float, tolerance: float = 0.0) -> None:
        """Note a difference above the tolerance, a fraction of theirs."""
        self.checked += 1
        if abs(ours - theirs) > tolerance * theirs:
            self.off.append(f"{name}: {ours:,.6g} here, {theirs:,.6g} there ({ours / theirs - 1:+.2%})")


def public_configs() -> dict[str, dict[str, Any]]:
    """Read every public config.json of the tests."""
    from tests.benchmark.published import MODELS

    paths = [path for path in sorted(CONFIGS.glob("*.json")) if not path.name.startswith("expected")]
    found = {path.name: json.loads(path.read_text()) for path in paths}
    return found | {name: fields for name, fields in MODELS.items() if "model_type" in fields}


def theirs_too() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return family and fields of the text model of each config that transformers' own class describes."""
    from tests.costs.families import theirs
    from tests.costs.families.test_linear import OWN_CODE

    found = {name: theirs.text_of(values) for name, values in public_configs().items() if name not in OWN_CODE}
    return {name: (family, without(fields)) for name, (family, fields) in found.items() if theirs.known(family)}


def without(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not of the architecture."""
    kept = {name: value for name, value in fields.items() if name not in ("auto_map", "quantization_config")}
    if isinstance(letters := kept.get("sliding_window_pattern"), str):  # EXAONE's LLLG
        kept["sliding_window_pattern"] = len(letters)
    return kept


def parameters() -> Part:
    from longcat.costs.families import from_config
    from tests.costs.families import theirs

    part, configs = Part(), public_configs()
    for name, (family, fields) in theirs_too().items():
        part.compare(name, from_config(configs[name], name).total_parameters, theirs.parameters(family, fields))
    return part


def cards() -> Part:
    """Cards round to whole billions or cut off, and some leave a part out."""
    from longcat.costs.families import read_workload
    from tests.costs.families.test_published import agrees

    part, known = Part(), theirs_too()
    rows = [row for path in sorted(CONFIGS.glob("expected*.json")) for row in json.loads(path.read_text())]
    for row in rows:
        printed = row["published_total"]
        if row["file"] in known or printed is None:
            continue
        ours, tolerance = read_workload(CONFIGS / row["file"]).total_parameters, row.get("within", 0.01)
        same = abs(ours / printed - 1) <= tolerance or agrees(printed, ours, ours)
        part.compare(row["file"], printed if same else ours, printed)
    return part


def cut(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave a few layers of a model, in lists with an entry for each layer too."""
    name = next(name for name in LAYER_COUNTS if fields.get(name))
    layers = fields[name]

    def few(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: few(inner) for key, inner in value.items()}
        return value[:LAYERS] if isinstance(value, list) and len(value) == layers else value

    found = few(fields)
    if found.get("first_k_dense_replace"):
        found["first_k_dense_replace"] = 1
    return found | {name: min(LAYERS, layers)}


def length_of(family: str) -> int:
    """Return the tokens of a step: as many as DeepSeek-V4's window, and as one of its compressed keys may stand for."""
    return 128 if family == "deepseek_v4" else 32


def flops() -> Part:
    """Linear attention is left to `small`: transformers trains it in chunks, whose further products are known there."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from longcat.costs.families import from_config, linear
    from tests.costs.families import theirs

    part = Part()
    for name, (family, fields) in theirs_too().items():
        if family in linear.FAMILIES or family in theirs.TEXT_MODELS or theirs.SAME.get(family) in theirs.TEXT_MODELS:
            continue
        few, length = cut(fields), length_of(family)
        if family == "llama4_text":  # transformers multiplies each token by all experts
            few["num_experts_per_tok"] = few["num_local_experts"]
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                theirs.config_of(family, few), attn_implementation="eager", experts_implementation="batched_mm"
            )
            tokens, options = torch.zeros((1, length), dtype=torch.long), {}
            if family not in ("mpt", "bloom"):  # a mask of four axes is taken as it is
                options["position_ids"] = torch.arange(length)[None]
                options["attention_mask"] = torch.zeros(1, 1, length, length)
            try:
                with FlopCounterMode(display=False) as counter:
                    model(tokens, labels=tokens, use_cache=False, **options).loss.backward()
            except (NotImplementedError, RuntimeError) as error:  # depends on values, which there are none of
                part.figures[f"{name} left to small"] = str(error).splitlines()[0][:40]
                continue
        ours = length * from_config({"model_type": family} | few, name).training_flops(length, "full")
        part.compare(name, ours, counter.get_total_flops(), 1e-6)
    return part


def small() -> Part:
    """Rotary angles are products too, of 0.5 % in such small copies."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from longcat.costs.families import from_config
    from tests.costs.families import test_dense, test_families, test_linear, test_softmax, theirs

    part = Part()
    plain = [case for case in test_families.CASES if case[0] != "longcat_flash"]  # its class keeps unused weights
    for family, fields in [*plain, *test_dense.CASES, *test_softmax.CASES]:
        padded = fields | ({"pad_token_id": 0} if "pad_token_id" not in fields else {})
        ours = from_config({"model_type": family} | fields)
        part.compare(f"{family}, parameters", ours.total_parameters, theirs.parameters(family, padded))
        length = length_of(family)
        if (fields.get("sliding_window") or length) >= length:  # eager attention does not cut windows out
            counted = theirs.training_flops(family, padded, length)
            part.compare(f"{family}, FLOP", length * ours.training_flops(length, "full"), counted, 0.005)
    for family, fields, extra in test_linear.CASES:
        _, model = test_linear.build(family, fields)
        ours = from_config({"model_type": family} | fields)
        part.compare(f"{family}, parameters", ours.total_parameters, sum(one.numel() for one in model.parameters()))
        tokens = torch.randint(0, 97, (1, test_linear.LENGTH))
        with FlopCounterMode(display=False) as counter:
            test_linear.loss_of(model, tokens).backward()
        counted = counter.get_total_flops() - sum(forward + backward for forward, backward in extra)
        part.compare(f"{family}, FLOP", test_linear.LENGTH * ours.training_flops(test_linear.LENGTH, "full"), counted)
    return part


def figures() -> Part:
    from tests.benchmark.published import TOLERANCE
    from tests.benchmark.published import figures as published

    part, sources, explained = Part(), set(), 0
    for figure in published():
        sources.add(figure.source.split(",")[0])
        explained += bool(figure.explained)
        name = f"{figure.source}: {figure.model}, {figure.convention}"
        part.compare(name, figure.ours, figure.printed, float("inf") if figure.explained else TOLERANCE)
    part.figures = {"sources": len(sources), "explained": explained}
    return part


def logs() -> Part:
    from tests.benchmark.logs.test_samples import EXPECTED, read

    part = Part()
    for row in EXPECTED:
        part.compare(row["file"], read(row).tokens_per_second, row["tokens_per_second"], 0.01)
    return part


COMMAND = [
    "mfu",
    "--device",
    "a100-80gb",
    "--devices",
    "8",
    "--tokens-per-second",
    "21000",
    "--sequence-length",
    "2048",
]
OURS = "import sys; sys.modules['torch'] = None; sys.argv = ['longcat', *{command!r}]; from longcat.cli import main; main()"
THEIRS = """
import json, torch, transformers
fields = json.load(open({path!r}))
config = transformers.AutoConfig.for_model(fields.pop('model_type'), **fields)
with torch.device('meta'):
    print(sum(one.numel() for one in transformers.AutoModelForCausalLM.from_config(config).parameters()))
"""


def startup(runs: int) -> Part:
    """Run both in turn, each in a process of its own."""
    import tempfile

    from tests.benchmark.published import MODELS

    part = Part()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(MODELS["Llama-2-7B"]))
        ours = OURS.format(command=[*COMMAND, "--model", str(path), "--json"])
        theirs = THEIRS.format(path=str(path))
        times: dict[str, list[tuple[float, float]]] = {ours: [], theirs: []}
        for _ in range(runs):
            for code, taken in times.items():
                begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                taken.append((time.perf_counter() - begin, processor))
    part.checked = runs
    for who, code in (("", ours), ("transformers_", theirs)):
        part.figures[f"{who}median_s"] = statistics.median(wall for wall, _ in times[code])
        part.figures[f"{who}processor_s"] = statistics.median(processor for _, processor in times[code])
    if part.figures["processor_s"] > LIMIT_S:  # other load on the machine hardly changes it
        part.off.append(f"longcat mfu takes {part.figures['processor_s']:.2f} s, more than {LIMIT_S} s")
    return part


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts: dict[str, Callable[[], Part]] = {
        "parameters": parameters, "cards": cards, "flops": flops, "small": small, "figures": figures, "logs": logs,
        "startup": lambda: startup(arguments.runs),
    }  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--runs", type=int, default=9, help="processes that are timed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every small copy
    results = {name: parts[name]() for name in arguments.parts}
    off = sum(len(part.off) for part in results.values())
    if arguments.json:
        print(json.dumps({name: asdict(part) for name, part in results.items()} | {"off": off}))
        return int(off > 0)
    for name, part in results.items():
        more = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float | int) else key for key, value in part.figures.items()
        )
        print(f"{name:<12}{part.checked:>5} checked {len(part.off):>4} off   {more}".rstrip())
        for line in part.off:
            print(f"    {line}")
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
