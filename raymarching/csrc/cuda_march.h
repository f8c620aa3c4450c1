// Marching on CUDA: one thread per ray and two passes, count and write, with a prefix sum between them.
#pragma once

#include <tuple>

#include "raymarching/csrc/cuda_launch.h"

namespace raymarching {
namespace {

constexpr int kScanThreads = 1024;

__global__ void count_samples_kernel(RaySource source, Grid grid, Lattice lattice, int64_t N, int32_t* info) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n >= N) return;
  const Ray ray = source.ray(n, lattice);
  int32_t count = 0;
  for (int32_t k = next_sample(ray, grid, lattice, 0); k >= 0; k = next_sample(ray, grid, lattice, k + 1)) ++count;
  info[2 * n + 1] = count;
}

// info[n][0] = sum of info[i][1] for i < n, as far as an int32 goes, *total = the sum of all. One block: each thread adds
// up a stretch of rays, the stretches are scanned in shared memory.
__global__ void prefix_sum_kernel(int64_t N, int32_t* info, int64_t* total) {
  __shared__ int64_t sums[kScanThreads];
  const int64_t stretch = (N + kScanThreads - 1) / kScanThreads, begin = threadIdx.x * stretch;
  const int64_t end = begin + stretch < N ? begin + stretch : N;
  int64_t sum = 0;
  for (int64_t n = begin; n < end; ++n) sum += info[2 * n + 1];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int64_t left = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += left;
    __syncthreads();
  }
  if (threadIdx.x == kScanThreads - 1) *total = sums[threadIdx.x];
  int64_t first = sums[threadIdx.x] - sum;
  for (int64_t n = begin; n < end; ++n) {
    info[2 * n] = static_cast<int32_t>(first < INT32_MAX ? first : INT32_MAX);
    first += info[2 * n + 1];
  }
}

__global__ void write_samples_kernel(RaySource source, Grid grid, Lattice lattice, int64_t N, int64_t M,
                                     const int32_t* info, SampleSink sink) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n >= N) return;
  const Ray ray = source.ray(n, lattice);
  int32_t k = -1;
  for (int64_t j = info[2 * n], end = j + samples_of(info, n, M); j < end; ++j) {
    k = next_sample(ray, grid, lattice, k + 1);
    sink.write(j, ray, lattice, k);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> march_rays_train(const Tensor& rays_o, const Tensor& rays_d,
                                                            const Tensor& bitfield, const Tensor& nears,
                                                            const Tensor& fars, const std::optional<Tensor>& noises,
                                                            double bound, int64_t C, int64_t H, double dt_gamma,
                                                            int64_t max_steps, std::optional<int64_t> rows) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const RaySource source(in);
  const int64_t N = in.rays();
  const CudaScope scope(in.origins);
  Tensor packed_info = new_empty(in.origins, {N, 2}, ScalarType::Int);
  int64_t found = 0;
  if (N > 0) {
    Tensor total = new_empty(in.origins, {1}, ScalarType::Long);
    scope.launch("count_samples", count_samples_kernel, {blocks(N, kThreads), kThreads}, source, in.grid, in.lattice,
                 N, data<int32_t>(packed_info));
    scope.launch("prefix_sum", prefix_sum_kernel, {1, kScanThreads}, N, data<int32_t>(packed_info),
                 data<int64_t>(total));
    if (!rows) {  // the one wait: how much memory to ask for
      const auto copied =
          cudaMemcpyAsync(&found, data<int64_t>(total), sizeof(found), cudaMemcpyDeviceToHost, scope.stream);
      tadpole::check("march_rays_train", copied);
      tadpole::check("march_rays_train", cudaStreamSynchronize(scope.stream));
      STD_TORCH_CHECK(found <= INT32_MAX, "march_rays_train: more than 2^31 samples: march fewer rays at a time");
    }
  }
  Samples samples(in.origins, found, rows);
  if (N > 0 && samples.rows > 0) {
    scope.launch("write_samples", write_samples_kernel, {blocks(N, kThreads), kThreads}, source, in.grid, in.lattice,
                 N, samples.rows, data<int32_t>(packed_info), samples.sink());
  }
  return {samples.xyzs, samples.dirs, samples.ts, packed_info};
}

__global__ void march_rays_kernel(RaySource source, Grid grid, Lattice lattice, int64_t rays, int64_t slots,
                                  const int32_t* alive, const float* rays_t, int64_t n_step, SampleSink sink) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n >= slots) return;
  const int32_t id = alive[n] < rays ? alive[n] : -1;
  march_piece(source, grid, lattice, id, rays_t, n * n_step, n_step, sink);
}

std::tuple<Tensor, Tensor, Tensor> march_rays(const Tensor& rays_alive, const Tensor& rays_t, const Tensor& rays_o,
                                              const Tensor& rays_d, const Tensor& bitfield, const Tensor& nears,
                                              const Tensor& fars, const std::optional<Tensor>& noises, double bound,
                                              int64_t C, int64_t H, double dt_gamma, int64_t max_steps,
                                              int64_t n_step) {
  const MarchInputs in(rays_o, rays_d, bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps);
  const Tensor alive = checked(rays_alive, "rays_alive", {-1}, ScalarType::Int),
               from = checked(rays_t, "rays_t", {in.rays()});
  const int64_t slots = alive.size(0), M = slots * n_step;
  const CudaScope scope(in.origins);
  Samples samples(in.origins, M, std::nullopt);
  if (M > 0) {
    scope.launch("march_rays", march_rays_kernel, {blocks(slots, kThreads), kThreads}, RaySource(in), in.grid,
                 in.lattice, in.rays(), slots, data<int32_t>(alive), data<float>(from), n_step, samples.sink());
  }
  return {samples.xyzs, samples.dirs, samples.ts};
}

}  // namespace
}  // namespace raymarching
