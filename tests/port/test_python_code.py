"""What a Python module's CUDA becomes, and the laws of every rewrite."""

import ast
import io
import tokenize
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.errors import DataError
from longcat.port import strings
from longcat.port.python_code import analyse
from longcat.port.support import Support

HEAD = "import torch\nimport torch.distributed as dist\n"
LINE = 'ACCELERATOR = (torch.accelerator.current_accelerator() or torch.device("cuda")).type'


def rewritten(code):
    """What becomes of lines behind imports, without the line that binds ACCELERATOR."""
    result = analyse(HEAD + code, "x.py").rewritten
    assert result == analyse(result, "x.py").rewritten
    return result.removeprefix(HEAD).removeprefix(f"\n{LINE}  # npu, cuda, ...\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torch.cuda.is_available()", "torch.accelerator.is_available()"),
        ('if row["device"] == "cuda": pass', 'if row["device"] == ACCELERATOR: pass'),
        ('ok = "cuda" in str(x.device)', "ok = ACCELERATOR in str(x.device)"),
        ('def pick():\n    return "cuda" if use else "cpu"', 'def pick():\n    return ACCELERATOR if use else "cpu"'),
        ('def get_device():\n    return "cuda"', "def get_device():\n    return ACCELERATOR"),
        ("torch.cuda.set_device(rank)", "torch.accelerator.set_device_index(rank)"),
        ("torch.cuda.synchronize(device=0)", "torch.accelerator.synchronize(0)"),
        ("torch.cuda.memory.max_memory_allocated()", "torch.accelerator.max_memory_allocated()"),
        ("torch.cuda.random.get_rng_state_all()", "torch.npu.get_rng_state_all()"),
        ("with torch.cuda.stream(s): pass", "with torch.npu.stream(s): pass"),
        ("e = torch.cuda.Event(enable_timing=True)", "e = torch.npu.Event(enable_timing=True)"),
        ("x = x.cuda()", "x = x.to(ACCELERATOR)"),
        ("x = x.cuda(args.gpu, non_blocking=True)", "x = x.to(args.gpu if args.gpu is not None else ACCELERATOR, non_blocking=True)"),
        ("x = x.cuda(None)", "x = x.to(ACCELERATOR)"),
        ("x = x.cuda(device=None)", "x = x.to(device=ACCELERATOR)"),
        ("x = x.cuda(0 if m else None)", "x = x.to(0 if m else ACCELERATOR)"),
        ("x = x.cuda(a.rank if a.rank >= 0 else None)", "x = x.to(a.rank if a.rank >= 0 else ACCELERATOR)"),
        ("x = x.cuda(None if m else r)", "x = x.to(ACCELERATOR if m else (r if r is not None else ACCELERATOR))"),
        ("x = x.cuda(torch.cuda.current_device())", "x = x.to(torch.accelerator.current_device_index())"),
        ("r = int(e)\nx = x.cuda(r)", "r = int(e)\nx = x.to(r)"),
        ("r = int(e)\nr = None\nx = x.cuda(r)", "r = int(e)\nr = None\nx = x.to(r if r is not None else ACCELERATOR)"),
        ('x = torch.zeros(1, device=f"cuda")', "x = torch.zeros(1, device=ACCELERATOR)"),
        ('with torch.cuda.device(f"cuda:0"): pass', 'with torch.npu.device(f"{ACCELERATOR}:0"): pass'),
        ('try: pass\nexcept RuntimeError as e: ok = "CUDA out of memory" in str(e)', 'try: pass\nexcept RuntimeError as e: ok = "out of memory" in str(e)'),
        ("x = x.cuda( non_blocking = True )", "x = x.to( ACCELERATOR, non_blocking = True )"),
        ("f = lambda storage, where: storage.cuda(0)", "f = lambda storage, where: storage.to(device=0)"),
        ("x = x.cuda(rank, True)", "x = x.to(rank if rank is not None else ACCELERATOR, non_blocking=True)"),
        ("x = f(x).cuda(device=rank)", "x = f(x).to(device=rank if rank is not None else ACCELERATOR)"),
        ("if x.is_cuda: pass", "if x.device.type == ACCELERATOR: pass"),
        ("ok = not x.is_cuda", "ok = not (x.device.type == ACCELERATOR)"),
        ("(a + b).is_cuda", "((a + b).device.type == ACCELERATOR)"),
        ("ok = ((a or b)).is_cuda", "ok = ((a or b)).device.type == ACCELERATOR"),
        ("ok = not (x.is_cuda)", "ok = not (x.device.type == ACCELERATOR)"),
        ("ok = (x  # why\n    .is_cuda)", "ok = (x  # why\n    .device.type == ACCELERATOR)"),
        ("y = (x if z else w).cuda()", "y = (x if z else w).to(ACCELERATOR)"),
        ("x.cuda((r), (True))", "x.to((r if r is not None else ACCELERATOR), non_blocking=(True))"),
        ("torch.cuda.synchronize(device=(0))", "torch.accelerator.synchronize((0))"),
        ("s = (torch.cuda.amp.GradScaler  # ()\n)()", "s = (torch.amp.GradScaler  # ()\n)(ACCELERATOR)"),
        ("with torch.cuda.amp.autocast((use)): pass", "with torch.amp.autocast(ACCELERATOR, enabled=(use)): pass"),
        ("if (flag := x.is_cuda): pass", "if (flag := x.device.type == ACCELERATOR): pass"),
        ("class A:\n    def is_cuda(self): return next(self.parameters()).is_cuda", "class A:\n    def is_cuda(self): return next(self.parameters()).device.type == ACCELERATOR"),
        ('if (dev := "cuda"): pass', "if (dev := ACCELERATOR): pass"),
        ('run(["a.py", "--device", "cuda", "--dist-backend", "nccl"])', 'run(["a.py", "--device", ACCELERATOR, "--dist-backend", torch.distributed.get_default_backend_for_device(ACCELERATOR)])'),
        ('run(["a.py", "--device=cuda:0", "--backend=nccl", r"--device=cuda"])', 'run(["a.py", f"--device={ACCELERATOR}:0", "--backend=hccl", r"--device=npu"])'),
        ("y = x[x.is_cuda]", "y = x[(x.device.type == ACCELERATOR)]"),
        ('b = {"cuda": "nccl", "cpu": "gloo"}[d]', 'b = {ACCELERATOR: torch.distributed.get_default_backend_for_device(ACCELERATOR), "cpu": "gloo"}[d]'),
        ('DEVICE, BACKEND = "cuda", "nccl"', "DEVICE, BACKEND = ACCELERATOR, torch.distributed.get_default_backend_for_device(ACCELERATOR)"),
        ("def f(s: torch.cuda.amp.GradScaler, a=3) -> torch.cuda.amp.autocast: pass", "def f(s: torch.amp.GradScaler, a=3) -> torch.amp.autocast: pass"),
        ("ok = isinstance(s, (torch.cuda.amp.GradScaler, int))", "ok = isinstance(s, (torch.amp.GradScaler, int))"),
        ("from torch.cuda import Stream\ns = Stream()\ndel Stream", "from torch.cuda import Stream\ns = torch.npu.Stream()\ndel Stream"),
        ('d = torch.device(type=kind or "cuda")', "d = torch.device(type=kind or ACCELERATOR)"),
        ('d = torch.device(type="cuda", index=0)', "d = torch.device(type=ACCELERATOR, index=0)"),
        ("b = dist.Backend.NCCL", "b = torch.distributed.get_default_backend_for_device(ACCELERATOR)"),
        ("b = torch.distributed.Backend.NCCL.upper()", "b = torch.distributed.get_default_backend_for_device(ACCELERATOR).upper()"),
        ("x.to('cuda:0')", "x.to(f'{ACCELERATOR}:0')"),
        ('x.to(f"cuda:{rank}")', 'x.to(f"{ACCELERATOR}:{rank}")'),
        ('x.to("cuda:%d" % rank)', 'x.to(f"{ACCELERATOR}:%d" % rank)'),
        ('x.to("cuda:{}".format(rank))', 'x.to((ACCELERATOR + ":{}").format(rank))'),
        ('x.to("cuda:" + str(rank))', 'x.to(f"{ACCELERATOR}:" + str(rank))'),
        ("print(f\"{x.to('cuda').sum()}\")", 'print(f"{x.to(ACCELERATOR).sum()}")'),
        ('d = torch.device("cuda" if ok else "cpu")', 'd = torch.device(ACCELERATOR if ok else "cpu")'),
        ('torch.load(f, map_location="cuda")', "torch.load(f, map_location=ACCELERATOR)"),
        ('p.add_argument("--device", default="cuda", choices=["cpu", "cuda"])', 'p.add_argument("--device", default=ACCELERATOR, choices=["cpu", ACCELERATOR])'),
        ('on = d.type == "cuda"', "on = d.type == ACCELERATOR"),
        ("with torch.cuda.amp.autocast(): pass", "with torch.amp.autocast(ACCELERATOR): pass"),
        ("with torch.cuda.amp.autocast(use): pass", "with torch.amp.autocast(ACCELERATOR, enabled=use): pass"),
        ('with torch.autocast("cuda", dtype=torch.bfloat16): pass', "with torch.autocast(ACCELERATOR, dtype=torch.bfloat16): pass"),
        ("s = torch.cuda.amp.GradScaler(1024.0)", "s = torch.amp.GradScaler(ACCELERATOR, 1024.0)"),
        ('dist.init_process_group("nccl")', "dist.init_process_group(torch.distributed.get_default_backend_for_device(ACCELERATOR))"),
        ('dist.init_process_group(backend="cpu:gloo,cuda:nccl")', 'dist.init_process_group(backend="cpu:gloo,npu:hccl")'),
        ('n = getattr(torch.cuda, "device_count")()', "n = torch.accelerator.device_count()"),
        ("m = torch.cuda", "m = torch.npu"),
        ('x.type("torch.cuda.FloatTensor")', 'x.type("torch.npu.FloatTensor")'),
        ("t = torch.cuda.HalfTensor(3)", "t = torch.npu.HalfTensor(3)"),
        ("torch.cuda.nvtx.range_push('a')", "torch.npu.mstx.range_push('a')"),
        ("torch.backends.cudnn.allow_tf32 = True", "torch.npu.conv.allow_hf32 = True"),
        ("try: pass\nexcept torch.cuda.OutOfMemoryError: pass", "try: pass\nexcept torch.OutOfMemoryError: pass"),
        ("ok = dist.is_nccl_available()", "ok = torch.distributed.is_hccl_available()"),
    ],
)  # fmt: skip
def test_a_line(before, after):
    assert rewritten(before + "\n") == after + "\n"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("getattr(torch.cuda, name)()", "unsure"),
        ('if row["language"] == "cuda": pass', "unsure"),
        ('ok = "cuda" in filename', "unsure"),
        ('lang = "cuda" if p.endswith(".cu") else "cpp"', "unsure"),
        ('def language(p):\n    return "cuda"', "unsure"),
        ('def source_kind(p):\n    s = str(p)\n    return "cuda" if s[-3:] == ".cu" else type(p)', "unsure"),
        ("x = x.cuda(pick())", "unsure"),
        ("import xgboost\nm = xgboost.XGBClassifier(device='cuda')", "unsure"),
        ("import lightning as L\nt = L.Trainer(accelerator='cuda')", "differs"),
        ("import lightning as L\nt = L.Trainer(accelerator='gpu' if on else 'cpu')", "differs"),
        ("p.add_argument('--accelerator', default='cuda')", "unsure"),
        ('ok = "CUDA error" in str(e)', "differs"),
        ('a = TrainingArguments(optim="adamw_bnb_8bit" if low else "adamw_torch")', "none"),
        ('config["attn"] = "flash_attention_2"', "differs"),
        ("from torchao.float8 import convert_to_float8_training", "precision"),
        ('hasattr(torch.cuda, "nccl")', "unsure"),
        ('names = {"cuda": 1}', "unsure"),
        ("torch.cuda.brand_new_thing()", "unsure"),
        ("f = torch.cuda.amp.autocast", "unsure"),
        ("x = x.cuda(**where)", "unsure"),
        ("class A:\n    def __init__(self): self.is_cuda = True\n    def f(self): return self.is_cuda", "unsure"),
        ("n = getattr(torch.cuda,  # why\n    'device_count')()", "unsure"),
        ("(torch.cuda  # why\n    .synchronize())", "unsure"),
        ("torch.cuda.synchronize(device=  # why\n    0)", "unsure"),
        ("run(CUDA_VISIBLE_DEVICES='0')", "unsure"),
        ("x = Language(type='cuda')", "unsure"),
        ("x = x.cuda(async_=True)", "unsure"),
        ("class G(torch.cuda.amp.GradScaler): pass", "unsure"),
        ("make = functools.partial(torch.cuda.amp.GradScaler, enabled=True)", "unsure"),
        ('LANGUAGE, NAME = "cuda", "nccl"', "unsure"),
        ('kernels = {"cuda": 1, "hip": 2}[x]', "unsure"),
        ("y = map(torch.Tensor.cuda, x)", "differs"),
        ("ok = getattr(x, 'is_cuda', False)", "unsure"),
        ("x.to('cuda' ':0')", "unsure"),
        ("x.to('cuda:' f'{i}')", "unsure"),
        ("x.to('cu' 'da')", "unsure"),
        ("run(['a.py', '--optimizer', 'cuda'])", "unsure"),
        ("def f(s: 'torch.cuda.Stream | None' = None): pass", "unsure"),
        ("x: Literal['cuda', 'rocm']", "unsure"),
        ('mock.patch("torch.cuda.is_available")', "unsure"),
        ("self.torch.cuda.empty_cache()", "unsure"),
        ('torch.library.impl(lib, "op", "CUDA")(f)', "differs"),
        ('ctypes.CDLL("libcudart.so.12")', "none"),
        ("torch.cuda.nccl.version()", "none"),
        ("torch.cuda.comm.broadcast(x, [0, 1])", "none"),
        ("torch.ops.mylib.fused(x)", "none"),
        ('torch.ops.load_library("my.so")', "none"),
        ("torch._C._cuda_getCurrentRawStream(0)", "none"),
        ("import flash_attn", "none"),
        ("from xformers.ops import memory_efficient_attention", "none"),
        ("from numba import cuda as nc", "none"),
        ("import pynvml", "none"),
        ("dist.all_reduce(x.double())", "none"),
        ("torch.cuda.get_device_capability()", "differs"),
        ("m = torch.compile(m)", "differs"),
        ('a = [torch.profiler.ProfilerActivity.CUDA]', "differs"),
        ('os.system("nvidia-smi -L")', "differs"),
        ('m = AutoModel.from_pretrained(n, attn_implementation="flash_attention_2")', "differs"),
        ("i = x.nonzero()", "shapes"),
        ("y = x[x > 0]", "shapes"),
        ('b = tokenizer(t, padding="longest")', "shapes"),
        ("torch.set_float32_matmul_precision('high')", "precision"),
        ("y = x.double()", "precision"),
        ("torch.backends.cudnn.deterministic = True", "precision"),
        ("torch.use_deterministic_algorithms(True)", "precision"),
        ("loader = DataLoader(d, pin_memory=True)", "works"),
    ],
)  # fmt: skip
def test_a_line_that_stays(code, kind):
    result = analyse(HEAD + code + "\n", "x.py")
    assert result.rewritten == HEAD + code + "\n"
    assert kind in {one.kind for one in result.findings}, result.findings
    assert all(one.why and (one.kind != "none" or one.instead or one.effort != "days") for one in result.findings)


