"""torchtitan's training, with its plug-in for NPUs where there is one."""

import importlib.util
import runpy

there = importlib.util.find_spec("torch_npu")
runpy.run_module("torchtitan_npu.entry" if there else "torchtitan.train", run_name="__main__", alter_sys=True)
