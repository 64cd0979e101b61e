"""Programs of others on the emulated Ascend, unmodified but for their data (and FSDP2's, see `initialised`).

    python benchmarks/foreign.py --checkouts DIR [--python PYTHON] [PROGRAM]... [--list] [--json]

`DIR` holds checkouts under their repositories' names (nanoGPT, examples, torchtitan, ...); `PYTHON` is that of an environment
with torch, torch_npu and the libraries that the programs need. Each program runs in a copy of its folder with small made
data, once on the CPU and once under `longcat emulate`, and both are stopped after a few steps of its optimizer. Programs
that name CUDA get torch_npu's own `transfer_to_npu`, as its users would. Those that need torchvision need the one that was
built for a torch without CUDA; torchtune 0.6.1 needs a torchao below 0.11, which peft refuses; torchtitan is 0.2.2, as its
plug-in wants (torchtitan-npu 0.2.2.post1), and imports triton. `foreign_programs/` has those that are only a library's few
lines: no checkout is needed for them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longcat.errors import LongcatError
from longcat.port.checking import check

OWN = Path(__file__).resolve().parent / "foreign_programs"
TRANSFERRED = "on_npu.py"
_TRANSFER = """
import runpy, sys
try:
    from torch_npu.contrib import transfer_to_npu
except ModuleNotFoundError:
    pass
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0] or "."
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Program that runs another one with torch_npu's replacement of CUDA's names, where there is torch_npu."""
WORDS = (
    "the", "courier", "brings", "a", "warm", "meal", "to", "a", "door", "and", "the", "merchant", "sees", "when", "it", "will", "be", "there"
)  # fmt: skip


def text(lines: int, seed: int = 0) -> str:
    """Make lines of words."""
    draw = np.random.default_rng(seed)
    return "\n".join(" ".join(draw.choice(WORDS, 12)) for _ in range(lines)) + "\n"


def token_files(folder: Path) -> None:
    """Write nanoGPT's files of 16-bit tokens."""
    draw = np.random.default_rng(0)
    for name in ("train", "val"):
        draw.integers(0, 64, 20_000, dtype=np.uint16).tofile(folder / "data" / "shakespeare_char" / f"{name}.bin")


def language_files(folder: Path) -> None:
    """Write the text that word_language_model reads."""
    (folder / "data" / "wikitext-2").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("train", "valid", "test")):
        (folder / "data" / "wikitext-2" / f"{name}.txt").write_text(text(400, number))


def digits(folder: Path) -> None:
    """Write images and labels as torchvision's MNIST keeps them, and have the programs look for them in their own folder."""
    draw = np.random.default_rng(0)
    for program in folder.glob("*.py"):
        program.write_text(program.read_text().replace("../data", "data"))
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 640), ("t10k", 64)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = draw.integers(0, 10, count, dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())


def tokenized(folder: Path) -> None:
    """Write documents as torchtitan's test data has them, and a tokenizer of characters."""
    rows = [{"text": text(40, number), "timestamp": "", "url": ""} for number in range(200)]
    documents = folder / "tests" / "assets" / "c4_test"
    documents.mkdir(parents=True)
    (documents / "data.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = {chr(number): number - 32 for number in range(32, 127)}
    described = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(described))


def initialised(folder: Path) -> None:
    """Have the FSDP2 example initialise its layers, which it leaves as `to_empty()` has found them in memory."""
    model = folder / "model.py"
    first = "        self.tok_embeddings.reset_parameters()\n"
    layers = "        for layer in self.layers:\n            layer.reset_parameters()\n"
    model.write_text(model.read_text().replace(first, first + layers))


@dataclass(frozen=True)
class Program:
    """A program of others."""

    name: str
    command: str
    """As it is called in its folder."""
    folder: str = ""
    """Folder in the checkouts; empty for those in `foreign_programs`."""
    prepare: Callable[[Path], None] | None = None
    steps: int = 5
    cuda: bool = False
    """Whether it names CUDA, so that torch_npu's `transfer_to_npu` is imported before."""
    remark: str = ""
    """What is known of it: a fault of the wheel with its remedy."""

    def source(self, checkouts: Path) -> Path:
        """Return the folder that it is copied from."""
        return checkouts / self.folder if self.folder else OWN


