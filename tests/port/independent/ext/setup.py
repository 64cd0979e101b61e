from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension, CUDA_HOME

setup(
    name="fused_swiglu",
    ext_modules=[CUDAExtension("fused_swiglu", ["swiglu.cpp", "swiglu_kernel.cu"],
                               extra_compile_args={"nvcc": ["-O3", "-gencode=arch=compute_80,code=sm_80"]})],
    cmdclass={"build_ext": BuildExtension},
)
