#include "freq.h"

#include <algorithm>

namespace tadpole {
namespace {

constexpr int kBlock = 64;    // coordinates whose waves are evaluated together
constexpr int kGrain = 1024;  // rows a thread at least

TADPOLE_CLONES void sincos_block(const float* x, float scale, float* sine, float* cosine) {
  for (int i = 0; i < kBlock; ++i) sincos_reduced(scale * x[i], sine[i], cosine[i]);
}

void freq_encode_rows(const float* x, int64_t begin, int64_t end, int dims, int degree, float* out) {
  float block[kBlock] = {}, sine[kBlock], cosine[kBlock];
  const int64_t width = static_cast<int64_t>(dims) * (1 + 2 * degree);
  for (int64_t first = begin * dims; first < end * dims; first += kBlock) {
    const int count = static_cast<int>(std::min<int64_t>(kBlock, end * dims - first));
    std::copy(x + first, x + first + count, block);
    float* column[kBlock];  // where each coordinate goes
    float largest = 0;
    for (int i = 0; i < count; ++i) {
      column[i] = out + (first + i) / dims * width + (first + i) % dims;
      *column[i] = block[i];
      largest = std::max(largest, std::fabs(block[i]));
    }
    for (int f = 0; f < degree; ++f) {
      sincos_block(block, octave(f), sine, cosine);
      if (octave(f) * largest > kReducible) {
        for (int i = 0; i < count; ++i) {
          const double angle = static_cast<double>(octave(f)) * block[i];
          sine[i] = static_cast<float>(std::sin(angle));
          cosine[i] = static_cast<float>(std::cos(angle));
        }
      }
      const int64_t shift = dims * (1 + 2 * f);
      for (int i = 0; i < count; ++i) {
        column[i][shift] = sine[i];
        column[i][shift + dims] = cosine[i];
      }
    }
  }
}

Tensor freq_encode(const Tensor& x, int64_t degree) {
  check_degree(degree);
  const Tensor rows = checked(x, "x", {-1, -1});
  const int64_t count = rows.size(0);
  const int dims = static_cast<int>(rows.size(1));
  Tensor out = torch::stable::new_empty(rows, {count, dims * (1 + 2 * degree)});
  const float* in = data<float>(rows);
  float* encoded = data<float>(out);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    freq_encode_rows(in, begin, end, dims, static_cast<int>(degree), encoded);
  });
  return out;
}

Tensor freq_encode_backward(const Tensor& grad, const Tensor& encoded, int64_t degree) {
  check_degree(degree);
  const Tensor e = checked(encoded, "encoded", {-1, -1});
  const int64_t count = e.size(0), width = e.size(1);
  STD_TORCH_CHECK(width % (1 + 2 * degree) == 0, "encoded has the wrong shape ", shape_text(e));
  const Tensor g = checked(grad, "grad", {count, width});
  const int dims = static_cast<int>(width / (1 + 2 * degree));
  Tensor out = torch::stable::new_empty(e, {count, dims});
  const float* incoming = data<float>(g);
  const float* waves = data<float>(e);
  float* slope = data<float>(out);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* row = incoming + n * width;
      for (int d = 0; d < dims; ++d) {
        slope[n * dims + d] = freq_gradient(row, waves + n * width, dims, static_cast<int>(degree), d);
      }
    }
  });
  return out;
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY_IMPL(freqencoder, CPU, m) {
  m.impl("freq_encode", TORCH_BOX(&tadpole::freq_encode));
  m.impl("freq_encode_backward", TORCH_BOX(&tadpole::freq_encode_backward));
}
