#include "sh.h"

STABLE_TORCH_LIBRARY(shencoder, m) {
  m.def("sh_encode(Tensor directions, int degree) -> Tensor");
  m.def("sh_encode_backward(Tensor grad, Tensor directions, int degree) -> Tensor");
}
