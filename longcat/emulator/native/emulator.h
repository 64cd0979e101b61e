// What the parts of the emulated CANN share.
#pragma once

#include <acl/acl.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace emulator {

constexpr int MAX_DEVICES = 64;

// ACL's codes for what can go wrong here; torch_npu turns the allocation's into torch.OutOfMemoryError.
constexpr aclError INVALID_PARAMETER = 107000;
constexpr aclError INVALID_DEVICE = 107001;
constexpr aclError NO_CONTEXT = 107002;
constexpr aclError NOT_SUPPORTED = 207000;
constexpr aclError STREAM_CAPTURED = 107027;
constexpr aclError STREAM_NOT_CAPTURED = 107029;
constexpr aclError CAPTURE_NOT_SUPPORTED = 107030;
constexpr aclError INTERNAL_ERROR = 500000;
constexpr aclError OUT_OF_MEMORY = 207001;

// An integer from the environment; a value that is none ends the process with a message.
int setting(const char* name, int otherwise);

// Devices that this process sees: ASCEND_EMULATED_DEVICES, or fewer by ASCEND_RT_VISIBLE_DEVICES.
int devices();

// Number among all devices that are emulated of one that this process sees.
int number_on_machine(int of);

// Device of the calling thread, -1 before one was set.
int current_device();

uint64_t microseconds();

// Whether this is memory of a device, allocated and not freed.
bool of_the_device(const void* pointer);

// Receives are posted on a stream and done when somebody waits for it: a host does not wait where a device's stream would.
// They are numbered; `last` is the highest number that matters, a stream of null stands for all.
constexpr uint64_t ALL_RECEIVES = UINT64_MAX;
uint64_t last_receive();
bool receives_done(aclrtStream stream, uint64_t last);  // takes what has come
aclError wait_for_receives(aclrtStream stream, uint64_t last);

// Work of a stream that captures a graph is kept, to be done again: `record` before or after it is done for the first time,
// `will_write` before. Neither does anything on other streams.
bool records(aclrtStream stream);
bool any_records();
void will_write(aclrtStream stream, void* start, size_t bytes);
void record(aclrtStream stream, const std::string& name, std::function<aclError()> work);

// The code of what cannot be captured. The capture goes on without it.
aclError refuse_capture(const std::string& reason);

// A stream that waits for an event of a stream that captures captures too. 0 is no graph.
uint64_t graph_of(aclrtStream stream);
void join(aclrtStream stream, uint64_t graph);
void leave(aclrtStream stream);  // the stream is gone
bool this_thread_captures();     // it has begun a capture

// Keeps the message for aclGetRecentErrMsg, which torch_npu puts into its exception, and returns the code.
aclError fail(aclError code, const std::string& message);

// Types of 16 bits, as numbers.
#ifdef __aarch64__
using Half = __fp16;
#else
using Half = _Float16;
#endif

struct Bfloat16 {
  uint16_t bits;
  operator float() const {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  Bfloat16() = default;
  explicit Bfloat16(float value) {  // to nearest, ties to even; a NaN stays one
    uint32_t wide;
    memcpy(&wide, &value, 4);
    bits = value != value ? (wide >> 16) | 0x40 : (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  }
};

}  // namespace emulator

// What a stub of a CANN function that is not emulated calls; generated code is C, so this name is too.
extern "C" long emulator_unsupported(const char* function);
