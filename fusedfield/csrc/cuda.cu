// CUDA kernels of the fused field; field.h is their contract. What they serve is in dispatch.py.
//
// DESIGN: the encoding is computed level by level, so that the rows of a level stay in the cache, and left as the words
// that the tensor cores read (cuda_network.h): 4 or 8 bytes a level and sample, which is also all that is kept for the
// backward pass. The gradient of the table has its atomics; everything else is deterministic.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "fusedfield/csrc/cuda_gradient.h"
#include "gridencoder/csrc/cuda_encode.h"

namespace fusedfield {

using gridencoder::Row;
using tadpole::CudaScope;
using tadpole::Launch;

__global__ void __launch_bounds__(gridencoder::kThreads)
    unit_kernel(int64_t count, float bound, const float* __restrict__ positions, float* __restrict__ unit) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * gridencoder::kThreads + threadIdx.x;
  if (i < count) unit[i] = (positions[i] + bound) / (2.f * bound);
}

template <int Parts>
__global__ void __launch_bounds__(gridencoder::kThreads)
    encode_kernel(const __grid_constant__ Grid grid, int64_t count, const float* __restrict__ unit,
                  const Row<2, float>* __restrict__ embeddings, Word* __restrict__ words) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * gridencoder::kThreads + threadIdx.x;
  if (n >= count) return;
  const int l = blockIdx.y;
  const float* x = unit + 3 * n;
  Row<2, float> sum = {};
  if (gridencoder::inside(x, 3)) {
    sum = gridencoder::encoded<3, 2, false, float>(grid, grid.level[l], x, nullptr, embeddings);
  }
  Left<Parts> both;
  both.set(0, 0, sum.channel[0], sum.channel[1]);
  for (int p = 0; p < Parts; ++p) words[(static_cast<int64_t>(p) * grid.active + l) * count + n] = both.word[p][0];
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    field_kernel(Field field, int64_t count, int columns, const float* __restrict__ parameters, Encoding encoding,
                 const float* __restrict__ positions, float* __restrict__ sigma, float* __restrict__ albedo) {
  const Weights<S> weights(tadpole::dynamic_shared<char>(), parameters, columns);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kRows; first < count;
       first += static_cast<int64_t>(gridDim.x) * kBlockRows) {
    Left<S::Parts> x[S::Depth], hidden[S::kTiles], next[S::kTiles];
    encoding.load(first, x);
    hidden_layer(weights.first, weights.bias, x, hidden);
    for (int l = 1; l < S::Hidden; ++l) {
      hidden_layer(weights.middle[l - 1], weights.bias + l * S::Width, hidden, next);
      for (int k = 0; k < S::kTiles; ++k) hidden[k] = next[k];
    }
    const Sums raw = channels(weights, hidden);
    for (int i = 0; i < 4; ++i) {
      const int64_t n = first + lane / 4 + i / 2 * 8;
      const int channel = lane % 4 * 2 + i % 2;
      if (n >= count || channel >= field.outputs) continue;
      const float value = activated(field, channel, raw.sum[i], positions + 3 * n).value;
      (channel == 0 ? sigma[n] : albedo[n * (field.outputs - 1) + channel - 1]) = value;
    }
  }
}

