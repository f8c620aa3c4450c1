#include "adan.h"

namespace tadpole {
namespace {

constexpr int kThreads = 256;

__global__ void adan_update_kernel(float* __restrict__ p, const float* __restrict__ grad, float* __restrict__ average,
                                   float* __restrict__ difference, float* __restrict__ square,
                                   float* __restrict__ previous, const float* __restrict__ clip, int64_t count,
                                   AdanSettings settings) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  const float scale = clip == nullptr ? 1.0f : *clip;
  if (!isfinite(scale)) return;
  adan_element(p[i], grad[i], average[i], difference[i], square[i], previous[i], scale, settings);
}

void adan_update(Tensor p, const Tensor& grad, Tensor average, Tensor difference, Tensor square, Tensor previous,
                 const std::optional<Tensor>& clip, int64_t step, double lr, double beta1, double beta2, double beta3,
                 double eps, double weight_decay) {
  const int64_t count = p.numel();
  if (count == 0) return;
  const CudaScope scope(p);
  const Tensor g = torch::stable::contiguous(grad);
  const float* scale = clip ? data<float>(*clip) : nullptr;
  scope.launch("adan_update", adan_update_kernel, {blocks(count, kThreads), kThreads}, data<float>(p), data<float>(g),
               data<float>(average), data<float>(difference), data<float>(square), data<float>(previous), scale, count,
               AdanSettings(step, lr, beta1, beta2, beta3, eps, weight_decay));
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(adan, CUDA, m) {
  m.impl("adan_update", TORCH_BOX(&tadpole::adan_update));
}