@pytest.mark.parametrize(
    "code",
    [
        '"""We use torch.cuda and \'cuda\' here."""',
        "# torch.cuda.synchronize()",
        "def cuda(x): return x",
        "cuda = 3",
        "np.unique(a)",
        "def f(torch): return torch.cuda.synchronize()",
        'x = "cudagraph"',
        "names['cudaless']",
        "torch.where(a, b, c)",
        "x[y in z]",
        "class A: is_cuda: bool = False",
        "def f(s: 'Stream'): pass",
        '"cuda" ":0"',
        "for x.is_cuda in y: pass",
        "with a as (x.is_cuda, y): pass",
        "x.is_cuda += 1; del x.is_cuda",
        "x.is_cuda, y = 1, 2",
        "y = x['a' == z]",
    ],
)
def test_what_is_no_cuda_is_not_found(code):
    assert analyse(HEAD + code + "\n", "x.py").findings == ()


def test_aliases_are_seen_through_and_imports_go():
    code = """import torch.cuda as tc
from torch import cuda
from torch.cuda.amp import autocast as ac, GradScaler
import torch

tc.synchronize()
cuda.empty_cache()
with ac(dtype=torch.float16):
    s = GradScaler()
"""
    after = analyse(code, "x.py").rewritten
    assert "cuda." not in after and "import torch\n" in after and "from torch import" not in after
    assert "torch.accelerator.synchronize()\ntorch.accelerator.empty_cache()" in after
    assert (
        "with torch.amp.autocast(ACCELERATOR, dtype=torch.float16):\n    s = torch.amp.GradScaler(ACCELERATOR)" in after
    )


