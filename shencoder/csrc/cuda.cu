#include "sh.h"

namespace tadpole {
namespace {

constexpr int kThreads = 128;

// One thread a point; DEGREE is a template argument so that the basis stays in registers.
template <int DEGREE>
__global__ void sh_encode_kernel(const float* __restrict__ directions, int64_t points, Norms norms,
                                 float* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= points) return;
  const float* d = directions + 3 * i;
  float basis[DEGREE * DEGREE];
  sh_basis(d[0], d[1], d[2], DEGREE, norms, basis);
#pragma unroll
  for (int c = 0; c < DEGREE * DEGREE; ++c) out[DEGREE * DEGREE * i + c] = basis[c];
}

template <int DEGREE>
__global__ void sh_encode_backward_kernel(const float* __restrict__ grad, const float* __restrict__ directions,
                                          int64_t points, Norms norms, float* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= points) return;
  const float* d = directions + 3 * i;
  float* slope = out + 3 * i;
  float incoming[DEGREE * DEGREE], dx, dy, dz;
#pragma unroll
  for (int c = 0; c < DEGREE * DEGREE; ++c) incoming[c] = grad[DEGREE * DEGREE * i + c];
  sh_gradient(d[0], d[1], d[2], DEGREE, norms, incoming, dx, dy, dz);
  slope[0] = dx;
  slope[1] = dy;
  slope[2] = dz;
}

// Call launch.template operator()<degree>().
template <int DEGREE = 1, typename Launch>
void for_degree(int64_t degree, const Launch& launch) {
  if (degree == DEGREE) {
    launch.template operator()<DEGREE>();
  } else if constexpr (DEGREE < kMaxDegree) {
    for_degree<DEGREE + 1>(degree, launch);
  }
}

Tensor sh_encode(const Tensor& directions, int64_t degree) {
  check_degree(degree);
  const CudaScope scope(directions);
  const Tensor d = checked(directions, "directions", {-1, 3});
  const int64_t points = d.size(0);
  Tensor out = torch::stable::new_empty(d, {points, degree * degree});
  if (points == 0) return out;
  const float* in = data<float>(d);
  float* rows = data<float>(out);
  const Norms norms = make_norms();
  for_degree(degree, [&]<int DEGREE>() {
    scope.launch("sh_encode", sh_encode_kernel<DEGREE>, {blocks(points, kThreads), kThreads}, in, points, norms, rows);
  });
  return out;
}

Tensor sh_encode_backward(const Tensor& grad, const Tensor& directions, int64_t degree) {
  check_degree(degree);
  const CudaScope scope(directions);
  const Tensor d = checked(directions, "directions", {-1, 3});
  const int64_t points = d.size(0);
  const Tensor g = checked(grad, "grad", {points, degree * degree});
  Tensor out = torch::stable::new_empty(d, {points, 3});
  if (points == 0) return out;
  const float* in = data<float>(d);
  const float* incoming = data<float>(g);
  float* rows = data<float>(out);
  const Norms norms = make_norms();
  for_degree(degree, [&]<int DEGREE>() {
    scope.launch("sh_encode_backward", sh_encode_backward_kernel<DEGREE>, {blocks(points, kThreads), kThreads},
                 incoming, in, points, norms, rows);
  });
  return out;
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(shencoder, CUDA, m) {
  m.impl("sh_encode", TORCH_BOX(&tadpole::sh_encode));
  m.impl("sh_encode_backward", TORCH_BOX(&tadpole::sh_encode_backward));
}
