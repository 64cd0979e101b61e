// HCCL between processes of one machine, over anonymous shared files (memfd) that vanish with their processes.
//
// Each communicator has one control file, which all ranks map, and one data file a rank, where a rank puts what it
// sends. Peers open them as /proc/PID/fd/N. A rank holds a lock on its byte of the control file as long as it lives: the
// kernel lets go of it however the process ends, so a peer that waits knows. Reductions go in the order of the ranks:
// every rank gets the same bits.
#include "emulator.h"

#include <hccl/hccl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <fcntl.h>
#include <map>
#include <memory>
#include <mutex>
#include <sched.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace emulator;

namespace {

constexpr uint32_t MAX_RANKS = MAX_DEVICES;
constexpr uint32_t MAX_CHILDREN = 256;
constexpr uint64_t MAILBOX = 1ull << 40;        // bytes between the regions of a data file: first collectives, then
                                                // messages for rank 0, rank 1, ...; the file is sparse
constexpr uint64_t KEPT = 64 << 20;             // bytes of the collectives' region that are not given back
constexpr uint64_t BLOCK = 1 << 16;             // elements reduced at a time

enum Operation : uint32_t { ALL_REDUCE = 1, REDUCE, REDUCE_SCATTER, REDUCE_SCATTER_V, BROADCAST, SCATTER, ALL_GATHER,
                            ALL_GATHER_V, ALL_TO_ALL, ALL_TO_ALL_V, BARRIER, SEND, RECEIVE };
const char* NAMES[] = {"", "all-reduce", "reduce", "reduce-scatter", "reduce-scatter-v", "broadcast", "scatter",
                       "all-gather", "all-gather-v", "all-to-all", "all-to-all-v", "barrier", "send", "receive"};

struct File {  // how a peer finds it
  std::atomic<int> pid, descriptor;
};

struct Control {
  std::atomic<uint32_t> arrived, generation, broken;
  struct {
    File data;
    std::atomic<int> device;
    std::atomic<uint32_t> operation;
    std::atomic<uint64_t> signature;  // of the collective it is in: all ranks must agree
    std::atomic<uint64_t> sent[MAX_RANKS];  // bytes written to each peer's mailbox, ever
  } ranks[MAX_RANKS];
  struct {
    std::atomic<uint64_t> key;
    File control;
  } children[MAX_CHILDREN];
  std::atomic<uint32_t> child_count;
};

struct Communicator {
  std::string name;
  uint32_t size, rank;
  int control_file;
  Control* control;
  std::vector<int> data;             // the ranks' data files
  std::vector<uint64_t> received;    // bytes read from each peer's messages
  bool alive = false;                // every rank has its lock
  std::atomic<int> error{0};
};

HcclResult failed(Communicator* c, HcclResult code, const std::string& what) {
  std::string text = "HCCL, rank " + std::to_string(c->rank) + " of " + std::to_string(c->size) + ": " + what;
  fail(code, text);
  fprintf(stderr, "[emulated Ascend] %s\n", text.c_str());
  c->error = code;
  if (c->control) c->control->broken = 1;
  return code;
}

int open_of(const File& file) {
  std::string path = "/proc/" + std::to_string(file.pid) + "/fd/" + std::to_string(file.descriptor);
  return open(path.c_str(), O_RDWR | O_CLOEXEC);
}

int anonymous_file(const char* name) { return memfd_create(name, MFD_CLOEXEC); }

// A lock is a process's: it lets go of none while it lives.
bool holds_lock(Communicator* c, uint32_t rank) {
  if (c->control->ranks[rank].data.pid == getpid()) return true;
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_start = rank;
  lock.l_len = 1;
  return fcntl(c->control_file, F_GETLK, &lock) || lock.l_type != F_UNLCK;
}

bool take_lock(Communicator* c) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_start = c->rank;
  lock.l_len = 1;
  return fcntl(c->control_file, F_SETLK, &lock) == 0;
}

