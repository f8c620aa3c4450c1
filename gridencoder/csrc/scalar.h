// The CPU kernels for any number of dimensions and channels, one point at a time, on a float32 table.
#pragma once

#include "gridencoder/csrc/points.h"

namespace gridencoder {
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

// A point in its cell. Not inlined: the same for every number of channels, and most of the code.
template <int D>
struct Point {
  Cell<D> cell;
  float direction[D];
  bool directional;

  // `positions` and `directions` (or null) start at the point; `row` leads to the next axis.
  __attribute__((noinline)) Point(const Grid& grid, const Level& level, const float* positions, const float* directions,
                                  int64_t row)
      : directional(directions != nullptr) {
    float x[D];
    for (int d = 0; d < D; ++d) {
      x[d] = positions[d * row];
      if (directional) direction[d] = directions[d * row];
    }
    cell = locate<D>(grid, level, x);
  }

  __attribute__((noinline)) void weights(int axis, float* weight) const {
    if (directional) {
      corner_weights<D, true>(cell, direction, axis, weight);
    } else {
      corner_weights<D, false>(cell, direction, axis, weight);
    }
  }
};

template <int D>
Point<D> point_at(const Problem& p, const Columns& points, const Level& level, int64_t i) {
  const float* directions = p.direction ? points.direction + i : nullptr;
  return Point<D>(p.grid, level, points.position + i, directions, points.row);
}

template <int D, int C>
void encode(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  const float* table = static_cast<const float*>(p.embeddings) + static_cast<int64_t>(level.offset) * C;
  for (int64_t i = begin; i < end; ++i) {
    const Point<D> point = point_at<D>(p, points, level, i);
    float weight[1 << D], sum[C] = {};
    point.weights(-1, weight);
    for (int k = 0; k < 1 << D; ++k) {
      const float* row = table + static_cast<int64_t>(corner_row<D>(level, point.cell, k)) * C;
      for (int c = 0; c < C; ++c) sum[c] += weight[k] * row[c];
    }
    std::memcpy(points.result + (l * points.row + i) * C, sum, sizeof(sum));
  }
}

template <int D, int C>
void input_gradient(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  const float* table = static_cast<const float*>(p.embeddings) + static_cast<int64_t>(level.offset) * C;
  for (int64_t i = begin; i < end; ++i) {
    const Point<D> point = point_at<D>(p, points, level, i);
    const float* gradient = points.gradient + (l * points.row + i) * C;
    float weight[1 << D], dot[1 << D] = {};
    for (int k = 0; k < 1 << D; ++k) {
      const float* row = table + static_cast<int64_t>(corner_row<D>(level, point.cell, k)) * C;
      for (int c = 0; c < C; ++c) dot[k] += gradient[c] * row[c];
    }
    for (int d = 0; d < D; ++d) {
      float slope = 0.f;
      point.weights(d, weight);
      for (int k = 0; k < 1 << D; ++k) slope += weight[k] * dot[k];
      points.result[(l * D + d) * points.row + i] = slope;
    }
  }
}

template <int D, int C>
void embedding_gradient(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  float* table = p.output + static_cast<int64_t>(level.offset) * C;
  for (int64_t i = begin; i < end; ++i) {
    const Point<D> point = point_at<D>(p, points, level, i);
    const float* gradient = points.gradient + (l * points.row + i) * C;
    float weight[1 << D];
    point.weights(-1, weight);
    for (int k = 0; k < 1 << D; ++k) {
      float* row = table + static_cast<int64_t>(corner_row<D>(level, point.cell, k)) * C;
      for (int c = 0; c < C; ++c) row[c] += weight[k] * gradient[c];
    }
  }
}

template <int D, int C>
void total_variation_gradient(const Level& level, const float* inputs, int64_t count, const float* table, float weight,
                              float* gradient) {
  const auto read = [=](int64_t entry) { return table[entry]; };
  const auto add = [=](int64_t entry, float value) { gradient[entry] += value; };
  for (int64_t n = 0; n < count; ++n) total_variation<D, C>(level, inputs + n * D, weight, read, add);
}

}  // namespace scalar

}  // namespace gridencoder