namespace {

// Calls f(Shape) for what the network is.
template <class F>
void with_shape(const Ints& widths, bool mixed, const F& f) {
  const auto with_parts = [&](auto width, auto hidden, auto depth) {
    constexpr int W = width.value, H = hidden.value, D = depth.value;
    if (mixed) return f(Shape<W, H, D, 1>{});
    f(Shape<W, H, D, 2>{});
  };
  const auto with_depth = [&](auto width, auto hidden) {
    if (widths[0] <= 16) return with_parts(width, hidden, gridencoder::Int<1>{});
    with_parts(width, hidden, gridencoder::Int<2>{});
  };
  const auto with_hidden = [&](auto width) {
    if (widths.size() == 3) return with_depth(width, gridencoder::Int<1>{});
    with_depth(width, gridencoder::Int<2>{});
  };
  if (widths[1] == 32) return with_hidden(gridencoder::Int<32>{});
  with_hidden(gridencoder::Int<64>{});
}

// The field and the samples, checked.
struct Setup {
  Setup(const Tensor& positions, const Tensor& embeddings, const Tensor& parameters, const Ints& offsets,
        const Ints& resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active, const Ints& widths,
        double bound, double peak, double slope, int64_t activation, bool mixed, int64_t outputs)
      : grid(gridencoder::make_grid(3, offsets, resolutions, hashed, align_corners, smoothstep, active)),
        x(tadpole::checked(positions, "fusedfield: positions", {-1, 3})),
        table(tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2})),
        count(x.size(0)),
        parts(mixed ? 1 : 2),
        widths(widths),
        field{static_cast<float>(bound), static_cast<float>(peak), static_cast<float>(slope),
              static_cast<Activation>(activation), static_cast<int>(outputs)},
        scope(x) {
    STD_TORCH_CHECK((widths.size() == 3 || widths.size() == 4) && widths[0] == 2 * grid.levels && widths[0] <= 32 &&
                        (widths[1] == 32 || widths[1] == 64) && widths[widths.size() - 2] == widths[1] &&
                        widths.back() == kOutputs,
                    "fusedfield: on CUDA 2 or 3 layers, from 2 for each of 16 levels at most to 32 or 64 to 4");
    STD_TORCH_CHECK(activation >= kNone && activation <= kSoftplus, "fusedfield: no activation ", activation);
    STD_TORCH_CHECK(outputs == 1 || outputs == kOutputs, "fusedfield: outputs must be 1 or 4, got ", outputs);
    STD_TORCH_CHECK(active >= 1, "fusedfield: active levels must be at least 1, got ", active);
    int64_t numbers = 0;
    for (size_t l = 0; l + 1 < widths.size(); ++l) numbers += widths[l + 1] * (widths[l] + 1);
    weights = tadpole::checked(parameters, "fusedfield: parameters", {numbers});
  }

  const float* positions() const { return tadpole::data<float>(x); }
  int columns() const { return static_cast<int>(widths[0]); }
  int64_t words() const { return parts * grid.active * count; }
  Encoding encoding(const Tensor& words) const {
    return {reinterpret_cast<const Word*>(tadpole::data<float>(words)), grid.active, count};
  }

  // Of a kernel that takes kBlockRows samples a block and goes on to others: one wave, each of which reads the weights.
  template <class Kernel>
  Launch launch(const char* name, Kernel* kernel, size_t shared) const {
    const int64_t tiles = tadpole::ceil_div<int64_t>(count, kBlockRows);
    const int64_t blocks = std::min(tiles, scope.at_once(name, kernel, kThreads, shared));
    return {static_cast<unsigned>(blocks), kThreads, shared};
  }

  // The positions in the unit cube.
  Tensor unit() const {
    Tensor points = torch::stable::new_empty(x, {count, 3});
    scope.launch("unit_kernel", unit_kernel, {tadpole::blocks(3 * count, gridencoder::kThreads), gridencoder::kThreads},
                 3 * count, field.bound, positions(), tadpole::data<float>(points));
    return points;
  }

  Grid grid;
  Tensor x, table, weights;
  int64_t count, parts;
  Ints widths;
  Field field;
  CudaScope scope;
};

std::tuple<Tensor, Tensor, Tensor> field_query(const Tensor& positions, const Tensor& embeddings,
                                               const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                               bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                               double bound, double peak, double slope, int64_t activation, bool mixed,
                                               int64_t outputs, bool save) {
  const Setup s(positions, embeddings, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active,
                widths, bound, peak, slope, activation, mixed, outputs);
  Tensor sigma = torch::stable::new_empty(s.x, {s.count});
  Tensor albedo = torch::stable::new_empty(s.x, {s.count, outputs - 1});
  Tensor words = torch::stable::new_empty(s.x, {s.words()});
  Tensor nothing = torch::stable::new_empty(s.x, {0});
  if (s.count == 0) return {sigma, albedo, nothing};
  const Tensor unit = s.unit();
  const dim3 blocks(tadpole::blocks(s.count, gridencoder::kThreads), s.grid.active);
  s.scope.launch("encode_kernel", mixed ? encode_kernel<1> : encode_kernel<2>, {blocks, gridencoder::kThreads}, s.grid,
                 s.count, tadpole::data<float>(unit), tadpole::data<Row<2, float>>(s.table),
                 reinterpret_cast<Word*>(tadpole::data<float>(words)));
  with_shape(widths, mixed, [&](auto shape) {
    using S = decltype(shape);
    const Launch size = s.launch("field_kernel", field_kernel<S>, S::kWeightBytes);
    s.scope.launch("field_kernel", field_kernel<S>, size, s.field, s.count, s.columns(), tadpole::data<float>(s.weights), s.encoding(words), s.positions(),
                   tadpole::data<float>(sigma), tadpole::data<float>(albedo));
  });
  return {sigma, albedo, save ? words : nothing};
}

