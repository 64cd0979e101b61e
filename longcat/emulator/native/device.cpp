// Devices, contexts and what they say of themselves.
#include "emulator.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>
#include <unistd.h>
#include <vector>

namespace emulator {

// torch_npu holds on to a message while it asks for more, so the last few stay where they are.
constexpr int MESSAGES = 8;
static thread_local char messages[MESSAGES][1024];
static thread_local int recent;
static thread_local int device = -1;
static std::atomic<bool> used[MAX_DEVICES];  // which this process has set
static int contexts[MAX_DEVICES];  // a context is the address of its device's entry

int setting(const char* name, int otherwise) {
  const char* text = getenv(name);
  if (!text || !*text) return otherwise;
  char* end;
  long value = strtol(text, &end, 10);
  if (*end || value < 1 || value > 1 << 20) {
    fprintf(stderr, "longcat emulate: %s=%s is not a positive integer\n", name, text);
    _exit(2);
  }
  return static_cast<int>(value);
}

static int emulated_devices() {
  static const int count = std::min(setting("ASCEND_EMULATED_DEVICES", 8), MAX_DEVICES);
  return count;
}

// Numbers of the devices that this process sees: the ascending ones that ASCEND_RT_VISIBLE_DEVICES begins with, up to one that
// is not there; none if they do not ascend. What follows another character than a digit or a comma is not read.
static std::vector<int> visible() {
  int emulated = emulated_devices();
  std::vector<int> found;
  const char* text = getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (!text) {
    found.resize(emulated);
    std::iota(found.begin(), found.end(), 0);
    return found;
  }
  for (char* end; isdigit(*text); text = end + 1) {
    long number = strtol(text, &end, 10);
    if (!found.empty() && number <= found.back()) return {};
    if (number >= emulated) break;
    found.push_back(static_cast<int>(number));
    if (*end != ',') break;
  }
  return found;
}

static std::atomic<bool> chosen;  // whether a device was asked for: from then on the variable changes nothing

static const std::vector<int>& chosen_devices() {
  static const auto& found = *new std::vector<int>(visible());
  return found;
}

int devices() { return static_cast<int>(chosen ? chosen_devices().size() : visible().size()); }

int current_device() { return device; }

int number_on_machine(int of) { return of < 0 || of >= devices() ? of : chosen ? chosen_devices()[of] : visible()[of]; }

uint64_t microseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

aclError fail(aclError code, const std::string& message) {
  recent = (recent + 1) % MESSAGES;
  snprintf(messages[recent], sizeof messages[recent], "[emulated Ascend] %s", message.c_str());
  return code;
}

}  // namespace emulator

using namespace emulator;

namespace {

using Limited = std::tuple<aclrtStream, int, int>;  // a stream, or null for its device; device; kind of core
std::mutex mutex;
auto& limits = *new std::map<Limited, uint32_t>;
thread_local aclrtStream stream_of_limits;

// Cores that do matrices, by the name of the SoC (CANN's platform_config); vector cores are twice as many.
int cube_cores() {
  static const int found = [] {
    std::string name = aclrtGetSocName();
    for (auto large : {"Ascend910B1", "Ascend910B2", "Ascend910_939", "Ascend910_938"})
      if (name.rfind(large, 0) == 0) return 24;
    return name.rfind("Ascend950", 0) == 0 ? 32 : 20;
  }();
  return found;
}

// Bytes of the second cache: half of a 910B's are a 910B4's.
int64_t cache_bytes() {
  return (std::string(aclrtGetSocName()).rfind("Ascend910B4", 0) == 0 ? int64_t{96} : int64_t{192}) << 20;
}

uint32_t limit(Limited of) {
  std::lock_guard<std::mutex> lock(mutex);
  for (auto key : {of, Limited{nullptr, std::get<1>(of), std::get<2>(of)}})
    if (auto found = limits.find(key); found != limits.end()) return found->second;
  return std::get<2>(of) == ACL_RT_DEV_RES_CUBE_CORE ? cube_cores() : 2 * cube_cores();
}

aclError set_limit(Limited of, uint32_t value) {
  std::lock_guard<std::mutex> lock(mutex);
  limits[of] = value;
  return ACL_SUCCESS;
}

aclError reset_limits(aclrtStream stream, int of) {
  std::lock_guard<std::mutex> lock(mutex);
  for (int type : {ACL_RT_DEV_RES_CUBE_CORE, ACL_RT_DEV_RES_VECTOR_CORE}) limits.erase({stream, of, type});
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

long emulator_unsupported(const char* function) {
  fail(NOT_SUPPORTED, std::string(function) + " is not emulated");
  fprintf(stderr, "%s\n", messages[recent]);
  return NOT_SUPPORTED;
}

aclError aclInit(const char*) { return ACL_SUCCESS; }
aclError aclFinalize() { return ACL_SUCCESS; }
const char* aclGetRecentErrMsg() { return messages[recent]; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }

const char* aclrtGetSocName() {
  const char* name = getenv("ASCEND_EMULATED_SOC");
  return name && *name ? name : "Ascend910B2";
}

aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = devices();
  return ACL_SUCCESS;
}

// The driver's answer, which no variable changes: torch_npu counts from it the devices that a process sees.
int drvGetDevNum(uint32_t* count) {
  *count = emulated_devices();
  return 0;
}

aclError aclrtSetDevice(int32_t wanted) {
  chosen_devices();
  chosen = true;
  if (wanted < 0 || wanted >= devices())
    return fail(INVALID_DEVICE, "device " + std::to_string(wanted) + " was asked for, " + std::to_string(devices()) +
                                    (getenv("ASCEND_RT_VISIBLE_DEVICES")
                                         ? " are visible: see ASCEND_RT_VISIBLE_DEVICES"
                                         : " are emulated: set ASCEND_EMULATED_DEVICES"));
  device = wanted;
  used[wanted] = true;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t of) {
  device = -1;
  if (of >= 0 && of < devices()) used[of] = false;
  return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t* found) {
  if (device < 0) return fail(NO_CONTEXT, "no device was set");
  *found = device;
  return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext* context) {
  *context = &contexts[device < 0 ? 0 : device];
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  device = static_cast<int>(static_cast<int*>(context) - contexts);
  return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t of, uint32_t* flags, int32_t* active) {
  if (of < 0 || of >= devices()) return fail(INVALID_DEVICE, "there is no device " + std::to_string(of));
  if (flags) *flags = 0;
  *active = used[of];
  return ACL_SUCCESS;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user, int32_t* const logic) {
  if (user < 0 || user >= devices()) return fail(INVALID_DEVICE, "there is no device " + std::to_string(user));
  *logic = number_on_machine(user);
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
  *can = 1;
  return ACL_SUCCESS;
}
aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return ACL_SUCCESS; }