@pytest.mark.parametrize(
    ("imports", "left"),
    [
        ("try:\n    from torch.amp import autocast\nexcept ImportError:\n    from torch.cuda.amp import autocast\n", True),
        ("if old:\n    from torch.cuda.amp import autocast\nelse:\n    from torch.amp import autocast\n", True),
        ("try:\n    from torch.cuda.amp import autocast\nexcept ImportError:\n    from contextlib import nullcontext as autocast\n", False),
        ("try:\n    from torch.cuda.amp import autocast\nexcept ImportError:\n    autocast = None\n", False),
    ],
)  # fmt: skip
def test_a_name_that_several_imports_bind_is_torchs_own(imports, left):
    call = 'autocast("cuda", enabled=True)' if left else "autocast(True)"
    after = analyse(f"import torch\n{imports}with {call}: pass\n", "x.py").rewritten
    own = "with autocast(ACCELERATOR, enabled=True): pass"
    assert after.endswith(f"\n{own if left else 'with torch.amp.autocast(ACCELERATOR, enabled=True): pass'}\n")


def test_an_option_that_is_written_in_another_way_leaves_the_rest_alone():
    result = analyse("import torch\nrun(['--device\\x3dcuda'])\nx.cuda()\n", "x.py")
    assert "['--device\\x3dcuda']" in result.rewritten and "x.to(" in result.rewritten
    assert [one.kind for one in result.findings] == ["unsure", "renames"]