std::tuple<Tensor, Tensor> field_query_backward(const Tensor& sigma_gradient, const Tensor& albedo_gradient,
                                                const Tensor& saved, const Tensor& positions, const Tensor& embeddings,
                                                const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                                bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                                double bound, double peak, double slope, int64_t activation, bool mixed,
                                                int64_t outputs) {
  const Setup s(positions, embeddings, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active,
                widths, bound, peak, slope, activation, mixed, outputs);
  const Tensor g = tadpole::checked(sigma_gradient, "fusedfield: gradient of sigma", {s.count});
  const Tensor a = tadpole::checked(albedo_gradient, "fusedfield: gradient of albedo", {s.count, outputs - 1});
  const Tensor words = tadpole::checked(saved, "fusedfield: saved", {s.words()});
  Tensor table = torch::stable::new_zeros(s.x, {s.table.size(0), 2});
  if (s.count == 0) return {table, torch::stable::new_zeros(s.x, {s.weights.size(0)})};
  Tensor flat = torch::stable::new_empty(s.x, {s.weights.size(0)});
  const int64_t parameter_count = s.weights.size(0);
  Tensor gradient = torch::stable::new_empty(s.x, {s.grid.active, s.count, 2});
  with_shape(widths, mixed, [&](auto shape) {
    using S = decltype(shape);
    constexpr size_t kShared = S::kWeightBytes + Kept<S>::kBytes;
    static_assert(kShared <= 99 << 10, "compute capability 8.6 has no more for a block");
    const Launch size = s.launch("field_backward_kernel", field_backward_kernel<S>, kShared);
    Tensor sums = torch::stable::new_empty(s.x, {size.blocks.x, parameter_count});
    s.scope.launch("field_backward_kernel", field_backward_kernel<S>, size, s.field, s.count, s.columns(),
                   parameter_count, tadpole::data<float>(s.weights), s.encoding(words), s.positions(),
                   Cotangents{tadpole::data<float>(g), tadpole::data<float>(a)},
                   reinterpret_cast<float2*>(tadpole::data<float>(gradient)), tadpole::data<float>(sums));
    s.scope.launch("add_rows_kernel", add_rows_kernel, {tadpole::blocks(parameter_count, kThreads), kThreads},
                   size.blocks.x, parameter_count, tadpole::data<float>(std::as_const(sums)),
                   tadpole::data<float>(flat));
  });
  const Tensor unit = s.unit();
  const dim3 blocks(tadpole::blocks(s.count, gridencoder::kThreads), s.grid.active);
  s.scope.launch("grid_embedding_gradient_kernel", gridencoder::grid_embedding_gradient_kernel<3, 2, false>,
                 {blocks, gridencoder::kThreads}, s.grid, s.count,
                 tadpole::data<Row<2, float>>(std::as_const(gradient)), 1, s.count, tadpole::data<float>(unit), nullptr,
                 tadpole::data<Row<2, float>>(table));
  return {table, flat};
}

}  // namespace
}  // namespace fusedfield

STABLE_TORCH_LIBRARY_IMPL(fusedfield, CUDA, m) {
  m.impl("field_query", TORCH_BOX(&fusedfield::field_query));
  m.impl("field_query_backward", TORCH_BOX(&fusedfield::field_query_backward));
}