aclError aclrtDeviceGetBareTgid(int32_t* pid) {
  *pid = getpid();
  return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo what, int64_t* value) {
  switch (what) {
    case ACL_DEVICE_INFO_AI_CORE_NUM: *value = cube_cores(); break;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM: *value = 2 * cube_cores(); break;
    case ACL_DEVICE_INFO_L2_SIZE: *value = cache_bytes(); break;
    default: return emulator_unsupported("this question of aclGetDeviceCapability");
  }
  return ACL_SUCCESS;
}
aclError aclrtGetDeviceInfo(uint32_t, aclrtDevAttr what, int64_t* value) {
  size_t available, total;
  aclrtGetMemInfo(ACL_HBM_MEM, &available, &total);
  switch (what) {
    case ACL_DEV_ATTR_AICORE_CORE_NUM:
    case ACL_DEV_ATTR_CUBE_CORE_NUM: *value = cube_cores(); break;
    case ACL_DEV_ATTR_VECTOR_CORE_NUM: *value = 2 * cube_cores(); break;
    case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: *value = total; break;
    case ACL_DEV_ATTR_L2_CACHE_SIZE: *value = cache_bytes(); break;
    case ACL_DEV_ATTR_IS_VIRTUAL: *value = 0; break;
    default: return emulator_unsupported("this attribute of aclrtGetDeviceInfo");
  }
  return ACL_SUCCESS;
}

// All work is done when it is asked for: whoever asks finds a device without any.
aclError aclrtGetDeviceUtilizationRate(int32_t, aclrtUtilizationInfo* found) {
  size_t available, total;
  aclrtGetMemInfo(ACL_HBM_MEM, &available, &total);
  found->cubeUtilization = found->vectorUtilization = found->aicpuUtilization = 0;
  found->memoryUtilization = static_cast<int32_t>(100 * (total - available) / total);
  return ACL_SUCCESS;
}

aclError aclrtDeviceGetUuid(int32_t wanted, aclrtUuid* found) {
  memset(found, 0, sizeof *found);
  if (wanted < 0 || wanted >= devices()) return fail(INVALID_DEVICE, "there is no device " + std::to_string(wanted));
  snprintf(found->bytes, sizeof found->bytes, "emulated-npu-%02d", number_on_machine(wanted));
  return ACL_SUCCESS;
}

// Limits of cores that are used are kept and given back; none changes what is computed.
aclError aclrtGetDeviceResLimit(int32_t of, aclrtDevResLimitType type, uint32_t* value) {
  *value = limit({nullptr, of, type});
  return ACL_SUCCESS;
}
aclError aclrtSetDeviceResLimit(int32_t of, aclrtDevResLimitType type, uint32_t value) {
  return set_limit({nullptr, of, type}, value);
}
aclError aclrtResetDeviceResLimit(int32_t of) { return reset_limits(nullptr, of); }
aclError aclrtGetStreamResLimit(aclrtStream stream, aclrtDevResLimitType type, uint32_t* value) {
  *value = limit({stream, device, type});
  return ACL_SUCCESS;
}
aclError aclrtSetStreamResLimit(aclrtStream stream, aclrtDevResLimitType type, uint32_t value) {
  return set_limit({stream, device, type}, value);
}
aclError aclrtResetStreamResLimit(aclrtStream stream) { return reset_limits(stream, device); }
aclError aclrtUseStreamResInCurrentThread(aclrtStream stream) {
  stream_of_limits = stream;
  return ACL_SUCCESS;
}
aclError aclrtUnuseStreamResInCurrentThread(aclrtStream) {
  stream_of_limits = nullptr;
  return ACL_SUCCESS;
}
aclError aclrtGetResInCurrentThread(aclrtDevResLimitType type, uint32_t* value) {
  *value = limit({stream_of_limits, device, type});
  return ACL_SUCCESS;
}

aclError aclGetCannAttribute(aclCannAttr, int32_t* value) {
  *value = 1;
  return ACL_SUCCESS;
}
aclError aclsysGetVersionStr(char*, char* version) {
  strcpy(version, "8.5.0");
  return ACL_SUCCESS;
}
aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion* version) {
  memset(version, 0, sizeof *version);
  strcpy(version->version, "8.5.0");
  return ACL_SUCCESS;
}

}  // extern "C"