// Whether somebody has pressed Ctrl-C: Python only notes it while its main thread is here. It is told again afterwards.
bool interrupted() {
  static auto ensure = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"));
  static auto release = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "PyGILState_Release"));
  static auto check = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyErr_CheckSignals"));
  static auto clear = reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "PyErr_Clear"));
  static auto again = reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "PyErr_SetInterrupt"));
  if (!ensure || !release || !check || !clear || !again || getpid() != gettid()) return false;
  int state = ensure();
  bool found = check() != 0;
  if (found) clear(), again();
  release(state);
  return found;
}

// Waits for `done`; fails when the time is over, a peer is gone, the communicator is broken or somebody interrupts.
template <class Done>
HcclResult wait_for(Communicator* c, const char* variable, int seconds, const std::string& what, Done done) {
  uint64_t start = microseconds(), limit = setting(variable, seconds) * 1000000ull;
  for (int round = 0; !done(); round++) {
    if (round < 200) {
      sched_yield();
      continue;
    }
    usleep(round < 2000 ? 50 : 500);
    if (round % 64) continue;
    if (c->control && c->control->broken && !done()) return failed(c, HCCL_E_REMOTE, what + ": a peer has failed");
    for (uint32_t peer = 0; c->alive && peer < c->size; peer++)
      if (!holds_lock(c, peer) && !done())
        return failed(c, HCCL_E_REMOTE, what + ": the process of rank " + std::to_string(peer) + " is gone");
    if (interrupted()) return failed(c, HCCL_E_INTERNAL, what + ": interrupted");
    uint64_t waited = microseconds() - start;
    if (waited > limit)
      return failed(c, HCCL_E_TIMEOUT, what + ": peers did not come in " + std::to_string(waited / 1000000) +
                                           " s (" + variable + ")");
  }
  return HCCL_SUCCESS;
}

HcclResult meet(Communicator* c, const std::string& what) {
  uint32_t generation = c->control->generation;
  if (c->control->arrived.fetch_add(1) + 1 == c->size) {
    c->control->arrived = 0;
    c->control->generation++;
    return HCCL_SUCCESS;
  }
  auto variable = c->alive ? "HCCL_EXEC_TIMEOUT" : "HCCL_CONNECT_TIMEOUT";
  return wait_for(c, variable, c->alive ? 300 : 120, what, [&] { return c->control->generation != generation; });
}

bool write_at(int file, const void* from, uint64_t bytes, uint64_t at) {
  auto source = static_cast<const char*>(from);
  while (bytes) {
    ssize_t done = pwrite(file, source, bytes, at);
    if (done <= 0) return false;
    source += done, at += done, bytes -= done;
  }
  return true;
}

bool read_at(int file, void* to, uint64_t bytes, uint64_t at) {
  auto target = static_cast<char*>(to);
  while (bytes) {
    ssize_t done = pread(file, target, bytes, at);
    if (done <= 0) return false;
    target += done, at += done, bytes -= done;
  }
  return true;
}

void give_back(int file, uint64_t at, uint64_t bytes) {
  if (bytes) fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes);
}

uint64_t size_of(HcclDataType type) {
  switch (static_cast<int>(type)) {
    case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_UINT8: case HCCL_DATA_TYPE_HIF8: case HCCL_DATA_TYPE_FP8E4M3:
    case HCCL_DATA_TYPE_FP8E5M2: case HCCL_DATA_TYPE_FP8E8M0: return 1;
    case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_UINT16: case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16: return 2;
    case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_UINT32: case HCCL_DATA_TYPE_FP32: return 4;
    case HCCL_DATA_TYPE_INT64: case HCCL_DATA_TYPE_UINT64: case HCCL_DATA_TYPE_FP64: return 8;
    case HCCL_DATA_TYPE_INT128: return 16;
  }
  return 0;
}

