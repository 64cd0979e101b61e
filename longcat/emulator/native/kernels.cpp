// aten on the emulated device: the operator's CPU kernel, on CPU tensors over the same memory.
//
// Loaded into torch with torch.ops.load_library; Python sees the operators of the namespace longcat_emulator.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/nan_to_num.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/library.h>
#include <torch_npu/csrc/aten/NPUGeneratorImpl.h>
#include <torch_npu/csrc/core/NPUStorageImpl.h>
#include <torch_npu/csrc/core/npu/NPUCachingAllocator.h>
#include <torch_npu/csrc/core/npu/NPURecovery.h>
#include <torch_npu/csrc/core/npu/NPUStream.h>

#include "emulator.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

using at::Tensor;
using c10::IValue;

namespace {

// Whether a tensor is to be read as its memory's conjugate or negative is kept in the tensor, not in the memory.
void read_alike(const Tensor& tensor, const Tensor& made) {
  if (tensor.is_conj() != made.is_conj()) made._set_conj(tensor.is_conj());
  if (tensor.is_neg() != made.is_neg()) made._set_neg(tensor.is_neg());
}

bool on_device(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == at::kPrivateUse1; }

// A CPU tensor over another's memory, which it keeps alive or not.
Tensor over(const Tensor& tensor, bool keep) {
  auto storage = tensor.storage();
  void* start = const_cast<void*>(storage.data());
  at::DataPtr data(start, at::kCPU);
  if (keep)
    data = {start, new c10::Storage(storage), [](void* held) { delete static_cast<c10::Storage*>(held); }, at::kCPU};
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), c10::GetCPUAllocator(), true);
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(shared), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  auto implementation = made.unsafeGetTensorImpl();
  implementation->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) implementation->set_wrapped_number(true);
  read_alike(tensor, made);
  return made;
}

Tensor cpu_side(const Tensor& tensor) { return on_device(tensor) ? over(tensor, true) : tensor; }

// Bytes from the first to the last element.
size_t span_of(const Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  size_t span = 1;
  for (int64_t i = 0; i < tensor.dim(); i++) span += (tensor.size(i) - 1) * tensor.stride(i);
  return span * tensor.itemsize();
}

// A CPU tensor's content as a new tensor of the device, strides kept.
Tensor place(const Tensor& tensor, at::Device device) {
  if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
  auto made = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device).pinned_memory(false));
  read_alike(tensor, made);
  if (tensor.numel()) std::memcpy(made.mutable_data_ptr(), tensor.const_data_ptr(), span_of(tensor));
  return made;
}

// What the CPU's kernels make for a device, they make in its memory, so that it need not be copied there; the device of
// this thread's kernel, or none. Small things are copied, which is quicker.
constexpr size_t LEAST_BYTES = 32 << 10;
thread_local std::optional<at::Device> made_for;

class KernelAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (!made_for || bytes < LEAST_BYTES) return c10::GetDefaultCPUAllocator()->allocate(bytes);
    c10::DeviceGuard guard(*made_for);
    auto made = c10_npu::NPUCachingAllocator::get()->allocate(bytes);
    auto deleter = made.get_deleter();
    auto start = made.get();
    return {start, made.release_context(), deleter, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override {  // of either kind of memory
    return [](void* start) {
      if (emulator::of_the_device(start)) return c10_npu::NPUCachingAllocator::raw_delete(start);
      c10::GetDefaultCPUAllocator()->raw_deallocate(start);
    };
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

class MadeFor {
 public:
  explicit MadeFor(std::optional<at::Device> device) : before_(std::exchange(made_for, device)) {
    static auto allocator = new KernelAllocator;
    static bool set = (c10::SetCPUAllocator(allocator, 1), true);
    (void)set;
  }
  ~MadeFor() { made_for = before_; }

 private:
  std::optional<at::Device> before_;
};

// Whether a result is all that there is in a piece of the device's memory.
bool made_in_place(const Tensor& result) {
  if (!result.has_storage() || result.is_quantized() || result.storage_offset() != 0) return false;
  auto& storage = result.storage();
  return storage.use_count() == 1 && storage.nbytes() == span_of(result) &&
         storage.data_ptr().get_deleter() == c10_npu::NPUCachingAllocator::get()->raw_deleter();
}

// The device's tensor over a result that was made in its memory, which it takes over.
Tensor taken_over(const Tensor& result, at::Device device) {
  std::vector<int64_t> ones(result.dim(), 1);  // a description as of this number of dimensions
  auto made = at::empty_strided(ones, ones, result.options().device(device).pinned_memory(false));
  auto implementation = static_cast<torch_npu::NPUStorageImpl*>(made.storage().unsafeGetStorageImpl());
  auto& held = result.storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks();
  auto start = held.get();
  auto deleter = held.get_deleter();
  implementation->set_data_ptr_noswap({start, held.release_context(), deleter, made.device()});
  implementation->set_nbytes(span_of(result));
  made.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides());
  auto& description = implementation->npu_desc_;
  description.base_sizes_ = result.sizes();
  description.base_strides_ = result.strides();
  description.storage_sizes_ = result.sizes();
  read_alike(result, made);
  return made;
}

at::Device current_device() { return c10::impl::VirtualGuardImpl(at::kPrivateUse1).getDevice(); }

// Whether the device saturates what does not fit a type, and keeps a flag of it, as torch_npu sets it when it initialises
// one (saturation is 0 in acl_rt.h). The emulated CANN is loaded in this process, under the names of CANN's libraries.
bool saturates() {
  using Mode = int (*)(int*);
  static Mode ask = [] {
    void* cann = dlopen("libascendcl.so", RTLD_NOW | RTLD_NOLOAD);
    return cann ? reinterpret_cast<Mode>(dlsym(cann, "aclrtGetDeviceSatMode")) : nullptr;
  }();
  int mode = 1;
  return ask && ask(&mode) == 0 && mode == 0;
}

std::array<std::atomic<bool>, emulator::MAX_DEVICES> overflows;  // one flag a device

bool finite(const Tensor& tensor) {
  return !tensor.defined() || !tensor.is_floating_point() || at::isfinite(tensor).all().item<bool>();
}

// Whether the arguments of an operator are numbers, so that a result that is none is an overflow of its own. What it only
// writes to does not count; without tensors it makes a constant.
bool finite_arguments(const std::vector<c10::Argument>& arguments, const torch::jit::Stack& stack, size_t first) {
  bool tensors = false;
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto& value = stack[first + i];
    if (arguments[i].is_out()) continue;
    if (value.isDouble() && !std::isfinite(value.toDouble())) return false;
    if (value.isScalar() && value.toScalar().isFloatingPoint() && !std::isfinite(value.toScalar().toDouble())) return false;
    if (!value.isTensor() && !value.isTensorList()) continue;
    for (const Tensor& tensor : value.isTensor() ? std::vector<Tensor>{value.toTensor()} : value.toTensorVector()) {
      tensors |= tensor.defined();
      if (!finite(tensor)) return false;
    }
  }
  return tensors;
}

// Saturates a result of the host, and sets the device's flag if it had to.
void saturate(const Tensor& result, at::Device device) {
  if (!result.defined() || !result.device().is_cpu() || finite(result)) return;
  at::nan_to_num_(const_cast<Tensor&>(result), 0.0);
  overflows[device.has_index() ? device.index() : 0] = true;
}

// Random numbers of one operator: a CPU generator that is a function of the device generator's seed and offset, which
// moves on. In a graph both are found on the device, at each replay.
class Draw {
 public:
  explicit Draw(at::Generator from, uint64_t numbers = 4) {
    std::lock_guard<std::mutex> lock(from.mutex());
    state_ = at::check_generator<at_npu::NPUGeneratorImpl>(from)->philox_npu_state(numbers);
  }

  std::tuple<uint64_t, uint64_t> seed_and_offset() const {
    if (!state_.captured_) return {state_.seed_.val, state_.offset_.val};
    return {read(state_.seed_.ptr), read(state_.offset_.ptr) + state_.offset_intragraph_};
  }

  at::Generator generator() const {
    auto [seed, offset] = seed_and_offset();
    return at::detail::createCPUGenerator(seed * 0x9E3779B97F4A7C15ull + offset);
  }

 private:
  static uint64_t read(const Tensor* tensor) { return *static_cast<const int64_t*>(tensor->const_data_ptr()); }
  at_npu::PhiloxNpuState state_;
};

// For operators that draw random numbers without being given a generator: the CPU's own one, set as above, and put back.
class BorrowedGenerator {
 public:
  explicit BorrowedGenerator(const at::Generator& source) : state_(own().get_state()) { own().set_state(source.get_state()); }
  ~BorrowedGenerator() { own().set_state(state_); }

 private:
  static at::Generator own() { return at::detail::getDefaultCPUGenerator(); }
  Tensor state_;
};

// What computes an operator: the CPU's kernel of it, or a reference, which is registered under another backend's key.
enum class By { CPU, REFERENCE };
constexpr c10::DispatchKey REFERENCE = c10::DispatchKey::PrivateUse2;

// What a reference draws in a call that a graph does again: once when it is captured, and read anew at each replay.
using Drawn = std::shared_ptr<std::optional<Draw>>;
thread_local Drawn drawn_by_graph;

