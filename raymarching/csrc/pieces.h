// Marching and compositing a few samples of each ray at a time, so that nothing behind an opaque surface is ever
// evaluated. Slot n of rays_alive names a ray and owns samples n * n_step to (n + 1) * n_step - 1; a negative entry is
// an empty slot.
#pragma once

#include "raymarching/csrc/host.h"

namespace raymarching {

// The next n_step samples of ray `id` from distance rays_t[id] on; places left over get t = dt = 0.
HOST_DEVICE void march_piece(const RaySource& source, const Grid& grid, const Lattice& lattice, int32_t id,
                             const float* rays_t, int64_t first, int64_t n_step, const SampleSink& sink) {
  int64_t found = 0;
  if (id >= 0) {
    const Ray ray = source.ray(id, lattice);
    int32_t k = next_sample(ray, grid, lattice, lattice.first_index(ray.place, rays_t[id]));
    for (; found < n_step && k >= 0; ++found) {
      sink.write(first + found, ray, lattice, k);
      k = next_sample(ray, grid, lattice, k + 1);
    }
  }
  for (; found < n_step; ++found) sink.clear(first + found);
}

struct PieceState {
  int32_t* alive;
  float* rays_t;
  const float *sigmas, *rgbs, *ts;
  float *opacity, *depth, *image;
  int64_t n_step, channels;
};

// Blends slot n into its ray. The ray goes on half a step behind its last sample, or dies: rays_alive[n] = -1.
HOST_DEVICE void composite_piece(const PieceState& s, int64_t n, float min_transmittance) {
  const int64_t ray = s.alive[n];
  if (ray < 0) return;
  RayState state{s.opacity[ray], s.depth[ray]};
  int64_t j = n * s.n_step;
  const int64_t end = j + s.n_step;
  for (; j < end && s.ts[2 * j + 1] > 0.0f && state.transmittance() >= min_transmittance; ++j) {
    const float weight = state.add(s.sigmas[j], s.ts[2 * j], s.ts[2 * j + 1]);
    for (int64_t c = 0; c < s.channels; ++c) s.image[ray * s.channels + c] += weight * s.rgbs[j * s.channels + c];
  }
  s.opacity[ray] = state.opacity;
  s.depth[ray] = state.depth;
  if (j == end && s.n_step > 0 && state.transmittance() >= min_transmittance) {
    s.rays_t[ray] = s.ts[2 * j - 2] + 0.5f * s.ts[2 * j - 1];
  } else {
    s.alive[n] = -1;
  }
}

namespace {

// The arguments of composite_rays, checked. What is written to must be contiguous: a copy would be lost.
struct PieceTensors {
  Tensor rays_alive, rays_t, sigmas, rgbs, ts, opacity, depth, image;
  int64_t slots, rays, n_step;

  PieceTensors(const Tensor& alive, const Tensor& t, const Tensor& sigmas_, const Tensor& rgbs_, const Tensor& ts_,
               const Tensor& opacity_, const Tensor& depth_, const Tensor& image_, int64_t n_step)
      : rays_alive(writable(alive, "rays_alive", {-1}, ScalarType::Int)),
        rays_t(writable(t, "rays_t", {-1})),
        sigmas(checked(sigmas_, "sigmas", {alive.size(0) * n_step})),
        rgbs(checked(rgbs_, "rgbs", {alive.size(0) * n_step, -1})),
        ts(checked(ts_, "ts", {alive.size(0) * n_step, 2})),
        opacity(writable(opacity_, "opacity", {t.size(0)})),
        depth(writable(depth_, "depth", {t.size(0)})),
        image(writable(image_, "image", {t.size(0), rgbs.size(1)})),
        slots(alive.size(0)),
        rays(t.size(0)),
        n_step(n_step) {}

  PieceState state() {
    return {data<int32_t>(rays_alive), data<float>(rays_t), const_data(sigmas), const_data(rgbs), const_data(ts),
            data<float>(opacity),      data<float>(depth),  data<float>(image), n_step,           rgbs.size(1)};
  }

 private:
  static const float* const_data(const Tensor& tensor) { return data<float>(tensor); }
  static Tensor writable(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape,
                         ScalarType dtype = ScalarType::Float) {
    STD_TORCH_CHECK(tensor.is_contiguous(), name, " is written to and must be contiguous");
    return checked(tensor, name, shape, dtype);
  }
};

}  // namespace

}  // namespace raymarching
