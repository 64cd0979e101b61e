// The descriptions that torch_npu gives with an operator, and the door to device kernels. Operators are computed in
// kernels.cpp before they come here. Some of torch_npu's own C++ calls kernels past the dispatcher: those it calls are
// here, any other must not look as if it had run.
#include "emulator.h"

#include <acl/acl_op_compiler.h>

#include <cstdio>
#include <cstring>
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

const Buffer* buffer(const aclDataBuffer* handle) { return reinterpret_cast<const Buffer*>(handle); }

// x, how much before and after each dimension, the value to pad with.
void pad(const aclTensorDesc* const descriptions[], const aclDataBuffer* const inputs[], const aclTensorDesc* padded,
         const Buffer* to) {
  const auto &small = description(descriptions[0])->sizes, &large = description(padded)->sizes;
  size_t unit = aclDataTypeSize(description(descriptions[0])->type), dimensions = small.size(), elements = 1;
  bool wide = description(descriptions[1])->type == ACL_INT64;
  auto before = [&](size_t i) -> int64_t {
    auto data = buffer(inputs[1])->data;
    return wide ? static_cast<int64_t*>(data)[2 * i] : static_cast<int32_t*>(data)[2 * i];
  };
  auto target = static_cast<char*>(to->data);
  for (size_t at = 0; at + unit <= to->bytes; at += unit) memcpy(target + at, buffer(inputs[2])->data, unit);
  for (auto size : small) elements *= size;
  for (size_t element = 0; element < elements; element++) {
    size_t rest = element, at = 0, stride = 1;
    for (size_t i = dimensions; i-- > 0; rest /= small[i], stride *= large[i]) at += (rest % small[i] + before(i)) * stride;
    memcpy(target + at * unit, static_cast<char*>(buffer(inputs[0])->data) + element * unit, unit);
  }
}

aclError run(const std::string& kernel, const aclDataBuffer* const inputs[], const aclTensorDesc* const descriptions[],
             const aclDataBuffer* output, const aclTensorDesc* result) {
  auto to = buffer(output);
  if (kernel == "ZerosLike") {
    memset(to->data, 0, to->bytes);
  } else if (kernel == "Fill") {  // of the sizes, then the value
    size_t unit = aclDataTypeSize(description(descriptions[1])->type);
    for (size_t at = 0; at + unit <= to->bytes; at += unit)
      memcpy(static_cast<char*>(to->data) + at, buffer(inputs[1])->data, unit);
  } else if (kernel == "PadV3") {
    pad(descriptions, inputs, result, to);
  } else {
    return emulator_unsupported(("device kernel " + kernel).c_str());
  }
  return ACL_SUCCESS;
}

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

size_t aclDataTypeSize(aclDataType type) {
  switch (static_cast<int>(type)) {
    case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
    case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
    case ACL_DOUBLE: case ACL_INT64: case ACL_UINT64: case ACL_COMPLEX64: return 8;
    case ACL_COMPLEX128: return 16;
  }
  return 1;
}

aclError aclopCompileAndExecute(const char* kernel, int, const aclTensorDesc* const descriptions[],
                                const aclDataBuffer* const inputs[], int, const aclTensorDesc* const results[],
                                aclDataBuffer* const outputs[], const aclopAttr*, aclopEngineType, aclopCompileType,
                                const char*, aclrtStream) {
  return run(kernel, inputs, descriptions, outputs[0], results[0]);
}

aclError aclopCompileAndExecuteV2(const char* kernel, int, aclTensorDesc* descriptions[], aclDataBuffer* inputs[], int,
                                  aclTensorDesc* results[], aclDataBuffer* outputs[], aclopAttr*, aclopEngineType,
                                  aclopCompileType, const char*, aclrtStream) {
  return run(kernel, inputs, descriptions, outputs[0], results[0]);
}

}  // extern "C"