// Seed and offset of the device's generator, which moves on as far as torch_npu's kernels do.
std::tuple<int64_t, int64_t> draw(at::Device device) {
  constexpr uint64_t NUMBERS = 12;
  auto from = at::globalContext().defaultGenerator(device);
  if (!drawn_by_graph) return Draw(from, NUMBERS).seed_and_offset();
  if (!*drawn_by_graph) drawn_by_graph->emplace(from, NUMBERS);
  return (*drawn_by_graph)->seed_and_offset();
}

// Results of a reference that are to stay on the host.
thread_local std::vector<Tensor> on_host;

Tensor keep_on_host(const Tensor& result) {
  on_host.push_back(result);
  return result;
}

// Whether an argument is a tensor of this type.
bool has(const torch::jit::Stack& stack, size_t first, at::ScalarType type) {
  for (size_t i = first; i < stack.size(); i++) {
    const auto& value = stack[i];
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().scalar_type() == type) return true;
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorVector())
        if (tensor.defined() && tensor.scalar_type() == type) return true;
  }
  return false;
}

template <typename Change>
void change_tensors(torch::jit::Stack* stack, size_t first, Change change) {
  for (size_t i = first; i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = change(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> changed;
      for (const Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
      value = changed;
    }
  }
}

// Type that a result of the CPU's kernel in 32 bits is rounded to. A norm's statistics are not, as on a device, and gradients
// of its weights have the weights' type.
at::ScalarType rounded_type(const std::string& name, size_t result, at::ScalarType narrow, std::optional<at::ScalarType> weight) {
  static const std::unordered_set<std::string> STATISTICS = {"aten::native_layer_norm", "aten::native_batch_norm",
      "aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_functional", "aten::_batch_norm_with_update"};
  static const std::unordered_set<std::string> WEIGHTS = {"aten::native_layer_norm_backward", "aten::native_batch_norm_backward",
      "aten::native_group_norm_backward", "aten::batch_norm_backward"};
  if (result > 0 && STATISTICS.count(name)) return at::kFloat;
  return result > 0 && weight && WEIGHTS.count(name) ? *weight : narrow;
}

std::optional<at::ScalarType> weight_type(const c10::OperatorHandle& operation, const torch::jit::Stack& stack, size_t first) {
  auto place = operation.schema().argumentIndexWithName("weight");
  if (!place || !stack[first + *place].isTensor() || !stack[first + *place].toTensor().defined()) return std::nullopt;
  return stack[first + *place].toTensor().scalar_type();
}

// The CPU's kernel in 32 bits, with results rounded once.
void compute_wide(const c10::OperatorHandle& operation, torch::jit::Stack* stack, size_t first, at::ScalarType narrow) {
  std::vector<std::pair<Tensor, Tensor>> widened;
  const auto& name = operation.schema().name();
  auto weight = weight_type(operation, *stack, first);
  change_tensors(stack, first, [&](const Tensor& tensor) {
    if (!tensor.defined() || tensor.scalar_type() != narrow) return tensor;
    for (auto& [before, after] : widened)
      if (before.is_same(tensor)) return after;
    widened.emplace_back(tensor, tensor.to(at::kFloat));
    return widened.back().second;
  });
  operation.callBoxed(stack);
  const auto& arguments = operation.schema().arguments();
  bool writes = name == "aten::native_batch_norm";  // running statistics, of which its schema says nothing
  writes |= std::any_of(arguments.begin(), arguments.end(),
                        [](const auto& argument) { return argument.alias_info() && argument.alias_info()->isWrite(); });
  if (writes)
    for (auto& [before, after] : widened) {
      if (before.sizes() != after.sizes()) before.resize_(after.sizes());
      before.copy_(after);
    }
  size_t number = 0;
  change_tensors(stack, stack->size() - operation.schema().returns().size(), [&](const Tensor& result) {
    auto type = rounded_type(name, number++, narrow, weight);
    for (auto& [before, after] : widened)
      if (after.is_same(result)) return before;
    return result.defined() && result.scalar_type() == at::kFloat ? result.to(type) : result;
  });
}

// Indices of 32 bits, which a device takes, and of which the CPU's kernel says that it wants 64.
void widen_index(const c10::OperatorHandle& operation, torch::jit::Stack* stack, size_t first) {
  static const std::unordered_map<std::string, std::string> INDICES = {
      {"aten::nll_loss_forward", "target"},    {"aten::nll_loss_backward", "target"},
      {"aten::nll_loss2d_forward", "target"},  {"aten::nll_loss2d_backward", "target"},
      {"aten::multilabel_margin_loss_forward", "target"},
      {"aten::index_fill", "index"},           {"aten::index_fill_", "index"},
      {"aten::take", "index"},                 {"aten::put_", "index"}};
  auto found = INDICES.find(operation.schema().name());
  if (found == INDICES.end()) return;
  auto& value = (*stack)[first + *operation.schema().argumentIndexWithName(found->second)];
  if (value.isTensor() && value.toTensor().scalar_type() == at::kInt) value = value.toTensor().to(at::kLong);
}

// Whether it adds a multiple of numbers to others. In bfloat16 a device rounds the sum once, the CPU's kernel in vectors only.
bool adds_multiple(const c10::OperatorHandle& operation, const torch::jit::Stack& stack, size_t first) {
  static const std::unordered_set<std::string> SUMS = {"aten::add", "aten::add_", "aten::sub", "aten::sub_", "aten::rsub",
      "aten::_foreach_add", "aten::_foreach_add_", "aten::_foreach_sub", "aten::_foreach_sub_"};
  if (!SUMS.count(operation.schema().name()) || has(stack, first, at::kFloat)) return false;
  auto alpha = operation.schema().argumentIndexWithName("alpha");
  return alpha && stack[first + *alpha].isScalar() && !stack[first + *alpha].toScalar().equal(1);
}

// Softmax of half floats with a result of 32 bits, and its gradient, which the CPU's kernel refuses; false if it is no such.
bool softmax_to_float(const c10::OperatorHandle& operation, torch::jit::Stack* stack, size_t first) {
  const auto& name = operation.schema().name();
  if (name == "aten::_softmax" || name == "aten::_log_softmax") {
    auto& to_float = (*stack)[first + 2];
    if (!to_float.toBool()) return false;
    (*stack)[first] = (*stack)[first].toTensor().to(at::kFloat);
    to_float = false;
    operation.callBoxed(stack);
    return true;
  }
  if (name != "aten::_softmax_backward_data" && name != "aten::_log_softmax_backward_data") return false;
  auto type = (*stack)[first + 3].toScalarType();
  if (type == (*stack)[first].toTensor().scalar_type()) return false;
  (*stack)[first + 3] = at::kFloat;
  operation.callBoxed(stack);
  stack->back() = stack->back().toTensor().to(type);
  return true;
}

// The CPU's kernel. What is not rounded once by it in 16 bits is computed in 32, as a device does: products of half floats,
// convolutions, norms, gradients of embeddings, samples of grids; and so is what the CPU has no 16-bit kernel for.
void compute_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  static const std::unordered_set<std::string> OF_HALF = {
      "aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::mv", "aten::addmv",
      "aten::addmv_", "aten::dot", "aten::vdot"};
  static const std::unordered_set<std::string> OF_BOTH = {
      "aten::addbmm", "aten::addbmm_", "aten::addr", "aten::addr_", "aten::convolution", "aten::_convolution",
      "aten::convolution_overrideable", "aten::convolution_backward", "aten::convolution_backward_overrideable",
      "aten::_slow_conv2d_forward", "aten::_slow_conv2d_backward", "aten::slow_conv3d_forward", "aten::slow_conv_dilated2d",
      "aten::slow_conv_transpose2d", "aten::_conv_depthwise2d", "aten::conv_tbc", "aten::conv_tbc_backward",
      "aten::grid_sampler_2d", "aten::grid_sampler_2d_backward", "aten::grid_sampler_3d", "aten::grid_sampler_3d_backward",
      "aten::upsample_linear1d", "aten::upsample_linear1d_backward", "aten::upsample_bilinear2d",
      "aten::upsample_bilinear2d_backward", "aten::upsample_bicubic2d", "aten::upsample_bicubic2d_backward",
      "aten::upsample_trilinear3d", "aten::upsample_trilinear3d_backward", "aten::_adaptive_avg_pool3d",
      "aten::_adaptive_avg_pool3d_backward", "aten::native_layer_norm", "aten::native_layer_norm_backward",
      "aten::native_group_norm", "aten::native_group_norm_backward", "aten::native_batch_norm",
      "aten::native_batch_norm_backward", "aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_functional",
      "aten::_batch_norm_with_update", "aten::batch_norm_backward", "aten::embedding_dense_backward",
      "aten::_embedding_bag_dense_backward", "aten::col2im", "aten::unfold_backward", "aten::nll_loss_forward",
      "aten::nll_loss2d_forward"};
  size_t first = stack->size() - operation.schema().arguments().size();
  widen_index(operation, stack, first);
  if (softmax_to_float(operation, stack, first)) return;
  bool half = has(*stack, first, at::kHalf), brain = has(*stack, first, at::kBFloat16);
  if (!half && !brain) return operation.callBoxed(stack);
  const auto& name = operation.schema().name();
  bool wide = half ? !brain && (OF_HALF.count(name) || OF_BOTH.count(name))
                   : OF_BOTH.count(name) || adds_multiple(operation, *stack, first);
  if (wide) return compute_wide(operation, stack, first, half ? at::kHalf : at::kBFloat16);
  torch::jit::Stack kept(stack->begin() + first, stack->end());
  try {
    operation.callBoxed(stack);
  } catch (const c10::Error& error) {
    const auto& text = error.msg();
    bool lacks_half = text.find("for 'Half'") != std::string::npos || text.find("c10::Half") != std::string::npos;
    bool lacks_brain = text.find("for 'BFloat16'") != std::string::npos || text.find("c10::BFloat16") != std::string::npos;
    if (!(half && lacks_half) && !(brain && lacks_brain)) throw;
    stack->resize(first);
    stack->insert(stack->end(), kept.begin(), kept.end());
    compute_wide(operation, stack, first, lacks_half ? at::kHalf : at::kBFloat16);
  }
}

