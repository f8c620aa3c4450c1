// Kernels that show what the emulation finds, and one of each function of common/csrc/mma.h.
#include "common/csrc/common.h"
#include "common/csrc/mma.h"
#include "common/csrc/shared_memory.h"

namespace tadpole {
namespace {

constexpr int kThreads = 64;

enum Barrier : int { kNone, kWarp, kBlock };

// The numbers of a block in reverse: right only if the block has a barrier between writing and reading.
template <unsigned THREADS>
__global__ void reverse_kernel(const float* in, Barrier barrier, float* out) {
  __shared__ float numbers[THREADS];
  const unsigned i = threadIdx.x;
  numbers[i] = in[i];
  if (barrier == kWarp) __syncwarp();
  if (barrier == kBlock) __syncthreads();
  out[i] = numbers[THREADS - 1 - i];
}

// Each lane gets the number of the lane before it; lanes from `lanes` on do not ask, though all are waited for.
__global__ void shift_kernel(const float* in, int lanes, float* out) {
  const int i = threadIdx.x;
  if (i < lanes) out[i] = __shfl_up_sync(0xffffffffu, in[i], 1);
}

// Half of the threads are at one barrier, half at another.
__global__ void diverge_kernel(float* out) {
  if (threadIdx.x < kThreads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

__global__ void copy_kernel(const float* in, int count, float* out) {
  if (static_cast<int>(threadIdx.x) < count) out[threadIdx.x] = in[threadIdx.x];
}

// sum [16, 8] = a b of a transposed a [16 k, 16] and b [16 k, 8], both of bfloat16.
__global__ void product_kernel(const uint4* a, const uint4* b, float* sum) {
  uint4* rows = dynamic_shared<uint4>();  // 16 of two uint4 for a, 16 of one for b
  const int lane = threadIdx.x, row = lane % 8, group = lane / 4, pair = lane % 4 * 2;
  rows[lane] = a[lane];
  if (lane < 16) rows[32 + lane] = b[lane];
  __syncthreads();
  uint32_t a_words[4], b_words[2];
  load_transposed(a_words, rows + 2 * (row + lane / 16 * 8) + lane / 8 % 2);
  load_transposed(b_words, rows + 32 + lane % 16);
  float part[4] = {};
  mma_bf16(part, a_words, b_words);
  for (int i = 0; i < 4; ++i) sum[(group + i / 2 * 8) * 8 + pair + i % 2] = part[i];
}

Tensor reverse(const Tensor& in, int64_t barrier) {
  const CudaScope scope(in);
  Tensor out = torch::stable::new_empty(in, {kThreads});
  scope.launch("reverse", reverse_kernel<kThreads>, {1, kThreads}, data<float>(checked(in, "in", {kThreads})),
               static_cast<Barrier>(barrier), data<float>(out));
  return out;
}

Tensor shift(const Tensor& in, int64_t lanes) {
  const CudaScope scope(in);
  Tensor out = torch::stable::new_zeros(in, {32});
  scope.launch("shift", shift_kernel, {1, 32}, data<float>(checked(in, "in", {32})), lanes, data<float>(out));
  return out;
}

Tensor diverge(const Tensor& in) {
  const CudaScope scope(in);
  Tensor out = torch::stable::new_empty(in, {kThreads});
  scope.launch("diverge", diverge_kernel, {1, kThreads}, data<float>(out));
  return out;
}

Tensor copy(const Tensor& in, int64_t count) {
  const CudaScope scope(in);
  Tensor out = torch::stable::new_zeros(in, {kThreads});
  scope.launch("copy", copy_kernel, {1, kThreads}, data<float>(in), count, data<float>(out));
  return out;
}

Tensor product(const Tensor& a, const Tensor& b) {
  const CudaScope scope(a);
  Tensor sum = torch::stable::new_empty(a, {16, 8}, ScalarType::Float);
  scope.launch("product", product_kernel, {1, 32, 48 * sizeof(uint4)},
               data<uint4>(checked(a, "a", {16, 16}, ScalarType::BFloat16)),
               data<uint4>(checked(b, "b", {16, 8}, ScalarType::BFloat16)), data<float>(sum));
  return sum;
}

}  // namespace
}  // namespace tadpole

STABLE_TORCH_LIBRARY(emulation_examples, m) {
  m.def("reverse(Tensor x, int barrier) -> Tensor");
  m.def("shift(Tensor x, int lanes) -> Tensor");
  m.def("diverge(Tensor x) -> Tensor");
  m.def("copy(Tensor x, int count) -> Tensor");
  m.def("product(Tensor a, Tensor b) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(emulation_examples, CUDA, m) {
  m.impl("reverse", TORCH_BOX(&tadpole::reverse));
  m.impl("shift", TORCH_BOX(&tadpole::shift));
  m.impl("diverge", TORCH_BOX(&tadpole::diverge));
  m.impl("copy", TORCH_BOX(&tadpole::copy));
  m.impl("product", TORCH_BOX(&tadpole::product));
}