def test_what_would_not_compile_stays_as_it_is():
    code = 'import torch\n@torch.cuda.amp.custom_fwd(device_type="cuda")\ndef f(ctx): pass\n'
    result = analyse(code, "x.py")
    assert result.rewritten == code and {one.kind for one in result.findings} == {"unsure"}
    assert "await" in analyse("import torch\nawait x.cuda()\n", "x.py").rewritten  # as cells of notebooks have it
    code = "import torch\nf(a=1, a=x.cuda())\n"
    assert "ACCELERATOR" in analyse(code, "x.py").rewritten


def test_a_device_is_one_by_any_name():
    code = 'import torch\nfrom torch import device as D\nd = D("cuda")\nx = Language("cuda")\n'
    assert 'd = D(ACCELERATOR)\nx = Language("cuda")\n' in analyse(code, "x.py").rewritten


def test_torch_is_imported_where_it_was_not():
    after = analyse("from torch import cuda, nn\n\nprint(cuda.device_count())\n", "x.py").rewritten
    assert "import torch\n" in after
    assert "print(torch.accelerator.device_count())" in after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('match d:\n    case "cuda": n = 1\n    case _: n = 0\n', 'match d:\n    case "cuda" | "npu": n = 1\n    case _: n = 0\n'),
        ('match d:\n    case ("cuda:1" | "mps", _): n = 1\n', 'match d:\n    case ("cuda:1" | "npu:1" | "mps", _): n = 1\n'),
        ('match d:\n    case {"device": "cuda", **rest}: n = 1\n', 'match d:\n    case {"device": "cuda" | "npu", **rest}: n = 1\n'),
        ('match d:\n    case torch.device(type="cuda"): n = 1\n', 'match d:\n    case torch.device(type="cuda" | "npu"): n = 1\n'),
        ('x: Literal["cpu", "cuda", \'cuda:0\']\n', 'x: Literal["cpu", "cuda", "npu", \'cuda:0\', \'npu:0\']\n'),
        ('b: typing.Literal["gloo", "nccl"] = "gloo"\n', 'b: typing.Literal["gloo", "nccl", "hccl"] = "gloo"\n'),
        ('@torch.jit.script\ndef f(x):\n    return x.to("cuda") if x.is_cuda else x.cuda()\n', '@torch.jit.script\ndef f(x):\n    return x.to("npu") if x.device.type == "npu" else x.to("npu")\n'),
        ('def g(x):\n    return x.to("cuda:1")\ndef f(x):\n    return g(x)\nf = torch.jit.script(f)\n', 'def g(x):\n    return x.to("npu:1")\ndef f(x):\n    return g(x)\nf = torch.jit.script(f)\n'),
        ('@torch.jit.script\ndef f(x):\n    torch.cuda.synchronize()\n    return x\n', '@torch.jit.script\ndef f(x):\n    torch.cuda.synchronize()\n    return x\n'),
    ],
)  # fmt: skip
def test_patterns_and_torchscript_take_no_names(before, after):
    assert rewritten(before) == after


