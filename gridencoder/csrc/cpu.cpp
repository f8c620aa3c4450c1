// CPU kernels of the grid encoding; grid.h is their contract.
//
// DESIGN: a chunk of points is transposed, then its levels are split between threads, so that a thread works in the rows of
// one level, and two threads never write the same row: no atomics, and sums have one order whatever the number of threads.
// Three dimensions with two channels take vector kernels (simd.h) where the processor has them; kernels here serve the rest.
#include <torch/csrc/stable/library.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>

#include "gridencoder/csrc/host.h"
#include "gridencoder/csrc/points.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GRID_VECTORS 1
#include <immintrin.h>
#endif

namespace gridencoder {

constexpr int64_t kChunk = 1 << 16;  // points transposed at a time: 8 MB for 32 features

namespace scalar {

using F = float;
using U = uint32_t;

HOST_DEVICE U to_node(F x) { return static_cast<U>(x); }
HOST_DEVICE F to_float(U x) { return static_cast<F>(x); }
HOST_DEVICE F rounded_product(float a, F b) {
  F product = a * b;
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#endif
  return product;
}

#include "gridencoder/csrc/cell.h"

template <int C>
HOST_DEVICE void read(const Problem& p, const Level& level, uint32_t row, float* channels) {
  const int64_t start = (static_cast<int64_t>(level.offset) + row) * C;
  if (p.type == ScalarType::Float) {
    for (int c = 0; c < C; ++c) channels[c] = static_cast<const float*>(p.embeddings)[start + c];
  } else if (p.type == ScalarType::Half) {
    for (int c = 0; c < C; ++c) channels[c] = static_cast<const Half*>(p.embeddings)[start + c];
  } else {
    for (int c = 0; c < C; ++c) channels[c] = static_cast<const BFloat16*>(p.embeddings)[start + c];
  }
}

template <int D, int C>
struct Point {
  Cell<D> cell;
  float direction[D];

  Point(const Problem& p, const Points<D, C>& points, const Level& level, int64_t i) {
    float x[D];
    for (int d = 0; d < D; ++d) {
      x[d] = points.position[d * points.row + i];
      if (p.direction) direction[d] = points.direction[d * points.row + i];
    }
    cell = locate<D>(p.grid, level, x);
  }

