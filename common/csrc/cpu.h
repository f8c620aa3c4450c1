// Shared by CPU kernels: which vectors the processor has, work shared between threads, buffers.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define TADPOLE_VECTORS 1
#if defined(__clang__) || __GNUC__ >= 10
#define TADPOLE_BF16_VECTORS 1  // the compiler has them
#endif
#include <immintrin.h>
#endif

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "common/csrc/common.h"

namespace tadpole {

enum Path { kBaseline, kAvx2, kAvx512 };

// The widest vectors this processor has, or those TADPOLE_CPU_PATH asks for (baseline, avx2, avx512).
inline Path cpu_path() {
  Path best = kBaseline;
#ifdef TADPOLE_VECTORS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = kAvx2;
  if (best == kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    best = kAvx512;
  }
#endif
  const char* asked = std::getenv("TADPOLE_CPU_PATH");
  if (asked == nullptr || *asked == '\0') return best;
  const std::string name = asked;
  const Path path = name == "avx512" ? kAvx512 : name == "avx2" ? kAvx2 : kBaseline;
  STD_TORCH_CHECK(path != kBaseline || name == "baseline", "TADPOLE_CPU_PATH must be baseline, avx2 or avx512, got ",
                  name);
  STD_TORCH_CHECK(path <= best, "TADPOLE_CPU_PATH asks for ", name, ", which this processor does not have");
  return path;
}

// Whether the path taken multiplies bf16.
inline bool has_bf16() {
#ifdef TADPOLE_BF16_VECTORS
  return cpu_path() == kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// Runs work(task, thread) for 0 .. tasks - 1, the last first, each on whichever thread is free.
template <class Work>
void share(int64_t tasks, const Work& work) {
  std::atomic<int64_t> next{tasks};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t task = --next; task >= 0; task = --next) work(task, thread);
    }
  });
}

// Asks for large pages where a new tensor has not been touched yet: a fault for each 4 kB costs more than filling them.
inline void large_pages(Tensor& fresh) {
#ifdef __linux__
  const uintptr_t page = 2 << 20, start = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t begin = (start + page - 1) / page * page;
  const uintptr_t end = (start + fresh.numel() * fresh.element_size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: it may fail
#endif
}

inline void zero(Tensor& table) {
  large_pages(table);
  char* start = static_cast<char*>(table.mutable_data_ptr());
  const int64_t bytes = table.numel() * static_cast<int64_t>(sizeof(float));
  const auto clear = [&](int64_t from, int64_t to) { std::memset(start + from, 0, to - from); };
  torch::stable::parallel_for(0, bytes, 1 << 18, clear);
}

}  // namespace tadpole
