#include "freq.h"

namespace tadpole {
namespace {

constexpr int kThreads = 256;

// One thread a coordinate. sincosf is the accurate one: neither __sincosf nor --use_fast_math, which lose large arguments.
__global__ void freq_encode_kernel(const float* __restrict__ x, int64_t coordinates, int dims, int degree,
                                   float* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= coordinates) return;
  const float value = x[i];
  float* column = out + i / dims * dims * (1 + 2 * degree) + i % dims;
  *column = value;
  for (int f = 0; f < degree; ++f) {
    float sine, cosine;
    sincosf(octave(f) * value, &sine, &cosine);
    column[dims * (1 + 2 * f)] = sine;
    column[dims * (2 + 2 * f)] = cosine;
  }
}

__global__ void freq_encode_backward_kernel(const float* __restrict__ grad, const float* __restrict__ encoded,
                                            int64_t coordinates, int dims, int degree, float* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= coordinates) return;
  const int64_t row = i / dims * dims * (1 + 2 * degree);
  out[i] = freq_gradient(grad + row, encoded + row, dims, degree, static_cast<int>(i % dims));
}

Tensor freq_encode(const Tensor& x, int64_t degree) {
  check_degree(degree);
  const CudaScope scope(x);
  const Tensor rows = checked(x, "x", {-1, -1});
  const int64_t count = rows.size(0), dims = rows.size(1);
  Tensor out = torch::stable::new_empty(rows, {count, dims * (1 + 2 * degree)});
  if (count * dims == 0) return out;
  scope.launch("freq_encode", freq_encode_kernel, {blocks(count * dims, kThreads), kThreads}, data<float>(rows),
               count * dims, dims, degree, data<float>(out));
  return out;
}

Tensor freq_encode_backward(const Tensor& grad, const Tensor& encoded, int64_t degree) {
  check_degree(degree);
  const CudaScope scope(encoded);
  const Tensor e = checked(encoded, "encoded", {-1, -1});
  const int64_t count = e.size(0), width = e.size(1);
  STD_TORCH_CHECK(width % (1 + 2 * degree) == 0, "encoded has the wrong shape ", shape_text(e));
  const Tensor g = checked(grad, "grad", {count, width});
  const int64_t dims = width / (1 + 2 * degree);
  Tensor out = torch::stable::new_empty(e, {count, dims});
  if (count * dims == 0) return out;
  scope.launch("freq_encode_backward", freq_encode_backward_kernel, {blocks(count * dims, kThreads), kThreads},
               data<float>(g), data<float>(e), count * dims, dims, degree, data<float>(out));
  return out;
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(freqencoder, CUDA, m) {
  m.impl("freq_encode", TORCH_BOX(&tadpole::freq_encode));
  m.impl("freq_encode_backward", TORCH_BOX(&tadpole::freq_encode_backward));
}
