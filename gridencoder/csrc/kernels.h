// The CPU kernels of all instruction sets, and the choice between them.
#pragma once

#include <algorithm>

#include "common/csrc/cpu.h"
#include "gridencoder/csrc/points.h"
#include "gridencoder/csrc/scalar.h"

namespace gridencoder {

using tadpole::Path;

#define TADPOLE_VECTOR_CODE "gridencoder/csrc/simd.h"
#include "common/csrc/vectors.h"

// The path for these sizes. Vector kernels are there for 3 dimensions and 2 channels, and do not divide.
inline Path choose_path(const Grid& grid, int64_t D, int64_t C) {
  const Path path = tadpole::cpu_path();
  const bool divides =
      std::any_of(grid.level, grid.level + grid.active, [](const Level& level) { return level.modulo; });
  return D == 3 && C == 2 && !divides ? path : tadpole::kBaseline;
}

template <int D, int C>
Kernels kernels_for(const Problem& p, Path path) {
#ifdef TADPOLE_VECTORS
  if (path == tadpole::kAvx512) return avx512::kernels(p.direction != nullptr);
  if (path == tadpole::kAvx2) return avx2::kernels(p.direction != nullptr);
#endif
  return {scalar::encode<D, C>, scalar::input_gradient<D, C>, scalar::embedding_gradient<D, C>};
}

// Adds the gradient of `weight` x total variation of a level at `count` points.
using Variation = void (*)(const Level&, const float* inputs, int64_t count, const float* table, float weight,
                           float* gradient);

template <int D, int C>
Variation variation_for(Path path) {
#ifdef TADPOLE_VECTORS
  if (path == tadpole::kAvx512) return avx512::total_variation;
  if (path == tadpole::kAvx2) return avx2::total_variation;
#endif
  return scalar::total_variation_gradient<D, C>;
}

}  // namespace gridencoder