def test_a_try_that_imports_nothing_ends_the_imports():
    after = analyse("import torch\ntry:\n    x = y.cuda()\nexcept RuntimeError: pass\n", "x.py").rewritten
    assert after.startswith(f"import torch\n\n{LINE}") and "y.to(ACCELERATOR)" in after
    guarded = "import torch\ntry:\n    import apex\n    AMP = True\nexcept ImportError:\n    AMP = False\n"
    assert analyse(guarded + "x = y.cuda()\n", "x.py").rewritten.startswith(f"{guarded}\n{LINE}")


def test_types_in_quotes_keep_the_imports_that_they_name():
    code = "import torch\nfrom torch.cuda import Stream\ns: {} = Stream()\n"
    assert "import Stream" in analyse(code.format('"Stream | None"'), "x.py").rewritten
    assert "import Stream" not in analyse(code.format('"other.Stream"'), "x.py").rewritten


@pytest.mark.parametrize(
    "code", ["if x:\n    pass\n    \fy = x.cuda()\n", "class A:\n\f    d = 1\n  \fe = torch.cuda.seed\n"]
)
def test_spaces_that_the_parser_loses_move_nothing(code):
    with pytest.raises(DataError, match="line 4: a form feed within an indentation"):
        analyse("import torch\n" + code, "x.py")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_stay(end, last):
    lines = ["import torch", "# \f Käse \u2028", "if x:", "\ty = x.cuda()", "\f", "z = y.is_cuda"] + [""] * last
    after = analyse(end.join(lines), "x.py").rewritten
    assert after.split(end)[2:] == [
        "", f"{LINE}  # npu, cuda, ...", lines[1], "if x:", "\ty = x.to(ACCELERATOR)", "\f", "z = y.device.type == ACCELERATOR", *[""] * last
    ] or after.split(end)[1:] == [
        "", f"{LINE}  # npu, cuda, ...", *lines[1:3], "\ty = x.to(ACCELERATOR)", "\f", "z = y.device.type == ACCELERATOR", *[""] * last
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ('print "x"', "line 2: does not parse (it looks like Python 2)"),
        ("raise E, 'x'", "line 2: does not parse (it looks like Python 2)"),
        ("x = = 3", "line 2: does not parse"),
        ("x = ?", "line 2: does not parse ('?' is not a valid character in this position)"),
    ],
)
def test_what_does_not_parse_says_why(code, why):
    with pytest.raises(DataError) as error:
        analyse(f"import torch\n{code}\n", "x.py")
    assert str(error.value) == why