// Runs it on tensors of the CPU; what a graph does again knows what it drew.
void compute(const c10::OperatorHandle& operation, torch::jit::Stack* stack, By by, const std::optional<Draw>& random,
             Drawn drawn = nullptr) {
  struct Drawing {
    explicit Drawing(Drawn now) : before(std::exchange(drawn_by_graph, std::move(now))) {}
    ~Drawing() { drawn_by_graph = before; }
    Drawn before;
  } drawing(std::move(drawn));
  c10::impl::ExcludeDispatchKeyGuard kernels_only(c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset |
                                                  c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
  std::optional<BorrowedGenerator> borrowed;
  if (random) borrowed.emplace(random->generator());
  if (by == By::CPU) return compute_on_cpu(operation, stack);
  at::NoGradGuard no_gradients;
  operation.redispatchBoxed(c10::DispatchKeySet(REFERENCE), stack);
}

// Whether an operator takes an argument from the host: lengths of sequences, and what fused attention has drawn. The same name
// may be of the device elsewhere, as the offset of a quantisation is.
bool of_the_host(const std::string& operation, const std::string& argument) {
  static const std::unordered_set<std::string> ALWAYS = {"scalars", "lengths", "batch_sizes", "actual_seq_lengths"};
  static const std::unordered_set<std::string> OF_ATB = {"seq_len", "seqlen", "context_lens", "seq_starts", "zero_point"};
  static const std::unordered_set<std::string> OF_ATTENTION = {"actual_seq_qlen", "actual_seq_kvlen", "seed", "offset"};
  if (ALWAYS.count(argument)) return true;
  if (operation.rfind("atb::", 0) == 0) return OF_ATB.count(argument);
  bool attends = operation.find("fusion_attention") != std::string::npos || operation == "npu::npu_ring_attention_update";
  return attends && OF_ATTENTION.count(argument);
}

template <class Function>
void for_each_tensor(const IValue& value, Function function) {
  if (value.isTensor() && value.toTensor().defined()) function(value.toTensor());
  if (value.isTensorList())
    for (const Tensor& tensor : value.toTensorVector())
      if (tensor.defined()) function(tensor);
}

// The value with other tensors in it.
template <class Function>
IValue map_tensors(const IValue& value, Function function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> mapped;
    for (const Tensor& tensor : value.toTensorVector()) mapped.push_back(function(tensor));
    return mapped;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> mapped;
    for (std::optional<Tensor> tensor : value.toOptionalTensorList())
      mapped.push_back(tensor ? std::optional<Tensor>(function(*tensor)) : tensor);
    return mapped;
  }
  return value;
}

