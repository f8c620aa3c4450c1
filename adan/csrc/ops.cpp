#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(adan, m) {
  // `clip`, 0-d, stays on its device: nothing waits for it. Where it is not finite, nothing changes.
  m.def(
      "adan_update(Tensor(a!) p, Tensor grad, Tensor(b!) average, Tensor(c!) difference, Tensor(d!) square, "
      "Tensor(e!) previous, Tensor? clip, int step, float lr, float beta1, float beta2, float beta3, float eps, "
      "float weight_decay) -> ()");
}
