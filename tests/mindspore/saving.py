"""Run with MindSpore: what a model computes and `save` writes in 16 bits, and what `save` leaves where it cannot write.

python saving.py FOLDER

FOLDER has `exported/`; writes `bf16/` and `fp16/`, `logits.npz` of the types that a CPU computes in, and `said.json` with the
error of each failure.
"""

import json
import resource
import signal
import sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder / "exported"))

import longcat_mindspore  # noqa: E402
import mindspore  # noqa: E402
import numpy  # noqa: E402

model = longcat_mindspore.load(folder / "exported", mindspore.bfloat16)
half, whole = (longcat_mindspore.load(folder / "exported", of) for of in (mindspore.float16, mindspore.float32))
said = {}


def refused(name, target, source):
    try:
        longcat_mindspore.save(model, folder / target, folder / source)
    except ValueError as error:
        said[name] = str(error)


tokens = mindspore.Tensor(numpy.arange(3, 19)[None])
numpy.savez(folder / "logits.npz", fp16=half(tokens).asnumpy(), fp32=whole(tokens).asnumpy())
longcat_mindspore.save(model, folder / "bf16", folder / "exported")
longcat_mindspore.save(half, folder / "fp16", folder / "exported")
refused("no source", "first", "nowhere")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, most))  # less than the weights have
refused("no room", "second", "exported")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
(folder / "said.json").write_text(json.dumps(said))
