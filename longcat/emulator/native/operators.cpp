// The descriptions that torch_npu gives with an operator, and the door to device kernels. Operators are computed in
// kernels.cpp before they come here. Some of torch_npu's own C++ calls kernels past the dispatcher: those it calls are
// here, any other must not look as if it had run.
#include "emulator.h"

#include <acl/acl_op_compiler.h>

#include <algorithm>
#include <cstring>
#include <functional>
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

// Elements of `unit` bytes, padded with one of them by so many before each dimension, of which negative ones cut.
struct Padding {
  const char* from;
  std::vector<int64_t> sizes, strides, before, padded;
  const char* value;
  size_t unit;
};

void pad(const Padding& how, char* to) {
  size_t elements = 1, all = 1, dimensions = how.sizes.size();
  for (auto size : how.sizes) elements *= size;
  for (auto size : how.padded) all *= size;
  for (size_t at = 0; at < all; at++) memcpy(to + at * how.unit, how.value, how.unit);
  for (size_t element = 0; element < elements; element++) {
    size_t rest = element, stride = 1;
    int64_t from = 0, at = 0;
    bool kept = true;
    for (size_t i = dimensions; i-- > 0; rest /= how.sizes[i], stride *= how.padded[i]) {
      int64_t index = rest % how.sizes[i], moved = index + how.before[i];
      kept &= moved >= 0 && moved < how.padded[i];
      from += index * how.strides[i];
      at += moved * stride;
    }
    if (kept) memcpy(to + at * how.unit, how.from + from * how.unit, how.unit);
  }
}

std::vector<int64_t> contiguous(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  return strides;
}

// x, how much before and after each dimension, the value to pad with.
void pad(const Launch& call) {
  const auto& sizes = call.descriptions[0].sizes;
  Padding how{static_cast<char*>(call.inputs[0].data), sizes, contiguous(sizes), {}, call.result.sizes,
              static_cast<char*>(call.inputs[2].data), aclDataTypeSize(call.descriptions[0].type)};
  auto data = call.inputs[1].data;
  for (size_t i = 0; i < sizes.size(); i++)
    how.before.push_back(call.descriptions[1].type == ACL_INT64 ? static_cast<int64_t*>(data)[2 * i]
                                                                : static_cast<int32_t*>(data)[2 * i]);
  pad(how, static_cast<char*>(call.output.data));
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

// ---- CANN's newer interface, of which torch_npu's own C++ calls one function: collectives fill up the last 32 bytes

struct Tensor {
  aclDataType type;
  std::vector<int64_t> sizes, strides;
  char* data;
};

struct Scalar {
  aclDataType type;
  char bytes[16];
};

using Numbers = std::vector<int64_t>;
using Work = std::function<aclError(aclrtStream)>;

template <class Value>
std::vector<char> bytes_of(Value value) {
  auto start = reinterpret_cast<const char*>(&value);
  return {start, start + sizeof value};
}

template <class Value>
std::vector<char> as_element(Value value, aclDataType type) {
  switch (static_cast<int>(type)) {
    case ACL_FLOAT: return bytes_of(static_cast<float>(value));
    case ACL_DOUBLE: return bytes_of(static_cast<double>(value));
    case ACL_FLOAT16: return bytes_of(static_cast<Half>(static_cast<float>(value)));
    case ACL_BF16: return bytes_of(Bfloat16(static_cast<float>(value)));
    case ACL_BOOL: return bytes_of(value != 0);
    case ACL_INT8: case ACL_UINT8: return bytes_of(static_cast<int8_t>(static_cast<int64_t>(value)));
    case ACL_INT16: case ACL_UINT16: return bytes_of(static_cast<int16_t>(static_cast<int64_t>(value)));
    case ACL_INT32: case ACL_UINT32: return bytes_of(static_cast<int32_t>(static_cast<int64_t>(value)));
    case ACL_INT64: case ACL_UINT64: return bytes_of(static_cast<int64_t>(value));
  }
  return {};
}

// The bytes of a number as an element of a tensor; empty if there are none.
std::vector<char> as_element(const Scalar& scalar, aclDataType type) {
  if (scalar.type == type) return {scalar.bytes, scalar.bytes + aclDataTypeSize(type)};
  double real;
  int64_t whole;
  memcpy(&real, scalar.bytes, 8);
  memcpy(&whole, scalar.bytes, 8);
  switch (static_cast<int>(scalar.type)) {
    case ACL_DOUBLE: return as_element(real, type);
    case ACL_INT64: return as_element(whole, type);
    case ACL_BOOL: return as_element<int64_t>(scalar.bytes[0] != 0, type);
  }
  return {};
}

}  // namespace

extern "C" {

Tensor* aclCreateTensor(const int64_t* sizes, uint64_t dimensions, aclDataType type, const int64_t* strides, int64_t offset,
                        aclFormat, const int64_t*, uint64_t, void* data) {
  return new Tensor{type, {sizes, sizes + dimensions}, {strides, strides + dimensions},
                    static_cast<char*>(data) + offset * aclDataTypeSize(type)};
}
Scalar* aclCreateScalar(void* value, aclDataType type) {
  auto made = new Scalar{type, {}};
  memcpy(made->bytes, value, aclDataTypeSize(type));
  return made;
}
Numbers* aclCreateIntArray(const int64_t* values, uint64_t count) { return new Numbers(values, values + count); }
int aclDestroyTensor(const Tensor* handle) { return delete handle, 0; }
int aclDestroyScalar(const Scalar* handle) { return delete handle, 0; }
int aclDestroyIntArray(const Numbers* handle) { return delete handle, 0; }

aclError aclnnConstantPadNdGetWorkspaceSize(const Tensor* self, const Numbers* pads, const Scalar* value, const Tensor* out,
                                            uint64_t* bytes, Work** work) {
  auto element = std::make_shared<std::vector<char>>(as_element(*value, self->type));
  if (element->empty()) return emulator_unsupported("aclnnConstantPadNd of this type");
  Padding how{self->data, self->sizes, self->strides, {}, out->sizes, element->data(), element->size()};
  how.before.assign(self->sizes.size(), 0);
  for (size_t i = 0; 2 * i < pads->size(); i++) how.before[how.before.size() - 1 - i] = (*pads)[2 * i];  // the last first
  size_t written = element->size();
  for (auto size : out->sizes) written *= size;
  *bytes = 0;
  *work = new Work([element, how, written, to = out->data](aclrtStream stream) {
    auto again = [element, how, to]() -> aclError { return pad(how, to), ACL_SUCCESS; };
    if (records(stream)) {
      will_write(stream, to, written);
      record(stream, "aclnnConstantPadNd", again);
    }
    return again();
  });
  return ACL_SUCCESS;
}

aclError aclnnConstantPadNd(void*, uint64_t, Work* work, aclrtStream stream) {
  aclError code = (*work)(stream);
  delete work;
  return code;
}

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
