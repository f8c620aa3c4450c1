#include "emulation.h"

#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

namespace emulation {
namespace {

constexpr size_t kStackBytes = 128 << 10;

enum class State { kReady, kAtBlock, kAtLanes, kEnded };

using Point = void*[5];  // of __builtin_setjmp, which unlike swapcontext does not ask the kernel about signals

struct Fiber {
  Point point;  // where it goes on
  State state;
  bool inside = false;  // the kernel
  Site site;            // where it waits
  unsigned mask;
  const void* value;
  const std::function<void(Given)>* finish;
};

struct Stopped {};  // unwinds the threads of a kernel that failed

Point scheduler;
std::vector<Fiber> fibers;  // as many as the largest block so far had threads
unsigned threads, current;  // of this block; the one that runs
unsigned alive, at_block;   // that have not ended; that wait for the block
bool released;              // some have left a barrier since the last turn
const std::function<void()>* kernel_body;
std::string error;
std::vector<std::byte> dynamic_memory;
std::span<std::byte> variables;  // all that are __shared__
std::string order;
std::mt19937 generator;

std::string text(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string text(const Site& site) { return std::string(site.file_name()) + ":" + std::to_string(site.line()); }

bool same(const Site& a, const Site& b) {
  const bool same_file = a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name());
  return a.line() == b.line() && a.column() == b.column() && same_file;
}

uint3 index_of(size_t number, dim3 size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}

// From stack to stack. AddressSanitizer would take a jump for the end of all functions on this one.
#define SWITCHES [[gnu::noinline, gnu::no_sanitize_address]] void

SWITCHES jump(Point& point) { __builtin_longjmp(point, 1); }

SWITCHES to_scheduler() {
  if (!__builtin_setjmp(fibers[current].point)) jump(scheduler);
}

void wait() {
  to_scheduler();
  if (!error.empty()) throw Stopped{};
}

// All threads that have not ended are at a barrier: let them go, if it is the same one.
void release_block() {
  const Fiber* first = nullptr;
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    if (fiber.state == State::kEnded) continue;
    if (first == nullptr) first = &fiber;
    if (!same(first->site, fiber.site)) {
      error = "threads of a block wait at " + text(first->site) + " and at " + text(fiber.site);
    }
    fiber.state = State::kReady;
  }
  at_block = 0;
  released = true;
}

[[noreturn]] void loop() {
  for (;;) {
    to_scheduler();
    fibers[current].inside = true;
    try {
      (*kernel_body)();
    } catch (const Stopped&) {
    } catch (const std::exception& exception) {
      if (error.empty()) error = exception.what();
    }
    fibers[current].inside = false;
    fibers[current].state = State::kEnded;
    if (--alive > 0 && at_block == alive && error.empty()) release_block();
  }
}

SWITCHES start(ucontext_t& context) {
  if (!__builtin_setjmp(scheduler)) setcontext(&context);
}

void prepare(unsigned count) {
  while (fibers.size() < count) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    mprotect(stack, 4096, PROT_NONE);  // an overflow ends the process at once
    ucontext_t context;
    getcontext(&context);
    context.uc_stack = {stack, 0, kStackBytes};
    makecontext(&context, loop, 0);
    current = static_cast<unsigned>(fibers.size());
    fibers.emplace_back();
    start(context);
  }
}

SWITCHES resume(unsigned t) {
  current = t;
  threadIdx = index_of(t, blockDim);
  if (!__builtin_setjmp(scheduler)) jump(fibers[t].point);
}

void choose_order() {
  const char* wish = std::getenv("TADPOLE_EMULATION_ORDER");
  order = wish == nullptr ? "forward" : wish;
  if (order != "forward" && order != "reverse") generator.seed(std::stoul(order));
}

std::vector<size_t> in_order(size_t count) {
  std::vector<size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  if (order == "reverse") std::reverse(numbers.begin(), numbers.end());
  if (order != "forward" && order != "reverse") std::shuffle(numbers.begin(), numbers.end(), generator);
  return numbers;
}

