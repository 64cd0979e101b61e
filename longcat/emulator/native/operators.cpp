// The descriptions that torch_npu gives with an operator, and the door to device kernels. Operators are computed in
// kernels.cpp before they come here. Some of torch_npu's own C++ calls kernels past the dispatcher: those it calls are
// here, any other must not look as if it had run.
#include "emulator.h"

#include <acl/acl_op_compiler.h>

#include <algorithm>
#include <cstring>
#include <memory>
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

// One call of a kernel, with its own copy of all but device memory: what is captured is done again later.
struct Launch {
  std::string kernel;
  std::vector<Description> descriptions;
  std::vector<Buffer> inputs;
  std::vector<std::vector<char>> of_the_host;
  Description result;
  Buffer output;
};

// x, how much before and after each dimension, the value to pad with.
void pad(const Launch& call) {
  const auto &small = call.descriptions[0].sizes, &large = call.result.sizes;
  size_t unit = aclDataTypeSize(call.descriptions[0].type), dimensions = small.size(), elements = 1;
  bool wide = call.descriptions[1].type == ACL_INT64;
  auto before = [&](size_t i) -> int64_t {
    auto data = call.inputs[1].data;
    return wide ? static_cast<int64_t*>(data)[2 * i] : static_cast<int32_t*>(data)[2 * i];
  };
  auto target = static_cast<char*>(call.output.data);
  for (size_t at = 0; at + unit <= call.output.bytes; at += unit) memcpy(target + at, call.inputs[2].data, unit);
  for (auto size : small) elements *= size;
  for (size_t element = 0; element < elements; element++) {
    size_t rest = element, at = 0, stride = 1;
    for (size_t i = dimensions; i-- > 0; rest /= small[i], stride *= large[i]) at += (rest % small[i] + before(i)) * stride;
    memcpy(target + at * unit, static_cast<char*>(call.inputs[0].data) + element * unit, unit);
  }
}

aclError run(const Launch& call) {
  auto& to = call.output;
  if (call.kernel == "ZerosLike") {
    memset(to.data, 0, to.bytes);
  } else if (call.kernel == "Fill") {  // of the sizes, then the value
    size_t unit = aclDataTypeSize(call.descriptions[1].type);
    for (size_t at = 0; at + unit <= to.bytes; at += unit)
      memcpy(static_cast<char*>(to.data) + at, call.inputs[1].data, unit);
  } else if (call.kernel == "PadV3") {
    pad(call);
  } else if (call.kernel == "Identity" || call.kernel == "TransData") {
    // To another internal format. Kernels here read none: what is stored stays in the order of the sizes, the padding
    // that the format takes comes behind it.
    memmove(to.data, call.inputs[0].data, std::min(to.bytes, call.inputs[0].bytes));
  } else {
    return emulator_unsupported(("device kernel " + call.kernel).c_str());
  }
  return ACL_SUCCESS;
}

aclError launch(const char* kernel, int count, const aclTensorDesc* const descriptions[],
                const aclDataBuffer* const inputs[], const aclTensorDesc* result, const aclDataBuffer* output,
                aclrtStream stream) {
  auto call = std::make_shared<Launch>();
  call->kernel = kernel;
  call->result = *description(result);
  call->output = *buffer(output);
  for (int i = 0; i < count; i++) {
    call->descriptions.push_back(*description(descriptions[i]));
    call->inputs.push_back(*buffer(inputs[i]));
  }
  if (!records(stream)) return run(*call);
  for (auto& input : call->inputs) {
    if (!input.data || of_the_device(input.data)) continue;
    auto start = static_cast<char*>(input.data);
    call->of_the_host.emplace_back(start, start + input.bytes);
    input.data = call->of_the_host.back().data();
  }
  will_write(stream, call->output.data, call->output.bytes);
  record(stream, kernel, [call] { return run(*call); });
  return run(*call);
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

aclError aclopCompileAndExecute(const char* kernel, int count, const aclTensorDesc* const descriptions[],
                                const aclDataBuffer* const inputs[], int, const aclTensorDesc* const results[],
                                aclDataBuffer* const outputs[], const aclopAttr*, aclopEngineType, aclopCompileType,
                                const char*, aclrtStream stream) {
  return launch(kernel, count, descriptions, inputs, results[0], outputs[0], stream);
}

aclError aclopCompileAndExecuteV2(const char* kernel, int count, aclTensorDesc* descriptions[], aclDataBuffer* inputs[],
                                  int, aclTensorDesc* results[], aclDataBuffer* outputs[], aclopAttr*, aclopEngineType,
                                  aclopCompileType, const char*, aclrtStream stream) {
  return launch(kernel, count, descriptions, inputs, results[0], outputs[0], stream);
}

}  // extern "C"
