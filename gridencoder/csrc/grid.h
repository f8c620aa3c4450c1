// Multiresolution grid encoding (Instant-NGP, arXiv:2201.05989, section 3): the contract between ops.cpp, cpu.cpp and
// cuda.cu.
//
// Tensors, contiguous, all on one device:
//   inputs      float32 [N, D]    positions in [0, 1]; a point outside (or NaN) encodes to 0 and gets and gives no
//   gradient embeddings  float32, float16 or bfloat16 [P, C]; read as float32, every sum is float32 direction   float32
//   [N, D] or none. Given, the kernels work on the derivative of the encoding along `direction` in place
//               of the encoding itself: one set of kernels serves forward, backward and double backward
//   output      float32 [N, L * C], level after level; levels from `active` on are 0
//   offsets     L + 1 ints: level l owns the rows offsets[l] .. offsets[l + 1] of the embeddings
//   resolutions L ints: nodes along each axis of level l, at (i + 0.5) / R, or at i / (R - 1) with align_corners
// A level with R^D <= rows is stored densely, x fastest. Otherwise its row is the spatial hash (eq. 4) modulo the rows
// (hashed), or the dense index modulo the rows (tiled). All index arithmetic is modulo 2^32.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/csrc/common.h"

namespace gridencoder {

constexpr int kMaxLevels = 32;
constexpr int kMaxDimensions = 5;
// The first three are the paper's; the others continue them for 4 and 5 dimensions.
constexpr uint32_t kPrimes[kMaxDimensions] = {1u, 2654435761u, 805459861u, 3674653429u, 2097192037u};

struct Level {
  uint32_t offset;                      // first row
  uint32_t size;                        // rows
  uint32_t multiplier[kMaxDimensions];  // of the node's coordinates in the index: R^d, or the prime
  uint32_t mask;                        // size - 1 where that does the modulo, else all ones
  bool hash;                            // combine by xor instead of by sum
  bool modulo;                          // a division is needed: neither dense nor a power of two
  int resolution;
  float scale;  // node spacing is 1 / scale
};

// Passed to kernels by value.
struct Grid {
  Level level[kMaxLevels];
  int levels;  // L
  int active;  // levels that are evaluated
  bool smoothstep;
  float shift;  // 0.5, or 0 with align_corners
};

HOST_DEVICE uint32_t wrap(const Level& level, uint32_t index) {
  return level.modulo ? index % level.size : index & level.mask;
}

HOST_DEVICE bool inside(const float* x, int D) {
  bool in = true;
  for (int d = 0; d < D; ++d) in = in && x[d] >= 0.f && x[d] <= 1.f;  // false for NaN
  return in;
}

// Adds the gradient of `weight` x total variation at the node nearest to x. The energy of a node p and a channel is
// sqrt(1e-9 + sum over axes d of (e[p + d] - e[p])^2); the last node of an axis has no neighbour and no term there.
// `read(entry)` is an element of the level's table, `add(entry, value)` adds to one of its gradient.
template <int D, int C, class Read, class Add>
HOST_DEVICE void total_variation(const Level& level, const float* x, float weight, const Read& read, const Add& add) {
  if (!inside(x, D)) return;
  uint32_t at[D], next[D];
  bool last[D];
  for (int d = 0; d < D; ++d) {
    uint32_t node = static_cast<uint32_t>(x[d] * static_cast<float>(level.resolution));
    const uint32_t top = static_cast<uint32_t>(level.resolution - 1);
    node = node < top ? node : top;
    last[d] = node == top;
    at[d] = node * level.multiplier[d];
    next[d] = at[d] + level.multiplier[d];
  }
  uint32_t centre = 0, neighbour[D];
  for (int d = 0; d < D; ++d) centre = level.hash ? centre ^ at[d] : centre + at[d];
  for (int d = 0; d < D; ++d) {
    neighbour[d] = wrap(level, level.hash ? centre ^ at[d] ^ next[d] : centre + level.multiplier[d]);
  }
  centre = wrap(level, centre);
  for (int c = 0; c < C; ++c) {
    const float here = read(static_cast<int64_t>(centre) * C + c);
    float difference[D], energy = 1e-9f, sum = 0.f;
    for (int d = 0; d < D; ++d) {
      difference[d] = last[d] ? 0.f : read(static_cast<int64_t>(neighbour[d]) * C + c) - here;
      energy += difference[d] * difference[d];
      sum += difference[d];
    }
    const float factor = weight / sqrtf(energy);
    add(static_cast<int64_t>(centre) * C + c, -factor * sum);
    for (int d = 0; d < D; ++d) {
      if (!last[d]) add(static_cast<int64_t>(neighbour[d]) * C + c, factor * difference[d]);
    }
  }
}

}  // namespace gridencoder
