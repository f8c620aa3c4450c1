// What all CUDA kernels share.
#pragma once

#include "raymarching/csrc/pieces.h"

namespace raymarching {

using tadpole::blocks;
using tadpole::CudaScope;
using tadpole::kAllLanes;
using tadpole::kWarp;

constexpr int kThreads = 128, kRaysPerBlock = kThreads / kWarp;

// What a ray may own: nothing, where packed_info points outside the samples.
HOST_DEVICE int64_t samples_of(const int32_t* info, int64_t n, int64_t M) {
  const int64_t first = info[2 * n], count = info[2 * n + 1];
  return first >= 0 && count >= 0 && first + count <= M ? count : 0;
}

}  // namespace raymarching
