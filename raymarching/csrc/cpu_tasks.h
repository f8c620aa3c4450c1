// What all CPU kernels share.
#pragma once

#include <atomic>

#include "raymarching/csrc/pieces.h"

namespace raymarching {

using torch::stable::parallel_for;

constexpr int64_t kRaysPerTask = 64;

// Calls task(begin, end) for blocks of rays; threads take the next block when they are free: rays differ in length.
template <class F>
void for_ray_blocks(int64_t rays, const F& task) {
  std::atomic<int64_t> next{0};
  parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(kRaysPerTask)) < rays;) {
      task(begin, begin + kRaysPerTask < rays ? begin + kRaysPerTask : rays);
    }
  });
}

// Requires every ray's samples to lie in 0..M-1; returns how many samples there are in all rays.
inline int64_t checked_count(const int32_t* info, int64_t rays, int64_t M) {
  int64_t total = 0;
  for (int64_t n = 0; n < rays; ++n) {
    const int64_t first = info[2 * n], count = info[2 * n + 1];
    STD_TORCH_CHECK(first >= 0 && count >= 0 && first + count <= M, "packed_info: ray ", n, " owns samples ", first,
                    " to ", first + count, " of ", M);
    total += count;
  }
  return total;
}

}  // namespace raymarching
