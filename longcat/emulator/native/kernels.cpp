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

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_set>
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

// A CPU tensor over a device tensor's memory, which it keeps alive.
Tensor alias(const Tensor& tensor) {
  if (!on_device(tensor)) return tensor;
  auto storage = tensor.storage();
  auto keeper = std::make_unique<c10::Storage>(storage);
  void* start = const_cast<void*>(storage.data());
  at::DataPtr data(start, keeper.release(), [](void* held) { delete static_cast<c10::Storage*>(held); }, at::kCPU);
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), c10::GetCPUAllocator(), true);
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(shared), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  auto implementation = made.unsafeGetTensorImpl();
  implementation->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) implementation->set_wrapped_number(true);
  read_alike(tensor, made);
  return made;
}

// A CPU tensor's content as a new tensor of the device, strides kept.
Tensor place(const Tensor& tensor, at::Device device) {
  if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
  auto made = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device).pinned_memory(false));
  read_alike(tensor, made);
  if (tensor.numel() == 0) return made;
  size_t span = 1;
  for (int64_t i = 0; i < tensor.dim(); i++) span += (tensor.size(i) - 1) * tensor.stride(i);
  std::memcpy(made.mutable_data_ptr(), tensor.const_data_ptr(), span * tensor.itemsize());
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

constexpr int MAX_DEVICES = 64;
std::array<std::atomic<bool>, MAX_DEVICES> overflows;  // one flag a device

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

// A CPU generator for one operator, a function of the device generator's seed and offset, which moves on.
at::Generator generator_for(at::Generator device_generator) {
  std::lock_guard<std::mutex> lock(device_generator.mutex());
  uint64_t seed = device_generator.current_seed(), offset = device_generator.get_offset();
  device_generator.set_offset(offset + 4);
  return at::detail::createCPUGenerator(seed * 0x9E3779B97F4A7C15ull + offset);
}

// For operators that draw random numbers without being given a generator: the CPU's own one, set as above, and put back.
class BorrowedGenerator {
 public:
  explicit BorrowedGenerator(const at::Generator& source) : state_(own().get_state()) { own().set_state(source.get_state()); }
  ~BorrowedGenerator() { own().set_state(state_); }

 private:
  static at::Generator own() { return at::detail::getDefaultCPUGenerator(); }
  Tensor state_;
};

// The arguments and results of one call, translated to the CPU and back.
class Call {
 public:
  Call(const c10::OperatorHandle& operation, torch::jit::Stack* stack) : operation_(operation), stack_(stack) {}

