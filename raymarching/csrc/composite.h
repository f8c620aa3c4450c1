// Front-to-back compositing of one ray (NeRF, arXiv:2003.08934, eq. 3), and its derivative, once for CPU and CUDA.
//
//   w_i = T_i a_i,  a_i = 1 - exp(-sigma_i dt_i),  T_{i+1} = T_i - w_i,  T_1 = 1
//
// a_i comes from expm1: in thin fog 1 - exp would keep a few digits only, and lose them 1000 times on one ray.
//
// A sample counts while T_i >= min_transmittance. Behind that, w = 0, T = 0, and with them every gradient below.
//
// With g_i the total derivative of the loss by w_i,
//   dL/dsigma_j = dt_j (g_j T_{j+1} - sum_{i>j} g_i w_i)        (w_j grows, everything behind it fades)
//   dL/drgb_j   = w_j dL/drgb
#pragma once

#include <cstdint>

#include "common/csrc/common.h"

namespace raymarching {

// Where the gradients of the outputs are; nullptr: that output was not used. rgb may have any number of channels.
struct OutputGradients {
  const float* weights;  // [M]
  const float* opacity;  // [N]
  const float* depth;    // [N]
  const float* rgb;      // [N, channels]
};

// g_i: what one more unit of weight on sample i does to the loss, through every output.
HOST_DEVICE float weight_gradient(const OutputGradients& gradients, int64_t ray, int64_t sample, float t,
                                  const float* rgbs, int64_t channels) {
  float g = gradients.weights ? gradients.weights[sample] : 0.0f;
  if (gradients.opacity) g += gradients.opacity[ray];
  if (gradients.depth) g += gradients.depth[ray] * t;
  if (gradients.rgb) {
    for (int64_t c = 0; c < channels; ++c) g += gradients.rgb[ray * channels + c] * rgbs[sample * channels + c];
  }
  return g;
}

// `behind` is the sum of g_i w_i over the samples behind this one, `transmittance` T_{j+1}.
HOST_DEVICE float density_gradient(float g, float transmittance, float behind, float dt) {
  return dt * (g * transmittance - behind);
}

// One step of compositing in pieces: the state of a ray between two calls is its opacity.
struct RayState {
  float opacity, depth;
  HOST_DEVICE float transmittance() const { return 1.0f - opacity; }
  // Returns the weight.
  HOST_DEVICE float add(float sigma, float t, float dt) {
    const float weight = transmittance() * -expm1f(-sigma * dt);
    opacity += weight;
    depth += weight * t;
    return weight;
  }
};

}  // namespace raymarching
