// Graphs of captured work. What is asked of a stream that captures is done at once, as allocations and shapes follow from
// it, and kept as a task, to be done again at each replay. What it wrote to memory is put back at the end of the capture:
// nobody sees that it was done. Functions of the host are only kept.
#include "emulator.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

using namespace emulator;

namespace {

struct Task {
  std::string name;
  std::function<aclError()> work;
};
using Tasks = std::vector<Task>;

struct Before {  // what memory held before a task wrote to it
  char* start;
  bool of_the_device;
  std::vector<char> content;
};

// Where a stream's work goes: a graph, or a group of its tasks that is updated.
struct Recording {
  std::vector<std::shared_ptr<Tasks>> open{std::make_shared<Tasks>()};  // the last one is added to
  std::vector<Before> before;
};

struct Graph : Recording {
  uint32_t id;
  std::thread::id thread;  // that has begun it
  std::vector<std::unique_ptr<Graph>> children;
  std::deque<uint64_t> conditions;  // their addresses are the handles
};

struct Group {
  std::shared_ptr<Tasks> tasks;
};

std::atomic<int> recordings{0};  // streams that record; almost always none
std::atomic<uint32_t> graphs{1};
std::mutex mutex;
auto& captures = *new std::map<aclrtStream, Graph*>;  // never destroyed: streams are, at the end
auto& updates = *new std::map<aclrtStream, std::pair<Group*, std::unique_ptr<Recording>>>;
thread_local aclmdlRICaptureMode mode = ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;

Graph* graph(aclmdlRI handle) { return static_cast<Graph*>(handle); }

Recording* recording(aclrtStream stream) {
  if (!recordings) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (auto found = captures.find(stream); found != captures.end()) return found->second;
  if (auto found = updates.find(stream); found != updates.end()) return found->second.second.get();
  return nullptr;
}

void put_back(Recording& of) {
  for (auto it = of.before.rbegin(); it != of.before.rend(); it++)
    if (!it->of_the_device || of_the_device(it->start)) memcpy(it->start, it->content.data(), it->content.size());
  of.before.clear();
}

aclError run(const Tasks& tasks) {
  for (auto& task : tasks)
    if (auto code = task.work()) return code;
  return ACL_SUCCESS;
}

aclError capture(aclrtStream stream, Graph* into) {
  std::lock_guard<std::mutex> lock(mutex);
  if (captures.count(stream)) return fail(STREAM_CAPTURED, "the stream captures already");
  into->thread = std::this_thread::get_id();
  captures[stream] = into;
  recordings++;
  return ACL_SUCCESS;
}

// `"` and `\` and what is below a space are not in the names of operators and kernels.
void print(FILE* file, const Graph& graph) {
  for (auto& task : *graph.open[0])
    fprintf(file, "%s{\"name\": \"%s\", \"ph\": \"X\", \"pid\": %u, \"tid\": 0, \"ts\": %ld, \"dur\": 1}",
            &task == graph.open[0]->data() ? "" : ", ", task.name.c_str(), graph.id, &task - graph.open[0]->data());
}

}  // namespace

namespace emulator {

bool records(aclrtStream stream) { return recording(stream); }
bool any_records() { return recordings; }

void will_write(aclrtStream stream, void* start, size_t bytes) {
  auto of = recording(stream);
  if (!of || !bytes) return;
  auto from = static_cast<char*>(start);
  of->before.push_back({from, of_the_device(from), {from, from + bytes}});
}

void record(aclrtStream stream, const std::string& name, std::function<aclError()> work) {
  if (auto of = recording(stream)) of->open.back()->push_back({name, std::move(work)});
}

aclError refuse_capture(const std::string& reason) {
  return fail(CAPTURE_NOT_SUPPORTED, reason + ", which cannot be captured into a graph");
}

void join(aclrtStream stream, uint64_t graph_id) {
  if (!recordings || !graph_id) return;
  std::lock_guard<std::mutex> lock(mutex);
  if (captures.count(stream)) return;
  for (auto& [other, into] : captures)
    if (into->id == graph_id) {
      captures[stream] = into;
      recordings++;
      return;
    }
}

uint64_t graph_of(aclrtStream stream) {
  if (!recordings) return 0;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = captures.find(stream);
  return found == captures.end() ? 0 : found->second->id;
}

bool this_thread_captures() {
  if (!recordings) return false;
  std::lock_guard<std::mutex> lock(mutex);
  for (auto& [stream, into] : captures)
    if (into->thread == std::this_thread::get_id()) return true;
  return false;
}

void leave(aclrtStream stream) {
  std::lock_guard<std::mutex> lock(mutex);
  recordings -= captures.erase(stream);
}

}  // namespace emulator

extern "C" {

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode) {
  auto made = std::make_unique<Graph>();
  made->id = graphs++;
  if (auto code = capture(stream, made.get())) return code;
  made.release();
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureToModelRIBegin(aclrtStream stream, aclmdlRI into, aclmdlRICaptureMode) {
  return capture(stream, graph(into));
}

aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus* status, aclmdlRI* handle) {
  Graph* found = nullptr;
  if (recordings) {
    std::lock_guard<std::mutex> lock(mutex);
    if (auto it = captures.find(stream); it != captures.end()) found = it->second;
  }
  *status = found ? ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE : ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  if (handle) *handle = found;
  return ACL_SUCCESS;
}

