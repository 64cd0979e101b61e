"""Run with MindSpore: what train_mindspore.py says of arguments, and its exit codes.

python refusals.py FOLDER

FOLDER has `exported/` and `asked.json`, a list of arguments for each call; writes `said.json`, a code and stderr for each.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder / "exported"))

import train_mindspore  # noqa: E402

os.chdir(folder)
said = []
for arguments in json.loads(Path("asked.json").read_text()):
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = train_mindspore.main(["--steps", "4", *arguments])
    said.append((code, stream.getvalue()))
Path("said.json").write_text(json.dumps(said))
