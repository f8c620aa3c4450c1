// The operators of torch.ops.gridencoder; grid.h describes their arguments, grid.py their use.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gridencoder, m) {
  m.def(
      "grid_encode(Tensor inputs, Tensor embeddings, Tensor? direction, int[] offsets, int[] resolutions, bool hashed, "
      "bool align_corners, bool smoothstep, int active) -> Tensor");
  // d<gradient, grid_encode>/d embeddings, float32 [P, C]
  m.def(
      "grid_embedding_gradient(Tensor gradient, Tensor inputs, Tensor? direction, int[] offsets, int[] resolutions, "
      "bool hashed, bool align_corners, bool smoothstep, int active) -> Tensor");
  // d<gradient, grid_encode>/d inputs, float32 [N, D]
  m.def(
      "grid_input_gradient(Tensor gradient, Tensor inputs, Tensor embeddings, Tensor? direction, int[] offsets, "
      "int[] resolutions, bool hashed, bool align_corners, bool smoothstep, int active) -> Tensor");
  m.def(
      "grid_total_variation_gradient_(Tensor(a!) gradient, Tensor inputs, Tensor embeddings, float weight, int[] "
      "offsets, "
      "int[] resolutions, bool hashed) -> ()");
  m.def("grid_weight_decay_gradient_(Tensor(a!) gradient, Tensor embeddings, float weight, int[] offsets) -> ()");
}
