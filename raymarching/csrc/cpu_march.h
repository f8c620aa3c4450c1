// Marching on the CPU.
#pragma once

#include <tuple>
#include <vector>

#include "raymarching/csrc/cpu_tasks.h"

namespace raymarching {

std::tuple<Tensor, Tensor, Tensor, Tensor> march_rays_train(const Tensor& rays_o, const Tensor& rays_d,
                                                            const Tensor& bitfield, const Tensor& nears,
                                                            const Tensor& fars, const std::optional<Tensor>& noises,
                                                            double bound, int64_t C, int64_t H, double dt_gamma,
                                                            int64_t max_steps) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const RaySource source(in);
  const int64_t rays = in.rays();
  Tensor packed_info = new_empty(in.origins, {rays, 2}, ScalarType::Int);
  int32_t* info = data<int32_t>(packed_info);

  // The grid is walked once: each block of rays keeps the lattice indices it found until everyone knows where they go.
  std::vector<std::vector<int32_t>> found((rays + kRaysPerTask - 1) / kRaysPerTask);
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    std::vector<int32_t>& indices = found[begin / kRaysPerTask];
    for (int64_t n = begin; n < end; ++n) {
      const size_t before = indices.size();
      const Ray ray = source.ray(n, in.lattice);
      for (int32_t k = next_sample(ray, in.grid, in.lattice, 0); k >= 0;
           k = next_sample(ray, in.grid, in.lattice, k + 1)) {
        indices.push_back(k);
      }
      info[2 * n + 1] = static_cast<int32_t>(indices.size() - before);
    }
  });
  int64_t M = 0;
  for (int64_t n = 0; n < rays; ++n) {
    info[2 * n] = static_cast<int32_t>(M);
    M += info[2 * n + 1];
    STD_TORCH_CHECK(M <= INT32_MAX, "march_rays_train: more than 2^31 samples: march fewer rays at a time");
  }

  Tensor xyzs = new_empty(in.origins, {M, 3}), dirs = new_empty(in.origins, {M, 3}), ts = new_empty(in.origins, {M, 2});
  const SampleSink sink{data<float>(xyzs), data<float>(dirs), data<float>(ts)};
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    const int32_t* index = found[begin / kRaysPerTask].data();
    for (int64_t n = begin; n < end; ++n) {
      const Ray ray = source.ray(n, in.lattice);
      for (int64_t j = info[2 * n]; j < info[2 * n] + info[2 * n + 1]; ++j) sink.write(j, ray, in.lattice, *index++);
    }
  });
  return {xyzs, dirs, ts, packed_info};
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
  Tensor xyzs = new_empty(in.origins, {M, 3}), dirs = new_empty(in.origins, {M, 3}), ts = new_empty(in.origins, {M, 2});
  const SampleSink sink{data<float>(xyzs), data<float>(dirs), data<float>(ts)};
  for_ray_blocks(alive.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) march_piece(source, in.grid, in.lattice, id[n], t, n * n_step, n_step, sink);
  });
  return {xyzs, dirs, ts};
}

}  // namespace raymarching
