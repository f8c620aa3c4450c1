// The operators of torch.ops.roofline; probe.py times them.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(roofline, m) {
  // Every thread makes `rounds` x 12 vectors of multiply-adds in registers. -> numbers multiplied by all threads, a sum
  m.def("multiply_add(int rounds, bool bf16) -> (int, float)");
  // Sum of the rows [M] int32 of a table [P, 2], 8 bytes each, loaded one by one.
  m.def("gather(Tensor table, Tensor rows) -> float");
  m.def("copy(Tensor(a!) to, Tensor source) -> ()");
}
