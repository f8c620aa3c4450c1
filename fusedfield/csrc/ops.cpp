// The operators of torch.ops.fusedfield; field.h describes their arguments, field.py their use.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fusedfield, m) {
  m.def("has_bf16() -> bool");                     // whether `mixed` is served, on a CPU
  m.def("has_tensor_cores(Tensor like) -> bool");  // whether the others are, on the GPU of a tensor
  // -> sigma, albedo, saved (empty unless `save`)
  m.def(
      "field_query(Tensor positions, Tensor embeddings, Tensor parameters, int[] offsets, int[] resolutions, "
      "bool hashed, bool align_corners, bool smoothstep, int active, int[] widths, float bound, float peak, "
      "float slope, int activation, bool mixed, int outputs, bool save) -> (Tensor, Tensor, Tensor)");
  // -> sigma, albedo, kept, counts, saved
  m.def(
      "field_query_rays(Tensor positions, Tensor lengths, Tensor packed_info, float limit, Tensor embeddings, "
      "Tensor parameters, int[] offsets, int[] resolutions, bool hashed, bool align_corners, bool smoothstep, "
      "int active, int[] widths, float bound, float peak, float slope, int activation, bool mixed, int outputs, bool save) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // d<gradients, outputs> by embeddings [P, 2] and parameters
  m.def(
      "field_query_backward(Tensor sigma_gradient, Tensor albedo_gradient, Tensor saved, Tensor positions, "
      "Tensor embeddings, Tensor parameters, int[] offsets, int[] resolutions, bool hashed, bool align_corners, bool smoothstep, "
      "int active, int[] widths, float bound, float peak, float slope, int activation, bool mixed, int outputs) "
      "-> (Tensor, Tensor)");
  // One tile of samples, their encoding [levels, 48, 2], through all layers `rounds` times on every thread, to measure what
  // they reach: -> the channels [4, 48] before activation, and how many samples went through
  m.def("layers(Tensor encoding, Tensor parameters, int[] widths, bool mixed, int rounds) -> (Tensor, int)");
}