// A call that a graph does again, into the same memory. It holds that of the device no more than a device's task does.
struct Replayed {
  c10::OperatorHandle operation;
  By by;
  std::optional<Draw> random;
  std::vector<std::pair<size_t, Draw>> generators;  // by argument
  std::vector<IValue> arguments;                    // tensors of the CPU
  std::vector<Tensor> results;
  Drawn drawn = std::make_shared<std::optional<Draw>>();

  aclError operator()() const {
    torch::jit::Stack stack;
    for (auto& argument : arguments)
      stack.push_back(map_tensors(argument, [](const Tensor& tensor) {
        return tensor.defined() && tensor.has_storage() ? over(tensor, true) : tensor;
      }));
    for (auto& [argument, draw] : generators) stack[argument] = draw.generator();
    compute(operation, &stack, by, random, drawn);
    on_host.clear();
    auto result = results.begin();
    for (auto& value : stack)
      for_each_tensor(value, [&](const Tensor& made) {
        if (result == results.end()) return;
        auto& place = *result++;
        if (place.numel() && made.const_data_ptr() != place.const_data_ptr()) place.copy_(made);
      });
    return ACL_SUCCESS;
  }
};

// The arguments and results of one call, translated to the CPU and back.
class Call {
 public:
  Call(const c10::OperatorHandle& operation, torch::jit::Stack* stack, By by)
      : operation_(operation), stack_(stack), by_(by) {}

