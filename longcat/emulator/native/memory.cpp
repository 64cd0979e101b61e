// Device memory is memory of the host, counted per device, so that too much of it is refused as a device would.
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

using namespace emulator;

namespace {

constexpr size_t GRAIN = 512;     // bytes; what a device aligns to
constexpr size_t MAPPED = 64 << 20;  // bytes from which on pages are only promised: what is not written costs nothing
constexpr int HOST = -1;          // pinned memory of the host

struct Block {
  size_t bytes;
  int device;
};

std::mutex mutex;
auto* blocks = new std::map<const char*, Block>;  // by start; never destroyed: tensors outlive the exit handlers
size_t used[MAX_DEVICES];

size_t capacity() {
  static size_t bytes = static_cast<size_t>(setting("ASCEND_EMULATED_MEMORY_MB", 64 << 10)) << 20;
  return bytes;
}

int device_or_first() { return current_device() < 0 ? 0 : current_device(); }

// Counts `bytes` against the device; false when it has not as much left.
bool reserve(int device, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  if (bytes > capacity() - used[device]) return false;
  used[device] += bytes;
  return true;
}

void release(int device, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  used[device] -= bytes;
}

// Null where the host has no more. What is only promised may be more than the host has, as on a device it would be there.
void* host_memory(size_t bytes) {
  void* pointer = nullptr;
  if (bytes < MAPPED) return posix_memalign(&pointer, GRAIN, bytes) ? nullptr : pointer;
  pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pointer == MAP_FAILED ? nullptr : pointer;
}

aclError allocate(void** pointer, size_t bytes, int device) {
  *pointer = nullptr;
  bytes = (bytes + GRAIN) / GRAIN * GRAIN;
  if (device != HOST && !reserve(device, bytes))
    return fail(OUT_OF_MEMORY, "device " + std::to_string(device) + " is out of memory");
  if (!(*pointer = host_memory(bytes))) {
    if (device != HOST) release(device, bytes);
    fprintf(stderr, "[emulated Ascend] %zu bytes cannot be had of the host, which stands for the device\n", bytes);
    return fail(OUT_OF_MEMORY, "the host is out of memory");
  }
  std::lock_guard<std::mutex> lock(mutex);
  (*blocks)[static_cast<char*>(*pointer)] = {bytes, device};
  return ACL_SUCCESS;
}

aclError deallocate(void* pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = blocks->find(static_cast<char*>(pointer));
  if (found == blocks->end()) return pointer ? fail(INVALID_PARAMETER, "memory is freed that was not allocated") : 0;
  if (found->second.device != HOST) used[found->second.device] -= found->second.bytes;
  found->second.bytes < MAPPED ? free(pointer) : (void)munmap(pointer, found->second.bytes);
  blocks->erase(found);
  return ACL_SUCCESS;
}

// Physical memory that is mapped into reserved addresses: torch's expandable segments.
struct Physical {
  size_t bytes;
  int device;
};

}  // namespace

extern "C" {

aclError aclrtMalloc(void** pointer, size_t bytes, aclrtMemMallocPolicy) {
  return allocate(pointer, bytes, device_or_first());
}
aclError aclrtMallocAlign32(void** pointer, size_t bytes, aclrtMemMallocPolicy) {
  return allocate(pointer, bytes, device_or_first());
}
aclError aclrtFree(void* pointer) { return deallocate(pointer); }
aclError aclrtMallocHost(void** pointer, size_t bytes) { return allocate(pointer, bytes, HOST); }
aclError aclrtMallocHostWithCfg(void** pointer, uint64_t bytes, aclrtMallocConfig*) {
  return allocate(pointer, bytes, HOST);
}
aclError aclrtFreeHost(void* pointer) { return deallocate(pointer); }

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* available, size_t* total) {
  std::lock_guard<std::mutex> lock(mutex);
  *total = capacity();
  *available = capacity() - used[device_or_first()];
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind) {
  if (bytes > room) return fail(INVALID_PARAMETER, "a copy is larger than its destination");
  memmove(to, from, bytes);
  return ACL_SUCCESS;
}
aclError aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind, aclrtStream stream) {
  will_write(stream, to, bytes);
  record(stream, "memcpy", [=] { return aclrtMemcpy(to, room, from, bytes, kind); });
  return aclrtMemcpy(to, room, from, bytes, kind);
}
aclError aclrtMemset(void* to, size_t room, int32_t value, size_t bytes) {
  if (bytes > room) return fail(INVALID_PARAMETER, "a fill is larger than its destination");
  memset(to, value, bytes);
  return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void* to, size_t room, int32_t value, size_t bytes, aclrtStream stream) {
  will_write(stream, to, bytes);
  record(stream, "memset", [=] { return aclrtMemset(to, room, value, bytes); });
  return aclrtMemset(to, room, value, bytes);
}

aclError aclrtPointerGetAttributes(const void* pointer, aclrtPtrAttributes* attributes) {
  memset(attributes, 0, sizeof *attributes);
  attributes->location.type = ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  std::lock_guard<std::mutex> lock(mutex);
  auto address = static_cast<const char*>(pointer);
  auto after = blocks->upper_bound(address);
  if (after == blocks->begin()) return ACL_SUCCESS;
  auto& [start, block] = *--after;
  if (address >= start + block.bytes) return ACL_SUCCESS;
  attributes->location.type = block.device == HOST ? ACL_MEM_LOCATION_TYPE_HOST : ACL_MEM_LOCATION_TYPE_DEVICE;
  attributes->location.id = block.device == HOST ? 0 : block.device;
  return ACL_SUCCESS;
}

aclError aclrtReserveMemAddress(void** address, size_t bytes, size_t, void*, uint64_t) {
  *address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *address == MAP_FAILED ? fail(OUT_OF_MEMORY, "no addresses left") : ACL_SUCCESS;
}

aclError aclrtReleaseMemAddress(void*) { return ACL_SUCCESS; }  // its size is not told; reserved addresses cost nothing

aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t bytes, const aclrtPhysicalMemProp*, uint64_t) {
  int device = device_or_first();
  if (!reserve(device, bytes)) return fail(OUT_OF_MEMORY, "device " + std::to_string(device) + " is out of memory");
  *handle = reinterpret_cast<aclrtDrvMemHandle>(new Physical{bytes, device});
  return ACL_SUCCESS;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  auto physical = reinterpret_cast<Physical*>(handle);
  release(physical->device, physical->bytes);
  delete physical;
  return ACL_SUCCESS;
}

aclError aclrtMapMem(void* address, size_t bytes, size_t, aclrtDrvMemHandle handle, uint64_t) {
  if (mprotect(address, bytes, PROT_READ | PROT_WRITE)) return fail(OUT_OF_MEMORY, "the host is out of memory");
  std::lock_guard<std::mutex> lock(mutex);
  (*blocks)[static_cast<char*>(address)] = {bytes, reinterpret_cast<Physical*>(handle)->device};
  return ACL_SUCCESS;
}

aclError aclrtUnmapMem(void* address) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = blocks->find(static_cast<char*>(address));
  if (found == blocks->end()) return fail(INVALID_PARAMETER, "memory is unmapped that was not mapped");
  madvise(address, found->second.bytes, MADV_DONTNEED);
  mprotect(address, found->second.bytes, PROT_NONE);
  blocks->erase(found);
  return ACL_SUCCESS;
}

}  // extern "C"
