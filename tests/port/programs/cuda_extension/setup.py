from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CUDAExtension

assert CUDA_HOME is not None, "nvcc is needed"
setup(
    name="fused_bias_gelu",
    ext_modules=[
        CUDAExtension(
            "fused_bias_gelu_cuda",
            ["kernel.cu"],
            extra_compile_args={"cxx": ["-O3"], "nvcc": ["-O3", "--use_fast_math"]},
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
