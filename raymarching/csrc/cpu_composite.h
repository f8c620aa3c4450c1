// Compositing on the CPU.
#pragma once

#include <algorithm>
#include <tuple>

#include "raymarching/csrc/cpu_tasks.h"

namespace raymarching {
namespace {

// 1 - exp(-tau) for many numbers at a time, to 4e-7 of itself however small: with x = -tau / log(2), n = round(x),
// f = x - n, it is (1 - 2^n) - 2^n (2^f - 1), the last bracket by its series.
HOST_DEVICE float absorption(float tau) {
  float x = tau * -1.44269504f;
  x = x < -126.0f ? -126.0f : (x > 126.0f ? 126.0f : x);
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: n ends up in the lowest bits
  const float f = x - (shifted - 12582912.0f);
  float series = 1.5403530e-4f;
  series = series * f + 1.3333558e-3f;
  series = series * f + 9.6181291e-3f;
  series = series * f + 5.5504109e-2f;
  series = series * f + 2.4022651e-1f;
  series = series * f + 6.9314718e-1f;
  uint32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits << 23) + (127u << 23);
  float power;
  memcpy(&power, &bits, 4);
  return (1.0f - power) - power * (series * f);
}

TADPOLE_CLONES void fill_with_absorption(const float* sigmas, const float* ts, int64_t count, float* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = absorption(sigmas[j] * ts[2 * j + 1]);
}

struct CompositeOutputs {
  float *weights, *opacity, *depth, *rgb, *transmittance;
};

// `transmittance` comes in as the absorption of each sample. kChannels 0: any number, known at run time only.
template <int kChannels>
void composite_ray(int64_t n, int64_t first, int64_t count, const float* rgbs, const float* ts, int64_t any_channels,
                   float min_transmittance, const CompositeOutputs& out) {
  const int64_t channels = kChannels ? kChannels : any_channels, end = first + count;
  float T = 1.0f, opacity = 0.0f, depth = 0.0f, color[kChannels ? kChannels : 1] = {};
  float* rgb = out.rgb + n * channels;
  if (!kChannels) std::fill_n(rgb, channels, 0.0f);
  int64_t j = first;
  for (; j < end && T >= min_transmittance; ++j) {
    const float weight = T * out.transmittance[j];
    T -= weight;
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> composite_rays_train(const Tensor& sigmas_, const Tensor& rgbs_,
                                                                        const Tensor& ts_, const Tensor& packed_info,
                                                                        double min_transmittance) {
  const Tensor sigmas = checked(sigmas_, "sigmas", {-1}), rgbs = checked(rgbs_, "rgbs", {sigmas.size(0), -1});
  const Tensor ts = checked(ts_, "ts", {sigmas.size(0), 2});
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int64_t M = sigmas.size(0), rays = packed.size(0), channels = rgbs.size(1);
  const int32_t* info = data<int32_t>(packed);
  const bool complete = checked_count(info, rays, M) == M;
  Tensor weights = complete ? new_empty(sigmas, {M}) : new_zeros(sigmas, {M});
  Tensor transmittance = complete ? new_empty(sigmas, {M}) : new_zeros(sigmas, {M});
  Tensor opacity = new_empty(sigmas, {rays}), depth = new_empty(sigmas, {rays}),
         rgb = new_empty(sigmas, {rays, channels});
  const CompositeOutputs out{data<float>(weights), data<float>(opacity), data<float>(depth), data<float>(rgb),
                             data<float>(transmittance)};
  const float *sigma = data<float>(sigmas), *color = data<float>(rgbs), *t = data<float>(ts);
  for_ray_blocks(rays, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end;) {  // neighbours in memory share one long loop of exponentials
      const int64_t start = n;
      int64_t last = info[2 * n];
      for (; n < end && info[2 * n] == last; ++n) last += info[2 * n + 1];
      const int64_t from = info[2 * start];
      fill_with_absorption(sigma + from, t + 2 * from, last - from, out.transmittance + from);
    }
    const auto composite = channels == 3 ? composite_ray<3> : composite_ray<0>;
    for (int64_t n = begin; n < end; ++n) {
      composite(n, info[2 * n], info[2 * n + 1], color, t, channels, static_cast<float>(min_transmittance), out);
    }
  });
  return {weights, opacity, depth, rgb, transmittance};
}

template <int kChannels>
void composite_ray_backward(int64_t n, int64_t first, int64_t count, const OutputGradients& gradients,
                            const float* rgbs, const float* ts, const float* weights, const float* transmittance,
                            int64_t any_channels, float* grad_sigmas, float* grad_rgbs) {
  const int64_t channels = kChannels ? kChannels : any_channels;
  // Copies on the stack: the compiler need not fear that writing a gradient changes them, and keeps them in registers.
  const float opacity = gradients.opacity ? gradients.opacity[n] : 0.0f;
  const float depth = gradients.depth ? gradients.depth[n] : 0.0f;
  float color[kChannels ? kChannels : 1] = {};
  if (kChannels && gradients.rgb) std::copy_n(gradients.rgb + n * channels, kChannels, color);
  const float* rgb = kChannels ? color : (gradients.rgb ? gradients.rgb + n * channels : nullptr);
  const OutputGradients of_ray{gradients.weights, &opacity, &depth, rgb};
  float behind = 0.0f;
  for (int64_t j = first + count; j-- > first;) {
    const float g = weight_gradient(of_ray, 0, j, ts[2 * j], rgbs, channels);
    grad_sigmas[j] = density_gradient(g, transmittance[j], behind, ts[2 * j + 1]);
    behind += g * weights[j];
    for (int64_t c = 0; c < channels; ++c) grad_rgbs[j * channels + c] = rgb ? weights[j] * rgb[c] : 0.0f;
  }
}

std::tuple<Tensor, Tensor> composite_rays_train_backward(const std::optional<Tensor>& grad_weights,
                                                         const std::optional<Tensor>& grad_opacity,
                                                         const std::optional<Tensor>& grad_depth,
                                                         const std::optional<Tensor>& grad_rgb, const Tensor& rgbs_,
                                                         const Tensor& ts_, const Tensor& packed_info,
                                                         const Tensor& weights_, const Tensor& transmittance_) {
  const BackwardInputs in(grad_weights, grad_opacity, grad_depth, grad_rgb, rgbs_, ts_, packed_info, weights_,
                          transmittance_);
  const OutputGradients gradients = in.gradients();
  const int64_t channels = in.channels;
  const int32_t* info = data<int32_t>(in.packed);
  const bool complete = checked_count(info, in.rays, in.M) == in.M;
  Tensor grad_sigmas = complete ? new_empty(in.rgbs, {in.M}) : new_zeros(in.rgbs, {in.M});
  Tensor grad_rgbs = complete ? new_empty(in.rgbs, {in.M, channels}) : new_zeros(in.rgbs, {in.M, channels});
  float *out_sigmas = data<float>(grad_sigmas), *out_rgbs = data<float>(grad_rgbs);
  const float *color = data<float>(in.rgbs), *t = data<float>(in.ts);
  const float *w = data<float>(in.weights), *T = data<float>(in.transmittance);
  for_ray_blocks(in.rays, [&](int64_t begin, int64_t end) {
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
  for (int64_t n = 0; n < piece.slots; ++n)
    STD_TORCH_CHECK(state.alive[n] < piece.rays, "rays_alive: no ray ", state.alive[n]);
  for_ray_blocks(piece.slots, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) composite_piece(state, n, static_cast<float>(min_transmittance));
  });
}

}  // namespace
}  // namespace raymarching
