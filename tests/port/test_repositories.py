"""Whole repositories: what is read, what is refused, what a rewrite leaves untouched."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from longcat.errors import DeviceError, UserError
from longcat.port import scanning
from longcat.port.files import RECORD
from longcat.port.page import html
from longcat.port.rewriting import rewrite
from longcat.port.scanning import examine_all, scan
from longcat.port.support import Support

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch):
    """The wheel is asked by tests/emulator/test_port.py."""
    monkeypatch.setattr(scanning, "read_support", lambda python: Support("torch_npu 0", frozenset(), frozenset(), {}))


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    shutil.copytree(PROGRAMS, root)
    (root / "data.bin.py").write_bytes(b"\0\1\2")
    (root / "latin.py").write_bytes("import torch\nname = 'Käse'\n".encode("latin-1"))
    (root / "cookie.py").write_bytes(
        "# -*- coding: latin-1 -*-\nimport torch\nx = torch.ones(1).cuda()  # Käse\n".encode("latin-1")
    )
    (root / "broken.py").write_text("import torch\ndef f(:\n")
    (root / "windows.py").write_bytes(b"import torch\r\n\r\nx = torch.cuda.device_count()\r\n")
    (root / "loop").symlink_to(root)
    (root / "dangling.py").symlink_to(root / "nowhere.py")
    for name in (".venv/lib", "third_party", "node_modules", ".git"):
        (root / name).mkdir(parents=True)
        (root / name / "other.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    (root / ".venv/pyvenv.cfg").write_text("")
    (root / "conf.yaml").write_text("device: cuda:0  # here\nbackend: nccl\ndeterministic: true\n")
    (root / "requirements.txt").write_text("torch==2.1.0+cu118\nflash-attn\nnumpy\n")
    (root / "Dockerfile").write_text("FROM nvidia/cuda:12.1.0-base\nENV CUDA_VISIBLE_DEVICES=0\n")
    return root


def hashes(root):
    return {
        path.relative_to(root).as_posix(): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_everything_but_what_cannot_be_read_is_scanned(repository):
    result = scan(repository)
    why = {one.file: (one.line, one.why) for one in result.unread}
    assert why["broken.py"][0] == 2 and "does not parse" in why["broken.py"][1]
    assert "byte 0xe4 in line 2" in why["latin.py"][1]
    assert "binary" in why["data.bin.py"][1]
    assert "link" in why["loop"][1] and "link to nothing" in why["dangling.py"][1]
    assert "--vendored" in why["third_party/"][1]
    assert {".venv/", "node_modules/", ".git/"} <= set(why)
    files = {one.file for one in result.findings}
    assert {
        "cookie.py",
        "windows.py",
        "conf.yaml",
        "requirements.txt",
        "Dockerfile",
        "cuda_extension/kernel.cu",
    } <= files
    assert not any(name.startswith((".venv", "third_party", ".git", "loop")) for name in files)
    assert any(one.file == "third_party/other.py" for one in scan(repository, vendored=True).findings)


def test_a_rewrite_never_touches_the_input_and_keeps_the_rest(repository, tmp_path):
    before = hashes(repository)
    result = rewrite(repository, tmp_path / "out")
    assert hashes(repository) == before
    after = hashes(tmp_path / "out")
    assert set(after) - set(before) == {RECORD}
    assert {name.partition("/")[0] for name in set(before) - set(after)} == {".venv", "node_modules", ".git"}
    assert before["loop"] == str(repository) and after["loop"] == "."
    differ = {name for name in after if name in before and after[name] != before[name]}
    assert differ == {*result.changed, "loop"}
    assert (tmp_path / "out/windows.py").read_bytes() == b"import torch\r\n\r\nx = torch.accelerator.device_count()\r\n"
    assert "Käse" in (tmp_path / "out/cookie.py").read_text(encoding="latin-1")
    assert (tmp_path / "out/conf.yaml").read_text() == "device: npu:0  # here\nbackend: hccl\ndeterministic: true\n"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_rewrite_of_a_rewrite_is_the_same(repository, tmp_path):
    rewrite(repository, tmp_path / "out")
    again = rewrite(tmp_path / "out", tmp_path / "again")
    assert again.changed == []
    first, second = hashes(tmp_path / "out"), hashes(tmp_path / "again")
    assert {**first, RECORD: ""} == {**second, RECORD: ""}


def test_what_is_left_is_what_a_second_scan_finds(repository, tmp_path):
    left = rewrite(repository, tmp_path / "out").left
    found = [one for one in scan(tmp_path / "out").findings if one.effort not in ("none", "automatic")]
    assert sorted((one.file, one.what) for one in left) == sorted((one.file, one.what) for one in found)


def test_links_lead_to_the_copy_or_to_what_they_led_to(tmp_path):
    root, out = tmp_path / "in", tmp_path / "below/out"
    for folder in (root / "src/x", root / ".venv", tmp_path / "data", out.parent):
        folder.mkdir(parents=True)
    (root / "src/a.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    (root / ".venv/pyvenv.cfg").write_text("")
    targets = {
        "absolute.py": root / "src/a.py", "again.py": root / "absolute.py", "folder": root / "src", "through.py": "folder/a.py",
        "src/x/climbs.py": "../../../in/src/a.py", "plain.py": "src/a.py", "here": ".", "data": "../data", "up": "..", "circle": "circle",
        "nothing.py": root / "nothing.py", "python": root / ".venv/pyvenv.cfg",
    }  # fmt: skip
    for name, target in targets.items():
        (root / name).symlink_to(target)
    result = rewrite(root, out)
    for name in set(targets) - {"circle", "nothing.py", "python"}:
        meant, copied = (root / name).resolve(), (out / name).resolve()
        assert copied == (out / meant.relative_to(root) if meant.is_relative_to(root) else meant), name
    for name in ("plain.py", "circle", "here"):
        assert (out / name).readlink() == (root / name).readlink()
    assert [one.why for one in result.unread if one.file == "python"] == [
        f"a link to {root}/.venv/pyvenv.cfg, which is not copied"
    ]
    assert "accelerator" in (out / "absolute.py").read_text() and "cuda" in (root / "src/a.py").read_text()


@pytest.mark.parametrize(
    ("file", "code", "stays"),
    [
        ("use.py", "from pkg.amp import autocast\n", True),
        ("use.py", "from pkg.amp import (\n    other,\n    autocast as cast,\n)\n", True),
        ("use.py", "from pkg.amp import *\n", True),
        ("use.py", "import pkg.amp as tools\nwith tools.autocast(): pass\n", True),
        ("use.py", "import pkg.amp\nwith pkg.amp.autocast(): pass\n", True),
        ("use.py", "from pkg import other, amp as tools\nprint 'two'\nwith tools.autocast(): pass\n", True),
        ("pkg/near.py", "from .amp import autocast\n", True),
        ("use.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": ["from pkg.amp import autocast"]}]}), True),
        ("use.py", "from torch.cuda.amp import autocast\n", False),
        ("use.py", "from pkg.amp import other\nfrom pkg.more import autocast\n", False),
    ],
)
def test_an_import_stays_where_another_module_takes_its_name(tmp_path, file, code, stays):
    (tmp_path / "in/pkg").mkdir(parents=True)
    before = "import torch\nfrom torch.cuda.amp import autocast\nwith autocast(): pass\n"
    (tmp_path / "in/pkg/amp.py").write_text(before)
    (tmp_path / "in" / file).write_text(code)
    result = rewrite(tmp_path / "in", tmp_path / "out")
    after = (tmp_path / "out/pkg/amp.py").read_text()
    assert "with torch.amp.autocast(" in after and ("import autocast" in after) == stays
    assert any(one.file == "pkg/amp.py" and "other modules take autocast" in one.why for one in result.left) == stays


def test_what_a_package_gives_on_stays(tmp_path):
    package = tmp_path / "in/tools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import torch\nfrom torch.cuda import synchronize\nsynchronize()\n")
    (package / "a.py").write_text("from . import synchronize\n")
    rewrite(tmp_path / "in", tmp_path / "out")
    assert "import synchronize" in (tmp_path / "out/tools/__init__.py").read_text()


def test_places_that_are_refused(repository, tmp_path):
    (tmp_path / "there").mkdir()
    for out, why in (
        (tmp_path / "there", "is there already"),
        (repository / "out", "lies inside"),
        (repository / "loop" / "out", "lies inside"),
        (tmp_path / "no" / "out", "there is no folder"),
    ):
        with pytest.raises(UserError, match=why) as error:
            rewrite(repository, out)
        assert error.value.exit_code == 2
    with pytest.raises(UserError, match="no such file"):
        scan(tmp_path / "nothing")
    with pytest.raises(UserError, match="no file that longcat port reads"):
        (tmp_path / "picture.png").write_bytes(b"")
        scan(tmp_path / "picture.png")


def test_nothing_is_left_behind_by_a_rewrite_that_fails(repository, tmp_path, monkeypatch):
    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("longcat.port.rewriting.examine_all", fails)
    with pytest.raises(KeyboardInterrupt):
        rewrite(repository, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_a_file_alone(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import torch\ntorch.cuda.synchronize()\n")
    assert [one.what for one in scan(file).findings] == ["torch.cuda.synchronize"]
    rewrite(file, tmp_path / "out")
    assert (tmp_path / "out/a.py").read_text() == "import torch\ntorch.accelerator.synchronize()\n"


def test_a_file_alone_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    for content, why in (
        (b"import torch\nx = (\n", r"a.py, line \d: does not parse"),
        (b"\0", "binary"),
        (b"x = 1\n" * 9, "larger"),
    ):
        file.write_bytes(content)
        monkeypatch.setattr("longcat.port.files.MOST_PYTHON_BYTES", 50)
        with pytest.raises(UserError, match=why) as error:
            scan(file)
        assert error.value.exit_code == 2
        with pytest.raises(UserError, match=why):
            rewrite(file, tmp_path / "out")
    assert [one.why for one in scan(tmp_path).unread] == ["larger than 0 MB: taken for data"]


def test_a_notebook(tmp_path):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# x.cuda()"]},
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": ["import torch\n", "from torch.cuda.amp import autocast\n", "!nvidia-smi\n", "%matplotlib inline"]},
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": ["with autocast():\n", "    y = torch.ones(2).cuda()"]},
    ]  # fmt: skip
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"
    (tmp_path / "n.ipynb").write_text(text)
    rewrite(tmp_path / "n.ipynb", tmp_path / "out")
    after = json.loads((tmp_path / "out/n.ipynb").read_text())["cells"]
    assert after[0] == cells[0]
    assert "".join(after[2]["source"]) == 'with torch.amp.autocast("npu"):\n    y = torch.ones(2).to("npu")'
    assert after[1]["source"][2:] == ["!nvidia-smi\n", "%matplotlib inline"]
    again = rewrite(tmp_path / "out/n.ipynb", tmp_path / "again")
    assert again.changed == []
    (tmp_path / "bad.ipynb").write_text("{")
    for content, why in (
        ("{", "bad.ipynb, line 1: no notebook"),
        ("[]", "bad.ipynb, line 1: no notebook"),
        ("", "bad.ipynb: empty: no notebook$"),
    ):
        (tmp_path / "bad.ipynb").write_text(content)
        with pytest.raises(UserError, match=why):
            scan(tmp_path / "bad.ipynb")
    result = scan(tmp_path)
    assert [one.file for one in result.unread] == ["bad.ipynb"]
    assert {one.file for one in result.findings} >= {"n.ipynb", "out/n.ipynb"}


def cells_after(tmp_path, *sources, **written):
    """What becomes of the cells of a notebook."""
    cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/n.ipynb").write_text(json.dumps({"cells": cells}, **written))
    result = rewrite(tmp_path / "in", tmp_path / "out")
    assert result.unread == [] and rewrite(tmp_path / "out", None).changed == []
    after = (tmp_path / "out/n.ipynb").read_text()
    assert json.dumps(json.loads(after), **written) == after
    assert len({(one.line, one.what) for one in result.findings}) == len(result.findings)
    return ["".join(cell["source"]) for cell in json.loads(after)["cells"]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("?torch.cuda\nhelp?\nx.cuda??\nx.cuda()", '?torch.cuda\nhelp?\nx.cuda??\nx.to("npu")'),
        ("files = !ls\na, b = %sx ls\nx.cuda()", 'files = !ls\na, b = %sx ls\nx.to("npu")'),
        ("!pip install a \\\n     b \\\n  c\nx.cuda()", '!pip install a \\\n     b \\\n  c\nx.to("npu")'),
        ("if y:\n    %time x = x.cuda()\n    !ls", 'if y:\n    %time x = x.to("npu")\n    !ls'),
        ("%time torch.cuda.synchronize()\n!python -c 'torch.cuda.seed()'", "%time torch.accelerator.synchronize()\n!python -c 'torch.cuda.seed()'"),
        ("%timeit -n 10 -r3 x.cuda()\n%timeit\n%time", '%timeit -n 10 -r3 x.to("npu")\n%timeit\n%time'),
        ("%%time\nt.synchronize()", "%%time\ntorch.accelerator.synchronize()"),
        ("%%capture out\nx.cuda()", '%%capture out\nx.to("npu")'),
        ("%%bash\na.py --device cuda", "%%bash\na.py --device npu"),
        ("%%writefile a.py\nimport torch\ntorch.cuda.synchronize()\n", "%%writefile a.py\nimport torch\ntorch.accelerator.synchronize()\n"),
        ("%%writefile -a c.yaml\ndevice: cuda\n", "%%writefile -a c.yaml\ndevice: npu\n"),
        ("%%writefile -a a.py\n  x.cuda(\n", "%%writefile -a a.py\n  x.cuda(\n"),
        ("%%html\n<b>cuda</b>", "%%html\n<b>cuda</b>"),
        ("await f(x.cuda())\nasync with a: pass", 'await f(x.to("npu"))\nasync with a: pass'),
    ],
)  # fmt: skip
def test_cells_with_magics(tmp_path, before, after):
    assert cells_after(tmp_path, "import torch\nimport torch.cuda as t", before)[1] == after


def test_a_notebook_is_written_as_it_was(tmp_path):
    for number, written in enumerate(({"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False, "indent": 4})):
        (tmp_path / str(number)).mkdir()
        assert cells_after(tmp_path / str(number), "import torch\nx.cuda()  # Käse", **written)[0].endswith(
            'x.to("npu")  # Käse'
        )


def test_a_mark_at_the_beginning_of_a_file_stays(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "c.yaml").write_bytes(mark + b"dev: cuda\n")
    (tmp_path / "a.py").write_bytes(mark + b"import torch\ntorch.cuda.synchronize()\n")
    after = {read.source.name: read.after for read in examine_all(tmp_path, None, False)}
    assert after == {
        "c.yaml": mark + b"dev: npu\n",
        "a.py": mark + b"import torch\ntorch.accelerator.synchronize()\n",
    }


def test_many_files_are_read_by_several_processes_in_order(tmp_path):
    for number in range(80):
        (tmp_path / f"m{number:02}.py").write_text(
            "import torch\ntorch.cuda.synchronize()\n" if number % 2 else "x = 1\n"
        )
    said = []
    reads = list(examine_all(tmp_path, None, False, said.append))
    assert [one.source.name for one in reads] == [f"m{number:02}.py" for number in range(80)]
    assert sum(len(one.findings) for one in reads) == 40
    assert said[-1].fraction == 1


@pytest.mark.parametrize(
    ("name", "text", "after"),
    [
        ("run.sh", "CUDA_VISIBLE_DEVICES=1 python a.py --device=cuda:0 --dist-backend nccl  # cuda\n", "ASCEND_RT_VISIBLE_DEVICES=1 python a.py --device=npu:0 --dist-backend hccl  # cuda\n"),
        ("run.sh", "torchrun --nproc_per_node=gpu a.py device=cuda:1 trainer.backend=nccl\n", "torchrun --nproc_per_node=auto a.py device=npu:1 trainer.backend=hccl\n"),
        ("run.sh", "#SBATCH --gres=gpu:8\n", None),
        ("run.sh", "#SBATCH --gpus=8\n", None),
        ("run.sh", "#SBATCH --constraint=a100\n", None),
        ("run.sh", "#PBS -l select=1:ngpus=4\n", None),
        ("run.sh", "module load gcc/12 cuda/12.1\n", None),
        ("run.sh", "accelerate launch --multi_gpu a.py\n", None),
        ("run.sh", "python a.py --accelerator=cuda\n", None),
        ("c.yaml", "devices: [cuda:0, 'cuda:1']\n", "devices: [npu:0, 'npu:1']\n"),
        ("c.yaml", "devices:\n  - cuda\n  - 'cuda:1'\n", "devices:\n  - npu\n  - 'npu:1'\n"),
        ("c.yaml", "device: [cpu, cuda, \"cuda:1\"]\n", "device: [cpu, npu, \"npu:1\"]\n"),
        ("c.yaml", "args:\n- --device  # it\n  # what\n- cuda\n- \"--backend=nccl\"\n- --dist_backend\n- nccl\n", "args:\n- --device  # it\n  # what\n- npu\n- \"--backend=hccl\"\n- --dist_backend\n- hccl\n"),
        ("c.yaml", "devices:\n  - name: one\nlanguages:\n  - cuda\n", None),
        ("c.yaml", "kinds: [cuda, rocm]\n", None),
        ("c.yaml", "backends:\n- nccl\n- gloo\n", "backends:\n- hccl\n- gloo\n"),
        ("c.json", '{"args": ["--device", "cuda",\n "--backend",\n  "nccl"], "devices": ["cuda:0",\n  "cuda"]}\n', '{"args": ["--device", "npu",\n "--backend",\n  "hccl"], "devices": ["npu:0",\n  "npu"]}\n'),
        ("c.toml", "devices = ['cuda', 'cpu']\n", "devices = ['npu', 'cpu']\n"),
        ("Dockerfile", 'CMD ["python","train.py","--device","cuda"]\n', 'CMD ["python","train.py","--device","npu"]\n'),
        ("Dockerfile", 'ENTRYPOINT ["a", "--device=cuda:1", "--backend", "nccl"]\n', 'ENTRYPOINT ["a", "--device=npu:1", "--backend", "hccl"]\n'),
        ("Dockerfile", "ENV DEVICE cuda\n", "ENV DEVICE npu\n"),
        ("run.sh", "args=(--device cuda)\n", "args=(--device npu)\n"),
        ("run.sh", "a --device \\\n  cuda \\\n  --backend \\\n  nccl\n", "a --device \\\n  npu \\\n  --backend \\\n  hccl\n"),
        ("run.sh", 'DEVICE=${DEVICE:-cuda}\nif [ "$DEVICE" = "cuda" ]; then a; fi\n', 'DEVICE=${DEVICE:-npu}\nif [ "$DEVICE" = "npu" ]; then a; fi\n'),
        ("run.sh", 'device="${1:-cuda:0}"; [[ $device == cuda* ]]\n', 'device="${1:-npu:0}"; [[ $device == npu* ]]\n'),
        ("run.sh", 'python -c "import torch; torch.cuda.device_count()"\n', 'python -c "import torch; torch.accelerator.device_count()"\n'),
        ("run.sh", 'python -c "import torch; torch.cuda.set_device(0)"\n', None),
        ("run.sh", "a device=cuda,cpu\n", "a device=npu,cpu\n"),
        ("Makefile", "DEVICE ?= cuda\nDEVICE := cuda\n", "DEVICE ?= npu\nDEVICE := npu\n"),
        ("c.yaml", "device: &dev cuda\nother: *dev\n", "device: &dev npu\nother: *dev\n"),
        ("c.yaml", "trainer: {device: cuda, accelerator: cuda}\n", "trainer: {device: npu, accelerator: cuda}\n"),
        ("c.yaml", "scaler: {_target_: torch.cuda.amp.GradScaler}\n", None),
        ("c.yaml", "limits:\n  nvidia.com/gpu: 8\n", None),
        ("c.yaml", "image: nvcr.io/nvidia/pytorch:24.01-py3\n", None),
        ("c.yaml", "accelerator: cuda\n", None),
        ("c.yaml", "gpus: 8\n", None),
        ("run.sh", "nvidia-smi\n", "npu-smi info\n"),
        ("run.sh", "echo nvidia-smi | grep x\n", None),
        ("run.sh", "$CUDA_HOME/bin/nvcc a.cu\n", None),
        ("c.yaml", "model:\n  device: 'cuda'\n  args: {map_location: cuda, n: 1}\n", "model:\n  device: 'npu'\n  args: {map_location: npu, n: 1}\n"),
        ("c.json", '{"device": "cuda:1", "kind": "cuda"}\n', '{"device": "npu:1", "kind": "cuda"}\n'),
        ("c.toml", 'backend = "nccl"\n', 'backend = "hccl"\n'),
        ("Dockerfile", "FROM nvcr.io/nvidia/pytorch:24.01-py3\n", None),
        ("pyproject.toml", 'dependencies = ["torch", "bitsandbytes>=0.41"]\n', None),
        ("environment.yml", "dependencies:\n  - pytorch-cuda=12.1\n", None),
        ("setup.cfg", "install_requires =\n    xformers==0.0.20\n", None),
        ("op.cpp", "#include <c10/cuda/CUDAStream.h>\n", None),
    ],
)  # fmt: skip
def test_other_files(tmp_path, name, text, after):
    (tmp_path / name).write_text(text)
    [read] = examine_all(tmp_path, None, False)
    assert read.findings
    assert read.after.decode() == (text if after is None else after)


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.sh", "# python a.py --device cuda\n"), ("run.sh", "# a.py --device \\\n# cuda\n"), ("c.yaml", "# - --device\n# - cuda\n"), ("c.yaml", "a: []  # devices: [cuda]\n"), ("run.sh", "echo barracuda ml-device\n"), ("c.yaml", "tag: a/cuda:1\n"), ("c.yaml", "gpu_name: none\n")],
)  # fmt: skip
def test_other_files_without_cuda(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    [read] = examine_all(tmp_path, None, False)
    assert read.findings == ()


@pytest.mark.timeout(60)
def test_long_lists_are_read_in_time_that_grows_with_them(tmp_path):
    (tmp_path / "a.json").write_text('{"devices": [' + '"cuda",\n' * 20_000 + '"cpu"]}')
    (tmp_path / "a.yaml").write_text("devices:\n" + "- cuda\n" * 20_000)
    for read in examine_all(tmp_path, None, False):
        assert len(read.findings) == 20_000 and read.findings[-1].line in (20_000, 20_001)


def test_an_accelerator_beside_a_device_is_said(tmp_path):
    (tmp_path / "c.yaml").write_text("trainer: {device: cuda, accelerator: gpu}\n")
    [read] = examine_all(tmp_path, None, False)
    assert [one.what for one in read.findings] == ["device: cuda", "accelerator: gpu"]


def test_a_place_is_said_once(tmp_path):
    (tmp_path / "run.sh").write_text("#SBATCH --gres=gpu:a100:4\n")
    [read] = examine_all(tmp_path, None, False)
    assert len(read.findings) == 1


def test_words_are_shown_as_they_stand(tmp_path):
    (tmp_path / "run.sh").write_text("a --device cuda --device='cuda' --backend  nccl\nb --device \\\n  cuda\n")
    [read] = examine_all(tmp_path, None, False)
    assert [one.what for one in read.findings] == ["--device cuda", "--device=cuda", "--backend nccl", "--device cuda"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["settings.json", "conf.yaml", "run.sh"])
def test_long_lines_are_read_in_time_that_grows_with_them(tmp_path, name):
    for word in ("aGVsbG8", "a.", "a-", "--a", "--device", " ", "device", "backend", "torch.cuda.", "a=[", "- ", "'}"):
        (tmp_path / name).write_text(f'{{"image": "{word * (10**5 // len(word))}", "device": "cuda"}}')
        [read] = examine_all(tmp_path, None, False)
        assert {one.what for one in read.findings} - {"torch.cuda" + ".torch.cuda" * 4} <= {"device: cuda"}


def test_differences_have_the_lines_that_patch_has(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.py").write_text("import torch\ny = '\u2028 \x85'\nx = torch.ones(1).cuda()\n")
    lines = "".join(rewrite(tmp_path / "in", None, with_diff=True).diff).split("\n")
    assert "-x = torch.ones(1).cuda()" in lines
    assert all(line[:1] in " +-@" for line in lines)


def test_a_name_of_a_file_need_not_be_utf_8(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (root / os.fsdecode(b"na\xefve.py")).write_text("import torch\nx = torch.ones(1).cuda()\n")
    assert r"na\udcefve.py" in html(scan(root).as_json())
    rewrite(root, tmp_path / "out")
    (code,) = (tmp_path / "out").glob("*.py")
    assert ".to(ACCELERATOR)" in code.read_text()
    assert os.fsdecode(b"na\xefve.py") in json.loads((tmp_path / "out" / RECORD).read_text())["files"]


@pytest.mark.slow
def test_the_command(longcat, repository, tmp_path):
    answer = longcat("port", "scan", str(repository), "--json", "--html", str(tmp_path / "page.html"))
    assert answer.returncode == 0
    found = json.loads(answer.stdout)
    assert found["by_effort"]["automatic"] > 50 and found["by_class"]["none"] > 5
    page = (tmp_path / "page.html").read_text()
    assert "torch.utils.cpp_extension.CUDAExtension" in page and "<script" not in page
    for columns in ("80", "40"):
        assert longcat("port", "scan", str(repository), COLUMNS=columns).returncode == 0
    answer = longcat("port", "rewrite", str(repository), "--diff")
    assert "+++ b/nano_gpt.py" in answer.stdout and sorted(path.name for path in tmp_path.iterdir()) == [
        "page.html",
        "repository",
    ]
    for arguments, why in (
        (("rewrite", str(repository)), "--out"),
        (("rewrite", str(repository), "--out", str(repository / "x")), "lies inside"),
        (("scan", str(tmp_path / "typo")), "no such file"),
        (("scan", str(repository), "--html", str(tmp_path / "no/x.html")), "there is no folder"),
        (("check", str(tmp_path / "typo"), "--", "python", "a.py"), "there is no such folder"),
        (("check", str(repository), "--", "python", "a.py"), "--original"),
    ):
        answer = longcat("port", *arguments)
        assert answer.returncode == 2 and why in answer.stderr and len(answer.stderr.strip().splitlines()) == 1, (
            answer.stderr
        )


def test_without_a_wheel_the_rest_is_found(tmp_path, monkeypatch):
    def absent(python):
        raise DeviceError("no environment with torch_npu: `make emulator` makes one")

    monkeypatch.setattr(scanning, "read_support", absent)
    (tmp_path / "a.py").write_text("import torch\ntorch.cuda.synchronize()\ntorch.lgamma(x)\n")
    result = scan(tmp_path).as_json()
    assert [row["what"] for row in result["findings"]] == ["torch.cuda.synchronize"]
    assert result["operators"] is None and "make emulator" in result["no_operators"]
    with pytest.raises(DeviceError):
        scan(tmp_path, python="/no/such/python")
