#include "freq.h"

STABLE_TORCH_LIBRARY(freqencoder, m) {
  m.def("freq_encode(Tensor x, int degree) -> Tensor");
  m.def("freq_encode_backward(Tensor grad, Tensor encoded, int degree) -> Tensor");
}
