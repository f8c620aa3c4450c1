// CUDA kernels of the grid encoding; grid.h is their contract.
//
// DESIGN: one thread per point and level, with the levels in blockIdx.y: blocks that run together read the rows of one
// level. The embedding gradient adds with float atomics, so its last bits depend on the order; everything else is
// deterministic.
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

template <int D, int C, class T>
__global__ void __launch_bounds__(kThreads)
    grid_total_variation_gradient_kernel(const __grid_constant__ Grid grid, int64_t count,
                                         const float* __restrict__ inputs, const T* __restrict__ embeddings,
                                         float weight, float* __restrict__ gradient) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= count) return;
  const Level& level = grid.level[blockIdx.y];
  const int64_t start = static_cast<int64_t>(level.offset) * C;
  const auto read = [=](int64_t entry) { return static_cast<float>(embeddings[start + entry]); };
  const auto add = [=](int64_t entry, float value) { atomicAdd(gradient + start + entry, value); };
  total_variation<D, C>(level, inputs + n * D, weight, read, add);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    grid_weight_decay_gradient_kernel(int64_t begin, int64_t end, const T* __restrict__ embeddings, float factor,
                                      float* __restrict__ gradient) {
  const int64_t i = begin + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < end) gradient[i] += factor * static_cast<float>(embeddings[i]);
}

const float* pointer(const std::optional<Tensor>& tensor) { return tensor ? tadpole::data<float>(*tensor) : nullptr; }

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

Tensor grid_encode(const Tensor& inputs, const Tensor& embeddings, const std::optional<Tensor>& direction, Ints offsets,
                   Ints resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active) {
  const Tensor x = checked_points(inputs), table = checked_table(embeddings, offsets);
  const auto along = checked_direction(direction, x);
  const Grid grid = make_grid(x.size(1), offsets, resolutions, hashed, align_corners, smoothstep, active);
  const tadpole::CudaScope scope(x);
  const int64_t count = x.size(0);
  Tensor output = torch::stable::new_empty(x, {count, grid.levels * table.size(1)});
  if (count == 0) return output;
  const dim3 blocks(tadpole::blocks(count, kThreads), grid.levels);
  with_all(x.size(1), table.size(1), along.has_value(), table.scalar_type(),
           [&](auto d, auto c, auto directional, auto t) {
             using T = typename decltype(t)::type;
             scope.launch("grid_encode", grid_encode_kernel<d.value, c.value, directional.value, T>, {blocks, kThreads},
                          grid, count, tadpole::data<float>(x), pointer(along), tadpole::data<Row<c.value, T>>(table),
                          tadpole::data<Row<c.value, float>>(output));
           });
  return output;
}

Tensor grid_input_gradient(const Tensor& gradient, const Tensor& inputs, const Tensor& embeddings,
                           const std::optional<Tensor>& direction, Ints offsets, Ints resolutions, bool hashed,
                           bool align_corners, bool smoothstep, int64_t active) {
  const Tensor x = checked_points(inputs), table = checked_table(embeddings, offsets);
  const auto along = checked_direction(direction, x);
  const Grid grid = make_grid(x.size(1), offsets, resolutions, hashed, align_corners, smoothstep, active);
  const Tensor g = checked_gradient(gradient, x, grid.levels, table.size(1));
  const tadpole::CudaScope scope(x);
  const int64_t count = x.size(0);
  Tensor output = torch::stable::new_empty(x, {count, x.size(1)});
  if (count == 0) return output;
  with_all(x.size(1), table.size(1), along.has_value(), table.scalar_type(),
           [&](auto d, auto c, auto directional, auto t) {
             using T = typename decltype(t)::type;
             scope.launch("grid_input_gradient",
                          grid_input_gradient_kernel<d.value, c.value, directional.value, T>,
                          {tadpole::blocks(count, kThreads), kThreads}, grid, count,
                          tadpole::data<Row<c.value, float>>(g), tadpole::data<float>(x), pointer(along),
                          tadpole::data<Row<c.value, T>>(table), tadpole::data<float>(output));
           });
  return output;
}

