// CUDA kernels of the grid encoding and its gradient in the points; grid.h is their contract.
//
// DESIGN: one thread per point and level, with the levels in blockIdx.y: blocks that run together read the rows of one
// level.
#include <torch/csrc/stable/library.h>

#include "gridencoder/csrc/cuda_encode.h"

namespace gridencoder {
namespace {

template <int D, int C, bool Directional, class T>
__global__ void __launch_bounds__(kThreads)
    grid_encode_kernel(const __grid_constant__ Grid grid, int64_t count, const float* __restrict__ inputs,
                       const float* __restrict__ directions, const Row<C, T>* __restrict__ embeddings,
                       Row<C, float>* __restrict__ output) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= count) return;
  const int l = blockIdx.y;
  const Level& level = grid.level[l];
  float x[D], direction[D];
  load_point<D, Directional>(inputs, directions, n, x, direction);
  Row<C, float> sum = {};
  if (l < grid.active && inside(x, D)) sum = encoded<D, C, Directional>(grid, level, x, direction, embeddings);
  output[n * grid.levels + l] = sum;
}

// All levels in one thread: a sum without atomics.
template <int D, int C, bool Directional, class T>
__global__ void __launch_bounds__(kThreads)
    grid_input_gradient_kernel(const __grid_constant__ Grid grid, int64_t count,
                               const Row<C, float>* __restrict__ gradient, const float* __restrict__ inputs,
                               const float* __restrict__ directions, const Row<C, T>* __restrict__ embeddings,
                               float* __restrict__ output) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= count) return;
  float x[D], direction[D], sum[D] = {};
  load_point<D, Directional>(inputs, directions, n, x, direction);
  const int active = inside(x, D) ? grid.active : 0;
  for (int l = 0; l < active; ++l) {
    const Level& level = grid.level[l];
    const Cell<D> cell = locate<D>(grid, level, x);
    const Row<C, float> g = gradient[n * grid.levels + l];
    float dot[1 << D];
    for (int k = 0; k < 1 << D; ++k) {
      const Row<C, T> row = embeddings[level.offset + corner_row<D>(level, cell, k)];
      dot[k] = 0.f;
      for (int c = 0; c < C; ++c) dot[k] += g.channel[c] * static_cast<float>(row.channel[c]);
    }
#pragma unroll
    for (int d = 0; d < D; ++d) {
      float weight[1 << D];
      corner_weights<D, Directional>(cell, direction, d, weight);
      for (int k = 0; k < 1 << D; ++k) sum[d] += weight[k] * dot[k];
    }
  }
  for (int d = 0; d < D; ++d) output[n * D + d] = sum[d];
}

Tensor grid_encode(const Tensor& inputs, const Tensor& embeddings, const std::optional<Tensor>& direction, Ints offsets,
                   Ints resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const Tensor table = checked_table(embeddings, offsets);
  const tadpole::CudaScope scope(given.x);
  Tensor output = torch::stable::new_empty(given.x, {given.count, given.grid.levels * table.size(1)});
  if (given.count == 0) return output;
  const dim3 blocks(tadpole::blocks(given.count, kThreads), given.grid.levels);
  with_all(given.dimensions, table.size(1), given.along.has_value(), table.scalar_type(),
           [&](auto d, auto c, auto directional, auto t) {
             using T = typename decltype(t)::type;
             scope.launch("grid_encode", grid_encode_kernel<d.value, c.value, directional.value, T>, {blocks, kThreads},
                          given.grid, given.count, given.points(), given.directions(),
                          tadpole::data<Row<c.value, T>>(table), tadpole::data<Row<c.value, float>>(output));
           });
  return output;
}

Tensor grid_input_gradient(const Tensor& gradient, const Tensor& inputs, const Tensor& embeddings,
                           const std::optional<Tensor>& direction, Ints offsets, Ints resolutions, bool hashed,
                           bool align_corners, bool smoothstep, int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const Tensor table = checked_table(embeddings, offsets);
  const Tensor g = given.cotangent(gradient, table.size(1));
  const tadpole::CudaScope scope(given.x);
  Tensor output = torch::stable::new_empty(given.x, {given.count, given.dimensions});
  if (given.count == 0) return output;
  with_all(given.dimensions, table.size(1), given.along.has_value(), table.scalar_type(),
           [&](auto d, auto c, auto directional, auto t) {
             using T = typename decltype(t)::type;
             scope.launch("grid_input_gradient",
                          grid_input_gradient_kernel<d.value, c.value, directional.value, T>,
                          {tadpole::blocks(given.count, kThreads), kThreads}, given.grid, given.count,
                          tadpole::data<Row<c.value, float>>(g), given.points(), given.directions(),
                          tadpole::data<Row<c.value, T>>(table), tadpole::data<float>(output));
           });
  return output;
}

}  // namespace
}  // namespace gridencoder

STABLE_TORCH_LIBRARY_IMPL(gridencoder, CUDA, m) {
  m.impl("grid_encode", TORCH_BOX(&gridencoder::grid_encode));
  m.impl("grid_input_gradient", TORCH_BOX(&gridencoder::grid_input_gradient));
}
