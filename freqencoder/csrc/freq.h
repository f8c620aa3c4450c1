// Frequency encoding: a row of D coordinates x becomes x, sin(x), cos(x), sin(2x), cos(2x), sin(4x), ... (each D wide).
//
// freq_encode(x f32 [N, D], degree) -> f32 [N, D + 2 D degree]
// freq_encode_backward(grad, encoded, both f32 [N, D + 2 D degree], degree) -> f32 [N, D], the gradient of x
#pragma once

#include "common/csrc/common.h"

#include <cmath>
#include <cstring>

namespace tadpole {

constexpr int kMaxDegree = 32;

inline void check_degree(int64_t degree) {
  STD_TORCH_CHECK(degree >= 0 && degree <= kMaxDegree, "degree must lie in 0..32, got ", degree);
}

// 2^f, exact.
HOST_DEVICE float octave(int f) {
  return static_cast<float>(1ull << f);
}

// Gradient of coordinate d from its row of `grad` and of `encoded`: d sin(sx)/dx = s cos(sx), d cos(sx)/dx = -s sin(sx).
HOST_DEVICE float freq_gradient(const float* grad, const float* encoded, int dims, int degree, int d) {
  float sum = grad[d];
  for (int f = 0; f < degree; ++f) {
    const int s = dims * (1 + 2 * f) + d, c = s + dims;
    sum += octave(f) * (grad[s] * encoded[c] - grad[c] * encoded[s]);
  }
  return sum;
}

#ifndef __CUDACC__

constexpr float kReducible = 1e9f;  // up to here the reduction below leaves an error of 1e-7

// Sine and cosine of |x| <= kReducible without a branch, so that loops over it become vector code: subtract the nearest
// multiple of pi/2 in double (Cody-Waite, in two parts), then minimax polynomials on [-pi/4, pi/4] (Cephes sinf, cosf).
HOST_DEVICE void sincos_reduced(float x, float& sine, float& cosine) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  const double wide = x;
  const double shifted = wide * 0.63661977236758134308 + kRound;
  int64_t quadrant;
  std::memcpy(&quadrant, &shifted, sizeof(quadrant));
  const double multiple = shifted - kRound;
  const float r = static_cast<float>(wide - multiple * 1.57079632673412561417 - multiple * 6.07710050650619224932e-11);
  const float q = r * r;
  const float s = r + r * q * (-1.6666654611e-1f + q * (8.3321608736e-3f + q * -1.9515295891e-4f));
  const float c = 1.0f - 0.5f * q + q * q * (4.166664568298827e-2f + q * (-1.388731625493765e-3f + q * 2.443315711809948e-5f));
  const int turn = static_cast<int>(quadrant);
  const float swapped_sine = turn & 1 ? c : s, swapped_cosine = turn & 1 ? s : c;
  sine = turn & 2 ? -swapped_sine : swapped_sine;
  cosine = (turn + 1) & 2 ? -swapped_cosine : swapped_cosine;
}

#endif

}  // namespace tadpole
