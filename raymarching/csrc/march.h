// Marching a ray through nested occupancy grids (Instant-NGP, arXiv:2201.05989, appendix C and E), for CPU and CUDA.
//
// Grid     C nested cubes around the origin. Cube l has half-width bound * 2^(l - (C-1)), so the outermost one is the
//          scene, and H^3 cells, one bit each in Morton order: bit (n & 7) of byte n >> 3, n = l * H^3 + morton(cell).
//          A 4x4x4 brick is therefore one aligned 64-bit word, which answers "all empty" at once.
// Lattice  Sample k = 0, 1, ... of a ray lies at a distance that depends on k alone, never on what was skipped before:
//          marching whole or in pieces, skipping or by brute force, finds the same samples. Steps have length
//          clamp(dt_gamma * t, dt_min, dt_max).
// Sample   Lattice point k is a sample where t < far and its cell is set. Its level is the smallest cube that holds the
//          point and whose cells are longer than the step.
//
// Products and sums that decide about a cell are rounded one by one (no FMA): reference.py finds the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/csrc/common.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace raymarching {

constexpr float kMaxIndex = 16777216.0f;  // lattice indices stay exact in float32
constexpr float kTinyDirection = 1e-15f;  // a direction component is never smaller: keeps 1 / d finite

HOST_DEVICE float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  return a * b + c;
#endif
}

// NaN becomes `low`: an index made of it stays in range.
HOST_DEVICE float clamp(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }

HOST_DEVICE float safe_direction(float d) { return std::fabs(d) < kTinyDirection ? kTinyDirection : d; }

// ---- Morton order: bit i of x, y, z becomes bit 3i, 3i + 1, 3i + 2; coordinates below 1024 ----

HOST_DEVICE uint32_t spread_bits(uint32_t x) {
  x = (x * 0x00010001u) & 0xFF0000FFu;
  x = (x * 0x00000101u) & 0x0F00F00Fu;
  x = (x * 0x00000011u) & 0xC30C30C3u;
  return (x * 0x00000005u) & 0x49249249u;
}

HOST_DEVICE uint32_t gather_bits(uint32_t x) {
  x &= 0x49249249u;
  x = (x | (x >> 2)) & 0xC30C30C3u;
  x = (x | (x >> 4)) & 0x0F00F00Fu;
  x = (x | (x >> 8)) & 0xFF0000FFu;
  return (x | (x >> 16)) & 0x000003FFu;
}

HOST_DEVICE uint32_t morton(uint32_t x, uint32_t y, uint32_t z) {
  return spread_bits(x) | (spread_bits(y) << 1) | (spread_bits(z) << 2);
}

// ---- The lattice of distances ----

// `place` is where a ray's lattice starts: a distance for uniform steps (gamma 0), a step coordinate otherwise.
struct Lattice {
  float gamma, dt_min, dt_max, inv_dt_min;
  float t_grow, t_full;  // distances where steps begin and cease to grow
  float x_grow, x_full;  // the same in step coordinates: x counts steps from the ray's origin

  Lattice(double dt_gamma, double bound, int64_t resolution, int64_t max_steps) {
    const double diagonal = 2.0 * std::sqrt(3.0), low = diagonal / static_cast<double>(max_steps);
    const double cell = diagonal * bound / static_cast<double>(resolution), high = cell > low ? cell : low;
    gamma = static_cast<float>(dt_gamma), dt_min = static_cast<float>(low), dt_max = static_cast<float>(high);
    inv_dt_min = static_cast<float>(1.0 / low);
    t_grow = t_full = x_grow = x_full = 0.0f;
    if (dt_gamma > 0.0) {
      t_grow = static_cast<float>(low / dt_gamma), t_full = static_cast<float>(high / dt_gamma);
      x_grow = static_cast<float>(1.0 / dt_gamma);
      x_full = static_cast<float>((1.0 + std::log(high / low)) / dt_gamma);
    }
  }

  HOST_DEVICE float step_length(float t) const { return clamp(gamma * t, dt_min, dt_max); }