  void run() {
    const auto& arguments = operation_.schema().arguments();
    first_ = stack_->size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); i++) argument_down(i, arguments[i]);
    check_devices(first_);
    if (c10_npu::get_npu_data_unsafe_flag()) check_safety();
    if (!device_ || !device_->has_index()) device_ = current_device();
    std::optional<Draw> random;
    if (!generator_ && operation_.hasTag(at::Tag::nondeterministic_seeded) && by_ == By::CPU)
      random.emplace(at::globalContext().defaultGenerator(*device_));
    auto stream = emulator::any_records() ? c10_npu::getCurrentNPUStream(device_->index()).stream(false) : nullptr;
    std::optional<Replayed> again;
    if (stream && emulator::records(stream)) again = capture(stream, random);
    bool watched = saturates() && finite_arguments(arguments, *stack_, first_);
    try {
      MadeFor device(by_ == By::CPU ? device_ : std::nullopt);
      compute(operation_, stack_, by_, random, again ? again->drawn : nullptr);
    } catch (const c10::Error& error) {  // a result is made on the host first
      bool memory = error.msg().find("DefaultCPUAllocator: can't allocate memory") != std::string::npos;
      TORCH_CHECK_WITH(OutOfMemoryError, !memory, "NPU out of memory. ", operation_.schema().operator_name(),
                       " needs more than the host has, which stands for the device: ", error.msg());
      throw;
    }
    size_t results = operation_.schema().returns().size();
    for (size_t i = stack_->size() - results; watched && i < stack_->size(); i++)
      for_each_tensor((*stack_)[i], [&](const Tensor& made) { saturate(made, *device_); });
    for (size_t i = stack_->size() - results; i < stack_->size(); i++) {
      result_up((*stack_)[i]);
      if (again)
        for_each_tensor((*stack_)[i], [&](const Tensor& made) { again->results.push_back(held_by_none(made)); });
    }
    if (by_ != By::CPU) on_host.clear();
    if (again) emulator::record(stream, c10::toString(operation_.schema().operator_name()), std::move(*again));
  }

 private:
  struct Pair {
    Tensor device, cpu;
  };

  static Tensor held_by_none(const Tensor& tensor) { return on_device(tensor) ? over(tensor, false) : tensor; }

  // The call as its graph will do it, before it has changed its arguments.
  Replayed capture(aclrtStream stream, const std::optional<Draw>& random) {
    refuse_what_the_host_waits_for();
    const auto& arguments = operation_.schema().arguments();
    Replayed made{operation_, by_, random, generators_, {}, {}};
    for (size_t i = 0; i < arguments.size(); i++) {
      const auto& value = (*stack_)[first_ + i];
      made.arguments.push_back(map_tensors(value, [&](const Tensor& tensor) {
        for (auto& pair : pairs_)
          if (pair.cpu.is_same(tensor)) return over(tensor, false);
        return tensor;
      }));
      if (arguments[i].alias_info() && arguments[i].alias_info()->isWrite())
        for_each_tensor(value, [&](const Tensor& written) {
          if (written.has_storage()) emulator::will_write(stream, const_cast<void*>(written.const_data_ptr()), span_of(written));
        });
    }
    return made;
  }

  void refuse_what_the_host_waits_for() {
    auto name = c10::toString(operation_.schema().operator_name());
    auto refuse = [&](const char* why) { TORCH_CHECK(false, name, " cannot be captured into a graph: it ", why); };
    if (operation_.hasTag(at::Tag::data_dependent_output)) refuse("returns a value to the host");
    bool by_mask = true;  // an index is a shape of its own only where it is a mask
    for (size_t i = first_; i < stack_->size(); i++)
      if ((*stack_)[i].isOptionalTensorList()) {
        by_mask = false;
        for (std::optional<Tensor> index : (*stack_)[i].toOptionalTensorList())
          by_mask = by_mask || (index && index->defined() && (index->dtype() == at::kBool || index->dtype() == at::kByte));
        if (by_mask) refuse("has an index whose shape depends on values");
      }
    if (by_mask && operation_.hasTag(at::Tag::dynamic_output_shape)) refuse("has a result whose shape depends on values");
    if (operation_.schema().name() == "aten::copy_") {
      const auto &to = (*stack_)[first_].toTensor(), &from = (*stack_)[first_ + 1].toTensor();
      bool crosses = pairs_.size() == 1 && !to.is_same(from);
      if (crosses && !(*stack_)[first_ + 2].toBool()) refuse("moves data between host and device, and the host waits for it");
    }
  }

  Tensor down(const Tensor& tensor) {
    if (!on_device(tensor)) return tensor;
    TORCH_CHECK_NOT_IMPLEMENTED(by_ == By::CPU || !tensor._fw_grad(0).defined(), operation_.schema().name(),
                                ": forward-mode differentiation; torch_npu has no formula for it and would lose the tangent");
    if (!device_ || !device_->has_index()) device_ = tensor.device();
    for (auto& pair : pairs_)
      if (pair.device.is_same(tensor)) return pair.cpu;
    pairs_.push_back({tensor, cpu_side(tensor)});
    return pairs_.back().cpu;
  }

  void argument_down(size_t i, const c10::Argument& argument) {
    auto& value = (*stack_)[first_ + i];
    if (value.isDevice()) {
      if (value.toDevice().type() != at::kPrivateUse1) return;
      device_ = value.toDevice();
      value = at::Device(at::kCPU);
    } else if (value.isGenerator()) {
      generator_ = true;
      given_ = value.toGenerator();
      if (given_->device().type() == at::kPrivateUse1) value = draw(i, *given_);
    } else if (value.isNone() && is_generator(argument)) {
      generator_ = true;
      auto device = device_ && device_->has_index() ? *device_ : current_device();
      value = draw(i, at::globalContext().defaultGenerator(device));
    } else if (!value.isTensor() || on_device(value.toTensor())) {
      value = map_tensors(value, [&](const Tensor& tensor) { return down(tensor); });
    }
  }

  at::Generator draw(size_t argument, const at::Generator& from) {
    generators_.emplace_back(argument, Draw(from));
    return generators_.back().second.generator();
  }

  static bool is_generator(const c10::Argument& argument) {
    auto optional = argument.type()->cast<c10::OptionalType>();
    return optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
  }

  // As on a device: all tensors on one, save numbers (CPU tensors without dimensions), copies, indices (which come as
  // lists of optional tensors) and what an operator wants on the host. A generator is of the tensors' device.
  void check_devices(size_t first) {
    static const std::unordered_set<std::string> COPIES = {"aten::copy_", "aten::_copy_from",
                                                           "aten::_copy_from_and_resize", "aten::set_"};
    if (COPIES.count(operation_.schema().name())) return;
    if (given_) check_generator(first);
    if (pairs_.empty()) return;
    for (auto& pair : pairs_) refuse_other(pair.device.device(), pairs_[0].device.device());
    for (size_t i = first; i < stack_->size(); i++) {
      const auto& value = (*stack_)[i];
      if (of_the_host(operation_.schema().name(), operation_.schema().arguments()[i - first].name())) continue;
      if (value.isTensor()) check_cpu(value.toTensor());
      if (value.isTensorList())
        for (const Tensor& tensor : value.toTensorVector()) check_cpu(tensor);
    }
  }

  // After a fault of its memory, data of a device is not to be read until it has been written anew.
  void check_safety() {
    bool copies = operation_.schema().name() == "aten::copy_";
    for (auto& pair : pairs_)
      if (copies && pair.cpu.is_same((*stack_)[first_].toTensor()))
        c10_npu::NPUCachingAllocator::updateBlockToSafe(pair.device.storage().data_ptr());
      else
        c10_npu::check_npu_tensor_is_safe(pair.device);
  }

  void check_generator(size_t first) {
    auto wanted = at::kPrivateUse1;
    for (size_t i = first; pairs_.empty() && i < stack_->size(); i++)
      if ((*stack_)[i].isTensor() && (*stack_)[i].toTensor().defined()) wanted = at::kCPU;
    auto found = given_->device().type();
    TORCH_CHECK(found == wanted, "Expected a '", c10::DeviceTypeName(wanted, true), "' device type for generator but found '",
                c10::DeviceTypeName(found, true), "' (in ", operation_.schema().operator_name(), ")");
  }

  void check_cpu(const Tensor& tensor) {
    if (!tensor.defined() || !tensor.device().is_cpu() || tensor.dim() == 0) return;
    for (auto& pair : pairs_)
      if (pair.cpu.is_same(tensor)) return;
    refuse_other(tensor.device(), pairs_[0].device.device());
  }

  void refuse_other(at::Device found, at::Device expected) {
    TORCH_CHECK(found == expected, "Expected all tensors to be on the same device, but found at least two devices, ",
                expected, " and ", found, "! (in ", operation_.schema().operator_name(), ")");
  }

  void result_up(IValue& value) {
    if (value.isTensor() || value.isTensorList()) value = map_tensors(value, [&](const Tensor& tensor) { return up(tensor); });
  }

  Tensor up(const Tensor& result) {
    if (!result.defined() || !result.device().is_cpu()) return result;
    for (auto& pair : pairs_)
      if (pair.cpu.is_same(result)) return written(pair);
    if (by_ != By::CPU) {
      for (auto& kept : on_host)
        if (kept.is_same(result)) return result;
      return place(result.contiguous(), *device_);
    }
    for (auto& pair : pairs_)
      if (pair.cpu.storage().unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl()) {
        auto view = at::as_strided(pair.device, result.sizes(), result.strides(), result.storage_offset());
        read_alike(result, view);
        return view;
      }
    return made_in_place(result) ? taken_over(result, *device_) : place(result, *device_);
  }

  // An argument that the operator has written to; it may have given it another shape or, where it had to grow, memory.
  Tensor written(Pair& pair) {
    const Tensor &device = pair.device, &cpu = pair.cpu;
    if (cpu.storage().data() != device.storage().data()) {
      device.resize_(cpu.sizes());
      cpu_side(device).copy_(cpu);
    } else if (cpu.sizes() != device.sizes() || cpu.strides() != device.strides()) {
      device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
    return device;
  }

  const c10::OperatorHandle& operation_;
  torch::jit::Stack* stack_;
  By by_;
  size_t first_ = 0;  // of the arguments on the stack
  std::vector<Pair> pairs_;
  std::vector<std::pair<size_t, Draw>> generators_;
  std::optional<at::Device> device_;
  bool generator_ = false;  // one is an argument
  std::optional<at::Generator> given_;
};

