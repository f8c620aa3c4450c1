// CPU kernels. Every ray is worked on by one thread and every result has its own place: no atomics on data, and the same bits
// for any number of threads.
#include <algorithm>
#include <atomic>
#include <tuple>
#include <utility>
#include <vector>

#include "raymarching/csrc/pieces.h"

namespace raymarching {

using torch::stable::parallel_for;

constexpr int64_t kRaysPerTask = 64;

// Calls task(begin, end) for blocks of rays; threads take the next block when they are free, because rays differ in length.
template <class F>
void for_ray_blocks(int64_t rays, const F& task) {
  std::atomic<int64_t> next{0};
  parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(kRaysPerTask)) < rays;) {
      task(begin, begin + kRaysPerTask < rays ? begin + kRaysPerTask : rays);
    }
  });
}

// ---- Boxes, spheres, bits ----

std::tuple<Tensor, Tensor> near_far_from_aabb(const Tensor& rays_o, const Tensor& rays_d, const Tensor& aabb, double min_near) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  const Tensor box = checked(aabb, "aabb", {6});
  Tensor nears = new_empty(o, {o.size(0)}), fars = new_empty(o, {o.size(0)});
  const float *po = data<float>(o), *pd = data<float>(d), *pb = data<float>(box);
  float *near = data<float>(nears), *far = data<float>(fars);
  parallel_for(0, o.size(0), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      box_interval(po + 3 * n, pd + 3 * n, pb, static_cast<float>(min_near), near + n, far + n);
    }
  });
  return {nears, fars};
}

Tensor sph_from_ray(const Tensor& rays_o, const Tensor& rays_d, double radius) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  Tensor coordinates = new_empty(o, {o.size(0), 2});
  const float *po = data<float>(o), *pd = data<float>(d);
  float* out = data<float>(coordinates);
  parallel_for(0, o.size(0), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      sphere_coordinates(po + 3 * n, pd + 3 * n, static_cast<float>(radius), out + 2 * n);
    }
  });
  return coordinates;
}

Tensor morton3D(const Tensor& coords) {
  const Tensor c = checked(coords, "coords", {-1, 3}, ScalarType::Int);
  Tensor indices = new_empty(c, {c.size(0)});
  const int32_t* in = data<int32_t>(c);
  int32_t* out = data<int32_t>(indices);
  parallel_for(0, c.size(0), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) out[n] = static_cast<int32_t>(morton(in[3 * n], in[3 * n + 1], in[3 * n + 2]));
  });
  return indices;
}

Tensor morton3D_invert(const Tensor& indices) {
  const Tensor m = checked(indices, "indices", {-1}, ScalarType::Int);
  Tensor coords = new_empty(m, {m.size(0), 3});
  const int32_t* in = data<int32_t>(m);
  int32_t* out = data<int32_t>(coords);
  parallel_for(0, m.size(0), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int i = 0; i < 3; ++i) out[3 * n + i] = static_cast<int32_t>(gather_bits(static_cast<uint32_t>(in[n]) >> i));
    }
  });
  return coords;
}

Tensor packbits(const Tensor& grid, double thresh) {
  const Tensor flat = checked(grid, "grid", {-1, -1});
  STD_TORCH_CHECK(flat.numel() % 8 == 0, "raymarching: the grid must have a multiple of 8 cells, got ", flat.numel());
  Tensor bits = new_empty(flat, {flat.numel() / 8}, ScalarType::Byte);
  const float* in = data<float>(flat);
  uint8_t* out = data<uint8_t>(bits);
  const float threshold = static_cast<float>(thresh);
  parallel_for(0, bits.numel(), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      uint32_t byte = 0;
      for (int i = 0; i < 8; ++i) byte |= static_cast<uint32_t>(in[8 * n + i] > threshold) << i;
      out[n] = static_cast<uint8_t>(byte);
    }
  });
  return bits;
}

// Requires every ray's samples to lie in 0..M-1; returns how many samples there are in all rays.
int64_t checked_count(const int32_t* info, int64_t rays, int64_t M) {
  int64_t total = 0;
  for (int64_t n = 0; n < rays; ++n) {
    const int64_t first = info[2 * n], count = info[2 * n + 1];
    STD_TORCH_CHECK(first >= 0 && count >= 0 && first + count <= M, "packed_info: ray ", n, " owns samples ", first, " to ",
                    first + count, " of ", M);
    total += count;
  }
  return total;
}

Tensor flatten_rays(const Tensor& packed_info, int64_t M) {
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int32_t* info = data<int32_t>(packed);
  Tensor owners = new_empty(packed, {M});
  int32_t* out = data<int32_t>(owners);
  if (checked_count(info, packed.size(0), M) != M) std::fill_n(out, M, -1);
  for_ray_blocks(packed.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) std::fill_n(out + info[2 * n], info[2 * n + 1], static_cast<int32_t>(n));
  });
  return owners;
}

// ---- Marching ----

