// Compositing on CUDA: a warp takes 32 samples of its ray at a time.
#pragma once

#include <tuple>

#include "raymarching/csrc/cuda_launch.h"

namespace raymarching {
namespace {

// The sum over this lane and those before it.
__device__ inline float scan(float value, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const float left = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += left;
  }
  return value;
}

// The sum over all lanes, on every lane.
__device__ inline float reduce(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__global__ void composite_rays_train_kernel(const float* sigmas, const float* rgbs, const float* ts,
                                            const int32_t* info, int64_t N, int64_t M, int64_t channels,
                                            float min_transmittance, float* weights, float* opacities, float* depths,
                                            float* rgb, float* transmittance) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kRaysPerBlock) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (n >= N) return;  // a whole warp leaves: the others shuffle among themselves
  const int64_t first = info[2 * n], count = samples_of(info, n, M);
  float opacity = 0.0f, depth = 0.0f, thickness = 0.0f;  // thickness: sum of sigma dt in front of these 32 samples
  int64_t live = 0;                                      // samples of this ray that count
  for (int64_t base = 0; base < count; base += kWarp) {
    const int64_t j = first + base + lane;
    const bool mine = base + lane < count;
    const float tau = mine ? sigmas[j] * ts[2 * j + 1] : 0.0f;
    const float upto = thickness + scan(tau, lane);
    float before = __shfl_up_sync(kAllLanes, upto, 1);
    if (lane == 0) before = thickness;
    const float T = expf(-before);
    const bool counts = mine && T >= min_transmittance;
    const float weight = counts ? T * -expm1f(-tau) : 0.0f;
    if (mine) {
      weights[j] = weight;
      transmittance[j] = counts ? expf(-upto) : 0.0f;
      depth += weight * ts[2 * j];
    }
    opacity += weight;
    live += __popc(__ballot_sync(kAllLanes, counts));
    thickness = __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
  opacity = reduce(opacity), depth = reduce(depth);
  if (lane == 0) opacities[n] = opacity, depths[n] = depth;
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0.0f;
    for (int64_t j = first + lane; j < first + live; j += kWarp) sum += weights[j] * rgbs[j * channels + c];
    sum = reduce(sum);
    if (lane == 0) rgb[n * channels + c] = sum;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> composite_rays_train(const Tensor& sigmas_, const Tensor& rgbs_,
                                                                        const Tensor& ts_, const Tensor& packed_info,
                                                                        double min_transmittance) {
  const Tensor sigmas = checked(sigmas_, "sigmas", {-1}), rgbs = checked(rgbs_, "rgbs", {sigmas.size(0), -1});
  const Tensor ts = checked(ts_, "ts", {sigmas.size(0), 2});
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int64_t M = sigmas.size(0), N = packed.size(0), channels = rgbs.size(1);
  const CudaScope scope(sigmas);
  Tensor weights = new_zeros(sigmas, {M}), transmittance = new_zeros(sigmas, {M});
  Tensor opacity = new_empty(sigmas, {N}), depth = new_empty(sigmas, {N}), rgb = new_empty(sigmas, {N, channels});
  if (N > 0) {
    scope.launch("composite_rays_train", composite_rays_train_kernel, {blocks(N, kRaysPerBlock), kThreads},
                 data<float>(sigmas), data<float>(rgbs), data<float>(ts), data<int32_t>(packed), N, M, channels,
                 min_transmittance, data<float>(weights), data<float>(opacity), data<float>(depth), data<float>(rgb),
                 data<float>(transmittance));
  }
  return {weights, opacity, depth, rgb, transmittance};
}

__global__ void composite_rays_train_backward_kernel(OutputGradients gradients, const float* rgbs, const float* ts,
                                                     const int32_t* info, const float* weights,
                                                     const float* transmittance, int64_t N, int64_t M, int64_t channels,
                                                     float* grad_sigmas, float* grad_rgbs) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kRaysPerBlock) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const int64_t first = info[2 * n], last = first + samples_of(info, n, M) - 1;
  float carry = 0.0f;                                             // sum of g w behind these 32 samples
  for (int64_t j = last - lane; j + lane >= first; j -= kWarp) {  // lane 0 has the hindmost sample
    const bool mine = j >= first;
    const float g = mine ? weight_gradient(gradients, n, j, ts[2 * j], rgbs, channels) : 0.0f;
    const float upto = carry + scan(mine ? g * weights[j] : 0.0f, lane);
    float behind = __shfl_up_sync(kAllLanes, upto, 1);
    if (lane == 0) behind = carry;
    if (mine) {
      grad_sigmas[j] = density_gradient(g, transmittance[j], behind, ts[2 * j + 1]);
      for (int64_t c = 0; c < channels; ++c) {
        grad_rgbs[j * channels + c] = gradients.rgb ? weights[j] * gradients.rgb[n * channels + c] : 0.0f;
      }
    }
    carry = __shfl_sync(kAllLanes, upto, kWarp - 1);
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
  const CudaScope scope(in.rgbs);
  Tensor grad_sigmas = new_zeros(in.rgbs, {in.M}), grad_rgbs = new_zeros(in.rgbs, {in.M, in.channels});
  if (in.rays > 0) {
    scope.launch("composite_rays_train_backward", composite_rays_train_backward_kernel,
                 {blocks(in.rays, kRaysPerBlock), kThreads}, in.gradients(), data<float>(in.rgbs), data<float>(in.ts),
                 data<int32_t>(in.packed), data<float>(in.weights), data<float>(in.transmittance), in.rays, in.M,
                 in.channels, data<float>(grad_sigmas), data<float>(grad_rgbs));
  }
  return {grad_sigmas, grad_rgbs};
}

__global__ void composite_rays_kernel(PieceState state, int64_t slots, int64_t rays, float min_transmittance) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n < slots && state.alive[n] < rays) composite_piece(state, n, min_transmittance);
}

void composite_rays(Tensor rays_alive, Tensor rays_t, const Tensor& sigmas_, const Tensor& rgbs_, const Tensor& ts_,
                    Tensor opacity, Tensor depth, Tensor image, int64_t n_step, double min_transmittance) {
  PieceTensors piece(rays_alive, rays_t, sigmas_, rgbs_, ts_, opacity, depth, image, n_step);
  const CudaScope scope(piece.rays_t);
  if (piece.slots > 0) {
    scope.launch("composite_rays", composite_rays_kernel, {blocks(piece.slots, kThreads), kThreads}, piece.state(),
                 piece.slots, piece.rays, min_transmittance);
  }
}

}  // namespace
}  // namespace raymarching