Tensor grid_embedding_gradient(const Tensor& gradient, const Tensor& inputs, const std::optional<Tensor>& direction,
                               Ints offsets, Ints resolutions, bool hashed, bool align_corners, bool smoothstep,
                               int64_t active) {
  const Tensor x = checked_points(inputs);
  const auto along = checked_direction(direction, x);
  const Grid grid = make_grid(x.size(1), offsets, resolutions, hashed, align_corners, smoothstep, active);
  const int64_t channels = gradient.dim() == 2 ? gradient.size(1) / grid.levels : 0;
  const Tensor g = checked_gradient(gradient, x, grid.levels, channels);
  const tadpole::CudaScope scope(x);
  const int64_t count = x.size(0);
  Tensor output = torch::stable::new_zeros(x, {offsets.back(), channels});
  if (count == 0 || grid.active == 0) return output;
  const dim3 blocks(tadpole::blocks(count, kThreads), grid.active);
  with_all(x.size(1), channels, along.has_value(), ScalarType::Float, [&](auto d, auto c, auto directional, auto) {
    scope.launch("grid_embedding_gradient", grid_embedding_gradient_kernel<d.value, c.value, directional.value>,
                 {blocks, kThreads}, grid, count, tadpole::data<Row<c.value, float>>(g), grid.levels, 1,
                 tadpole::data<float>(x), pointer(along), tadpole::data<Row<c.value, float>>(output));
  });
  return output;
}

void grid_total_variation_gradient_(Tensor gradient, const Tensor& inputs, const Tensor& embeddings, double weight,
                                    Ints offsets, Ints resolutions, bool hashed) {
  const Tensor x = checked_points(inputs), table = checked_table(embeddings, offsets);
  check_accumulator(gradient, table);
  const Grid grid = make_grid(x.size(1), offsets, resolutions, hashed, false, false, resolutions.size());
  const tadpole::CudaScope scope(x);
  const int64_t count = x.size(0);
  if (count == 0) return;
  const dim3 blocks(tadpole::blocks(count, kThreads), grid.levels);
  with_all(x.size(1), table.size(1), false, table.scalar_type(), [&](auto d, auto c, auto, auto t) {
    using T = typename decltype(t)::type;
    scope.launch("grid_total_variation_gradient_", grid_total_variation_gradient_kernel<d.value, c.value, T>,
                 {blocks, kThreads}, grid, count, tadpole::data<float>(x), tadpole::data<T>(table), weight,
                 tadpole::data<float>(gradient));
  });
}

void grid_weight_decay_gradient_(Tensor gradient, const Tensor& embeddings, double weight, Ints offsets) {
  const Tensor table = checked_table(embeddings, offsets);
  check_accumulator(gradient, table);
  const tadpole::CudaScope scope(table);
  const int64_t channels = table.size(1);
  for (size_t l = 0; l + 1 < offsets.size(); ++l) {
    const int64_t rows = offsets[l + 1] - offsets[l];
    if (rows == 0 || channels == 0) continue;
    with_type(table.scalar_type(), [&](auto t) {
      using T = typename decltype(t)::type;
      scope.launch("grid_weight_decay_gradient_", grid_weight_decay_gradient_kernel<T>,
                   {tadpole::blocks(rows * channels, kThreads), kThreads}, offsets[l] * channels,
                   offsets[l + 1] * channels, tadpole::data<T>(table), 2.0 * weight / rows,
                   tadpole::data<float>(gradient));
    });
  }
}

}  // namespace
}  // namespace gridencoder

STABLE_TORCH_LIBRARY_IMPL(gridencoder, CUDA, m) {
  m.impl("grid_encode", TORCH_BOX(&gridencoder::grid_encode));
  m.impl("grid_embedding_gradient", TORCH_BOX(&gridencoder::grid_embedding_gradient));
  m.impl("grid_input_gradient", TORCH_BOX(&gridencoder::grid_input_gradient));
  m.impl("grid_total_variation_gradient_", TORCH_BOX(&gridencoder::grid_total_variation_gradient_));
  m.impl("grid_weight_decay_gradient_", TORCH_BOX(&gridencoder::grid_weight_decay_gradient_));
}
