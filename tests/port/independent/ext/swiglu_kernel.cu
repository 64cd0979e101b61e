#include <cuda_runtime.h>
#include <ATen/cuda/CUDAContext.h>
__global__ void swiglu(const float* a, const float* b, float* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) o[i] = a[i] / (1.f + expf(-a[i])) * b[i];
}
void launch(const float* a, const float* b, float* o, int n) {
  swiglu<<<(n + 255) / 256, 256, 0, at::cuda::getCurrentCUDAStream()>>>(a, b, o, n);
}