  void weights(const Problem& p, int axis, float* weight) const {
    if (p.direction) {
      corner_weights<D, true>(cell, direction, axis, weight);
    } else {
      corner_weights<D, false>(cell, direction, axis, weight);
    }
  }
};

template <int D, int C>
void encode(const Problem& p, Points<D, C>& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  for (int64_t i = begin; i < end; ++i) {
    const Point<D, C> point(p, points, level, i);
    float weight[1 << D], sum[C] = {};
    point.weights(p, -1, weight);
    for (int k = 0; k < 1 << D; ++k) {
      float row[C];
      read<C>(p, level, corner_row<D>(level, point.cell, k), row);
      for (int c = 0; c < C; ++c) sum[c] += weight[k] * row[c];
    }
    std::memcpy(points.result.data() + (l * points.row + i) * C, sum, sizeof(sum));
  }
}

template <int D, int C>
void input_gradient(const Problem& p, Points<D, C>& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  for (int64_t i = begin; i < end; ++i) {
    const Point<D, C> point(p, points, level, i);
    const float* gradient = points.gradient.data() + (l * points.row + i) * C;
    float weight[1 << D], dot[1 << D] = {};
    for (int k = 0; k < 1 << D; ++k) {
      float row[C];
      read<C>(p, level, corner_row<D>(level, point.cell, k), row);
      for (int c = 0; c < C; ++c) dot[k] += gradient[c] * row[c];
    }
    for (int d = 0; d < D; ++d) {
      float slope = 0.f;
      point.weights(p, d, weight);
      for (int k = 0; k < 1 << D; ++k) slope += weight[k] * dot[k];
      points.result[(l * D + d) * points.row + i] = slope;
    }
  }
}

template <int D, int C>
void embedding_gradient(const Problem& p, Points<D, C>& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  float* table = p.output + static_cast<int64_t>(level.offset) * C;
  for (int64_t i = begin; i < end; ++i) {
    const Point<D, C> point(p, points, level, i);
    const float* gradient = points.gradient.data() + (l * points.row + i) * C;
    float weight[1 << D];
    point.weights(p, -1, weight);
    for (int k = 0; k < 1 << D; ++k) {
      float* row = table + static_cast<int64_t>(corner_row<D>(level, point.cell, k)) * C;
      for (int c = 0; c < C; ++c) row[c] += weight[k] * gradient[c];
    }
  }
}

}  // namespace scalar

#ifdef GRID_VECTORS

#define GRID_LANES 8
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
#include "gridencoder/csrc/simd.h"
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GRID_LANES

#define GRID_LANES 16
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512dq,avx512vl,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512dq,avx512vl,avx512bw")
#endif
namespace avx512 {
#include "gridencoder/csrc/simd.h"
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GRID_LANES

#endif  // GRID_VECTORS

enum Path { kBaseline, kAvx2, kAvx512 };

// The widest vectors this processor has, or those TADPOLE_CPU_PATH asks for (baseline, avx2, avx512).
Path cpu_path() {
  Path best = kBaseline;
#ifdef GRID_VECTORS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = kAvx2;
  if (best == kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    best = kAvx512;
  }
#endif
  const char* asked = std::getenv("TADPOLE_CPU_PATH");
  if (asked == nullptr || *asked == '\0') return best;
  const std::string name = asked;
  const Path path = name == "avx512" ? kAvx512 : name == "avx2" ? kAvx2 : kBaseline;
  STD_TORCH_CHECK(path != kBaseline || name == "baseline", "TADPOLE_CPU_PATH must be baseline, avx2 or avx512, got ", name);
  STD_TORCH_CHECK(path <= best, "TADPOLE_CPU_PATH asks for ", name, ", which this processor does not have");
  return path;
}

template <int D, int C>
Kernels<D, C> choose(const Problem& p) {
#ifdef GRID_VECTORS
  if constexpr (D == 3 && C == 2) {
    const Level* levels = p.grid.level;
    const bool divides = std::any_of(levels, levels + p.grid.active, [](const Level& level) { return level.modulo; });
    const Path path = cpu_path();
    if (path == kAvx512 && !divides) return avx512::kernels(p.direction != nullptr);
    if (path == kAvx2 && !divides) return avx2::kernels(p.direction != nullptr);
  }
#endif
  return {scalar::encode<D, C>, scalar::input_gradient<D, C>, scalar::embedding_gradient<D, C>};
}

// Runs work(task) for 0 .. tasks - 1, the last first, each on whichever thread is free.
template <class Work>
void share(int64_t tasks, const Work& work) {
  std::atomic<int64_t> next{tasks};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t task = --next; task >= 0; task = --next) work(task);
    }
  });
}

// Chunk by chunk: load the points, run `kernel` on every level, then store(first, begin, end) what the levels left.
// A level is one task, or `parts` of them where the kernel writes only what belongs to its points.
template <int D, int C, class Store>
void run(const Problem& p, typename Kernels<D, C>::Kernel kernel, int width, bool divisible, const Store& store) {
  constexpr int64_t lanes = Points<D, C>::kLanes;
  Points<D, C> points(p, std::min(p.count, kChunk), width);
  for (int64_t first = 0; first < p.count; first += kChunk) {
    const int64_t count = std::min(kChunk, p.count - first), vectors = tadpole::ceil_div(count, lanes);
    torch::stable::parallel_for(0, vectors, 64, [&](int64_t begin, int64_t end) {
      points.load(p, first, begin * lanes, std::min(end * lanes, count));
    });
    const int64_t parts = divisible ? std::min<int64_t>(vectors, torch::stable::get_num_threads()) : 1;
    share(p.grid.active * parts, [&](int64_t task) {
      const int64_t part = task % parts;
      const int64_t begin = vectors * part / parts * lanes, end = std::min(vectors * (part + 1) / parts * lanes, count);
      kernel(p, points, static_cast<int>(task / parts), begin, end);
    });
    torch::stable::parallel_for(0, count, 1024, [&](int64_t begin, int64_t end) { store(points, first, begin, end); });
  }
}

