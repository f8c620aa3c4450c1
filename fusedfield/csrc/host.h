// What the CPU and the CUDA operators do before their kernels: the field and the samples, checked at the border.
#pragma once

#include <utility>

#include "fusedfield/csrc/field.h"

namespace fusedfield {

struct Given : gridencoder::Given {
  Given(const Tensor& positions, const Tensor& parameters, const Ints& offsets, const Ints& resolutions, bool hashed,
        bool align_corners, bool smoothstep, int64_t active, const Ints& widths, double bound, double peak, double slope,
        int64_t activation, int64_t outputs)
      : gridencoder::Given(tadpole::checked(positions, "fusedfield: positions", {-1, 3}),
                           gridencoder::make_grid(3, offsets, resolutions, hashed, align_corners, smoothstep, active)),
        widths(checked_widths(widths, grid.levels)),
        weights(tadpole::checked(parameters, "fusedfield: parameters", {parameter_count(widths)})),
        field{static_cast<float>(bound), static_cast<float>(peak), static_cast<float>(slope),
              static_cast<Activation>(activation), static_cast<int>(outputs)} {
    STD_TORCH_CHECK(activation >= kNone && activation <= kSoftplus, "fusedfield: no activation ", activation);
    STD_TORCH_CHECK(outputs == 1 || outputs == kOutputs, "fusedfield: outputs must be 1 or 4, got ", outputs);
    STD_TORCH_CHECK(active >= 1, "fusedfield: active levels must be at least 1, got ", active);
  }

  static const Ints& checked_widths(const Ints& widths, int levels) {
    STD_TORCH_CHECK(widths.size() >= 3 && widths.size() <= kMaxLayers + 1, "fusedfield: 2 to ", kMaxLayers, " layers");
    for (int64_t width : widths) {
      STD_TORCH_CHECK(width >= 1 && width <= kMaxWidth, "fusedfield: widths must be in 1..", kMaxWidth, ", got ", width);
    }
    STD_TORCH_CHECK(widths[0] == 2 * levels && widths.back() == kOutputs, "fusedfield: widths go from ", 2 * levels,
                    " to 4");
    return widths;
  }

  static int64_t parameter_count(const Ints& widths) {
    int64_t sum = 0;
    for (size_t l = 0; l + 1 < widths.size(); ++l) sum += widths[l + 1] * (widths[l] + 1);
    return sum;
  }

  const float* parameters() const { return tadpole::data<float>(weights); }

  Ints widths;
  Tensor weights;
  Field field;
};

}  // namespace fusedfield
