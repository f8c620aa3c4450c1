#include "sh.h"

#include <algorithm>

namespace tadpole {
namespace {

constexpr int kLanes = 16;  // points a block: one AVX-512 register, two of AVX2
constexpr int kGrain = 32;  // blocks a thread at least

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));

// Gather `lanes` points of a [N, columns] array into one vector a column; absent points read as 0.
HOST_DEVICE void load(const float* rows, int columns, int lanes, Vec* out) {
  for (int c = 0; c < columns; ++c) {
    for (int i = 0; i < kLanes; ++i) out[c][i] = i < lanes ? rows[i * columns + c] : 0.0f;
  }
}

HOST_DEVICE void store(const Vec* values, int columns, int lanes, float* rows) {
  for (int i = 0; i < lanes; ++i) {
    for (int c = 0; c < columns; ++c) rows[i * columns + c] = reinterpret_cast<const float*>(values)[c * kLanes + i];
  }
}

TADPOLE_CLONES void sh_encode_blocks(const float* directions, int64_t begin, int64_t end, int degree,
                                     const Norms& norms, float* out) {
  Vec xyz[3], basis[kMaxDegree * kMaxDegree];
  const int columns = degree * degree;
  for (int64_t first = begin; first < end; first += kLanes) {
    const int lanes = static_cast<int>(end - first < kLanes ? end - first : kLanes);
    load(directions + 3 * first, 3, lanes, xyz);
    sh_basis(xyz[0], xyz[1], xyz[2], degree, norms, basis);
    store(basis, columns, lanes, out + columns * first);
  }
}

TADPOLE_CLONES void sh_gradient_blocks(const float* grad, const float* directions, int64_t begin, int64_t end,
                                       int degree, const Norms& norms, float* out) {
  Vec xyz[3], slope[3], incoming[kMaxDegree * kMaxDegree];
  const int columns = degree * degree;
  for (int64_t first = begin; first < end; first += kLanes) {
    const int lanes = static_cast<int>(end - first < kLanes ? end - first : kLanes);
    load(directions + 3 * first, 3, lanes, xyz);
    load(grad + columns * first, columns, lanes, incoming);
    sh_gradient(xyz[0], xyz[1], xyz[2], degree, norms, incoming, slope[0], slope[1], slope[2]);
    store(slope, 3, lanes, out + 3 * first);
  }
}

Tensor sh_encode(const Tensor& directions, int64_t degree) {
  check_degree(degree);
  const Tensor d = checked(directions, "directions", {-1, 3});
  const int64_t points = d.size(0);
  Tensor out = torch::stable::new_empty(d, {points, degree * degree});
  const float* in = data<float>(d);
  float* rows = data<float>(out);
  const Norms norms = make_norms();
  torch::stable::parallel_for(0, ceil_div<int64_t>(points, kLanes), kGrain, [&](int64_t begin, int64_t end) {
    sh_encode_blocks(in, begin * kLanes, std::min(end * kLanes, points), static_cast<int>(degree), norms, rows);
  });
  return out;
}

Tensor sh_encode_backward(const Tensor& grad, const Tensor& directions, int64_t degree) {
  check_degree(degree);
  const Tensor d = checked(directions, "directions", {-1, 3});
  const int64_t points = d.size(0);
  const Tensor g = checked(grad, "grad", {points, degree * degree});
  Tensor out = torch::stable::new_empty(d, {points, 3});
  const float* in = data<float>(d);
  const float* incoming = data<float>(g);
  float* rows = data<float>(out);
  const Norms norms = make_norms();
  torch::stable::parallel_for(0, ceil_div<int64_t>(points, kLanes), kGrain, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * kLanes, points);
    sh_gradient_blocks(incoming, in, begin * kLanes, last, static_cast<int>(degree), norms, rows);
  });
  return out;
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(shencoder, CPU, m) {
  m.impl("sh_encode", TORCH_BOX(&tadpole::sh_encode));
  m.impl("sh_encode_backward", TORCH_BOX(&tadpole::sh_encode_backward));
}