// One collective: each rank writes what it sends, all meet, each reads what it gets from the others, all meet again.
// `read` returns false when a peer's data cannot be had.
template <class Read>
HcclResult collective(Communicator* c, Operation operation, uint64_t signature, const void* send, uint64_t bytes,
                      Read read) {
  std::string what = NAMES[operation];
  auto& mine = c->control->ranks[c->rank];
  mine.operation = operation;
  mine.signature = signature;
  if (!write_at(c->data[c->rank], send, bytes, 0)) return failed(c, HCCL_E_OOM, what + ": the host is out of memory");
  if (auto code = meet(c, what)) return code;
  for (uint32_t peer = 0; peer < c->size; peer++) {
    auto& theirs = c->control->ranks[peer];
    if (theirs.operation != operation)
      return failed(c, HCCL_E_PARA, what + ": rank " + std::to_string(peer) + " is in " + NAMES[theirs.operation]);
    if (theirs.signature != signature)
      return failed(c, HCCL_E_PARA, what + ": size, type or root differ from rank " + std::to_string(peer) + "'s");
  }
  if (!read()) return failed(c, HCCL_E_PARA, what + ": what a peer sends is not what is expected of it");
  if (auto code = meet(c, what)) return code;
  if (bytes > KEPT) give_back(c->data[c->rank], KEPT, bytes - KEPT);
  return HCCL_SUCCESS;
}

// Done now, and again at each replay where the stream captures.
template <class Work>
HcclResult on_stream(aclrtStream stream, Operation operation, void* written, uint64_t bytes, Work work) {
  if (any_records() && records(stream)) {
    will_write(stream, written, bytes);
    record(stream, NAMES[operation], [work] { return work() ? INTERNAL_ERROR : ACL_SUCCESS; });
  }
  return work();
}

std::vector<uint64_t> numbers(const void* pointer, uint32_t count) {
  auto first = static_cast<const uint64_t*>(pointer);
  return {first, first + count};
}

uint64_t signature_of(uint64_t count, HcclDataType type, uint32_t detail = 0) {
  return (count << 16) ^ (static_cast<uint64_t>(type) << 8) ^ detail;
}

// ---- reductions

// What all ranks wrote at `at`, reduced; sums of 16-bit floats are kept in 32 bits and rounded once.
template <class Value, class Sum>
bool reduce_as(Communicator* c, void* to, uint64_t count, uint64_t at, HcclReduceOp operation) {
  std::vector<Value> values(std::min(count, BLOCK));
  std::vector<Sum> sums(values.size());
  for (uint64_t first = 0; first < count; first += BLOCK) {
    uint64_t n = std::min(BLOCK, count - first);
    for (uint32_t peer = 0; peer < c->size; peer++) {
      if (!read_at(c->data[peer], values.data(), n * sizeof(Value), at + first * sizeof(Value))) return false;
      for (uint64_t i = 0; i < n; i++) {
        Sum value = static_cast<Sum>(values[i]);
        if (peer == 0) sums[i] = value;
        else if (operation == HCCL_REDUCE_SUM) sums[i] += value;
        else if (operation == HCCL_REDUCE_PROD) sums[i] *= value;
        else if (operation == HCCL_REDUCE_MAX) sums[i] = value != value || value > sums[i] ? value : sums[i];
        else sums[i] = value != value || value < sums[i] ? value : sums[i];
      }
    }
    for (uint64_t i = 0; i < n; i++) static_cast<Value*>(to)[first + i] = static_cast<Value>(sums[i]);
  }
  return true;
}

// HCCL reduces these types and no others.
bool reducible(HcclDataType type) {
  switch (static_cast<int>(type)) {
    case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16: case HCCL_DATA_TYPE_FP32: return true;
  }
  return false;
}

bool reduce(Communicator* c, void* to, uint64_t count, uint64_t at, HcclDataType type, HcclReduceOp operation) {
  switch (static_cast<int>(type)) {
    case HCCL_DATA_TYPE_INT8: return reduce_as<int8_t, int8_t>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_INT16: return reduce_as<int16_t, int16_t>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_INT32: return reduce_as<int32_t, int32_t>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_INT64: return reduce_as<int64_t, int64_t>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_FP16: return reduce_as<Half, float>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_BFP16: return reduce_as<Bfloat16, float>(c, to, count, at, operation);
    case HCCL_DATA_TYPE_FP32: return reduce_as<float, float>(c, to, count, at, operation);
  }
  return false;
}

HcclResult refuse_type(Communicator* c, Operation operation, HcclDataType type) {
  return failed(c, HCCL_E_NOT_SUPPORT, std::string(NAMES[operation]) + ": HCCL does not reduce data type " +
                                           std::to_string(static_cast<int>(type)));
}

// ---- communicators

Communicator* communicator(HcclComm handle) { return static_cast<Communicator*>(handle); }

