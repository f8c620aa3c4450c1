// CPU kernels of the grid encoding; grid.h is their contract.
//
// DESIGN: a chunk of points is transposed, then its levels are split between threads, so that a thread works in the
// rows of one level, and two threads never write the same row: no atomics, and sums have one order whatever the number
// of threads. Three dimensions with two channels take vector kernels (simd.h) where the processor has them; scalar.h
// serves the rest.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "gridencoder/csrc/kernels.h"

namespace gridencoder {
namespace {

constexpr int64_t kChunk = 1 << 16;  // points transposed at a time: 8 MB for 32 features

Kernels choose(const Problem& p, Path path) {
  return with_sizes(p.dimensions, p.channels, [&](auto d, auto c) { return kernels_for<d.value, c.value>(p, path); });
}

// Vector kernels read any table; the others a float32 copy of a 16-bit one.
Tensor readable_table(const Tensor& table, Path path) {
  return path == tadpole::kBaseline ? torch::stable::to(table, ScalarType::Float) : table;
}

using Store = void (Points::*)(const Problem&, int64_t first, int64_t begin, int64_t end) const;

// Chunk by chunk: load the points, run `kernel` on every level, then store what the levels left, `width` floats a
// point. A level is one task; where the kernel writes only what belongs to its points (`store` is given), several.
void run(const Problem& p, Kernel kernel, int64_t width, Store store) {
  constexpr int64_t lanes = Points::kLanes;
  Points points(p, std::min(p.count, kChunk), width);
  for (int64_t first = 0; first < p.count; first += kChunk) {
    const int64_t count = std::min(kChunk, p.count - first), vectors = tadpole::ceil_div(count, lanes);
    torch::stable::parallel_for(0, vectors, 64, [&](int64_t begin, int64_t end) {
      points.load(p, first, begin * lanes, std::min(end * lanes, count));
    });
    const int64_t parts = store ? std::min<int64_t>(vectors, torch::stable::get_num_threads()) : 1;
    tadpole::share(p.grid.active * parts, [&](int64_t task, int64_t) {
      const int64_t part = task % parts;
      const int64_t begin = vectors * part / parts * lanes, end = std::min(vectors * (part + 1) / parts * lanes, count);
      kernel(p, points, static_cast<int>(task / parts), begin, end);
    });
    if (!store) continue;
    torch::stable::parallel_for(0, count, 1024,
                                [&](int64_t begin, int64_t end) { (points.*store)(p, first, begin, end); });
  }
}

Tensor grid_encode(const Tensor& inputs, const Tensor& embeddings, const std::optional<Tensor>& direction, Ints offsets,
                   Ints resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const Tensor rows = checked_table(embeddings, offsets);
  const Path path = choose_path(given.grid, given.dimensions, rows.size(1));
  const Tensor table = readable_table(rows, path);
  Tensor output = torch::stable::new_empty(given.x, {given.count, given.grid.levels * table.size(1)});
  tadpole::large_pages(output);
  const Problem p(given, table.size(1), &table, nullptr, output);
  run(p, choose(p, path).encode, p.channels, &Points::store_features);
  return output;
}

Tensor grid_input_gradient(const Tensor& gradient, const Tensor& inputs, const Tensor& embeddings,
                           const std::optional<Tensor>& direction, Ints offsets, Ints resolutions, bool hashed,
                           bool align_corners, bool smoothstep, int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const Tensor rows = checked_table(embeddings, offsets);
  const Path path = choose_path(given.grid, given.dimensions, rows.size(1));
  const Tensor table = readable_table(rows, path);
  const Tensor g = given.cotangent(gradient, table.size(1));
  Tensor output = torch::stable::new_empty(given.x, {given.count, given.dimensions});
  const Problem p(given, table.size(1), &table, &g, output);
  run(p, choose(p, path).input_gradient, p.dimensions, &Points::store_slopes);
  return output;
}

Tensor grid_embedding_gradient(const Tensor& gradient, const Tensor& inputs, const std::optional<Tensor>& direction,
                               Ints offsets, Ints resolutions, bool hashed, bool align_corners, bool smoothstep,
                               int64_t active) {
  const Given given(inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active);
  const int64_t channels = gradient.dim() == 2 ? gradient.size(1) / given.grid.levels : 0;
  const Tensor g = given.cotangent(gradient, channels);
  Tensor output = torch::stable::new_empty(given.x, {offsets.back(), channels});
  tadpole::zero(output);
  const Problem p(given, channels, nullptr, &g, output);
  run(p, choose(p, choose_path(given.grid, p.dimensions, channels)).embedding_gradient, 0, nullptr);
  return output;
}

void grid_total_variation_gradient_(Tensor gradient, const Tensor& inputs, const Tensor& embeddings, double weight,
                                    Ints offsets, Ints resolutions, bool hashed) {
  const Given given(inputs, std::nullopt, offsets, resolutions, hashed, false, false, resolutions.size());
  const Tensor table = readable_table(checked_table(embeddings, offsets), tadpole::kBaseline);
  check_accumulator(gradient, table);
  const Path path = choose_path(given.grid, given.dimensions, table.size(1));
  const Variation kernel = with_sizes(given.dimensions, table.size(1),
                                      [&](auto d, auto c) { return variation_for<d.value, c.value>(path); });
  tadpole::share(given.grid.levels, [&](int64_t l, int64_t) {
    const int64_t start = given.grid.level[l].offset * table.size(1);
    kernel(given.grid.level[l], given.points(), given.count, tadpole::data<float>(table) + start,
           static_cast<float>(weight), tadpole::data<float>(gradient) + start);
  });
}

void grid_weight_decay_gradient_(Tensor gradient, const Tensor& embeddings, double weight, Ints offsets) {
  const Tensor table = checked_table(embeddings, offsets);
  check_accumulator(gradient, table);
  float* sums = tadpole::data<float>(gradient);
  with_type(table.scalar_type(), [&](auto type) {
    const auto* values = tadpole::data<typename decltype(type)::type>(table);
    for (size_t l = 0; l + 1 < offsets.size(); ++l) {
      const float factor = static_cast<float>(2.0 * weight / std::max<int64_t>(1, offsets[l + 1] - offsets[l]));
      const int64_t C = table.size(1);
      torch::stable::parallel_for(offsets[l] * C, offsets[l + 1] * C, 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) sums[i] += factor * static_cast<float>(values[i]);
      });
    }
  });
}

}  // namespace
}  // namespace gridencoder

STABLE_TORCH_LIBRARY_IMPL(gridencoder, CPU, m) {
  m.impl("grid_encode", TORCH_BOX(&gridencoder::grid_encode));
  m.impl("grid_embedding_gradient", TORCH_BOX(&gridencoder::grid_embedding_gradient));
  m.impl("grid_input_gradient", TORCH_BOX(&gridencoder::grid_input_gradient));
  m.impl("grid_total_variation_gradient_", TORCH_BOX(&gridencoder::grid_total_variation_gradient_));
  m.impl("grid_weight_decay_gradient_", TORCH_BOX(&gridencoder::grid_weight_decay_gradient_));
}
