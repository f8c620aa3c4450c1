// Adan's update of one number (arXiv:2208.06677, algorithm 1), the same on CPU and CUDA.
#pragma once

#include <cmath>
#include <optional>

#include "common/csrc/common.h"

namespace tadpole {

struct AdanSettings {
  float keep_average, keep_difference, keep_square;  // beta1, beta2, beta3
  float rate_average, rate_difference;               // learning rate over its bias correction
  float root_scale, eps, shrink;

  AdanSettings(int64_t step, double lr, double beta1, double beta2, double beta3, double eps_, double weight_decay)
      : keep_average(static_cast<float>(beta1)),
        keep_difference(static_cast<float>(beta2)),
        keep_square(static_cast<float>(beta3)),
        rate_average(static_cast<float>(lr / (1 - std::pow(beta1, static_cast<double>(step))))),
        rate_difference(static_cast<float>(lr * beta2 / (1 - std::pow(beta2, static_cast<double>(step))))),
        root_scale(static_cast<float>(1 / std::sqrt(1 - std::pow(beta3, static_cast<double>(step))))),
        eps(static_cast<float>(eps_)),
        shrink(static_cast<float>(1 / (1 + lr * weight_decay))) {}
};

HOST_DEVICE void adan_element(float& p, float grad, float& average, float& difference, float& square, float& previous,
                              float clip, const AdanSettings& s) {
  const float g = grad * clip;
  const float change = g - previous;
  const float ahead = g + s.keep_difference * change;
  average += (1.0f - s.keep_average) * (g - average);
  difference += (1.0f - s.keep_difference) * (change - difference);
  square = s.keep_square * square + (1.0f - s.keep_square) * ahead * ahead;
  const float root = sqrtf(square) * s.root_scale + s.eps;
  p = (p - (s.rate_average * average + s.rate_difference * difference) / root) * s.shrink;
  previous = g;
}

}  // namespace tadpole
