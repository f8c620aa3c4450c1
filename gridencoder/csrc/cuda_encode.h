// The encoding of a point on a level and its gradient in the table, on CUDA; for every .cu file that encodes.
//
// DESIGN: neighbouring samples of a ray share the cells of coarse levels. Then their lanes sum what they have for a row,
// and one of them adds it: an atomic for each lane would have all of them wait for the same address.
#pragma once

#include "gridencoder/csrc/host.h"

namespace gridencoder {

using tadpole::kAllLanes;
using tadpole::kWarp;
using F = float;
using U = uint32_t;

HOST_DEVICE U to_node(F x) { return static_cast<U>(x); }
HOST_DEVICE F to_float(U x) { return static_cast<F>(x); }
__device__ __forceinline__ F rounded_product(float a, F b) { return __fmul_rn(a, b); }

// The maths of the cell runs on the device only.
#pragma push_macro("HOST_DEVICE")
#undef HOST_DEVICE
#define HOST_DEVICE __device__ __forceinline__
#include "gridencoder/csrc/cell.h"
#pragma pop_macro("HOST_DEVICE")

constexpr int kThreads = 256;

template <int D, bool Directional>
__device__ __forceinline__ void load_point(const float* inputs, const float* directions, int64_t n, float* x,
                                           float* direction) {
  for (int d = 0; d < D; ++d) {
    x[d] = inputs[n * D + d];
    if (Directional) direction[d] = directions[n * D + d];
  }
}

// One load for the C channels of a row.
template <int C, class T>
struct alignas(C * sizeof(T) < 16 ? C * sizeof(T) : 16) Row {
  T channel[C];
};

// Of a point inside the unit cube.
template <int D, int C, bool Directional, class T>
__device__ __forceinline__ Row<C, float> encoded(const Grid& grid, const Level& level, const float* x,
                                                 const float* direction, const Row<C, T>* embeddings) {
  const Cell<D> cell = locate<D>(grid, level, x);
  float weight[1 << D];
  corner_weights<D, Directional>(cell, direction, -1, weight);
  Row<C, float> sum = {};
#pragma unroll
  for (int k = 0; k < 1 << D; ++k) {
    const Row<C, T> row = embeddings[level.offset + corner_row<D>(level, cell, k)];
    for (int c = 0; c < C; ++c) sum.channel[c] += weight[k] * static_cast<float>(row.channel[c]);
  }
  return sum;
}

template <int C>
__device__ __forceinline__ void add_row(Row<C, float>* to, const Row<C, float>& value) {
#if __CUDA_ARCH__ >= 900
  if constexpr (C % 2 == 0) {
    for (int c = 0; c < C; c += 2) {
      atomicAdd(reinterpret_cast<float2*>(to->channel + c), make_float2(value.channel[c], value.channel[c + 1]));
    }
  } else {
    atomicAdd(to->channel, value.channel[0]);
  }
#else
  for (int c = 0; c < C; ++c) atomicAdd(to->channel + c, value.channel[c]);
#endif
}

// The lanes of a warp in runs of neighbours that share a cell. All lanes call all of it.
class Runs {
 public:
  // `mine`: this lane has a cell.
  template <int D>
  __device__ Runs(const Cell<D>& cell, bool mine) : lane_(threadIdx.x % kWarp) {
    bool same = __shfl_up_sync(kAllLanes, mine, 1) && mine && lane_ > 0;
#pragma unroll
    for (int d = 0; d < D; ++d) same = (__shfl_up_sync(kAllLanes, cell.node[0][d], 1) == cell.node[0][d]) && same;
    const unsigned first = ~__ballot_sync(kAllLanes, same);
    const unsigned behind = first & ~((2u << lane_) - 1u);
    end_ = behind != 0 ? __ffs(static_cast<int>(behind)) - 1 : kWarp;
    const bool worthwhile = __popc(first) <= kWarp / 2;
    adds_ = mine && !(worthwhile && same);
    steps_ = worthwhile ? 1 : 0;
    while (worthwhile && __any_sync(kAllLanes, lane_ + steps_ < end_)) steps_ *= 2;
  }

  // What this lane has to add for a row, where it adds(): the sum of its run, where runs are long enough.
  __device__ float sum(float value) const {
    for (int step = 1; step < steps_; step *= 2) {
      const float next = __shfl_down_sync(kAllLanes, value, step);
      if (lane_ + step < end_) value += next;
    }
    return value;
  }
  __device__ bool adds() const { return adds_; }

 private:
  int lane_, end_;  // the lane behind this run
  int steps_;       // no run is longer, and 0 where they are too short
  bool adds_;
};

// `gradient`: that of point n on level l lies at n * per_point + l * per_level.
template <int D, int C, bool Directional>
__global__ void __launch_bounds__(kThreads)
    grid_embedding_gradient_kernel(const __grid_constant__ Grid grid, int64_t count,
                                   const Row<C, float>* __restrict__ gradient, int64_t per_point, int64_t per_level,
                                   const float* __restrict__ inputs, const float* __restrict__ directions,
                                   Row<C, float>* __restrict__ output) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int l = blockIdx.y;
  const Level& level = grid.level[l];
  float x[D] = {}, direction[D] = {}, weight[1 << D];
  if (n < count) load_point<D, Directional>(inputs, directions, n, x, direction);
  const bool mine = n < count && inside(x, D);
  if (!__any_sync(kAllLanes, mine)) return;
  const Cell<D> cell = locate<D>(grid, level, x);
  const Row<C, float> g = mine ? gradient[n * per_point + l * per_level] : Row<C, float>{};
  corner_weights<D, Directional>(cell, direction, -1, weight);
  const Runs runs(cell, mine);
#pragma unroll
  for (int k = 0; k < 1 << D; ++k) {
    Row<C, float> value;
    for (int c = 0; c < C; ++c) value.channel[c] = runs.sum(mine ? weight[k] * g.channel[c] : 0.f);
    if (runs.adds()) add_row<C>(output + level.offset + corner_row<D>(level, cell, k), value);
  }
}

// Calls f(Int<D>, Int<C>, bool_constant<Directional>, Type<T>).
template <class F>
void with_all(int64_t D, int64_t C, bool directional, ScalarType type, const F& f) {
  with_sizes(D, C, [&](auto d, auto c) {
    with_type(type, [&](auto t) {
      if (directional) {
        f(d, c, std::true_type{}, t);
      } else {
        f(d, c, std::false_type{}, t);
      }
    });
  });
}

}  // namespace gridencoder