HcclResult connect(Communicator* c) {
  if (c->size > MAX_RANKS) return failed(c, HCCL_E_PARA, "at most " + std::to_string(MAX_RANKS) + " ranks");
  if (ftruncate(c->control_file, sizeof(Control))) return failed(c, HCCL_E_SYSCALL, "no shared memory");
  auto address = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, c->control_file, 0);
  if (address == MAP_FAILED) return failed(c, HCCL_E_SYSCALL, "no shared memory");
  c->control = static_cast<Control*>(address);
  c->data.assign(c->size, -1);
  c->received.assign(c->size, 0);
  int own = anonymous_file("hccl-data");
  if (own < 0 || !take_lock(c)) return failed(c, HCCL_E_SYSCALL, "no shared memory, or the rank is there twice");
  auto& mine = c->control->ranks[c->rank];
  mine.data.descriptor = own;
  mine.data.pid = getpid();
  int machine = getenv("GROUP_RANK") ? atoi(getenv("GROUP_RANK")) : 0;  // torchrun's: each of its agents stands for one
  mine.device = machine << 8 | number_on_machine(current_device());
  if (auto code = meet(c, "connecting")) return code;
  c->alive = true;
  for (uint32_t peer = 0; peer < c->size; peer++) {
    c->data[peer] = peer == c->rank ? own : open_of(c->control->ranks[peer].data);
    if (c->data[peer] < 0) return failed(c, HCCL_E_REMOTE, "rank " + std::to_string(peer) + " cannot be reached");
    if (peer != c->rank && c->control->ranks[peer].device == mine.device)
      return failed(c, HCCL_E_PARA, "rank " + std::to_string(peer) + " is on device " +
                                        std::to_string(number_on_machine(current_device())) +
                                        " as well; each process sets its own");
  }
  return meet(c, "connecting");
}

HcclResult make(uint32_t size, uint32_t rank, const std::string& name, int control_file, HcclComm* made) {
  auto c = std::make_unique<Communicator>();
  c->name = name;
  c->size = size;
  c->rank = rank;
  c->control_file = control_file;
  c->control = nullptr;
  if (control_file < 0) return failed(c.get(), HCCL_E_REMOTE, "the first rank's process is gone");
  if (auto code = connect(c.get())) {
    c.release();  // peers may still read its files
    return code;
  }
  *made = c.release();
  return HCCL_SUCCESS;
}

// ---- receives that are posted

struct Receive {
  uint64_t number;
  aclrtStream stream;
  Communicator* c;
  void* to;
  uint64_t bytes;
  uint32_t from;

  bool has_come() const { return c->control->ranks[from].sent[c->rank] > c->received[from]; }
};

std::mutex receiving;
auto* receives = new std::deque<Receive>;  // in the order of posting; never destroyed, as a thread may still ask
std::atomic<uint64_t> open_receives{0}, posted{0};

HcclResult take(const Receive& it) {
  auto what = "receive from rank " + std::to_string(it.from);
  auto c = it.c;
  if (auto code = wait_for(c, "HCCL_EXEC_TIMEOUT", 300, what, [&] { return it.has_come(); })) return code;
  uint64_t bytes, at = (c->rank + 1) * MAILBOX + c->received[it.from];
  if (!read_at(c->data[it.from], &bytes, sizeof bytes, at)) return failed(c, HCCL_E_REMOTE, what);
  if (bytes != it.bytes)
    return failed(c, HCCL_E_PARA, what + ": " + std::to_string(it.bytes) + " bytes are expected, " +
                                      std::to_string(bytes) + " were sent");
  if (!read_at(c->data[it.from], it.to, bytes, at + sizeof bytes)) return failed(c, HCCL_E_REMOTE, what);
  give_back(c->data[it.from], at, sizeof bytes + bytes);
  c->received[it.from] += sizeof bytes + bytes;
  return HCCL_SUCCESS;
}

