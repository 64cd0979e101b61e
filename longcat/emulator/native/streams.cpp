// Streams and events. All work but receiving is done when it is asked for, so a stream is a name and an event a time and
// what was to be received before it.
#include "emulator.h"

#include <acl/acl_op_compiler.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

using namespace emulator;

namespace {

struct Stream {
  int id;
};

struct Event {
  uint64_t at_us = 0, receive = 0;
  aclrtStream stream = nullptr;
  uint64_t graph = 0;  // it was recorded in
};

std::atomic<int> streams{1};
std::mutex mutex;
std::map<int, int64_t> parameters;

Event* event(aclrtEvent handle) { return static_cast<Event*>(handle); }

}  // namespace

extern "C" {

aclError aclrtCreateStream(aclrtStream* stream) {
  *stream = new Stream{streams++};
  return ACL_SUCCESS;
}
aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }
aclError aclrtDestroyStream(aclrtStream stream) {
  leave(stream);
  delete static_cast<Stream*>(stream);
  return ACL_SUCCESS;
}
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }
aclError aclrtStreamGetId(aclrtStream stream, int32_t* id) {
  *id = stream ? static_cast<Stream*>(stream)->id : 0;
  return ACL_SUCCESS;
}
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  bool done = receives_done(stream, last_receive());
  *status = done ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  return ACL_SUCCESS;
}
aclError aclrtSynchronizeStream(aclrtStream stream) {
  if (graph_of(stream)) return refuse_capture("the host waits for the stream");
  return wait_for_receives(stream, last_receive());
}
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) { return aclrtSynchronizeStream(stream); }
aclError aclrtSynchronizeDevice() {
  if (this_thread_captures()) return refuse_capture("the host waits for the device");
  return wait_for_receives(nullptr, ALL_RECEIVES);
}
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

aclError aclrtCreateEventExWithFlag(aclrtEvent* handle, uint32_t) {
  *handle = new Event;
  return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent* handle, uint32_t flag) { return aclrtCreateEventExWithFlag(handle, flag); }
aclError aclrtDestroyEvent(aclrtEvent handle) {
  delete event(handle);
  return ACL_SUCCESS;
}
aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream) {
  *event(handle) = {microseconds(), last_receive(), stream, graph_of(stream)};
  return ACL_SUCCESS;
}
aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtSynchronizeEvent(aclrtEvent handle) {
  return wait_for_receives(event(handle)->stream, event(handle)->receive);
}
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent handle) {
  join(stream, event(handle)->graph);
  return aclrtSynchronizeEvent(handle);
}
aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus* status) {
  bool done = receives_done(event(handle)->stream, event(handle)->receive);
  *status = done ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}
aclError aclrtQueryEventWaitStatus(aclrtEvent, aclrtEventWaitStatus* status) {
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

// An event of another process: its work is done as soon as it is recorded, so nothing is left to wait for.
aclError aclrtIpcGetEventHandle(aclrtEvent handle, aclrtIpcEventHandle* shared) {
  memset(shared, 0, sizeof *shared);
  memcpy(shared->reserved, &event(handle)->at_us, sizeof event(handle)->at_us);
  return ACL_SUCCESS;
}
aclError aclrtIpcOpenEventHandle(aclrtIpcEventHandle shared, aclrtEvent* handle) {
  auto made = new Event;
  memcpy(&made->at_us, shared.reserved, sizeof made->at_us);
  *handle = made;
  return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent from, aclrtEvent to) {
  *milliseconds = (static_cast<double>(event(to)->at_us) - static_cast<double>(event(from)->at_us)) / 1000;
  return ACL_SUCCESS;
}
aclError aclrtEventGetTimestamp(aclrtEvent handle, uint64_t* at_us) {
  *at_us = event(handle)->at_us;
  return ACL_SUCCESS;
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void* data) {
  auto work = [=] {
    function(data);
    return ACL_SUCCESS;
  };
  if (!records(stream)) return work();
  record(stream, "host function", work);  // only now: it may print or write a file
  return ACL_SUCCESS;
}
aclError aclrtLaunchCallback(aclrtCallback function, void* data, aclrtCallbackBlockType, aclrtStream stream) {
  return aclrtLaunchHostFunc(stream, function, data);
}
aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtProcessReport(int32_t) { return ACL_SUCCESS; }

// Settings are kept and given back; none changes what is computed.
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  std::lock_guard<std::mutex> lock(mutex);
  parameters[option] = value;
  return ACL_SUCCESS;
}
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t* value) {
  std::lock_guard<std::mutex> lock(mutex);
  *value = parameters[option];
  return ACL_SUCCESS;
}
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
aclError aclrtCtxGetSysParamOpt(aclSysParamOpt option, int64_t* value) { return aclrtGetSysParamOpt(option, value); }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOutV2(uint64_t, uint64_t* actual) {
  if (actual) *actual = 0;
  return ACL_SUCCESS;
}
aclError aclrtSetStreamAttribute(aclrtStream, aclrtStreamAttr, aclrtStreamAttrValue*) { return ACL_SUCCESS; }
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }

// torch_npu sets it as it initialises a device: what does not fit a type is infinite, or saturates and is reported.
static std::atomic<int> overflow_mode{ACL_RT_OVERFLOW_MODE_INFNAN};
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  overflow_mode = mode;
  return ACL_SUCCESS;
}
aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* mode) {
  *mode = static_cast<aclrtFloatOverflowMode>(overflow_mode.load());
  return ACL_SUCCESS;
}

aclError aclrtSetStreamOverflowSwitch(aclrtStream, uint32_t) { return ACL_SUCCESS; }
aclError aclrtGetStreamOverflowSwitch(aclrtStream, uint32_t* on) {
  *on = 0;
  return ACL_SUCCESS;
}
aclError aclSetCompileopt(aclCompileOpt, const char*) { return ACL_SUCCESS; }
size_t aclGetCompileoptSize(aclCompileOpt) { return 16; }  // torch_npu refuses a size of nothing
aclError aclGetCompileopt(aclCompileOpt, char* value, size_t size) {
  if (size) *value = 0;
  return ACL_SUCCESS;
}

}  // extern "C"
