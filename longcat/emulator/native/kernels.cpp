// aten on the emulated device: the operator's CPU kernel, on CPU tensors over the same memory.
//
// Loaded into torch with torch.ops.load_library; Python sees the operators of the namespace longcat_emulator.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
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
    widen_index(first);
    if (!device_ || !device_->has_index()) device_ = current_device();
    {
      c10::impl::ExcludeDispatchKeyGuard kernels_only(
          c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset |
          c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
      std::optional<BorrowedGenerator> random;
      if (!generator_ && operation_.hasTag(at::Tag::nondeterministic_seeded)) random.emplace(generator_of_device());
      try {
        compute(first);
      } catch (const c10::Error& error) {  // a result is made on the host first
        bool memory = error.msg().find("DefaultCPUAllocator: can't allocate memory") != std::string::npos;
        TORCH_CHECK_WITH(OutOfMemoryError, !memory, "NPU out of memory. ", operation_.schema().operator_name(),
                         " needs more than the host has, which stands for the device: ", error.msg());
        throw;
      }
    }
    size_t results = operation_.schema().returns().size();
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

  // The CPU's kernel. Products of half floats are summed in 32 bits, as a device does, and what the CPU has no 16-bit kernel
  // for is computed in 32 bits as well; results are rounded once.
  void compute(size_t first) {
    static const std::unordered_set<std::string> PRODUCTS = {
        "aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::addbmm",
        "aten::addbmm_", "aten::mv", "aten::addmv", "aten::addmv_", "aten::addr", "aten::dot", "aten::vdot"};
    bool half = has(first, at::kHalf), brain = has(first, at::kBFloat16);
    if (half && PRODUCTS.count(operation_.schema().name())) return compute_wide(first, at::kHalf);
    if (!half && !brain) return operation_.callBoxed(stack_);
    torch::jit::Stack kept(stack_->begin() + first, stack_->end());
    try {
      operation_.callBoxed(stack_);
    } catch (const c10::Error& error) {
      const auto& text = error.msg();
      bool lacks_half = text.find("for 'Half'") != std::string::npos || text.find("c10::Half") != std::string::npos;
      bool lacks_brain = text.find("for 'BFloat16'") != std::string::npos || text.find("c10::BFloat16") != std::string::npos;
      if (!(half && lacks_half) && !(brain && lacks_brain)) throw;
      stack_->resize(first);
      stack_->insert(stack_->end(), kept.begin(), kept.end());
      compute_wide(first, lacks_half ? at::kHalf : at::kBFloat16);
    }
  }

  bool has(size_t first, at::ScalarType type) {
    for (size_t i = first; i < stack_->size(); i++) {
      const auto& value = (*stack_)[i];
      if (value.isTensor() && value.toTensor().defined() && value.toTensor().scalar_type() == type) return true;
      if (value.isTensorList())
        for (const Tensor& tensor : value.toTensorVector())
          if (tensor.defined() && tensor.scalar_type() == type) return true;
    }
    return false;
  }

  void compute_wide(size_t first, at::ScalarType narrow) {
    std::vector<std::pair<Tensor, Tensor>> widened;
    auto widen = [&](const Tensor& tensor) {
      if (!tensor.defined() || tensor.scalar_type() != narrow) return tensor;
      for (auto& [before, after] : widened)
        if (before.is_same(tensor)) return after;
      widened.emplace_back(tensor, tensor.to(at::kFloat));
      return widened.back().second;
    };
    change_tensors(first, widen);
    operation_.callBoxed(stack_);
    const auto& arguments = operation_.schema().arguments();
    bool writes = std::any_of(arguments.begin(), arguments.end(),
                              [](const auto& argument) { return argument.alias_info() && argument.alias_info()->isWrite(); });
    if (writes)
      for (auto& [before, after] : widened) {
        if (before.sizes() != after.sizes()) before.resize_(after.sizes());
        before.copy_(after);
      }
    change_tensors(stack_->size() - operation_.schema().returns().size(), [&](const Tensor& result) {
      for (auto& [before, after] : widened)
        if (after.is_same(result)) return before;
      return result.defined() && result.scalar_type() == at::kFloat ? result.to(narrow) : result;
    });
  }

  template <typename Change>
  void change_tensors(size_t first, Change change) {
    for (size_t i = first; i < stack_->size(); i++) {
      auto& value = (*stack_)[i];
      if (value.isTensor()) {
        value = change(value.toTensor());
      } else if (value.isTensorList()) {
        c10::List<Tensor> changed;
        for (const Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
        value = changed;
      }
    }
  }

  // Indices of 32 bits, which a device takes, and of which the CPU's kernel says that it wants 64.
  void widen_index(size_t first) {
    static const std::unordered_map<std::string, std::string> INDICES = {
        {"aten::nll_loss_forward", "target"},    {"aten::nll_loss_backward", "target"},
        {"aten::nll_loss2d_forward", "target"},  {"aten::nll_loss2d_backward", "target"},
        {"aten::multilabel_margin_loss_forward", "target"},
        {"aten::index_fill", "index"},           {"aten::index_fill_", "index"},
        {"aten::take", "index"},                 {"aten::put_", "index"}};
    auto found = INDICES.find(operation_.schema().name());
    if (found == INDICES.end()) return;
    auto& value = (*stack_)[first + *operation_.schema().argumentIndexWithName(found->second)];
    if (value.isTensor() && value.toTensor().scalar_type() == at::kInt) value = value.toTensor().to(at::kLong);
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
  library.def("install_cpu_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_cpu_kernels(names); });
  library.def("install_refusals(str[] names) -> ()", [](std::vector<std::string> names) { install_refusals(names); });
  library.def("install_composite_kernels(str[] names) -> ()", [](std::vector<std::string> names) { install_composite_kernels(names); });
  library.def("install_composites(str[] names) -> ()", [](std::vector<std::string> names) { install_composites(names); });
}