// Takes the receives of a stream up to a number, in order; without waiting it stops at the first that has not come.
HcclResult take_all(aclrtStream stream, uint64_t last, bool wait, bool* done) {
  *done = true;
  for (auto it = receives->begin(); it != receives->end();) {
    bool wanted = it->number <= last && (!stream || it->stream == stream);
    if (!wanted || (!wait && !it->has_come())) {
      *done = *done && !wanted;
      if (wanted) return HCCL_SUCCESS;
      it++;
      continue;
    }
    auto code = take(*it);
    it = receives->erase(it);
    open_receives--;
    if (code) return code;
  }
  return HCCL_SUCCESS;
}

}  // namespace

namespace emulator {

uint64_t last_receive() { return posted; }

bool receives_done(aclrtStream stream, uint64_t last) {
  if (!open_receives) return true;
  std::unique_lock<std::mutex> lock(receiving, std::try_to_lock);
  bool done = false;
  if (lock.owns_lock()) take_all(stream, last, false, &done);
  return done;
}

aclError wait_for_receives(aclrtStream stream, uint64_t last) {
  if (!open_receives) return ACL_SUCCESS;
  std::lock_guard<std::mutex> lock(receiving);
  bool done;
  return take_all(stream, last, true, &done) ? INTERNAL_ERROR : ACL_SUCCESS;
}

}  // namespace emulator

extern "C" {

HcclResult HcclGetRootInfo(HcclRootInfo* root) {
  int file = anonymous_file("hccl-control");
  if (file < 0) return HCCL_E_SYSCALL;
  memset(root, 0, sizeof *root);
  snprintf(root->internal, sizeof root->internal, "%d:%d:%llu", getpid(), file,
           static_cast<unsigned long long>(microseconds()));
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t size, const HcclRootInfo* root, uint32_t rank, HcclComm* made) {
  File control;
  int pid, descriptor;
  if (sscanf(root->internal, "%d:%d", &pid, &descriptor) != 2) return HCCL_E_PARA;
  control.pid = pid;
  control.descriptor = descriptor;
  bool own = rank == 0 && pid == getpid();
  return make(size, rank, std::string("emulated:") + root->internal, own ? descriptor : open_of(control), made);
}

// One process with a rank on each device, as DataParallel has it.
HcclResult HcclCommInitAll(uint32_t count, int32_t* devices, HcclComm* made) {
  HcclRootInfo root;
  if (auto code = HcclGetRootInfo(&root)) return code;
  std::vector<HcclResult> codes(count);
  std::vector<std::thread> ranks;
  for (uint32_t rank = 0; rank < count; rank++)
    ranks.emplace_back([&, rank] {
      codes[rank] = aclrtSetDevice(devices[rank]) ? HCCL_E_PARA : HcclCommInitRootInfo(count, &root, rank, &made[rank]);
    });
  for (auto& rank : ranks) rank.join();
  return *std::max_element(codes.begin(), codes.end());
}

HcclResult HcclCommInitRootInfoConfig(uint32_t size, const HcclRootInfo* root, uint32_t rank, const HcclCommConfig*,
                                      HcclComm* made) {
  return HcclCommInitRootInfo(size, root, rank, made);
}

uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

// The child's first rank makes its control file and tells the others through the parent's.
HcclResult HcclCreateSubCommConfig(HcclComm* parent_handle, uint32_t size, uint32_t* ranks, uint64_t id, uint32_t rank,
                                   HcclCommConfig*, HcclComm* made) {
  static std::mutex mutex;
  static std::map<uint64_t, uint64_t> uses;
  auto parent = communicator(*parent_handle);
  uint64_t key = 1469598103934665603ull;  // FNV-1a
  auto mix = [&](uint64_t value) { key = (key ^ value) * 1099511628211ull; };
  for (char letter : parent->name) mix(letter);
  mix(id);
  for (uint32_t i = 0; i < size; i++) mix(ranks[i]);
  {
    std::lock_guard<std::mutex> lock(mutex);
    mix(++uses[key]);
  }
  auto name = parent->name + "/" + std::to_string(key);
  auto& children = parent->control->children;
  if (rank == 0) {
    uint32_t slot = parent->control->child_count++;
    int file = anonymous_file("hccl-control");
    if (slot >= MAX_CHILDREN || file < 0) return failed(parent, HCCL_E_UNAVAIL, "too many sub-groups");
    children[slot].control.descriptor = file;
    children[slot].control.pid = getpid();
    children[slot].key = key;
    return make(size, rank, name, file, made);
  }
  uint32_t found = MAX_CHILDREN;
  auto code = wait_for(parent, "HCCL_CONNECT_TIMEOUT", 120, "making a sub-group", [&] {
    for (found = 0; found < MAX_CHILDREN && children[found].key != key;) found++;
    return found < MAX_CHILDREN;
  });
  return code ? code : make(size, rank, name, open_of(children[found].control), made);
}

HcclResult HcclCommDestroy(HcclComm handle) {
  std::unique_ptr<Communicator> c(communicator(handle));
  {
    std::lock_guard<std::mutex> lock(receiving);
    receives->erase(std::remove_if(receives->begin(), receives->end(), [&](auto& it) { return it.c == c.get(); }),
                    receives->end());
    open_receives = receives->size();
  }
  for (int file : c->data)
    if (file >= 0) close(file);
  close(c->control_file);  // lets go of the lock
  munmap(c->control, sizeof(Control));
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm handle, HcclResult* error) {
  *error = static_cast<HcclResult>(communicator(handle)->error.load());
  return HCCL_SUCCESS;
}

const char* HcclGetErrorString(HcclResult code) {
  static thread_local char text[32];
  snprintf(text, sizeof text, "HCCL error %d", static_cast<int>(code));
  return text;
}

HcclResult HcclGetCommName(HcclComm handle, char* name) {
  snprintf(name, COMM_NAME_MAX_LENGTH, "%s", communicator(handle)->name.c_str());
  return HCCL_SUCCESS;
}
HcclResult HcclGetRankSize(HcclComm handle, uint32_t* size) {
  *size = communicator(handle)->size;
  return HCCL_SUCCESS;
}
HcclResult HcclGetRankId(HcclComm handle, uint32_t* rank) {
  *rank = communicator(handle)->rank;
  return HCCL_SUCCESS;
}
HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }  // always deterministic
HcclResult HcclGroupStart() { return HCCL_SUCCESS; }
HcclResult HcclGroupEnd() { return HCCL_SUCCESS; }