GPT = "config/train_shakespeare_char.py --device=cuda --compile=False --eval_iters=1 --log_interval=1 --block_size=64 --batch_size=4 --n_layer=2 --n_head=2 --n_embd=64 --max_iters=8 --gradient_accumulation_steps=1"
FUSED_SCALER = (
    "torch_npu 2.13.0's own torch.npu.amp.GradScaler does not take torch's fused optimizers: use "
    "torch.amp.GradScaler('npu'), or an optimizer with fused=False"
)
MINGPT = (
    "data_config.path=data/input.txt data_config.block_size=32 gpt_config.n_layer=2 gpt_config.n_head=2 gpt_config.n_embd=64 "
    "trainer_config.batch_size=8 trainer_config.data_loader_workers=0"
)
TORCHRUN = "torchrun --standalone --nproc-per-node=2"
TITAN = (
    "--model.flavor debugmodel --model.hf_assets_path ./tokenizer --training.dataset c4_test "
    "--training.local_batch_size 2 --training.seq_len 128 --training.steps 4 --metrics.log_freq 1"
)
PROGRAMS = (
    Program("nanogpt-fp32", f"python train.py {GPT} --dtype=float32", "nanoGPT", token_files, cuda=True),
    Program("nanogpt-bf16", f"python train.py {GPT} --dtype=bfloat16", "nanoGPT", token_files, cuda=True),
    Program("nanogpt-fp16", f"python train.py {GPT} --dtype=float16", "nanoGPT", token_files, cuda=True, remark=FUSED_SCALER),
    Program("mnist", "python main.py --epochs 1", "examples/mnist", digits),
    Program("mnist-rnn", "python main.py --epochs 1 --accel", "examples/mnist_rnn", digits),
    Program("mnist-forward-forward", "python main.py --epochs 1", "examples/mnist_forward_forward", digits),
    Program("vae", "python main.py --epochs 1", "examples/vae", digits),
    Program("siamese", "python main.py --epochs 1", "examples/siamese_network", digits),
    Program("dcgan", "python main.py --dataset fake --batchSize 8 --imageSize 64 --ngf 8 --ndf 8 --niter 1 --workers 0 --accel", "examples/dcgan", steps=3),
    Program("imagenet-resnet18", "python main.py --dummy -a resnet18 -b 4 --epochs 1 -j 0 -p 1", "examples/imagenet", steps=2),
    Program("word-lstm", "python main.py --accel --epochs 1 --emsize 32 --nhid 32 --log-interval 1 --dropout 0", "examples/word_language_model", language_files),
    Program("word-transformer", "python main.py --accel --epochs 1 --model Transformer --emsize 32 --nhead 2 --nhid 32 --dropout 0", "examples/word_language_model", language_files),
    Program("ddp", f"{TORCHRUN} example.py", "examples/distributed/ddp", steps=1),
    Program("ddp-tutorial", f"{TORCHRUN} multigpu_torchrun.py 1 5", "examples/distributed/ddp-tutorial-series", cuda=True),
    Program("mingpt-ddp", f"{TORCHRUN} main.py {MINGPT}", "examples/distributed/minGPT-ddp/mingpt"),
    Program("fsdp2", f"{TORCHRUN} example.py", "examples/distributed/FSDP2", initialised),
    Program("fsdp2-mixed", f"{TORCHRUN} example.py --mixed-precision", "examples/distributed/FSDP2", initialised),
    Program("tensor-parallel", f"{TORCHRUN} tensor_parallel_example.py", "examples/distributed/tensor_parallelism"),
    Program("sequence-parallel", f"{TORCHRUN} sequence_parallel_example.py", "examples/distributed/tensor_parallelism"),
    Program("fsdp-tensor-parallel", "torchrun --standalone --nproc-per-node=4 fsdp_tp_example.py", "examples/distributed/tensor_parallelism"),
    Program("lightning-bug-report", "python bug_report_model.py", "pytorch-lightning/examples/pytorch/bug_report", cuda=True),
    Program("trainer-fp32", "python trainer.py fp32"),
    Program("trainer-bf16", "python trainer.py bf16"),
    Program("trainer-fp16", "python trainer.py fp16", remark=FUSED_SCALER),
    Program("accelerate", "accelerate launch --num_processes 2 --multi_gpu accelerate_loop.py"),
    Program("peft-lora", "python lora.py"),
    Program("trl-sft", "python sft.py"),
    Program("lightning", "env TORCH_NPU_DEVICE_CAPABILITY=8.0 python lightning_fit.py"),
    Program("torchtune-lora", "python tune_lora.py"),
    Program("torchtitan-npu-llama", f"{TORCHRUN} titan.py npu_rms_norm,npu_rope --model.name llama3 {TITAN}", prepare=tokenized, steps=3),
    Program("torchtitan-npu-deepseek", f"{TORCHRUN} titan.py npu_rms_norm,npu_rope,npu_permute --model.name deepseek_v3 {TITAN}", prepare=tokenized, steps=3),
    Program("deepspeed-zero1", f"{TORCHRUN} zero.py 1"),
    Program("deepspeed-zero2", f"{TORCHRUN} zero.py 2"),
    Program("deepspeed-zero3", f"{TORCHRUN} zero.py 3"),
)  # fmt: skip


