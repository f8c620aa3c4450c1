// The samples that have a gradient, in their order: behind a surface there are none, nor in rows that no ray owns. The
// backward pass takes these alone, and the host need not know how many they are.
#pragma once

#include "common/csrc/common.h"

namespace fusedfield {

using tadpole::kAllLanes;
using tadpole::kWarp;

constexpr int kListThreads = 1024;

// Cotangents of the outputs.
struct Cotangents {
  const float *sigma, *albedo;  // [count], [count, outputs - 1]
  int outputs;

  __device__ float of(int64_t n, int channel) const {
    return channel == 0 ? sigma[n] : albedo[n * (outputs - 1) + channel - 1];
  }
  __device__ bool any(int64_t n) const {
    bool found = false;
    for (int channel = 0; channel < outputs; ++channel) found |= of(n, channel) != 0.f;
    return found;
  }
};

// What list_reached_kernel leaves: the samples, and how many they are.
struct Listed {
  int32_t* samples;
  int64_t* total;
};

// Row i of a pass is sample of(i), or none: -1.
struct Every {
  int64_t count;

  __device__ int64_t of(int64_t i) const { return i < count ? i : -1; }
};

class Reached {
 public:
  __device__ explicit Reached(const Listed& listed) : samples_(listed.samples), count_(*listed.total) {}
  __device__ int64_t size() const { return count_; }
  __device__ int64_t of(int64_t i) const { return i < count_ ? samples_[i] : -1; }

 private:
  const int32_t* samples_;
  int64_t count_;
};

// Of the threads of a block that have something: how many come before this one, and all.
struct Rank {
  int before, all;

  __device__ explicit Rank(bool mine) : all(0) {
    __shared__ int sums[kListThreads / kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const unsigned votes = __ballot_sync(kAllLanes, mine);
    if (lane == 0) sums[warp] = __popc(votes);
    __syncthreads();
    before = __popc(votes & ((1u << lane) - 1u));
    for (int w = 0; w < kListThreads / kWarp; ++w) {
      all += sums[w];
      if (w < warp) before += sums[w];
    }
  }
};

// How many there are in each block of samples.
__global__ void __launch_bounds__(kListThreads)
    count_reached_kernel(Cotangents cotangents, int64_t count, int32_t* __restrict__ in_block) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kListThreads + threadIdx.x;
  const Rank rank(n < count && cotangents.any(n));
  if (threadIdx.x == 0) in_block[blockIdx.x] = rank.all;
}

__global__ void __launch_bounds__(kListThreads)
    list_reached_kernel(Cotangents cotangents, int64_t count, const int32_t* __restrict__ in_block, Listed listed) {
  __shared__ int before;  // this block
  if (threadIdx.x == 0) before = 0;
  __syncthreads();
  int sum = 0;
  for (int b = threadIdx.x; b < static_cast<int>(blockIdx.x); b += kListThreads) sum += in_block[b];
  if (sum > 0) atomicAdd(&before, sum);
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kListThreads + threadIdx.x;
  const bool mine = n < count && cotangents.any(n);
  const Rank rank(mine);  // has a barrier
  if (mine) listed.samples[before + rank.before] = static_cast<int32_t>(n);
  if (threadIdx.x == 0 && blockIdx.x + 1 == gridDim.x) *listed.total = before + rank.all;
}

}  // namespace fusedfield
