"""The pictures of a benchmark's report as PNG files.

    python benchmarks/report_pictures.py RESULT FOLDER [--only timeline axes ...]

RESULT is the `result.json` that `longcat benchmark` writes; a picture is FOLDER/NAME.png, its form for a telephone
FOLDER/NAME-narrow.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from longcat.benchmark.report import pictures
from longcat.figures import png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, forms in pictures(json.loads(arguments.result.read_text(encoding="utf-8"))):
        if arguments.only is None or name in arguments.only:
            for form, figure in forms.items():
                file = arguments.folder / f"{name}{'' if form == 'wide' else '-narrow'}.png"
                file.write_bytes(png(figure))
                print(file)


if __name__ == "__main__":
    main()
