"""Files beside Python: scripts, Docker files, package lists, settings and CUDA sources, read line by line."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from longcat.port.findings import Edit, Finding, apply
from longcat.port.python_code import Analysis
from longcat.port.rules import Rule, installed, known_rule, torch_rule, variable_rule
from longcat.port.strings import VARIABLE

_CUDA_INDEX = re.compile(r"(download\.pytorch\.org/whl/(nightly/)?cu\d+|pypi\.nvidia\.com|pypi\.ngc\.nvidia\.com)\S*")
_LOCAL_VERSION = re.compile(r"\b(torch|torchvision|torchaudio)\s*==\s*[\d.]+\+cu\d+")
_REQUIREMENT = re.compile(r"""^\s*(?:-\s*)?["']?([A-Za-z][\w.-]*)(?=\s*(?:\[|[=<>!~;,"'\s#@]|$))""")
_IN_BRACKETS = re.compile(r"""["']([A-Za-z][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?:[=<>!~;][^"']*)?["']""")
_INSTALLED = re.compile(r"\b(?:pip3?|uv pip|conda|mamba)\s+install\s+([^&|;#\n]*)")
_IMAGE = re.compile(r"^\s*FROM\s+(?:--platform=\S+\s+)?(\S*(?:nvidia|nvcr\.io|cuda)\S*)", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^\s*#(SBATCH|PBS|BSUB|FLUX|OAR|COBALT|\$)(?=\s)")
"""Comment of a script that is an order to the scheduler."""
_SCHEDULED = re.compile(
    r"--(?:gres|gpus|gpus-per-\w+)[= ]\S*gpu\S*|--gpus(?:-per-\w+)?[= ]\S+|\b(?:ngpus|gpus_per_node)=\d+|(?<=\s)-gpu\s+\S+"
)
_CARDS = re.compile(
    r"(?:--(?:constraint|partition|gres|nodelist)[= ]|(?<=\s)-[Cp]\s+)\S*\b(?:[abhv]\d00|[ah]800|l40s?|l4|t4|p100|a10g?|a6000|rtx\w*)\b\S*",
    re.IGNORECASE,
)
_MODULE = re.compile(
    r"\b(?:module\s+(?:load|add|swap|try-load)|ml|spack\s+load)\s+[^;&|#\n]*\b(cuda|cudnn|nccl|nvhpc|cutensor)\b[^\s;&|]*"
)
_OPTION = re.compile(
    r"""((?:(?<![\w-])--(?=[\w-]*device)[\w-]++(?:=|[ \t]++)|(?<![\w.$-])\+{0,2}(?=[\w.]*?(?:device|map_location))[\w.]++=)["']?)(cuda)(?=(:\d+)?["']?([\s\\;,)\]}|&]|$))""",
    re.IGNORECASE,
)
_BACKEND_OPTION = re.compile(
    r"""((?:(?<![\w-])--(?=[\w-]*backend)[\w-]++(?:=|[ \t]++)|(?<![\w.$-])\+{0,2}(?=[\w.]*?backend)[\w.]++=)["']?)(nccl)\b""",
    re.IGNORECASE,
)
_LIGHTNING = re.compile(
    r"""(?:(?<![\w-])--[\w.-]*accelerator[= ]|(?<![\w.$-])\+{0,2}[\w.]*accelerator=)["']?(?:cuda|gpu)\b""",
    re.IGNORECASE,
)
_PER_NODE = re.compile(r"--nproc[-_]per[-_]node[= ](gpu)\b")
_LAUNCHER = re.compile(r"\baccelerate\s+launch\b.*?(--multi_gpu)\b|\bdeepspeed\b.*?(--num_gpus[= ]\S+)")
_PLUGIN = re.compile(
    r"""["']?\bnvidia\.com/[\w.-]+|\b(?:runtimeClassName|runtime|driver)["']?\s*[:=]\s*["']?nvidia\b"""
)
_IMAGE_SETTING = re.compile(
    r"""^\s*(?:-\s*)?["']?[\w-]*image["']?\s*[:=]\s*["']?(\S*(?:nvidia|nvcr\.io|cuda)[^\s"']*)""", re.IGNORECASE
)
_NUMBERED = re.compile(r"""(?<![\w/.:-])(cuda)(?=:(?:\d|1[0-5])(?![\w.]))""")
_COUNT = re.compile(r"""^\s*(?:-\s*)?["']?((?:num_|n_|n)?gpus?(?:_per_node|_ids)?)["']?\s*[:=]\s*["']?[\d\[-]""")
_CARD = re.compile(r"\bnvidia-smi\b")
_PROFILER = re.compile(r"(^|[\s;&|])(nsys|ncu|nvprof|nvcc|cuda-gdb|compute-sanitizer)\s")
_SETTING = re.compile(
    r"""^(\s*+(?:-\s*+)?["']?(?P<key>[\w.-]*)["']?\s*[:=]\s*+(?:&\w++\s++)?)(?P<quote>["']?)(?P<value>cuda(?::\d+)?|nccl|gpu)(?P=quote)(?=\s*(,|\}|#|$))"""
)
_ITEM = re.compile(
    r"""((?<![\w-])["']?(?P<key>(?=[\w-]*(?:device|map_location|backend|accelerator))[\w-]++)["']?\s*+[:=]\s*)(?P<quote>["']?)(?P<value>cuda(?::\d+)?|nccl|gpu)(?P=quote)(?=\s*[,}\]\s])"""
)
_PAIR = re.compile(
    r"""(?<![\w-])(--(?=[\w-]*(?:device|backend))[\w-]++)["']?[ \t\r]*+(?:,\s*+|\n\s*+-[ \t]++|\\\r?\n\s*+)["']?(cuda|nccl)(?=(?::\d+)?["']?(?:[,\]\s]|$))"""
)
"""An option and its value as two words of a list, as in a Docker file's CMD, or in two lines of a script."""
_KEPT = re.compile(
    r"""(?<!\w)(?=\w*?device)\w++(?::?-|["'}]*+\s*+[?:+!=]?==?\s*+["']?(?:\$\{\w++:?-)?)["']?(cuda)(?=[:"'}\s;*\])]|$)""",
    re.IGNORECASE,
)
"""A variable of a script or of Make that is given a device, or is compared with one."""
_INTERFACE = re.compile(r"(?<![\w.])torch\.cuda(?:\.\w+){1,8}(?P<empty>\(\))?")
_FLOW = re.compile(r"""(?<![\w.-])(?P<key>[\w.-]++)["']?\s*+[:=]\s*+\[(?P<items>[^\[\]{}]*+)\]""")
_FLOW_ITEM = re.compile(r"""(?:^|(?<=,))\s*+(["']?)(?P<value>cuda(?::\d+)?|nccl)\1\s*+(?=,|$)""")
_BLOCK_KEY = re.compile(r"""(?P<indent>\s*+(?:-\s++)*+)["']?(?P<key>[\w.-]++)["']?\s*+:(?=\s)(?P<value>\s*+\S)?""")
_BLOCK_ITEM = re.compile(r"""(?P<indent>\s*+)-\s++(["']?)(?P<value>cuda(?::\d+)?|nccl)\2\s*+$""")
_ENV = re.compile(r"""\s*ENV\s+(?P<key>\w+)\s+(["']?)(?P<value>cuda(?::\d+)?|nccl)\2\s*$""")
_SWITCH = re.compile(
    r"""^\s*["']?(?P<key>tf32|allow_tf32|attn_implementation|_attn_implementation|use_flash_attn\w*|optim)["']?\s*[:=]\s*["']?(?P<value>[\w.]+)"""
)
_NATIVE = re.compile(
    r"#include\s*[<\"](cuda|cublas|cudnn|nccl|thrust/|cub/|ATen/cuda|c10/cuda|torch/csrc/cuda)|__global__|find_package\(CUDA|enable_language\(CUDA|LANGUAGES\s+[^)]*CUDA|PYBIND11_MODULE\(TORCH_EXTENSION_NAME|TORCH_LIBRARY(_IMPL|_FRAGMENT)?\("
)


def analyse(text: str, file: str, kind: str) -> Analysis:
    """Find what belongs to CUDA in a file that is no Python, and rewrite environment variables, devices and backends.

    Args:
        text: the file.
        file: its name, for the findings.
        kind: what it is, see `longcat.port.files.kind_of`.
    """
    findings = list[Finding]()

    known = set[tuple[int, int]]()

    def say(number: int, begin: int, what: str, rule: Rule, edits: list[Edit]) -> None:
        if (number, begin) in known:
            return
        known.add((number, begin))
        findings.append(
            Finding(
                file, number, begin + 1, what, rule.kind, rule.effort, rule.why, rule.source, rule.instead, tuple(edits)
            )
        )

    offset = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        for look in _LOOKS[kind]:
            for begin, what, rule, edits in look(line):
                moved = [Edit(one.begin + offset, one.end + offset, one.text) for one in edits]
                say(number, begin, what, rule, moved)
        offset += len(line)
        if kind in ("cuda", "native") and findings:
            break  # one for the file
    if kind in _PARTS:
        lines = text.splitlines(keepends=True)
        starts = [0, *accumulate(map(len, lines))]
        for begin, what, rule, edits in _PARTS[kind]("".join(map(_blank_comment, lines))):
            number = bisect_right(starts, begin)
            say(number, begin - starts[number - 1], what, rule, edits)
        findings.sort(key=lambda one: (one.line, one.column))
    if kind == "cuda" and not findings:
        findings.append(_file(file))
    return Analysis(tuple(findings), apply(text, [edit for one in findings for edit in one.edits]))


_Look = Callable[[str], Iterator[tuple[int, str, Rule, list[Edit]]]]


def _file(file: str) -> Finding:
    rule = known_rule("torch.utils.cpp_extension.CUDAExtension")
    return Finding(file, 1, 1, "CUDA source", rule.kind, rule.effort, rule.why, rule.source, rule.instead)


def _said(kind: str, effort: str, why: str, source: str, instead: str = "") -> Rule:
    return Rule("", kind, effort, why, source, instead)


_SCHEDULERS = _said(
    "differs",
    "minutes",
    "the scheduler's name for an Ascend is its administrator's; a container gets /dev/davinci*",
    "Ascend Docker Runtime",
)
_DEVICES = _said("renames", "automatic", "a device of CUDA", "torch_npu 2.13.0")
_BACKENDS = _said("renames", "automatic", "the backend of an Ascend is hccl", "torch_npu 2.13.0")
_LIGHTNINGS = _said("differs", "minutes", "which names a program takes is its own", "lightning.pytorch.accelerators")
_IMAGES = _said(
    "differs",
    "hours",
    "an image with CUDA",
    "Ascend's images, quay.io/ascend",
    "quay.io/ascend/cann, with torch and torch-npu",
)


def _bare(line: str) -> str:
    """Return a line without its comment, at the same offsets; what is an order to a scheduler is none."""
    if _DIRECTIVE.match(line) is not None:
        return line
    found = re.search(r"(^|\s)#(?!!)", line)
    return line[: found.start()] if found else line


def _plain(text: str) -> str:
    """Return what is shown of an option and its value, without marks of quotation."""
    return re.sub(r"\s+", " ", text.replace('"', "").replace("'", "")).strip()


def _blank_comment(line: str) -> str:
    """Return a line with spaces in place of its comment."""
    bare = _bare(line)
    return bare + re.sub(r"[^\r\n]", " ", line[len(bare) :])


def _variables(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    for found in VARIABLE.finditer(_bare(line)):
        begin, end = found.span()
        if (begin and (line[begin - 1].isalnum() or line[begin - 1] in "_/.-")) or line[end : end + 1] == "-":
            continue
        if (rule := variable_rule(found[0])) is not None:
            yield begin, found[0], rule, [Edit(begin, end, rule.to)] if rule.to else []


def _commands(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    bare = _bare(line)
    for found in _OPTION.finditer(bare):
        yield found.start(2), _plain(found[1] + found[2]), _DEVICES, [Edit(*found.span(2), "npu")]
    for found in _BACKEND_OPTION.finditer(bare):
        yield found.start(2), _plain(found[1] + found[2]), _BACKENDS, [Edit(*found.span(2), "hccl")]
    for found in _CARD.finditer(bare):
        alone = re.fullmatch(r"\s*nvidia-smi\s*(\|\|\s*true\s*)?", bare) is not None
        rule = _said(
            "renames" if alone else "differs",
            "automatic" if alone else "minutes",
            "a program of NVIDIA's driver",
            "CANN, npu-smi",
            "npu-smi info, with options and output of its own",
        )
        yield found.start(), "nvidia-smi", rule, [Edit(*found.span(), "npu-smi info")] if alone else []
    for found in _PROFILER.finditer(bare):
        yield (
            found.start(2),
            found[2],
            _said("none", "minutes", "a tool of NVIDIA's", "CANN, msprof", "msprof, or torch_npu.profiler"),
            [],
        )
    for pattern in (_SCHEDULED, _CARDS):
        for found in pattern.finditer(bare):
            yield found.start(), found[0].strip(), _SCHEDULERS, []
    for found in _MODULE.finditer(bare):
        rule = _said("differs", "minutes", "a module of NVIDIA's libraries", "CANN, set_env.sh", "CANN's set_env.sh")
        yield found.start(1), found[1], rule, []
    for found in _PER_NODE.finditer(bare):
        why = "torchrun counts devices of CUDA for gpu, and those of the accelerator that is there for auto"
        rule = _said("renames", "automatic", why, "torch 2.13, torch.distributed.run")
        yield found.start(), found[0], rule, [Edit(*found.span(1), "auto")]
    for found in _LAUNCHER.finditer(bare):
        why = "the option counts the devices of the accelerator that is there"
        yield (
            found.start(found.lastindex or 0),
            found[found.lastindex or 0],
            _said("works", "none", why, "accelerate, DeepSpeed"),
            [],
        )
    for found in _INTERFACE.finditer(bare):
        name = found[0].removesuffix("()")
        named = torch_rule(name)
        if (
            named is not None
            and named.name == name
            and named.to
            and found["empty"]
            and named.call in ("", "positional")
        ):
            yield found.start(), name, named, [Edit(found.start(), found.start() + len(name), named.to)]
        else:
            rule = _said("unsure", "minutes", "a name of torch's CUDA interfaces in a text", "")
            yield found.start(), name, rule, []
    for found in _LIGHTNING.finditer(bare):
        yield found.start(), found[0].strip(), _LIGHTNINGS, []


def _kept(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    for found in _KEPT.finditer(_bare(line)):
        yield found.start(1), _plain(found[0]), _DEVICES, [Edit(*found.span(1), "npu")]


def _packages_installed(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    yield from _index(line)
    for found in _INSTALLED.finditer(_bare(line)):
        for word in re.finditer(r"[^\s\\]+", found[1]):
            name = re.split(r"[=<>!~\[;\"']", word[0].strip("\"'"))[0].lower().replace("_", "-")
            if (rule := installed().get(name)) is not None:
                yield found.start(1) + word.start(), name, rule, []


def _index(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    for found in _CUDA_INDEX.finditer(_bare(line)):
        yield (
            found.start(),
            found[0],
            _said(
                "differs",
                "minutes",
                "torch built for CUDA",
                "torch_npu 2.13.0",
                "torch for the CPU, with torch-npu of the same version",
            ),
            [],
        )
    for found in _LOCAL_VERSION.finditer(_bare(line)):
        yield (
            found.start(),
            found[0],
            _said(
                "differs",
                "minutes",
                "torch built for CUDA",
                "torch_npu 2.13.0",
                "torch for the CPU, with torch-npu of the same version",
            ),
            [],
        )


def _requirements(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    yield from _index(line)
    bare = _bare(line)
    seen = set[str]()
    for found in (*filter(None, [_REQUIREMENT.match(bare)]), *_IN_BRACKETS.finditer(bare)):
        name = found[1].lower().replace("_", "-")
        rule = installed().get(name) or (
            installed()["nvidia-nccl-cu12"] if re.fullmatch(r"nvidia-[a-z-]+-cu\d+", name) else None
        )
        rule = rule or (installed()["cupy"] if re.fullmatch(r"cupy-cuda\w+", name) else None)
        if rule is not None and name not in seen:
            seen.add(name)
            yield found.start(1), found[1], rule, []


def _images(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    if (found := _IMAGE.match(line)) is not None:
        yield found.start(1), found[1], _IMAGES, []
    if (found := _ENV.match(_bare(line))) is not None:
        yield from _value(found["key"], found["value"], found.start("value"))


def _value(key: str, value: str, begin: int) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    """Say what a value of CUDA's is that a key is given, or that is an element of what it is given."""
    shown = key if not key or key.startswith("-") else f"{key}:"
    what, key = f"{shown} {value}".strip(), key.lower()
    if value == "gpu" or "accelerator" in key:
        if "accelerator" in key or "device" in key:
            yield begin, what, _LIGHTNINGS, []
    elif value == "nccl" and "backend" in key:
        yield begin, what, _BACKENDS, [Edit(begin, begin + 4, "hccl")]
    elif value == "nccl":
        yield begin, what, _said("unsure", "minutes", "whether this is a backend is not seen here", ""), []
    elif re.search(r"device|map_location|^dev$", key):
        yield begin, what, _DEVICES, [Edit(begin, begin + 4, "npu")]
    else:
        yield begin, what, _said("unsure", "minutes", "whether this is a device is not seen here", ""), []


def _pairs(text: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    for found in _PAIR.finditer(text):
        yield from _value(found[1], found[2], found.start(2))


def _lists(text: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    """Say what elements of lists are, which may stand in several lines: words of a command, or values of a key."""
    yield from _pairs(text)
    for flow in _FLOW.finditer(text):
        for found in _FLOW_ITEM.finditer(flow["items"]):
            yield from _value(flow["key"], found["value"], flow.start("items") + found.start("value"))
    offset, keys = 0, list[tuple[int, str]]()
    for line in text.splitlines(keepends=True):
        if (item := _BLOCK_ITEM.match(line)) is not None:
            while keys and keys[-1][0] > len(item["indent"]):
                keys.pop()
            yield from _value(keys[-1][1] if keys else "", item["value"], offset + item.start("value"))
        elif (key := _BLOCK_KEY.match(line)) is not None:
            while keys and keys[-1][0] >= len(key["indent"]):
                keys.pop()
            if key["value"] is None:
                keys.append((len(key["indent"]), key["key"]))
        offset += len(line)


def _settings(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    bare = _bare(line)
    found = _SETTING.match(bare)
    for one in [found] if found else _ITEM.finditer(bare):
        yield from _value(one["key"], one["value"], one.start("value"))
    known = {one.start("value") for one in ([found] if found else _ITEM.finditer(bare))}
    for one in _NUMBERED.finditer(bare):
        if one.start() not in known and _OPTION.search(bare) is None:
            yield one.start(), "cuda:N", _DEVICES, [Edit(*one.span(1), "npu")]
    for one in _PLUGIN.finditer(bare):
        why = "a resource of NVIDIA's device plugin and container runtime; Ascend's are huawei.com/Ascend910 and ascend"
        yield (
            one.start(),
            one[0].strip("\"'"),
            _said("differs", "minutes", why, "Ascend Device Plugin", "huawei.com/Ascend910"),
            [],
        )
    if (image := _IMAGE_SETTING.match(bare)) is not None:
        yield image.start(1), image[1], _IMAGES, []
    if (count := _COUNT.match(bare)) is not None:
        yield count.start(1), count[1], _said("unsure", "minutes", "who counts these devices is not seen here", ""), []
    if (found := _SWITCH.match(bare)) is not None:
        key, value = found["key"], found["value"]
        if "tf32" in key and value.lower() == "true":
            yield (
                found.start("key"),
                f"{key}: {value}",
                _said(
                    "precision",
                    "minutes",
                    "TF32 is CUDA's; torch.npu.matmul.allow_hf32 is the Ascend's",
                    "torch_npu 2.13.0",
                ),
                [],
            )
        elif "attn" in key and (
            value.startswith("flash_attention") or (key.startswith("use_flash") and value.lower() == "true")
        ):
            yield (
                found.start("key"),
                f"{key}: {value}",
                _said("differs", "minutes", "the package flash_attn is CUDA's", "transformers, attention", "sdpa"),
                [],
            )
        elif key == "optim" and re.search("apex|bnb|8bit", value):
            yield (
                found.start("key"),
                f"{key}: {value}",
                _said(
                    "none",
                    "minutes",
                    "an optimizer of apex or bitsandbytes",
                    "transformers, TrainingArguments",
                    "adamw_torch",
                ),
                [],
            )


def _native(line: str) -> Iterator[tuple[int, str, Rule, list[Edit]]]:
    if (found := _NATIVE.search(line)) is not None:
        rule = torch_rule(
            "torch.utils.cpp_extension.CUDAExtension" if "TORCH" not in found[0] else "torch.ops.load_library"
        )
        assert rule is not None
        yield found.start(), found[0], rule, []


_PARTS: dict[str, _Look] = {"shell": _pairs, "docker": _lists, "settings": _lists}
"""What is looked for in a file as a whole, by its kind, since it may stand in several lines."""
_LOOKS: dict[str, tuple[_Look, ...]] = {
    "shell": (_variables, _commands, _kept, _packages_installed),
    "docker": (_images, _variables, _commands, _packages_installed),
    "packages": (_requirements,),
    "settings": (_settings, _variables, _commands),
    "cuda": (_native,),
    "native": (_native,),
}
