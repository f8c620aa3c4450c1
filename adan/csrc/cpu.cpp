#include "adan.h"

namespace tadpole {
namespace {

constexpr int64_t kGrain = 1 << 14;  // numbers a thread at least

// Compiled with -fno-math-errno: the root is a vector instruction.
TADPOLE_CLONES void adan_range(float* __restrict p, const float* __restrict grad, float* __restrict average,
                               float* __restrict difference, float* __restrict square, float* __restrict previous,
                               int64_t begin, int64_t end, float clip, const AdanSettings& given) {
  const AdanSettings settings = given;
  for (int64_t i = begin; i < end; ++i) {
    adan_element(p[i], grad[i], average[i], difference[i], square[i], previous[i], clip, settings);
  }
}

void adan_update(Tensor p, const Tensor& grad, Tensor average, Tensor difference, Tensor square, Tensor previous,
                 const std::optional<Tensor>& clip, int64_t step, double lr, double beta1, double beta2, double beta3,
                 double eps, double weight_decay) {
  const Tensor g = torch::stable::contiguous(grad);
  float* const at[] = {data<float>(p), data<float>(average), data<float>(difference), data<float>(square),
                       data<float>(previous)};
  const float* gradient = data<float>(g);
  const float scale = clip ? *data<float>(*clip) : 1.0f;
  if (!std::isfinite(scale)) return;
  const AdanSettings settings(step, lr, beta1, beta2, beta3, eps, weight_decay);
  torch::stable::parallel_for(0, p.numel(), kGrain, [&](int64_t begin, int64_t end) {
    adan_range(at[0], gradient, at[1], at[2], at[3], at[4], begin, end, scale, settings);
  });
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(adan, CPU, m) {
  m.impl("adan_update", TORCH_BOX(&tadpole::adan_update));
}
