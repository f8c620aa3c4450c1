// Real spherical harmonics of order < degree <= 8 as polynomials in x, y, z, and their derivatives.
//
//   Y(l, +m) = k(l, m) D(l, m)(z) Re (x + iy)^m        column l (l + 1) + m
//   Y(l, -m) = k(l, m) D(l, m)(z) Im (x + iy)^m        column l (l + 1) - m
//
// D(l, m) is the m-th derivative of the Legendre polynomial P_l, so its own derivative is D(l, m + 1).
//
// sh_encode(directions f32 [N, 3], degree) -> f32 [N, degree^2]
// sh_encode_backward(grad f32 [N, degree^2], directions f32 [N, 3], degree) -> f32 [N, 3], the gradient of directions
//
// V is float (one point a CUDA thread) or a vector of floats (16 points a CPU iteration).
#pragma once

#include "common/csrc/common.h"

#include <cmath>

namespace tadpole {

constexpr int kMaxDegree = 8;

// k(l, m), m >= 0, with the Condon-Shortley sign; passed to kernels by value.
struct Norms {
  float k[kMaxDegree][kMaxDegree];
};

inline Norms make_norms() {
  Norms norms{};
  for (int l = 0; l < kMaxDegree; ++l) {
    double ratio = (2 * l + 1) / (4 * 3.14159265358979323846);  // times (l - m)! / (l + m)!
    for (int m = 0; m <= l; ++m) {
      if (m > 0) ratio /= (l + m) * (l - m + 1);
      norms.k[l][m] = static_cast<float>(std::sqrt(m > 0 ? 2 * ratio : ratio) * (m % 2 ? -1 : 1));
    }
  }
  return norms;
}

inline void check_degree(int64_t degree) {
  STD_TORCH_CHECK(degree >= 1 && degree <= kMaxDegree, "degree must lie in 1..8, got ", degree);
}

// out[degree^2]
template <typename V>
HOST_DEVICE void sh_basis(V x, V y, V z, int degree, const Norms& norms, V* out) {
  V real = x * 0.0f + 1.0f, imag = x * 0.0f;  // (x + iy)^m
  float diagonal = 1.0f;                      // D(m, m) = (2m - 1)!!
#pragma unroll
  for (int m = 0; m < degree; ++m) {
    V before = x * 0.0f, now = before + diagonal;
#pragma unroll
    for (int l = m; l < degree; ++l) {
      const V scaled = norms.k[l][m] * now;
      out[l * (l + 1) + m] = scaled * real;
      if (m > 0) out[l * (l + 1) - m] = scaled * imag;
      const V next = ((2.0f * l + 1.0f) * z * now - static_cast<float>(l + m) * before) * (1.0f / (l + 1 - m));
      before = now;
      now = next;
    }
    const V turned = x * real - y * imag;
    imag = x * imag + y * real;
    real = turned;
    diagonal *= 2.0f * m + 1.0f;
  }
}

// grad[degree^2] -> d/dx, d/dy, d/dz of sum(grad * Y)
template <typename V>
HOST_DEVICE void sh_gradient(V x, V y, V z, int degree, const Norms& norms, const V* grad, V& dx, V& dy, V& dz) {
  const V zero = x * 0.0f;
  dx = dy = dz = zero;
  V real = zero + 1.0f, imag = zero;        // (x + iy)^m
  V real_before = zero, imag_before = zero;  // (x + iy)^(m - 1)
  float diagonal = 1.0f;
#pragma unroll
  for (int m = 0; m < degree; ++m) {
    V before = zero, now = zero + diagonal;                    // D(l - 1, m), D(l, m)
    V slope_before = zero, slope = zero;                       // D(l - 1, m + 1), D(l, m + 1)
    const float next_diagonal = diagonal * (2.0f * m + 1.0f);  // D(m + 1, m + 1)
#pragma unroll
    for (int l = m; l < degree; ++l) {
      const float k = norms.k[l][m];
      const V up = k * grad[l * (l + 1) + m];
      const V down = m > 0 ? k * grad[l * (l + 1) - m] : zero;
      dx += static_cast<float>(m) * now * (up * real_before + down * imag_before);
      dy += static_cast<float>(m) * now * (down * real_before - up * imag_before);
      dz += slope * (up * real + down * imag);

      const V next = ((2.0f * l + 1.0f) * z * now - static_cast<float>(l + m) * before) * (1.0f / (l + 1 - m));
      before = now;
      now = next;
      V steeper = zero + next_diagonal;  // where l = m, the recurrence for m + 1 starts
      if (l > m) steeper = ((2.0f * l + 1.0f) * z * slope - static_cast<float>(l + m + 1) * slope_before) * (1.0f / (l - m));
      slope_before = slope;
      slope = steeper;
    }
    real_before = real;
    imag_before = imag;
    real = x * real_before - y * imag_before;
    imag = x * imag_before + y * real_before;
    diagonal = next_diagonal;
  }
}

}  // namespace tadpole