void run_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) { Call(operation, stack, By::CPU).run(); }

void run_reference(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  Call(operation, stack, By::REFERENCE).run();
}

void refuse(const c10::OperatorHandle& operation, torch::jit::Stack*) {
  auto name = c10::toString(operation.schema().operator_name());
  TORCH_CHECK_NOT_IMPLEMENTED(false, "the emulated Ascend has no kernel for ", name, "; on a real device it may run. ",
                              "longcat emulate --explain ", name, " says whether the wheel documents it, and how to add one");
}

// The operator as torch composes it of others, instead of torch_npu's own autograd kernel, whose device kernel would be
// called without the dispatcher. What another backend's autograd key finds is the composite kernel.
void compose(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  operation.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::AutogradXPU), stack);
}

// The same for a kernel: for what torch composes itself and torch_npu has a device kernel for.
void compose_kernel(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  operation.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::XPU), stack);
}

// torch warns of kernels that are replaced, which is what is meant here.
struct Quiet : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

template <torch::CppFunction (*make)()>
void install(const std::vector<std::string>& names, c10::DispatchKey key) {
  static auto* kept = new std::vector<std::unique_ptr<torch::Library>>;  // for ever: the process may end in any order
  static Quiet quiet;
  c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  for (const auto& name : names) {
    auto colons = name.find("::");
    kept->push_back(std::make_unique<torch::Library>(
        torch::Library::IMPL, name.substr(0, colons), std::make_optional(key), __FILE__, __LINE__));
    kept->back()->impl(name.substr(colons + 2).c_str(), make());
  }
}

