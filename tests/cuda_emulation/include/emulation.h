// Runs a grid of CUDA threads on one CPU thread: block after block, each thread of a block a fiber that runs until it
// meets a barrier. TADPOLE_EMULATION_ORDER says in which order threads and blocks get their turn: forward, reverse or
// the seed of a shuffle. A kernel that needs a barrier it does not have gives different results in some of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulation {

using Site = std::source_location;
using Given = const void* const*;  // what each lane of the warp gave, null for those outside the mask

// The thread's number within its block, counted as CUDA does, and within its warp.
unsigned thread();
inline unsigned lane() { return thread() % 32; }

// Runs `body` once per thread of the grid. Returns what went wrong, empty where nothing did.
std::string run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// Ends the kernel with an error that names this thread.
[[noreturn]] void fail(const std::string& what);

void* shared_memory();
bool is_shared(const void* begin, size_t bytes);

// Waits for all threads of the block that have not ended, each at this very call.
void wait_for_block(Site site);

// Waits for all lanes of `mask`, each at this very call; the last one runs the `finish` of all of them.
void wait_for_lanes(unsigned mask, const void* value, const std::function<void(Given)>& finish, Site site);

// The lanes of `mask` exchange values: each gets read(values), where values[i] is lane i's, null outside the mask.
template <class T, class Read>
auto exchange(unsigned mask, const T& value, const Read& read, Site site) {
  decltype(read(static_cast<const T* const*>(nullptr))) result;
  wait_for_lanes(mask, &value, [&](Given given) { result = read(reinterpret_cast<const T* const*>(given)); }, site);
  return result;
}

}  // namespace emulation
