// CUDA kernels of the gradients in the table of the grid encoding; grid.h is their contract.
//
// DESIGN: one thread per point and level, as in cuda.cu, beside which this is compiled. Gradients of the encoding and of
// total variation add with float atomics, so their last bits depend on the order.
#include <torch/csrc/stable/library.h>

#include "gridencoder/csrc/cuda_encode.h"

namespace gridencoder {
namespace {

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

Tensor grid_embedding_gradient(const Tensor& gradient, const Tensor& inputs, const std::optional<Tensor>& direction,
                               Ints offsets, Ints resolutions, bool hashed, bool align_corners, bool smoothstep,
                               int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const int64_t channels = gradient.dim() == 2 ? gradient.size(1) / given.grid.levels : 0;
  const Tensor g = given.cotangent(gradient, channels);
  const tadpole::CudaScope scope(given.x);
  Tensor output = torch::stable::new_zeros(given.x, {offsets.back(), channels});
  if (given.count == 0 || given.grid.active == 0) return output;
  const dim3 blocks(tadpole::blocks(given.count, kThreads), given.grid.active);
  with_all(given.dimensions, channels, given.along.has_value(), ScalarType::Float, [&](auto d, auto c, auto along, auto) {
    scope.launch("grid_embedding_gradient", grid_embedding_gradient_kernel<d.value, c.value, along.value>,
                 {blocks, kThreads}, given.grid, given.count, tadpole::data<Row<c.value, float>>(g),
                 given.grid.levels, 1, given.points(), given.directions(),
                 tadpole::data<Row<c.value, float>>(output));
  });
  return output;
}

void grid_total_variation_gradient_(Tensor gradient, const Tensor& inputs, const Tensor& embeddings, double weight,
                                    Ints offsets, Ints resolutions, bool hashed) {
  const Given given(inputs, std::nullopt, offsets, resolutions, hashed, false, false, resolutions.size());
  const Tensor table = checked_table(embeddings, offsets);
  check_accumulator(gradient, table);
  const tadpole::CudaScope scope(given.x);
  if (given.count == 0) return;
  const dim3 blocks(tadpole::blocks(given.count, kThreads), given.grid.levels);
  with_all(given.dimensions, table.size(1), false, table.scalar_type(), [&](auto d, auto c, auto, auto t) {
    using T = typename decltype(t)::type;
    scope.launch("grid_total_variation_gradient_", grid_total_variation_gradient_kernel<d.value, c.value, T>,
                 {blocks, kThreads}, given.grid, given.count, given.points(), tadpole::data<T>(table), weight,
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
  m.impl("grid_embedding_gradient", TORCH_BOX(&gridencoder::grid_embedding_gradient));
  m.impl("grid_total_variation_gradient_", TORCH_BOX(&gridencoder::grid_total_variation_gradient_));
  m.impl("grid_weight_decay_gradient_", TORCH_BOX(&gridencoder::grid_weight_decay_gradient_));
}