def test_the_constructor_of_a_scripted_module_is_pythons():
    code = 'class M(torch.nn.Module):\n    def __init__(self):\n        self.w = torch.ones(1, device="cuda")\n    def forward(self, x):\n        return x.to("cuda")\n\nm = M()\ntorch.jit.script(m)\n'
    after = rewritten(code)
    assert "device=ACCELERATOR)" in after and 'x.to("npu")' in after


def test_without_an_accelerator_a_rewrite_does_what_the_original_does(monkeypatch):
    """On a host alone: what asks for CUDA before it uses it goes the same way."""
    code = """import torch
device = "cuda" if torch.cuda.is_available() else "cpu"
kind = "cuda" if "cuda" in device else "cpu"
x = torch.randn(4, 4)
ways = [kind == "cuda", device.startswith("cuda"), x.is_cuda, x.device.type == "cuda", "cuda" in str(x.device), torch.empty(1, device="meta").is_cuda]
if kind == "cuda":
    x = x.pin_memory()
if x.device.type == "cuda":
    print(torch.cuda.memory_summary())
with torch.cuda.amp.autocast(dtype=torch.bfloat16):
    dtype = (x @ x).dtype
enabled = torch.cuda.amp.GradScaler().is_enabled()
"""
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda *_: None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    seen = []
    for text in (code, analyse(code, "x.py").rewritten):
        names = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, "program", "exec"), names)
        seen.append((names["ways"], names["dtype"], names["enabled"]))
    assert seen[0] == seen[1]