// ---- collectives

HcclResult HcclAllReduce(void* send, void* receive, uint64_t count, HcclDataType type, HcclReduceOp operation,
                         HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  if (!reducible(type)) return refuse_type(c, ALL_REDUCE, type);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, ALL_REDUCE, receive, bytes, [=] {
    return collective(c, ALL_REDUCE, signature_of(count, type, operation), send, bytes,
                      [&] { return reduce(c, receive, count, 0, type, operation); });
  });
}

HcclResult HcclReduce(void* send, void* receive, uint64_t count, HcclDataType type, HcclReduceOp operation,
                      uint32_t root, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  if (!reducible(type)) return refuse_type(c, REDUCE, type);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, REDUCE, receive, bytes, [=] {
    return collective(c, REDUCE, signature_of(count, type, operation << 6 | root), send, bytes,
                      [&] { return c->rank != root || reduce(c, receive, count, 0, type, operation); });
  });
}

HcclResult HcclReduceScatter(void* send, void* receive, uint64_t count, HcclDataType type, HcclReduceOp operation,
                             HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  if (!reducible(type)) return refuse_type(c, REDUCE_SCATTER, type);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, REDUCE_SCATTER, receive, bytes, [=] {
    return collective(c, REDUCE_SCATTER, signature_of(count, type, operation), send, bytes * c->size,
                      [&] { return reduce(c, receive, count, bytes * c->rank, type, operation); });
  });
}

HcclResult HcclReduceScatterV(void* send, const void* counts_, const void* offsets_, void* receive, uint64_t count,
                              HcclDataType type, HcclReduceOp operation, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  if (!reducible(type)) return refuse_type(c, REDUCE_SCATTER_V, type);
  auto counts = numbers(counts_, c->size), offsets = numbers(offsets_, c->size);
  uint64_t total = 0, unit = size_of(type);
  for (uint32_t i = 0; i < c->size; i++) total = std::max(total, counts[i] + offsets[i]);
  return on_stream(stream, REDUCE_SCATTER_V, receive, count * unit, [=] {
    return collective(c, REDUCE_SCATTER_V, signature_of(total, type, operation), send, total * unit,
                      [&] { return reduce(c, receive, count, offsets[c->rank] * unit, type, operation); });
  });
}

