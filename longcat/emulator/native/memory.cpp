// Device memory is memory of the host, counted per device, so that too much of it is refused as a device would. What is
// shared with another process becomes a file without a name that both map; the other finds it as /proc/PID/fd/N.
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

using namespace emulator;

namespace {

constexpr size_t GRAIN = 512;     // bytes; what a device aligns to
constexpr size_t PAGE = 4096;     // what memory of the host is aligned to: torch_npu writes from the next page on
constexpr size_t MAPPED = 1 << 20;  // bytes from which on pages are only promised: what is not written costs nothing
constexpr int HOST = -1;          // pinned memory of the host

struct Block {
  size_t bytes;
  int device;
  int file = -1;  // where it is shared
};

std::mutex mutex;
auto* blocks = new std::map<const char*, Block>;  // by start; never destroyed: tensors outlive the exit handlers
auto* registered = new std::map<const char*, size_t>;  // memory of the host that devices may reach
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
void* host_memory(size_t bytes, size_t alignment) {
  void* pointer = nullptr;
  if (bytes < MAPPED) return posix_memalign(&pointer, alignment, bytes) ? nullptr : pointer;
  pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pointer == MAP_FAILED ? nullptr : pointer;
}

aclError allocate(void** pointer, size_t bytes, int device) {
  *pointer = nullptr;
  bytes = (bytes + GRAIN) / GRAIN * GRAIN;
  if (device != HOST && !reserve(device, bytes))
    return fail(OUT_OF_MEMORY, "device " + std::to_string(device) + " is out of memory");
  if (!(*pointer = host_memory(bytes, device == HOST ? PAGE : GRAIN))) {
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
  if (found->second.file >= 0) close(found->second.file);
  if (found->second.device != HOST) used[found->second.device] -= found->second.bytes;
  found->second.bytes < MAPPED ? free(pointer) : (void)munmap(pointer, found->second.bytes);
  blocks->erase(found);
  return ACL_SUCCESS;
}

// Makes a block one that others can map, at the address where it is.
bool share(const char* start, Block& block) {
  int file = memfd_create("npu-memory", MFD_CLOEXEC);
  if (file < 0) return false;
  size_t done = 0;
  for (ssize_t part = 1; done < block.bytes && part > 0; done += part) part = write(file, start + done, block.bytes - done);
  auto address = const_cast<char*>(start);
  if (done < block.bytes ||
      mmap(address, block.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
    close(file);
    return false;
  }
  block.file = file;
  return true;
}

struct Imported {
  char* start;
  size_t bytes;
};
auto& imports = *new std::map<std::string, Imported>;  // by key

// Physical memory that is mapped into reserved addresses: torch's expandable segments.
struct Physical {
  size_t bytes;
  int device;
};

}  // namespace

namespace emulator {

bool of_the_device(const void* pointer) {
  aclrtPtrAttributes found;
  aclrtPointerGetAttributes(pointer, &found);
  return found.location.type == ACL_MEM_LOCATION_TYPE_DEVICE;
}

}  // namespace emulator

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
  if (auto after = blocks->upper_bound(address); after != blocks->begin()) {
    auto& [start, block] = *--after;
    if (address < start + block.bytes) {
      attributes->location.type = block.device == HOST ? ACL_MEM_LOCATION_TYPE_HOST : ACL_MEM_LOCATION_TYPE_DEVICE;
      attributes->location.id = block.device == HOST ? 0 : block.device;
      return ACL_SUCCESS;
    }
  }
  if (auto after = registered->upper_bound(address); after != registered->begin()) {
    auto& [start, bytes] = *--after;
    if (address < start + bytes) attributes->location.type = ACL_MEM_LOCATION_TYPE_HOST;
  }
  return ACL_SUCCESS;
}

// ---- memory of another process

aclError aclrtIpcMemGetExportKey(void* pointer, size_t bytes, char* key, size_t room, uint64_t) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = blocks->find(static_cast<char*>(pointer));
  if (found == blocks->end() || found->second.device == HOST)
    return fail(INVALID_PARAMETER, "memory is shared that was not allocated on a device");
  auto& [start, block] = *found;
  if (block.bytes < MAPPED)
    return fail(NOT_SUPPORTED, "less than " + std::to_string(MAPPED) + " bytes at a time cannot be shared between processes");
  if (block.file < 0 && !share(start, block)) return fail(OUT_OF_MEMORY, "the host has no memory to share");
  memset(key, 0, room);
  snprintf(key, room, "%d:%d:%zu:%d", getpid(), block.file, block.bytes, block.device);
  return ACL_SUCCESS;
}

aclError aclrtIpcMemSetImportPid(const char*, int32_t*, size_t) { return ACL_SUCCESS; }

aclError aclrtIpcMemImportByKey(void** pointer, const char* key, uint64_t) {
  int pid, descriptor, device;
  size_t bytes;
  if (sscanf(key, "%d:%d:%zu:%d", &pid, &descriptor, &bytes, &device) != 4)
    return fail(INVALID_PARAMETER, "the key of shared memory is none");
  auto path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(descriptor);
  int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return fail(INVALID_PARAMETER, "the process " + std::to_string(pid) + " no longer has the memory that it shared");
  auto start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (start == MAP_FAILED) return fail(OUT_OF_MEMORY, "no addresses left");
  std::lock_guard<std::mutex> lock(mutex);
  *pointer = start;
  imports[key] = {static_cast<char*>(start), bytes};
  (*blocks)[static_cast<char*>(start)] = {bytes, device};
  return ACL_SUCCESS;
}

aclError aclrtIpcMemClose(const char* key) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = imports.find(key);
  if (found == imports.end()) return ACL_SUCCESS;  // the process that shares it
  munmap(found->second.start, found->second.bytes);
  blocks->erase(found->second.start);
  imports.erase(found);
  return ACL_SUCCESS;
}

// ---- memory of the program that the device may reach

aclError aclrtHostRegisterV2(void* pointer, uint64_t bytes, uint32_t) {
  if (!pointer || !bytes) return fail(INVALID_PARAMETER, "no memory is registered");
  std::lock_guard<std::mutex> lock(mutex);
  auto start = static_cast<char*>(pointer);
  auto after = registered->lower_bound(start);
  bool overlaps = after != registered->end() && after->first < start + bytes;
  if (after != registered->begin()) {
    auto& [other, size] = *std::prev(after);
    overlaps = overlaps || other + size > start;
  }
  if (overlaps) return fail(INVALID_PARAMETER, "memory is registered that is registered already");
  (*registered)[start] = bytes;
  return ACL_SUCCESS;
}

aclError aclrtCmoAsync(void*, size_t, aclrtCmoType, aclrtStream) { return ACL_SUCCESS; }  // a hint to the cache
aclError aclrtHostRegister(void* pointer, uint64_t bytes, aclrtHostRegisterType, void** of_the_device) {
  *of_the_device = pointer;
  return aclrtHostRegisterV2(pointer, bytes, 0);
}

aclError aclrtHostUnregister(void* pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!registered->erase(static_cast<char*>(pointer)))
    return fail(INVALID_PARAMETER, "memory is unregistered that was not registered");
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