def test_a_long_list_is_looked_through_once():
    before = strings._with_the_host.cache_info().misses
    found = analyse("import torch; x = [" + ",".join(['"cuda"'] * 300) + "]\n", "x.py").findings
    assert len(found) == 300
    assert strings._with_the_host.cache_info().misses - before == 1


def test_without_torch_the_literal_is_npu():
    assert analyse('DEVICE = "cuda:1"\nbackend = "nccl"\n', "x.py").rewritten == 'DEVICE = "npu:1"\nbackend = "hccl"\n'


def test_environment_variables():
    code = 'import os\nos.environ["CUDA_VISIBLE_DEVICES"] = "0,1"\nos.environ.get("NCCL_DEBUG")\nos.getenv("NCCL_WHATEVER")\n'
    result = analyse(code, "x.py")
    assert 'os.environ["ASCEND_RT_VISIBLE_DEVICES"] = "0,1"' in result.rewritten
    assert [one.kind for one in result.findings] == ["renames", "differs", "none"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('env = dict(os.environ, CUDA_VISIBLE_DEVICES="0")', 'env = dict(os.environ, ASCEND_RT_VISIBLE_DEVICES="0")'),
        ('env = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}', 'env = {**os.environ, "ASCEND_RT_VISIBLE_DEVICES": "0"}'),
        ('os.environ.update(CUDA_LAUNCH_BLOCKING="1")', 'os.environ.update(ASCEND_LAUNCH_BLOCKING="1")'),
        ('env = dict(os.environ, NCCL_DEBUG="INFO", NCCL_FOO="1")', 'env = dict(os.environ, NCCL_DEBUG="INFO", NCCL_FOO="1")'),
    ],
)  # fmt: skip
def test_environments_of_other_programs(before, after):
    result = analyse(before, "x.py")
    assert result.rewritten == after
    assert [one.what for one in result.findings] == [one for one in before.replace('"', "=").replace("(", " ").replace("=", " ").split() if one.startswith(("CUDA", "NCCL"))]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "stays"),
    [
        ('__all__ = ["autocast"]\n', True),
        ('__all__ = []\n__all__ += ["autocast"]\n', True),
        ('__all__: list[str] = ["f"]\n__all__.append("autocast")\n', True),
        ('__all__ = ["f"]\n', False),
        ("", False),
    ],
)
def test_an_import_stays_where_all_has_its_name(code, stays):
    before = f"import torch\nfrom torch.cuda.amp import autocast\n{code}def f():\n    with autocast(): pass\n"
    result = analyse(before, "x.py")
    assert "with torch.amp.autocast(ACCELERATOR)" in result.rewritten
    assert ("from torch.cuda.amp import autocast\n" in result.rewritten) == stays
    assert [one.kind for one in result.findings] == ["differs" if stays else "renames", "renames"]
    assert analyse(result.rewritten, "x.py").rewritten == result.rewritten


def test_imports_stay_that_are_said_to_be_given_on_or_belong_to_a_class():
    head = "import torch\n"
    for code in (
        "from torch.cuda import synchronize as synchronize\nsynchronize()\n",
        "class A:\n    from torch.cuda import synchronize\n    synchronize()\n",
    ):
        assert code.splitlines()[-2] in analyse(head + code, "x.py").rewritten
    code = "from torch.cuda import synchronize\nsynchronize()\n"
    assert "import synchronize" not in analyse(head + code, "x.py").rewritten
    for names in ({"synchronize"}, {"*"}):
        assert "import synchronize" in analyse(head + code, "x.py", taken=frozenset(names)).rewritten


def test_the_name_is_another_one_where_it_is_taken():
    after = analyse(HEAD + 'ACCELERATOR = 3\nx = y.to("cuda")\n', "x.py").rewritten
    assert "ACCELERATOR = 3\n" in after and "y.to(ACCELERATOR_TYPE)" in after