  // How many steps, as a real number, lie between the ray's origin and t: the integral of 1 / step_length.
  HOST_DEVICE float to_steps(float t) const {
    if (t < t_grow) return t * inv_dt_min;
    if (t < t_full) return x_grow + logf(t / t_grow) / gamma;
    return x_full + (t - t_full) / dt_max;
  }

  HOST_DEVICE float from_steps(float x) const {
    if (x < x_grow) return x * dt_min;
    if (x < x_full) return t_grow * expf((x - x_grow) * gamma);
    return multiply_add(x - x_full, dt_max, t_full);
  }

  // `jitter` in [0, 1) is where in its step each sample lies; 0.5 is the middle.
  HOST_DEVICE float start(float near, float jitter) const {
    return gamma > 0.0f ? to_steps(near) + jitter : multiply_add(jitter, dt_min, near);
  }

  HOST_DEVICE float distance(float place, int32_t k) const {
    const float steps = static_cast<float>(k);
    return gamma > 0.0f ? from_steps(place + steps) : multiply_add(steps, dt_min, place);
  }

  // The first lattice point not more than 1/16 step before t (the slack is far above rounding errors).
  HOST_DEVICE int32_t first_index(float place, float t) const {
    const float x = gamma > 0.0f ? to_steps(t) - place : (t - place) * inv_dt_min;
    return x <= 0.0625f ? 0 : static_cast<int32_t>(clamp(x + 0.9375f, 0.0f, kMaxIndex));
  }
};

// ---- The grid ----

struct Grid {
  const uint8_t* bits;
  int64_t level_bytes;
  int32_t cascades, resolution, brick;
  float inv_bound, half;    // half = H / 2
  float scale, cell_width;  // cells per scene unit in the outermost cube, and scene units per cell
  float switch_distance;    // where steps outgrow the cells of level 0; 0: steps do not grow

  Grid(const uint8_t* bits, double bound, int64_t C, int64_t H, double dt_gamma)
      : bits(bits), level_bytes(H * H * H / 8), cascades(static_cast<int32_t>(C)), resolution(static_cast<int32_t>(H)) {
    brick = C == 1 || H >= 16 ? 4 : 1;  // a brick must not straddle the border of the next smaller cube
    inv_bound = static_cast<float>(1.0 / bound), half = static_cast<float>(H) * 0.5f;
    scale = static_cast<float>(static_cast<double>(H) * 0.5 / bound);
    cell_width = static_cast<float>(2.0 * bound / static_cast<double>(H));
    switch_distance =
        dt_gamma > 0.0 ? static_cast<float>(std::ldexp(2.0 * bound / H, 1 - static_cast<int>(C)) / dt_gamma) : 0.0f;
  }

  // Both arguments ask for a cube of relative size 2^exponent: one by position, one by the length of the step.
  HOST_DEVICE int32_t level(float x, float y, float z, float dt) const {
    const float farthest = std::fmax(std::fabs(x), std::fmax(std::fabs(y), std::fabs(z))) * inv_bound;
    const float need = std::fmax(farthest, dt * scale);
    uint32_t word;
    memcpy(&word, &need, sizeof(word));
    const int32_t level = cascades - 1 + static_cast<int32_t>(word >> 23) - 126;  // need = [0.5, 1) * 2^exponent
    return level < 0 ? 0 : (level >= cascades ? cascades - 1 : level);
  }

  HOST_DEVICE int32_t cell(float position, float level_scale) const {
    const int32_t c = static_cast<int32_t>(clamp(multiply_add(position, level_scale, half), 0.0f, half * 2.0f));
    return c < resolution ? c : resolution - 1;
  }

  // The 64 cells of the 4x4x4 brick that holds a cell of a level.
  HOST_DEVICE uint64_t brick_word(int32_t level, const int32_t c[3]) const {
    const uint8_t* address =
        bits + level * level_bytes + static_cast<int64_t>(morton(c[0] >> 2, c[1] >> 2, c[2] >> 2)) * 8;
    uint64_t word;
    memcpy(&word, address, sizeof(word));  // the host compiler makes one load of it
    return word;
  }
};

// ---- The ray ----

