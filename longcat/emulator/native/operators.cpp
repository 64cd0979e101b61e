// The descriptions that torch_npu gives with an operator, and the door to device kernels, which stays shut:
// operators are computed in kernels.cpp before they come here, and one that still does must not look as if it had run.
#include "emulator.h"

#include <acl/acl_op_compiler.h>

#include <cstdio>
#include <vector>

using namespace emulator;

namespace {

struct Description {
  aclDataType type;
  std::vector<int64_t> sizes;
  aclFormat format;
};

struct Buffer {
  void* data;
  size_t bytes;
};

const Description* description(const aclTensorDesc* handle) { return reinterpret_cast<const Description*>(handle); }

}  // namespace

extern "C" {

aclTensorDesc* aclCreateTensorDesc(aclDataType type, int dimensions, const int64_t* sizes, aclFormat format) {
  auto made = new Description{type, {}, format};
  if (dimensions > 0 && sizes) made->sizes.assign(sizes, sizes + dimensions);
  return reinterpret_cast<aclTensorDesc*>(made);
}
void aclDestroyTensorDesc(const aclTensorDesc* handle) { delete description(handle); }
aclDataType aclGetTensorDescType(const aclTensorDesc* handle) { return description(handle)->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc* handle) { return description(handle)->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc* handle) { return description(handle)->sizes.size(); }
aclError aclGetTensorDescDimV2(const aclTensorDesc* handle, size_t index, int64_t* size) {
  *size = description(handle)->sizes[index];
  return ACL_SUCCESS;
}

aclDataBuffer* aclCreateDataBuffer(void* data, size_t bytes) {
  return reinterpret_cast<aclDataBuffer*>(new Buffer{data, bytes});
}
aclError aclDestroyDataBuffer(const aclDataBuffer* handle) {
  delete reinterpret_cast<const Buffer*>(handle);
  return ACL_SUCCESS;
}

aclError aclopCompileAndExecute(const char* operation, int, const aclTensorDesc* const[], const aclDataBuffer* const[],
                                int, const aclTensorDesc* const[], aclDataBuffer* const[], const aclopAttr*,
                                aclopEngineType, aclopCompileType, const char*, aclrtStream) {
  return emulator_unsupported((std::string("device kernel ") + operation).c_str());
}

aclError aclopCompileAndExecuteV2(const char* operation, int, aclTensorDesc*[], aclDataBuffer*[], int, aclTensorDesc*[],
                                  aclDataBuffer*[], aclopAttr*, aclopEngineType, aclopCompileType, const char*,
                                  aclrtStream) {
  return emulator_unsupported((std::string("device kernel ") + operation).c_str());
}

}  // extern "C"