def test_operators_that_the_wheel_lacks():
    support = Support(
        "torch_npu 9", frozenset({"lgamma"}), frozenset(), {"torch.nn.functional.huber_loss": ("aten::huber_loss",)}
    )
    code = HEAD + "torch.lgamma(x)\ntorch.nn.HuberLoss()\nx.lgamma()\ntorch.relu(x)\n"
    found = [(one.line, one.kind) for one in analyse(code, "x.py", support).findings]
    assert found == [(3, "operator"), (4, "operator"), (5, "operator")]


def test_what_does_not_parse_says_where():
    with pytest.raises(DataError, match="line 2: does not parse"):
        analyse("import torch\nx = = torch.cuda\n", "x.py")


def test_deep_nesting_is_no_crash():
    with pytest.raises(DataError, match="nested too deeply|does not parse"):
        analyse(f"import torch\nx = torch{'.cuda()' * 6000}\n", "x.py")


# ---------------------------------------------------------------------------------------------------- laws

_EXPRESSIONS = st.sampled_from(
    [
        "torch.cuda.is_available()", "x.cuda()", "x.cuda(0, non_blocking=True)", '"cuda"', "'cuda:1'", 'f"cuda:{i}"', "x.is_cuda",
        "torch.cuda.current_device()", "tc.Stream()", "autocast()", 'torch.device("cuda")', "torch.backends.cudnn.benchmark",
        'getattr(torch.cuda, "seed")', "getattr(torch.cuda, i)", "os.environ['CUDA_VISIBLE_DEVICES']", '"nccl"', "x", "3", "torch.zeros(2)",
        "torch.cuda.nccl.version()", "[x.cuda() for x in y]", "(lambda q: q.cuda())", '"cuda:{}".format(i)', "GradScaler(enabled=False)",
    ]
)  # fmt: skip
_LINES = st.builds(
    lambda template, one, other, comment: template.format(one, other) + comment,
    st.sampled_from(
        ["a = {}", "f({}, device={})", "if {}:  b = {}", "with {} as c: print({})", "assert {} == {}", "return_ = ({},\n     {})", "x[{}] = {}"]
    ),
    _EXPRESSIONS,
    _EXPRESSIONS,
    st.sampled_from(["", "  # cuda stays here", " ;  pass", "\n\n"]),
)  # fmt: skip
_IMPORTS = st.lists(
    st.sampled_from(
        ["import torch", "import torch.cuda as tc", "from torch.cuda.amp import autocast, GradScaler", "import os", "from torch import cuda", '"""Text."""']
    ),
    max_size=5,
    unique=True,
)  # fmt: skip


@st.composite
def modules(draw):
    lines = draw(st.lists(_LINES, max_size=6))
    inside = [f"    {line}".replace("\n", "\n    ") for line in draw(st.lists(_LINES, max_size=3))]
    body = [*draw(_IMPORTS), *lines, *(["def g(x, y, i):", *inside] if inside else [])]
    return draw(st.sampled_from(["\n", "\r\n"])).join("\n".join(body).split("\n")) + draw(st.sampled_from(["", "\n"]))


def comments(text):
    return [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and "npu, cuda" not in token.string
    ]


@given(modules())
def test_a_rewrite_keeps_the_rest_and_is_done_once(text):
    result = analyse(text, "x.py")
    again = analyse(result.rewritten, "x.py")
    assert again.rewritten == result.rewritten
    ast.parse(result.rewritten)
    assert comments(result.rewritten) == comments(text)
    # what lies outside of the edits is there, in order and to the last byte
    place = 0
    edits = sorted(edit for one in result.findings for edit in [(e.begin, e.end) for e in one.edits])
    kept, last = [], 0
    for begin, end in edits:
        kept.append(text[last:begin])
        last = end
    for piece in [*kept, text[last:]]:
        for part in piece.splitlines(keepends=True):
            place = result.rewritten.index(part, place) + len(part)


@given(modules())
def test_what_is_scanned_is_what_is_rewritten(text):
    result = analyse(text, "x.py")
    assert (result.rewritten != text) == any(one.edits for one in result.findings)


@pytest.mark.parametrize(
    "code", ["def f(ACCELERATOR, x): return x.cuda()", "def f(x):\n    for ACCELERATOR in x: x.cuda()"]
)
def test_no_name_is_taken_that_a_function_uses_itself(code):
    result = analyse(HEAD + code, "x.py").rewritten
    assert "\nACCELERATOR_TYPE = " in result and ".to(ACCELERATOR_TYPE)" in result