// __shared__ variables are thread-local ones: the loader keeps those of this library side by side.
std::span<std::byte> find_variables() {
  static thread_local char anchor;
  std::span<std::byte> found(reinterpret_cast<std::byte*>(&anchor), 1);
  const auto search = [](dl_phdr_info* library, size_t, void* result) {
    auto& found = *static_cast<std::span<std::byte>*>(result);
    auto* begin = static_cast<std::byte*>(library->dlpi_tls_data);
    for (int i = 0; i < library->dlpi_phnum; ++i) {
      if (begin == nullptr || library->dlpi_phdr[i].p_type != PT_TLS) continue;
      const std::span all(begin, library->dlpi_phdr[i].p_memsz);
      if (found.data() >= begin && found.data() < begin + all.size()) found = all;
    }
    return 0;
  };
  anchor = 0;  // the loader makes room at the first access
  dl_iterate_phdr(search, &found);
  return found;
}

// A thread reads NaN, or -1, from shared memory that nobody has written to.
void fill_shared_memory() {
  std::fill(dynamic_memory.begin(), dynamic_memory.end(), std::byte{0xff});
  std::fill(variables.begin(), variables.end(), std::byte{0xff});
}

void describe_waiting() {
  for (unsigned t = 0; t < threads; ++t) {
    const Fiber& fiber = fibers[t];
    if (fiber.state == State::kEnded) continue;
    error = "thread " + text(index_of(t, blockDim)) + " of block " + text(blockIdx) + " waits forever at " +
            text(fiber.site);
    return;
  }
}

void run_block() {
  fill_shared_memory();
  alive = threads, at_block = 0;
  for (unsigned t = 0; t < threads; ++t) fibers[t].state = State::kReady;
  // The first in a fixed order runs as far as it gets: a warp is ahead of the others by all that no barrier forbids.
  const std::vector<size_t> priority = in_order(threads);
  auto turn = priority.begin();
  while (error.empty()) {
    turn = std::find_if(turn, priority.end(), [](size_t t) { return fibers[t].state == State::kReady; });
    if (turn == priority.end()) break;
    released = false;
    resume(static_cast<unsigned>(*turn));
    if (released) turn = priority.begin();
  }
  if (error.empty()) describe_waiting();
  for (unsigned t = 0; t < threads; ++t) {
    if (fibers[t].inside) resume(t);  // to unwind
  }
}

}  // namespace

unsigned thread() { return current; }

void fail(const std::string& what) {
  throw std::runtime_error("thread " + text(threadIdx) + " of block " + text(blockIdx) + ": " + what);
}

void* shared_memory() { return dynamic_memory.data(); }

bool is_shared(const void* begin, size_t bytes) {
  const auto holds = [&](std::span<const std::byte> memory) {
    return begin >= memory.data() && static_cast<const std::byte*>(begin) + bytes <= memory.data() + memory.size();
  };
  return holds(dynamic_memory) || holds(variables);
}

void wait_for_block(Site site) {
  fibers[current].site = site;
  fibers[current].state = State::kAtBlock;
  if (++at_block == alive) release_block();
  wait();
}

void wait_for_lanes(unsigned mask, const void* value, const std::function<void(Given)>& finish, Site site) {
  if (!(mask >> lane() & 1)) fail("it is not in the mask of " + text(site));
  Fiber& self = fibers[current];
  self.state = State::kAtLanes, self.site = site, self.mask = mask, self.value = value, self.finish = &finish;
  const unsigned first = current - lane();
  const void* given[32] = {};
  bool complete = true;
  for (unsigned i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    if (first + i >= threads || fibers[first + i].state == State::kEnded) {
      fail("lane " + std::to_string(i) + " ended or never was, but is in the mask of " + text(site));
    }
    const Fiber& other = fibers[first + i];
    complete = complete && other.state == State::kAtLanes && other.mask == mask && same(other.site, site);
    given[i] = other.value;
  }
  if (complete) {
    for (unsigned i = 0; i < 32; ++i) {
      if (given[i] == nullptr) continue;
      (*fibers[first + i].finish)(given);
      fibers[first + i].state = State::kReady;
    }
    released = true;
  }
  wait();
}

std::string run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  gridDim = grid, blockDim = block;
  threads = block.x * block.y * block.z;
  kernel_body = &body;
  error.clear();
  dynamic_memory.assign(shared_bytes, std::byte{});
  variables = find_variables();
  prepare(threads);
  choose_order();
  for (const size_t number : in_order(static_cast<size_t>(grid.x) * grid.y * grid.z)) {
    blockIdx = index_of(number, grid);
    run_block();
    if (!error.empty()) break;
  }
  return error;
}

}  // namespace emulation
