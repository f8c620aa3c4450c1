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
using tadpole::ScalarType;

// A coordinate in the unit cube.
__device__ __forceinline__ float unit(float bound, float x) { return (x + bound) / (2.f * bound); }

// Of the samples that have a gradient; what is left of the points lies outside.
__global__ void __launch_bounds__(kThreads)
    unit_kernel(Listed listed, int64_t count, float bound, const float* __restrict__ positions,
                float* __restrict__ points) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t n = Reached(listed).of(i);
  for (int d = 0; d < 3; ++d) points[3 * i + d] = n >= 0 ? unit(bound, positions[3 * n + d]) : 2.f;
}

template <int Parts>
__global__ void __launch_bounds__(gridencoder::kThreads)
    encode_kernel(const __grid_constant__ Grid grid, int64_t count, float bound, const float* __restrict__ positions,
                  const Row<2, float>* __restrict__ embeddings, Word* __restrict__ words) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * gridencoder::kThreads + threadIdx.x;
  if (n >= count) return;
  const int l = blockIdx.y;
  float x[3];
  for (int d = 0; d < 3; ++d) x[d] = unit(bound, positions[3 * n + d]);
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
    Left<S::Parts> x[S::Depth];
    encoding.load(Every{count}, first, x);
    const Sums raw = channels(weights, x, [](int, const auto&) {});
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

// What is given, and where it is computed.
struct Setup : Given {
  Setup(const Tensor& positions, const Tensor& embeddings, const Tensor& parameters, const Ints& offsets,
        const Ints& resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active, const Ints& widths,
        double bound, double peak, double slope, int64_t activation, bool mixed, int64_t outputs)
      : Given(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound, peak,
              slope, activation, outputs),
        table(tadpole::aligned(tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2}))),
        parts(mixed ? 1 : 2),
        scope(x) {
    STD_TORCH_CHECK(widths.size() <= 4 && widths[0] <= 32 && (widths[1] == 32 || widths[1] == 64) &&
                        widths[widths.size() - 2] == widths[1],
                    "fusedfield: on CUDA 2 or 3 layers, from 2 for each of 16 levels at most to 32 or 64 to 4");
  }

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

  // Of a kernel with a thread for each sample and level.
  Launch of_levels() const {
    return {dim3(tadpole::blocks(count, gridencoder::kThreads), grid.active), gridencoder::kThreads};
  }

  Tensor table;
  int64_t parts;
  CudaScope scope;
};

// The kernels were compiled for them: a device that has some may have to do with code for older ones.
bool has_tensor_cores(const Tensor& like) {
  const CudaScope scope(like);
  cudaFuncAttributes kernel{};
  const cudaError_t error = cudaFuncGetAttributes(&kernel, field_kernel<Shape<32, 1, 1, 1>>);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    return false;
  }
  tadpole::check("has_tensor_cores", error);
  return kernel.ptxVersion >= 80;
}

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
  s.scope.launch("encode_kernel", mixed ? encode_kernel<1> : encode_kernel<2>, s.of_levels(), s.grid, s.count,
                 s.field.bound, s.points(), tadpole::data<Row<2, float>>(s.table),
                 reinterpret_cast<Word*>(tadpole::data<float>(words)));
  with_shape(widths, mixed, [&](auto shape) {
    using S = decltype(shape);
    const Launch size = s.launch("field_kernel", field_kernel<S>, S::kWeightBytes);
    s.scope.launch("field_kernel", field_kernel<S>, size, s.field, s.count, s.columns(), s.parameters(),
                   s.encoding(words), s.points(),
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
  const int64_t parameter_count = s.weights.size(0);
  if (s.count == 0) return {table, torch::stable::new_zeros(s.x, {parameter_count})};
  Tensor flat = torch::stable::new_empty(s.x, {parameter_count});
  Tensor gradient = torch::stable::new_empty(s.x, {s.grid.active, s.count, 2});
  const Cotangents cotangents{tadpole::data<float>(g), tadpole::data<float>(a), s.field.outputs};
  Tensor samples = torch::stable::new_empty(s.x, {s.count}, ScalarType::Int);
  Tensor total = torch::stable::new_empty(s.x, {1}, ScalarType::Long);
  const Listed listed{tadpole::data<int32_t>(samples), tadpole::data<int64_t>(total)};
  const Launch lists{tadpole::blocks(s.count, kListThreads), kListThreads};
  Tensor in_list = torch::stable::new_empty(s.x, {lists.blocks.x}, ScalarType::Int);
  s.scope.launch("count_reached_kernel", count_reached_kernel, lists, cotangents, s.count,
                 tadpole::data<int32_t>(in_list));
  s.scope.launch("list_reached_kernel", list_reached_kernel, lists, cotangents, s.count,
                 tadpole::data<int32_t>(in_list), listed);
  with_shape(widths, mixed, [&](auto shape) {
    using S = decltype(shape);
    constexpr size_t kShared = S::kWeightBytes + Kept<S>::kBytes;
    static_assert(kShared <= 99 << 10, "compute capability 8.6 has no more for a block");
    const Launch size = s.launch("field_backward_kernel", field_backward_kernel<S>, kShared);
    Tensor sums = torch::stable::new_empty(s.x, {size.blocks.x, parameter_count});
    s.scope.launch("field_backward_kernel", field_backward_kernel<S>, size, s.field, listed, s.columns(),
                   parameter_count, s.parameters(), s.encoding(words), s.points(), cotangents,
                   reinterpret_cast<float2*>(tadpole::data<float>(gradient)), tadpole::data<float>(sums));
    s.scope.launch("add_rows_kernel", add_rows_kernel, {tadpole::blocks(parameter_count, kThreads), kThreads},
                   size.blocks.x, parameter_count, tadpole::data<float>(std::as_const(sums)),
                   tadpole::data<float>(flat));
  });
  Tensor unit = torch::stable::new_empty(s.x, {s.count, 3});
  s.scope.launch("unit_kernel", unit_kernel, {tadpole::blocks(s.count, kThreads), kThreads}, listed, s.count,
                 s.field.bound, s.points(), tadpole::data<float>(unit));
  s.scope.launch("grid_embedding_gradient_kernel", gridencoder::grid_embedding_gradient_kernel<3, 2, false>,
                 s.of_levels(), s.grid, s.count, tadpole::data<Row<2, float>>(std::as_const(gradient)), 1, s.count,
                 tadpole::data<float>(unit), nullptr, tadpole::data<Row<2, float>>(table));
  return {table, flat};
}

}  // namespace
}  // namespace fusedfield

STABLE_TORCH_LIBRARY_IMPL(fusedfield, CUDA, m) {
  m.impl("has_tensor_cores", TORCH_BOX(&fusedfield::has_tensor_cores));
  m.impl("field_query", TORCH_BOX(&fusedfield::field_query));
  m.impl("field_query_backward", TORCH_BOX(&fusedfield::field_query_backward));
}