HcclResult HcclBroadcast(void* buffer, uint64_t count, HcclDataType type, uint32_t root, HcclComm handle,
                         aclrtStream stream) {
  auto c = communicator(handle);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, BROADCAST, buffer, bytes, [=] {
    return collective(c, BROADCAST, signature_of(count, type, root), buffer, c->rank == root ? bytes : 0,
                      [&] { return c->rank == root || read_at(c->data[root], buffer, bytes, 0); });
  });
}

HcclResult HcclScatter(void* send, void* receive, uint64_t count, HcclDataType type, uint32_t root, HcclComm handle,
                       aclrtStream stream) {
  auto c = communicator(handle);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, SCATTER, receive, bytes, [=] {
    return collective(c, SCATTER, signature_of(count, type, root), send, c->rank == root ? bytes * c->size : 0,
                      [&] { return read_at(c->data[root], receive, bytes, bytes * c->rank); });
  });
}

HcclResult HcclAllGather(void* send, void* receive, uint64_t count, HcclDataType type, HcclComm handle,
                         aclrtStream stream) {
  auto c = communicator(handle);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, ALL_GATHER, receive, bytes * c->size, [=] {
    return collective(c, ALL_GATHER, signature_of(count, type), send, bytes, [&] {
      for (uint32_t peer = 0; peer < c->size; peer++)
        if (!read_at(c->data[peer], static_cast<char*>(receive) + peer * bytes, bytes, 0)) return false;
      return true;
    });
  });
}

HcclResult HcclAllGatherV(void* send, uint64_t count, void* receive, const void* counts_, const void* offsets_,
                          HcclDataType type, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  auto counts = numbers(counts_, c->size), offsets = numbers(offsets_, c->size);
  uint64_t unit = size_of(type), total = 0;
  for (uint32_t i = 0; i < c->size; i++) total = std::max(total, (counts[i] + offsets[i]) * unit);
  return on_stream(stream, ALL_GATHER_V, receive, total, [=] {
    return collective(c, ALL_GATHER_V, signature_of(0, type), send, count * unit, [&] {
      for (uint32_t peer = 0; peer < c->size; peer++)
        if (!read_at(c->data[peer], static_cast<char*>(receive) + offsets[peer] * unit, counts[peer] * unit, 0))
          return false;
      return true;
    });
  });
}

HcclResult HcclAlltoAll(const void* send, uint64_t count, HcclDataType type, const void* receive, uint64_t,
                        HcclDataType, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  uint64_t bytes = count * size_of(type);
  auto target = static_cast<char*>(const_cast<void*>(receive));
  return on_stream(stream, ALL_TO_ALL, target, bytes * c->size, [=] {
    return collective(c, ALL_TO_ALL, signature_of(count, type), send, bytes * c->size, [&] {
      for (uint32_t peer = 0; peer < c->size; peer++)
        if (!read_at(c->data[peer], target + peer * bytes, bytes, c->rank * bytes)) return false;
      return true;
    });
  });
}

// Written as one record: for each peer the bytes it gets and where they start, then the data.
HcclResult HcclAlltoAllV(const void* send, const void* send_counts, const void* send_offsets, HcclDataType type,
                         const void* receive, const void* receive_counts, const void* receive_offsets, HcclDataType,
                         HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  auto counts = numbers(send_counts, c->size), offsets = numbers(send_offsets, c->size);
  auto expected = numbers(receive_counts, c->size), places = numbers(receive_offsets, c->size);
  uint64_t unit = size_of(type), total = 0, received = 0, header = 2 * sizeof(uint64_t) * c->size;
  for (uint32_t i = 0; i < c->size; i++) {
    total = std::max(total, (counts[i] + offsets[i]) * unit);
    received = std::max(received, (expected[i] + places[i]) * unit);
  }
  auto target = static_cast<char*>(const_cast<void*>(receive));
  return on_stream(stream, ALL_TO_ALL_V, target, received, [=] {
    std::vector<char> record(header + total);
    auto fields = reinterpret_cast<uint64_t*>(record.data());
    for (uint32_t i = 0; i < c->size; i++) {
      fields[2 * i] = counts[i] * unit;
      fields[2 * i + 1] = header + offsets[i] * unit;
    }
    if (total) memcpy(record.data() + header, send, total);
    return collective(c, ALL_TO_ALL_V, signature_of(0, type), record.data(), record.size(), [&] {
      for (uint32_t peer = 0; peer < c->size; peer++) {
        uint64_t field[2];
        if (!read_at(c->data[peer], field, sizeof field, sizeof field * c->rank)) return false;
        if (field[0] != expected[peer] * unit) return false;
        if (!read_at(c->data[peer], target + places[peer] * unit, field[0], field[1])) return false;
      }
      return true;
    });
  });
}