aclError aclmdlRIGetId(aclmdlRI handle, uint32_t* id) {
  *id = graph(handle)->id;
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI* handle) {
  std::unique_lock<std::mutex> lock(mutex);
  auto found = captures.find(stream);
  if (found == captures.end()) return fail(STREAM_NOT_CAPTURED, "the stream does not capture");
  auto ended = found->second;
  for (auto it = captures.begin(); it != captures.end();)  // the others joined it
    it->second == ended ? (recordings--, it = captures.erase(it)) : ++it;
  lock.unlock();
  if (auto code = wait_for_receives(nullptr, last_receive())) return code;
  put_back(*ended);
  *handle = ended;
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode* other) {
  std::swap(mode, *other);
  return ACL_SUCCESS;
}

aclError aclmdlRIExecuteAsync(aclmdlRI handle, aclrtStream stream) {
  if (records(stream)) return refuse_capture("the replay of another graph");
  if (auto code = run(*graph(handle)->open[0])) return code;
  return wait_for_receives(nullptr, last_receive());  // they were posted on the stream of the capture
}

aclError aclmdlRIDestroy(aclmdlRI handle) {
  delete graph(handle);
  return ACL_SUCCESS;
}

// ---- groups of tasks: done again with other arguments from their update on

aclError aclmdlRICaptureTaskGrpBegin(aclrtStream stream) {
  auto of = recording(stream);
  if (!of) return fail(STREAM_NOT_CAPTURED, "a group of tasks begins, and the stream does not capture");
  of->open.push_back(std::make_shared<Tasks>());
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskGrpEnd(aclrtStream stream, aclrtTaskGrp* handle) {
  auto of = recording(stream);
  if (!of || of->open.size() < 2) return fail(STREAM_NOT_CAPTURED, "a group of tasks ends that did not begin");
  auto tasks = of->open.back();
  of->open.pop_back();
  of->open.back()->push_back({"task group", [tasks] { return run(*tasks); }});
  *handle = reinterpret_cast<aclrtTaskGrp>(new Group{tasks});  // its graph may be gone first
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskUpdateBegin(aclrtStream stream, aclrtTaskGrp handle) {
  std::lock_guard<std::mutex> lock(mutex);
  if (captures.count(stream) || updates.count(stream)) return fail(STREAM_CAPTURED, "the stream is at an update or a capture");
  updates[stream] = {reinterpret_cast<Group*>(handle), std::make_unique<Recording>()};
  recordings++;
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskUpdateEnd(aclrtStream stream) {
  std::unique_lock<std::mutex> lock(mutex);
  auto found = updates.find(stream);
  if (found == updates.end()) return fail(STREAM_NOT_CAPTURED, "an update ends that did not begin");
  auto [group, of] = std::move(found->second);
  updates.erase(found);
  recordings--;
  lock.unlock();
  put_back(*of);
  *group->tasks = std::move(*of->open[0]);
  return ACL_SUCCESS;
}

// ---- parts that are done or left out, by a number on the device

aclError aclmdlRICondHandleCreate(aclmdlRI handle, uint32_t value, aclmdlRICondHandleFlag, aclmdlRICondHandle* made) {
  graph(handle)->conditions.push_back(value);
  *made = &graph(handle)->conditions.back();
  return ACL_SUCCESS;
}

aclError aclmdlRICondHandleGetCondPtr(aclmdlRICondHandle handle, uint64_t** value) {
  *value = static_cast<uint64_t*>(handle);
  return ACL_SUCCESS;
}

aclError aclmdlRIAddCondTask(aclmdlRICondTaskParams task, aclrtStream stream, uint32_t) {
  Graph* parent = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (auto found = captures.find(stream); found != captures.end()) parent = found->second;
  }
  if (!parent) return fail(STREAM_NOT_CAPTURED, "a condition is asked for, and the stream does not capture");
  if (task.type != ACL_MODEL_RI_COND_TYPE_IF) return refuse_capture("a condition that is not an if");
  std::vector<Graph*> branches;
  for (uint32_t i = 0; i < task.size; i++) {
    parent->children.push_back(std::make_unique<Graph>());
    branches.push_back(parent->children.back().get());
    branches.back()->id = graphs++;
    task.modelRIArray[i] = branches.back();
  }
  auto value = static_cast<uint64_t*>(task.handle);
  parent->open.back()->push_back({"if", [value, branches] {
    if (*value) return run(*branches[0]->open[0]);
    return branches.size() > 1 ? run(*branches[1]->open[0]) : ACL_SUCCESS;
  }});
  return ACL_SUCCESS;
}

aclError aclmdlRIDebugJsonPrint(aclmdlRI handle, const char* path, uint32_t) {
  FILE* file = fopen(path, "w");
  if (!file) return fail(INVALID_PARAMETER, std::string(path) + " cannot be written");
  fprintf(file, "[");
  print(file, *graph(handle));
  fprintf(file, "]\n");
  fclose(file);
  return ACL_SUCCESS;
}

aclError aclmdlRIDebugPrint(aclmdlRI) { return ACL_SUCCESS; }

}  // extern "C"
