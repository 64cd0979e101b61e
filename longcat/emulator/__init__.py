"""Emulated Ascend NPU on the CPU: runs programs with the real torch_npu wheel on a machine without an NPU.

`native/` holds what CANN would bring (ACL's runtime and HCCL, in C++) and the kernels that compute aten operators on the
CPU; `build.py` compiles it, `command.py` starts a program with it, `hook.py` puts the kernels into torch_npu as soon as
the program has imported it, and `operators/` are references of the fused operators that torch_npu adds to torch.
"""
