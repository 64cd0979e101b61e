"""Run with MindSpore: what an exported model computes in PyNative and in graph mode, for the batch of `reference.npz`.

python compute.py FOLDER

FOLDER has `exported/` and `reference.npz`; writes `pynative.npz` and `graph.npz`, and `saved/` after the step in graph mode.
"""

import json
import sys
from pathlib import Path

import numpy

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder / "exported"))

import longcat_mindspore  # noqa: E402
import mindspore  # noqa: E402
import train_mindspore  # noqa: E402

given = numpy.load(folder / "reference.npz")
batch = [given[name] for name in ("tokens", "targets", "documents")]
settings = train_mindspore.Settings(**json.loads((folder / "settings.json").read_text()))
for mode in ("pynative", "graph"):
    model = longcat_mindspore.load(folder / "exported")
    logits = (mindspore.jit(model) if mode == "graph" else model)(mindspore.Tensor(batch[0]))
    trainer = train_mindspore.Trainer(model, settings, graph=mode == "graph")
    named = {id(parameter): name for name, parameter in model.parameters_and_names()}
    names = [named[id(weight)] for weight in trainer.weights]
    real = (batch[2] != train_mindspore.PADDING).astype(numpy.float32)
    parts, load, _, gradients = trainer.compute(*map(mindspore.Tensor, (*batch[:2], real)))
    found = {f"gradient {name}": gradient.asnumpy() for name, gradient in zip(names, gradients, strict=True)}
    record = trainer.step(0, *batch)
    found |= {f"weight {name}": parameter.asnumpy() for name, parameter in model.parameters_and_names()}
    numpy.savez(
        folder / f"{mode}.npz", logits=logits.asnumpy(), losses=parts.asnumpy(), load=load.asnumpy(),
        norm=record["train/gradient_norm"], **found,
    )  # fmt: skip
longcat_mindspore.save(model, folder / "saved", folder / "exported")
