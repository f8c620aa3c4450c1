// The operators of torch.ops.toybox; shapes and meanings are in trace.h.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(toybox, library) {
  library.def("trace(Tensor primitives, Tensor cameras, int resolution) -> Tensor");
  library.def("query(Tensor primitives, Tensor points) -> Tensor");
}