std::tuple<Tensor, Tensor, Tensor, Tensor> march_rays_train(
    const Tensor& rays_o, const Tensor& rays_d, const Tensor& bitfield, const Tensor& nears, const Tensor& fars,
    const std::optional<Tensor>& noises, double bound, int64_t C, int64_t H, double dt_gamma, int64_t max_steps) {
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
      for (int32_t k = next_sample(ray, in.grid, in.lattice, 0); k >= 0; k = next_sample(ray, in.grid, in.lattice, k + 1)) {
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

std::tuple<Tensor, Tensor, Tensor> march_rays(
    const Tensor& rays_alive, const Tensor& rays_t, const Tensor& rays_o, const Tensor& rays_d, const Tensor& bitfield,
    const Tensor& nears, const Tensor& fars, const std::optional<Tensor>& noises, double bound, int64_t C, int64_t H,
    double dt_gamma, int64_t max_steps, int64_t n_step) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const RaySource source(in);
  const Tensor alive = checked(rays_alive, "rays_alive", {-1}, ScalarType::Int), from = checked(rays_t, "rays_t", {in.rays()});
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

// ---- Compositing ----

// exp for many numbers at a time, relative error 4e-7: 2^x = 2^round(x) * 2^(x - round(x)), the latter by its series.
HOST_DEVICE float exp_series(float y) {
  float x = y * 1.44269504f;
  x = x < -126.0f ? -126.0f : (x > 126.0f ? 126.0f : x);
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: the integer part ends up in the lowest bits
  const float f = x - (shifted - 12582912.0f);
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  uint32_t power, bits;
  memcpy(&power, &shifted, 4);
  memcpy(&bits, &p, 4);
  bits += power << 23;
  memcpy(&p, &bits, 4);
  return p;
}

TADPOLE_CLONES void fill_with_decay(const float* sigmas, const float* ts, int64_t count, float* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = exp_series(-sigmas[j] * ts[2 * j + 1]);
}

struct CompositeOutputs {
  float *weights, *opacity, *depth, *rgb, *transmittance;
};

// `transmittance` comes in as exp(-sigma dt). kChannels 0: any number, known at run time only.
template <int kChannels>
void composite_ray(int64_t n, int64_t first, int64_t count, const float* rgbs, const float* ts, int64_t any_channels,
                   float min_transmittance, const CompositeOutputs& out) {
  const int64_t channels = kChannels ? kChannels : any_channels, end = first + count;
  float T = 1.0f, opacity = 0.0f, depth = 0.0f, color[kChannels ? kChannels : 1] = {};
  float* rgb = out.rgb + n * channels;
  if (!kChannels) std::fill_n(rgb, channels, 0.0f);
  int64_t j = first;
  for (; j < end && T >= min_transmittance; ++j) {
    const float decay = out.transmittance[j], weight = T * (1.0f - decay);
    T *= decay;
    out.weights[j] = weight;
    out.transmittance[j] = T;
    opacity += weight;
    depth += weight * ts[2 * j];
    for (int64_t c = 0; c < channels; ++c) (kChannels ? color : rgb)[c] += weight * rgbs[j * channels + c];
  }
  std::fill_n(out.weights + j, end - j, 0.0f);
  std::fill_n(out.transmittance + j, end - j, 0.0f);
  out.opacity[n] = opacity;
  out.depth[n] = depth;
  if (kChannels) std::copy_n(color, kChannels, rgb);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> composite_rays_train(
    const Tensor& sigmas_, const Tensor& rgbs_, const Tensor& ts_, const Tensor& packed_info, double min_transmittance) {
  const Tensor sigmas = checked(sigmas_, "sigmas", {-1}), rgbs = checked(rgbs_, "rgbs", {sigmas.size(0), -1});
  const Tensor ts = checked(ts_, "ts", {sigmas.size(0), 2});
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int64_t M = sigmas.size(0), rays = packed.size(0), channels = rgbs.size(1);
  const int32_t* info = data<int32_t>(packed);
  const bool complete = checked_count(info, rays, M) == M;
  Tensor weights = complete ? new_empty(sigmas, {M}) : new_zeros(sigmas, {M});
  Tensor transmittance = complete ? new_empty(sigmas, {M}) : new_zeros(sigmas, {M});
  Tensor opacity = new_empty(sigmas, {rays}), depth = new_empty(sigmas, {rays}), rgb = new_empty(sigmas, {rays, channels});
  const CompositeOutputs out{data<float>(weights), data<float>(opacity), data<float>(depth), data<float>(rgb),
                             data<float>(transmittance)};
  const float *sigma = data<float>(sigmas), *color = data<float>(rgbs), *t = data<float>(ts);
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end;) {  // neighbours in memory share one long loop of exponentials
      const int64_t start = n;
      int64_t last = info[2 * n];
      for (; n < end && info[2 * n] == last; ++n) last += info[2 * n + 1];
      fill_with_decay(sigma + info[2 * start], t + 2 * info[2 * start], last - info[2 * start], out.transmittance + info[2 * start]);
    }
    const auto composite = channels == 3 ? composite_ray<3> : composite_ray<0>;
    for (int64_t n = begin; n < end; ++n) {
      composite(n, info[2 * n], info[2 * n + 1], color, t, channels, static_cast<float>(min_transmittance), out);
    }
  });
  return {weights, opacity, depth, rgb, transmittance};
}