// The same with the counts of all ranks as one matrix: `matrix[from][to]`.
HcclResult HcclAlltoAllVC(const void* send, const void* matrix_, HcclDataType type, const void* receive,
                          HcclDataType receive_type, HcclComm handle, aclrtStream stream) {
  uint32_t size = communicator(handle)->size, rank = communicator(handle)->rank;
  auto matrix = static_cast<const uint64_t*>(matrix_);
  std::vector<uint64_t> counts(size), offsets(size), expected(size), places(size);
  for (uint32_t i = 0; i < size; i++) {
    counts[i] = matrix[rank * size + i];
    expected[i] = matrix[i * size + rank];
    offsets[i] = i ? offsets[i - 1] + counts[i - 1] : 0;
    places[i] = i ? places[i - 1] + expected[i - 1] : 0;
  }
  return HcclAlltoAllV(send, counts.data(), offsets.data(), type, receive, expected.data(), places.data(), receive_type,
                       handle, stream);
}

HcclResult HcclBarrier(HcclComm handle, aclrtStream stream) {
  return on_stream(stream, BARRIER, nullptr, 0, [=] {
    return collective(communicator(handle), BARRIER, 0, nullptr, 0, [] { return true; });
  });
}

// ---- point to point. A device's stream would wait, the host would not: a send never does, a receive is only posted.

HcclResult HcclSend(void* send, uint64_t count, HcclDataType type, uint32_t to, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  return on_stream(stream, SEND, nullptr, 0, [=] {
    auto& sent = c->control->ranks[c->rank].sent[to];
    uint64_t bytes = count * size_of(type), at = (to + 1) * MAILBOX + sent;
    if (!write_at(c->data[c->rank], &bytes, sizeof bytes, at) ||
        !write_at(c->data[c->rank], send, bytes, at + sizeof bytes))
      return failed(c, HCCL_E_OOM, "send: the host is out of memory");
    sent += sizeof bytes + bytes;
    return HCCL_SUCCESS;
  });
}

HcclResult HcclRecv(void* receive, uint64_t count, HcclDataType type, uint32_t from, HcclComm handle, aclrtStream stream) {
  auto c = communicator(handle);
  uint64_t bytes = count * size_of(type);
  return on_stream(stream, RECEIVE, receive, bytes, [=] {
    std::lock_guard<std::mutex> lock(receiving);
    for (auto& it : *receives) {  // what a communicator receives is taken in order, whatever the streams
      if (it.c != c || it.stream == stream) continue;
      bool done;
      if (auto code = take_all(it.stream, it.number, true, &done)) return code;
      break;
    }
    receives->push_back({++posted, stream, c, receive, bytes, from});
    open_receives++;
    return HCCL_SUCCESS;
  });
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem* items, uint32_t count, HcclComm handle, aclrtStream stream) {
  for (uint32_t i = 0; i < count; i++) {  // first all that is sent: no order of items makes peers wait for each other
    auto& item = items[i];
    if (item.sendRecvType != HCCL_SEND) continue;
    if (auto code = HcclSend(item.buf, item.count, item.dataType, item.remoteRank, handle, stream)) return code;
  }
  for (uint32_t i = 0; i < count; i++) {
    auto& item = items[i];
    if (item.sendRecvType != HCCL_RECV) continue;
    if (auto code = HcclRecv(item.buf, item.count, item.dataType, item.remoteRank, handle, stream)) return code;
  }
  return HCCL_SUCCESS;
}

}  // extern "C"
