"""torchtitan's training; where there is an NPU with its plug-in, whose converters are the first argument."""

import importlib.util
import runpy
import sys

converters = sys.argv.pop(1)
there = importlib.util.find_spec("torch_npu")
if there:
    sys.argv += ["--model.converters", converters]
runpy.run_module("torchtitan_npu.entry" if there else "torchtitan.train", run_name="__main__", alter_sys=True)