torch::CppFunction cpu_kernel() { return torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>(); }
torch::CppFunction reference_kernel() { return torch::CppFunction::makeFromBoxedFunction<&run_reference>(); }
torch::CppFunction refusal() { return torch::CppFunction::makeFromBoxedFunction<&refuse>(); }
torch::CppFunction composite_kernel() { return torch::CppFunction::makeFromBoxedFunction<&compose_kernel>(); }
torch::CppFunction composite() { return torch::CppFunction::makeFromBoxedFunction<&compose>(); }

void install_cpu_kernels(const std::vector<std::string>& names) {
  install<cpu_kernel>(names, c10::DispatchKey::PrivateUse1);
}
void install_references(const std::vector<std::string>& names) {
  install<reference_kernel>(names, c10::DispatchKey::PrivateUse1);
}
void install_refusals(const std::vector<std::string>& names) { install<refusal>(names, c10::DispatchKey::PrivateUse1); }
void install_composite_kernels(const std::vector<std::string>& names) {
  install<composite_kernel>(names, c10::DispatchKey::PrivateUse1);
}
void install_composites(const std::vector<std::string>& names) {
  install<composite>(names, c10::DispatchKey::AutogradPrivateUse1);
}

}  // namespace

TORCH_LIBRARY(longcat_emulator, library) {
  library.def("overflow(Device device) -> bool", [](at::Device device) { return overflows[device.index()].load(); });
  library.def("clear_overflow(Device device) -> ()", [](at::Device device) { overflows[device.index()] = false; });
  library.def("install_cpu_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_cpu_kernels(names); });
  library.def("on_host(Tensor tensor) -> Tensor", &keep_on_host);
  library.def("draw(Device device) -> (int seed, int offset)", &draw);
  library.def("install_references(str[] names) -> ()", [](std::vector<std::string> names) { install_references(names); });
  library.def("install_refusals(str[] names) -> ()", [](std::vector<std::string> names) { install_refusals(names); });
  library.def("install_composite_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_composite_kernels(names); });
  library.def("install_composites(str[] names) -> ()", [](std::vector<std::string> names) { install_composites(names); });
}