  void run() {
    const auto& arguments = operation_.schema().arguments();
    size_t first = stack_->size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); i++) argument_down((*stack_)[first + i], arguments[i]);
    check_devices(first);
    if (!device_ || !device_->has_index()) device_ = current_device();
    size_t results = operation_.schema().returns().size();
    {
      c10::impl::ExcludeDispatchKeyGuard kernels_only(
          c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset |
          c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
      bool watched = saturates() && finite_arguments(arguments, *stack_, first);
      std::optional<BorrowedGenerator> random;
      if (!generator_ && operation_.hasTag(at::Tag::nondeterministic_seeded)) random.emplace(generator_of_device());
      try {
        operation_.callBoxed(stack_);
      } catch (const c10::Error& error) {  // a result is made on the host first
        bool memory = error.msg().find("DefaultCPUAllocator: can't allocate memory") != std::string::npos;
        TORCH_CHECK_WITH(OutOfMemoryError, !memory, "NPU out of memory. ", operation_.schema().operator_name(),
                         " needs more than the host has, which stands for the device: ", error.msg());
        throw;
      }
      for (size_t i = stack_->size() - results; watched && i < stack_->size(); i++) {
        const auto& value = (*stack_)[i];
        if (value.isTensor()) saturate(value.toTensor(), *device_);
        if (value.isTensorList())
          for (const Tensor& tensor : value.toTensorVector()) saturate(tensor, *device_);
      }
    }
    for (size_t i = stack_->size() - results; i < stack_->size(); i++) result_up((*stack_)[i]);
  }

 private:
  struct Pair {
    Tensor device, cpu;
  };

  Tensor down(const Tensor& tensor) {
    if (!on_device(tensor)) return tensor;
    if (!device_ || !device_->has_index()) device_ = tensor.device();
    for (auto& pair : pairs_)
      if (pair.device.is_same(tensor)) return pair.cpu;
    pairs_.push_back({tensor, alias(tensor)});
    return pairs_.back().cpu;
  }

  void argument_down(IValue& value, const c10::Argument& argument) {
    if (value.isTensor()) {
      if (on_device(value.toTensor())) value = down(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> translated;
      for (const Tensor& tensor : value.toTensorVector()) translated.push_back(down(tensor));
      value = translated;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> translated;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList())
        translated.push_back(tensor ? std::optional<Tensor>(down(*tensor)) : tensor);
      value = translated;
    } else if (value.isDevice()) {
      if (value.toDevice().type() != at::kPrivateUse1) return;
      device_ = value.toDevice();
      value = at::Device(at::kCPU);
    } else if (value.isGenerator()) {
      generator_ = true;
      given_ = value.toGenerator();
      if (given_->device().type() == at::kPrivateUse1) value = generator_for(*given_);
    } else if (value.isNone() && is_generator(argument)) {
      generator_ = true;
      value = generator_of_device();
    }
  }

  at::Generator generator_of_device() {
    auto device = device_ && device_->has_index() ? *device_ : current_device();
    return generator_for(at::globalContext().defaultGenerator(device));
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
    static const std::unordered_set<std::string> OF_THE_HOST = {"scalars", "lengths", "batch_sizes"};
    if (COPIES.count(operation_.schema().name())) return;
    if (given_) check_generator(first);
    if (pairs_.empty()) return;
    for (auto& pair : pairs_) refuse_other(pair.device.device(), pairs_[0].device.device());
    for (size_t i = first; i < stack_->size(); i++) {
      const auto& value = (*stack_)[i];
      if (OF_THE_HOST.count(operation_.schema().arguments()[i - first].name())) continue;
      if (value.isTensor()) check_cpu(value.toTensor());
      if (value.isTensorList())
        for (const Tensor& tensor : value.toTensorVector()) check_cpu(tensor);
    }
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
    if (value.isTensor()) {
      value = up(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> translated;
      for (const Tensor& tensor : value.toTensorVector()) translated.push_back(up(tensor));
      value = translated;
    }
  }

  Tensor up(const Tensor& result) {
    if (!result.defined() || !result.device().is_cpu()) return result;
    for (auto& pair : pairs_)
      if (pair.cpu.is_same(result)) return written(pair);
    for (auto& pair : pairs_)
      if (pair.cpu.storage().unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl()) {
        auto view = at::as_strided(pair.device, result.sizes(), result.strides(), result.storage_offset());
        read_alike(result, view);
        return view;
      }
    return place(result, *device_);
  }

  // An argument that the operator has written to; it may have given it another shape or, where it had to grow, memory.
  Tensor written(Pair& pair) {
    const Tensor &device = pair.device, &cpu = pair.cpu;
    if (cpu.storage().data() != device.storage().data()) {
      device.resize_(cpu.sizes());
      alias(device).copy_(cpu);
    } else if (cpu.sizes() != device.sizes() || cpu.strides() != device.strides()) {
      device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
    return device;
  }

  const c10::OperatorHandle& operation_;
  torch::jit::Stack* stack_;
  std::vector<Pair> pairs_;
  std::optional<at::Device> device_;
  bool generator_ = false;  // one is an argument
  std::optional<at::Generator> given_;
};

void run_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) { Call(operation, stack).run(); }

void refuse(const c10::OperatorHandle& operation, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "the emulated Ascend has no kernel for ", operation.schema().operator_name(),
                              "; on a real device it may run");
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
torch::CppFunction refusal() { return torch::CppFunction::makeFromBoxedFunction<&refuse>(); }
torch::CppFunction composite_kernel() { return torch::CppFunction::makeFromBoxedFunction<&compose_kernel>(); }
torch::CppFunction composite() { return torch::CppFunction::makeFromBoxedFunction<&compose>(); }

void install_cpu_kernels(const std::vector<std::string>& names) {
  install<cpu_kernel>(names, c10::DispatchKey::PrivateUse1);
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
  library.def("alias(Tensor tensor) -> Tensor", &alias);
  library.def("has_tangent(Tensor tensor) -> bool", [](const Tensor& tensor) { return tensor._fw_grad(0).defined(); });
  library.def("place(Tensor tensor, Device device) -> Tensor", &place);
  library.def("saturates() -> bool", [] { return saturates(); });
  library.def("finite(Tensor tensor) -> bool", [](const Tensor& tensor) { return finite(tensor); });
  library.def("saturate(Tensor(a!) tensor, Device device) -> ()", &saturate);
  library.def("overflow(Device device) -> bool", [](at::Device device) { return overflows[device.index()].load(); });
  library.def("clear_overflow(Device device) -> ()", [](at::Device device) { overflows[device.index()] = false; });
  library.def("install_cpu_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_cpu_kernels(names); });
  library.def("install_refusals(str[] names) -> ()", [](std::vector<std::string> names) { install_refusals(names); });
  library.def("install_composite_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_composite_kernels(names); });
  library.def("install_composites(str[] names) -> ()", [](std::vector<std::string> names) { install_composites(names); });
}
