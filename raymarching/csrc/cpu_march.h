// Marching on the CPU.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include "raymarching/csrc/cpu_tasks.h"

namespace raymarching {
namespace {

// A box around all occupied cells, scene units: smallest, then largest corner. It is wider than they are by a cell, which
// is more than any rounding; without end where they touch the border, whose cells points beyond it belong to.
inline void occupied_box(const Grid& grid, float* box) {
  const int32_t side = grid.cascades == 1 ? grid.resolution / 4 : 0;  // bricks along an edge
  int32_t low[3] = {side, side, side}, high[3] = {0, 0, 0};
  for (int64_t n = 0; n < static_cast<int64_t>(side) * side * side; ++n) {
    uint64_t word;
    memcpy(&word, grid.bits + 8 * n, sizeof(word));
    if (word == 0) continue;
    for (int i = 0; i < 3; ++i) {
      const int32_t c = static_cast<int32_t>(gather_bits(static_cast<uint32_t>(n) >> i));
      low[i] = std::min(low[i], c);
      high[i] = std::max(high[i], c + 1);
    }
  }
  for (int i = 0; i < 3; ++i) {
    const float first = static_cast<float>(4 * low[i] - 1), last = static_cast<float>(4 * high[i] + 1);
    box[i] = low[i] == 0 ? -INFINITY : (first - grid.half) * grid.cell_width;
    box[i + 3] = high[i] == side ? INFINITY : (last - grid.half) * grid.cell_width;
  }
}

constexpr int32_t kAhead = 16;  // lattice points that are looked at together

// The cells of the lattice points k .. k + kAhead - 1 of a single cube with steps that do not grow, and their distances.
TADPOLE_CLONES void cells_ahead(const Ray& from, const Grid& cells, const Lattice& lattice, int32_t k, float* t,
                                uint32_t* cell) {
  const Ray ray = from;  // copies: what is written below could change what references lead to
  const Grid grid = cells;
  const float step = lattice.dt_min;
  float distance[kAhead];
  uint32_t index[kAhead];
  for (int32_t i = 0; i < kAhead; ++i) {
    const float at = multiply_add(static_cast<float>(k + i), step, ray.place);
    const int32_t c[3] = {grid.cell(ray.at(0, at), grid.scale), grid.cell(ray.at(1, at), grid.scale),
                          grid.cell(ray.at(2, at), grid.scale)};
    distance[i] = at;
    index[i] = morton(c[0], c[1], c[2]);
  }
  memcpy(t, distance, sizeof(distance));
  memcpy(cell, index, sizeof(index));
}

// Which of the lattice points k .. k + kAhead - 1 are samples, the first in the lowest bit.
inline uint32_t samples_ahead(const Ray& ray, const Grid& grid, const Lattice& lattice, int32_t k) {
  float t[kAhead];
  uint32_t cell[kAhead], samples = 0;
  cells_ahead(ray, grid, lattice, k, t, cell);
  for (int32_t i = 0; i < kAhead; ++i) {
    const uint32_t occupied = (grid.bits[cell[i] >> 3] >> (cell[i] & 7)) & 1;
    samples |= (occupied & static_cast<uint32_t>(t[i] < ray.far)) << i;
  }
  return samples;
}

// Appends the indices of all samples of a ray, which lie in `box`.
inline void find_samples(Ray ray, const Grid& grid, const Lattice& lattice, const float* box,
                         std::vector<int32_t>& indices) {
  float enter, leave;
  box_interval(ray.origin, ray.direction, box, 0.0f, &enter, &leave);
  ray.far = std::fmin(ray.far, leave);
  int32_t k = next_sample(ray, grid, lattice, lattice.first_index(ray.place, enter));
  if (grid.cascades > 1 || lattice.gamma > 0.0f) {
    for (; k >= 0; k = next_sample(ray, grid, lattice, k + 1)) indices.push_back(k);
    return;
  }
  while (k >= 0) {
    const uint32_t samples = samples_ahead(ray, grid, lattice, k);
    for (uint32_t left = samples; left != 0; left &= left - 1) indices.push_back(k + __builtin_ctz(left));
    k += kAhead;
    if (samples >> (kAhead - 1) == 0) k = next_sample(ray, grid, lattice, k);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> march_rays_train(const Tensor& rays_o, const Tensor& rays_d,
                                                            const Tensor& bitfield, const Tensor& nears,
                                                            const Tensor& fars, const std::optional<Tensor>& noises,
                                                            double bound, int64_t C, int64_t H, double dt_gamma,
                                                            int64_t max_steps, std::optional<int64_t> rows) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const RaySource source(in);
  const int64_t rays = in.rays();
  Tensor packed_info = new_empty(in.origins, {rays, 2}, ScalarType::Int);
  int32_t* info = data<int32_t>(packed_info);

  float box[6];
  occupied_box(in.grid, box);
  // The grid is walked once: each block of rays keeps the lattice indices it found until everyone knows where they go.
  std::vector<std::vector<int32_t>> found((rays + kRaysPerTask - 1) / kRaysPerTask);
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    std::vector<int32_t>& indices = found[begin / kRaysPerTask];
    for (int64_t n = begin; n < end; ++n) {
      const size_t before = indices.size();
      find_samples(source.ray(n, in.lattice), in.grid, in.lattice, box, indices);
      info[2 * n + 1] = static_cast<int32_t>(indices.size() - before);
    }
  });
  int64_t count = 0;
  for (int64_t n = 0; n < rays; ++n) {
    info[2 * n] = static_cast<int32_t>(count);
    count += info[2 * n + 1];
    STD_TORCH_CHECK(count <= INT32_MAX, "march_rays_train: more than 2^31 samples: march fewer rays at a time");
  }

  Samples samples(in.origins, count, rows);
  const SampleSink sink = samples.sink();
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    const int32_t* index = found[begin / kRaysPerTask].data();
    for (int64_t n = begin; n < end; index += info[2 * n++ + 1]) {
      const Ray ray = source.ray(n, in.lattice);
      const int64_t first = info[2 * n], owned = samples_of(info, n, samples.rows);
      for (int64_t j = 0; j < owned; ++j) sink.write(first + j, ray, in.lattice, index[j]);
    }
  });
  return {samples.xyzs, samples.dirs, samples.ts, packed_info};
}

std::tuple<Tensor, Tensor, Tensor> march_rays(const Tensor& rays_alive, const Tensor& rays_t, const Tensor& rays_o,
                                              const Tensor& rays_d, const Tensor& bitfield, const Tensor& nears,
                                              const Tensor& fars, const std::optional<Tensor>& noises, double bound,
                                              int64_t C, int64_t H, double dt_gamma, int64_t max_steps,
                                              int64_t n_step) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const RaySource source(in);
  const Tensor alive = checked(rays_alive, "rays_alive", {-1}, ScalarType::Int),
               from = checked(rays_t, "rays_t", {in.rays()});
  const int32_t* id = data<int32_t>(alive);
  const float* t = data<float>(from);
  const int64_t M = alive.size(0) * n_step;
  for (int64_t n = 0; n < alive.size(0); ++n) STD_TORCH_CHECK(id[n] < in.rays(), "rays_alive: no ray ", id[n]);
  Samples samples(in.origins, M, std::nullopt);
  const SampleSink sink = samples.sink();
  for_ray_blocks(alive.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) march_piece(source, in.grid, in.lattice, id[n], t, n * n_step, n_step, sink);
  });
  return {samples.xyzs, samples.dirs, samples.ts};
}

}  // namespace
}  // namespace raymarching