struct Ray {
  float origin[3], direction[3], inverse[3];
  float place, far;

  HOST_DEVICE Ray(const float* o, const float* d, float near, float far_, float jitter, const Lattice& lattice)
      : far(far_) {
    for (int i = 0; i < 3; ++i) {
      origin[i] = o[i], direction[i] = d[i];
      inverse[i] = 1.0f / safe_direction(d[i]);
    }
    place = lattice.start(near, jitter);
  }

  HOST_DEVICE float at(int i, float t) const { return multiply_add(t, direction[i], origin[i]); }
};

// The first lattice point from k on that is a sample, or -1. Empty cells and bricks are left in one go.
HOST_DEVICE int32_t next_sample(const Ray& ray, const Grid& grid, const Lattice& lattice, int32_t k) {
  while (k < static_cast<int32_t>(kMaxIndex)) {
    const float t = lattice.distance(ray.place, k);
    if (!(t < ray.far)) return -1;
    const float p[3] = {ray.at(0, t), ray.at(1, t), ray.at(2, t)};
    const int32_t level = grid.cascades == 1 ? 0 : grid.level(p[0], p[1], p[2], lattice.step_length(t));
    const float refinement = static_cast<float>(1u << (grid.cascades - 1 - level));
    const float level_scale = grid.scale * refinement;
    const int32_t c[3] = {grid.cell(p[0], level_scale), grid.cell(p[1], level_scale), grid.cell(p[2], level_scale)};
    const uint64_t word = grid.brick_word(level, c);
    const uint32_t bit = morton(c[0] & 3, c[1] & 3, c[2] & 3);
    if ((word >> bit) & 1) return k;

    const int32_t size = word == 0 ? grid.brick : 1;
    const float cell_width = grid.cell_width / refinement;
    float leave = ray.far;
    for (int i = 0; i < 3; ++i) {
      const int32_t side = (c[i] & ~(size - 1)) + (ray.inverse[i] > 0.0f ? size : 0);
      const float exit = ((static_cast<float>(side) - grid.half) * cell_width - ray.origin[i]) * ray.inverse[i];
      leave = exit < leave ? exit : leave;
    }
    if (grid.switch_distance > 0.0f && level + 1 < grid.cascades) {
      const float grown = grid.switch_distance * static_cast<float>(1u << level);
      leave = grown < leave && grown > t ? grown : leave;
    }
    const int32_t next = lattice.first_index(ray.place, leave);
    k = next > k ? next : k + 1;
  }
  return -1;
}

// ---- Where rays meet boxes and spheres ----

// The part of a ray inside the box, at least min_near away: near < far, or near = far = min_near where there is none.
HOST_DEVICE void box_interval(const float* o, const float* d, const float* box, float min_near, float* near,
                              float* far) {
  float enter = min_near, leave = INFINITY;
  for (int i = 0; i < 3; ++i) {
    const float inverse = 1.0f / safe_direction(d[i]);
    const float a = (box[i] - o[i]) * inverse, b = (box[i + 3] - o[i]) * inverse;
    enter = std::fmax(enter, std::fmin(a, b));
    leave = std::fmin(leave, std::fmax(a, b));
  }
  const bool hit = enter < leave;
  *near = hit ? enter : min_near;
  *far = hit ? leave : min_near;
}

// Polar angle from +y and azimuth from +z towards +x, scaled to [-1, 1], of the point where the ray leaves the sphere.
HOST_DEVICE void sphere_coordinates(const float* o, const float* d, float radius, float* out) {
  const float a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
  const float b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2];
  const float c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - radius * radius;
  const float root = std::sqrt(std::fmax(b * b - a * c, 0.0f));  // a ray that misses: its closest point
  const float t = (root - b) / a;
  const float x = o[0] + t * d[0], y = o[1] + t * d[1], z = o[2] + t * d[2];
  out[0] = 0.63661977f * std::atan2(std::sqrt(x * x + z * z), y) - 1.0f;  // 2 / pi
  out[1] = 0.31830989f * std::atan2(x, z);                                // 1 / pi
}

}  // namespace raymarching