def run(program: Program, checkouts: Path, python: str | None, limit_s: float) -> dict[str, Any]:
    """Run one program on both, and return what `longcat port check` finds."""
    source = program.source(checkouts)
    if not source.is_dir():
        return {"verdict": "absent", "why": f"there is no {source}"}
    with tempfile.TemporaryDirectory(prefix="foreign-") as scratch:
        folder = Path(scratch) / "checkout" / source.name
        shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        if program.prepare is not None:
            program.prepare(folder)
        words = program.command.split()
        if program.cuda:
            (folder / TRANSFERRED).write_text(_TRANSFER)
            place = next(index for index, word in enumerate(words) if word.endswith(".py"))
            words.insert(place, TRANSFERRED)
        try:
            return check(folder, words, original=folder, steps=program.steps, limit_s=limit_s, python=python)
        except LongcatError as error:
            return {"verdict": "not run", "why": str(error)}


def line(program: Program, found: dict[str, Any]) -> str:
    """Return the result of a program in lines."""
    losses = found.get("losses") or []
    shown = [row for row in losses if row["rank"] == min(one["rank"] for one in losses)][:4]
    pairs = ", ".join(f"{row['original']} / {row['rewrite']}" for row in shown)
    text = f"{found['verdict']:<8} {program.name:<22} {found['why']}"
    if pairs:
        text += f" CPU / emulated: {pairs}."
    if found["verdict"] not in ("same", "absent") and program.remark:
        text += f" {program.remark}."
    return "\n".join(textwrap.wrap(text, 118, subsequent_indent=" " * 9))


def main() -> int:
    """Run the command line; returns 1 if a program differs, fails or cannot be compared without a known reason, or if none ran.

    Where all are asked for, those are passed over whose checkout or library is not there; one that is named is an error then.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="names; default: all")
    parser.add_argument("--checkouts", type=Path, metavar="DIR", help="default: this folder")
    parser.add_argument("--python", metavar="PYTHON", help="as for longcat emulate")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of each run")
    parser.add_argument("--list", action="store_true", help="print names and commands")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    known = {program.name: program for program in PROGRAMS}
    if unknown := [name for name in options.programs if name not in known]:
        parser.error(f"no program {unknown[0]}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.programs] or list(PROGRAMS)
    if options.list:
        for program in chosen:
            print(f"{program.name:<22} {program.folder or 'foreign_programs'}: {program.command}")
        return 0
    checkouts = options.checkouts or Path()
    theirs = [program for program in chosen if program.folder]
    absent = [program for program in theirs if not program.source(checkouts).is_dir()]
    if absent and options.programs:
        parser.error(
            f"{absent[0].name}: there is no {absent[0].source(checkouts)}; --checkouts names the folder that holds "
            f"{absent[0].folder.partition('/')[0]}"
        )
    if absent == theirs and options.checkouts is not None:
        names = dict.fromkeys(program.folder.partition("/")[0] for program in theirs)
        parser.error(f"--checkouts {checkouts}: there is none of {', '.join(names)}")
    results = {}
    for program in chosen:
        results[program.name] = found = run(program, checkouts, options.python, options.seconds)
        if not options.json:
            print(line(program, found), flush=True)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        verdicts = [found["verdict"] for found in results.values()]
        print(", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts)))
    passed_over = () if options.programs else ("absent", "not run")
    ran = {name: found["verdict"] for name, found in results.items() if found["verdict"] not in passed_over}
    unexplained = [name for name, verdict in ran.items() if verdict != "same" and not known[name].remark]
    return int(bool(unexplained) or not ran)


if __name__ == "__main__":
    sys.exit(main())