// Large pages: the gradient of a table is touched at random, and a page fault for every 4 kB of it costs more than its zeros.
void zero(Tensor& table) {
  char* start = static_cast<char*>(table.mutable_data_ptr());
  const int64_t bytes = table.numel() * static_cast<int64_t>(sizeof(float));
#ifdef __linux__
  const uintptr_t page = 2 << 20, begin = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(start) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: it may fail
#endif
  torch::stable::parallel_for(0, bytes, 1 << 18, [&](int64_t from, int64_t to) { std::memset(start + from, 0, to - from); });
}

Tensor grid_encode(const Tensor& inputs, const Tensor& embeddings, const std::optional<Tensor>& direction, Ints offsets,
                   Ints resolutions, bool hashed, bool align_corners, bool smoothstep, int64_t active) {
  const Tensor x = checked_points(inputs), table = checked_table(embeddings, offsets);
  const auto along = checked_direction(direction, x);
  const Grid grid = make_grid(x.size(1), offsets, resolutions, hashed, align_corners, smoothstep, active);
  Tensor output = torch::stable::new_empty(x, {x.size(0), grid.levels * table.size(1)});
  const Problem p{grid, x, along, &table, nullptr, output};
  with_sizes(x.size(1), table.size(1), [&](auto d, auto c) {
    const auto store = [&](const auto& points, int64_t first, int64_t begin, int64_t end) {
      points.store_features(p, first, begin, end);
    };
    run<d.value, c.value>(p, choose<d.value, c.value>(p).encode, c.value, true, store);
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
  Tensor output = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  const Problem p{grid, x, along, &table, &g, output};
  with_sizes(x.size(1), table.size(1), [&](auto d, auto c) {
    const auto store = [&](const auto& points, int64_t first, int64_t begin, int64_t end) {
      points.store_slopes(p, first, begin, end);
    };
    run<d.value, c.value>(p, choose<d.value, c.value>(p).input_gradient, d.value, true, store);
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
  Tensor output = torch::stable::new_empty(x, {offsets.back(), channels});
  zero(output);
  const Problem p{grid, x, along, nullptr, &g, output};
  with_sizes(x.size(1), channels, [&](auto d, auto c) {
    const auto nothing = [](const auto&, int64_t, int64_t, int64_t) {};
    run<d.value, c.value>(p, choose<d.value, c.value>(p).embedding_gradient, 0, false, nothing);
  });
  return output;
}

void grid_total_variation_gradient_(Tensor gradient, const Tensor& inputs, const Tensor& embeddings, double weight,
                                    Ints offsets, Ints resolutions, bool hashed) {
  const Tensor x = checked_points(inputs), table = checked_table(embeddings, offsets);
  check_accumulator(gradient, table);
  const int64_t N = x.size(0), D = x.size(1), C = table.size(1);
  const Grid grid = make_grid(D, offsets, resolutions, hashed, false, false, resolutions.size());
  float* sums = tadpole::data<float>(gradient);
  with_sizes(D, C, [&](auto d, auto c) {
    with_type(table.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      share(grid.levels, [&](int64_t l) {
        const Level& level = grid.level[l];
        const int64_t start = static_cast<int64_t>(level.offset) * C;
        const auto add = [&](int64_t entry, float value) { sums[start + entry] += value; };
        for (int64_t n = 0; n < N; ++n) {
          total_variation<d.value, c.value>(level, tadpole::data<float>(x) + n * D, tadpole::data<T>(table) + start,
                                            static_cast<float>(weight), add);
        }
      });
    });
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

}  // namespace gridencoder

STABLE_TORCH_LIBRARY_IMPL(gridencoder, CPU, m) {
  m.impl("grid_encode", TORCH_BOX(&gridencoder::grid_encode));
  m.impl("grid_embedding_gradient", TORCH_BOX(&gridencoder::grid_embedding_gradient));
  m.impl("grid_input_gradient", TORCH_BOX(&gridencoder::grid_input_gradient));
  m.impl("grid_total_variation_gradient_", TORCH_BOX(&gridencoder::grid_total_variation_gradient_));
  m.impl("grid_weight_decay_gradient_", TORCH_BOX(&gridencoder::grid_weight_decay_gradient_));
}