template <int kChannels>
void composite_ray_backward(int64_t n, int64_t first, int64_t count, const OutputGradients& gradients, const float* rgbs,
                            const float* ts, const float* weights, const float* transmittance, int64_t any_channels,
                            float* grad_sigmas, float* grad_rgbs) {
  const int64_t channels = kChannels ? kChannels : any_channels;
  float behind = 0.0f;
  for (int64_t j = first + count; j-- > first;) {
    const float g = weight_gradient(gradients, n, j, ts[2 * j], rgbs, channels);
    grad_sigmas[j] = density_gradient(g, transmittance[j], behind, ts[2 * j + 1]);
    behind += g * weights[j];
    for (int64_t c = 0; c < channels; ++c) {
      grad_rgbs[j * channels + c] = gradients.rgb ? weights[j] * gradients.rgb[n * channels + c] : 0.0f;
    }
  }
}

std::tuple<Tensor, Tensor> composite_rays_train_backward(
    const std::optional<Tensor>& grad_weights, const std::optional<Tensor>& grad_opacity, const std::optional<Tensor>& grad_depth,
    const std::optional<Tensor>& grad_rgb, const Tensor& rgbs_, const Tensor& ts_, const Tensor& packed_info,
    const Tensor& weights_, const Tensor& transmittance_) {
  const Tensor rgbs = checked(rgbs_, "rgbs", {-1, -1});
  const int64_t M = rgbs.size(0), channels = rgbs.size(1);
  const Tensor ts = checked(ts_, "ts", {M, 2}), packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const Tensor weights = checked(weights_, "weights", {M}), transmittance = checked(transmittance_, "transmittance", {M});
  const int64_t rays = packed.size(0);
  const auto gw = checked_optional(grad_weights, "grad_weights", {M}), go = checked_optional(grad_opacity, "grad_opacity", {rays});
  const auto gd = checked_optional(grad_depth, "grad_depth", {rays}), gc = checked_optional(grad_rgb, "grad_rgb", {rays, channels});
  const OutputGradients gradients{data_or_null(gw), data_or_null(go), data_or_null(gd), data_or_null(gc)};
  const int32_t* info = data<int32_t>(packed);
  const bool complete = checked_count(info, rays, M) == M;
  Tensor grad_sigmas = complete ? new_empty(rgbs, {M}) : new_zeros(rgbs, {M});
  Tensor grad_rgbs = complete ? new_empty(rgbs, {M, channels}) : new_zeros(rgbs, {M, channels});
  float *out_sigmas = data<float>(grad_sigmas), *out_rgbs = data<float>(grad_rgbs);
  const float *color = data<float>(rgbs), *t = data<float>(ts), *w = data<float>(weights), *T = data<float>(transmittance);
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    const auto backward = channels == 3 ? composite_ray_backward<3> : composite_ray_backward<0>;
    for (int64_t n = begin; n < end; ++n) {
      backward(n, info[2 * n], info[2 * n + 1], gradients, color, t, w, T, channels, out_sigmas, out_rgbs);
    }
  });
  return {grad_sigmas, grad_rgbs};
}

void composite_rays(Tensor rays_alive, Tensor rays_t, const Tensor& sigmas_, const Tensor& rgbs_, const Tensor& ts_,
                    Tensor opacity, Tensor depth, Tensor image, int64_t n_step, double min_transmittance) {
  PieceTensors piece(rays_alive, rays_t, sigmas_, rgbs_, ts_, opacity, depth, image, n_step);
  const PieceState state = piece.state();
  for (int64_t n = 0; n < piece.slots; ++n) STD_TORCH_CHECK(state.alive[n] < piece.rays, "rays_alive: no ray ", state.alive[n]);
  for_ray_blocks(piece.slots, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) composite_piece(state, n, static_cast<float>(min_transmittance));
  });
}

STABLE_TORCH_LIBRARY_IMPL(raymarching, CPU, m) {
  m.impl("near_far_from_aabb", TORCH_BOX(&near_far_from_aabb));
  m.impl("sph_from_ray", TORCH_BOX(&sph_from_ray));
  m.impl("morton3D", TORCH_BOX(&morton3D));
  m.impl("morton3D_invert", TORCH_BOX(&morton3D_invert));
  m.impl("packbits", TORCH_BOX(&packbits));
  m.impl("flatten_rays", TORCH_BOX(&flatten_rays));
  m.impl("march_rays_train", TORCH_BOX(&march_rays_train));
  m.impl("march_rays", TORCH_BOX(&march_rays));
  m.impl("composite_rays_train", TORCH_BOX(&composite_rays_train));
  m.impl("composite_rays_train_backward", TORCH_BOX(&composite_rays_train_backward));
  m.impl("composite_rays", TORCH_BOX(&composite_rays));
}

}  // namespace raymarching
