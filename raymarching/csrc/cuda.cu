// CUDA kernels, on torch's current stream: boxes, spheres, bits, and the registration of them all. No atomics anywhere:
// every run gives the same bits, and samples come in ray order.
#include <tuple>

#include "raymarching/csrc/cuda_composite.h"
#include "raymarching/csrc/cuda_march.h"

namespace raymarching {
namespace {

__global__ void near_far_from_aabb_kernel(const float* o, const float* d, const float* box, float min_near, int64_t N,
                                          float* near, float* far) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n < N) box_interval(o + 3 * n, d + 3 * n, box, min_near, near + n, far + n);
}

__global__ void sph_from_ray_kernel(const float* o, const float* d, float radius, int64_t N, float* out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n < N) sphere_coordinates(o + 3 * n, d + 3 * n, radius, out + 2 * n);
}

__global__ void morton3D_kernel(const int32_t* coords, int64_t N, int32_t* out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n < N) out[n] = static_cast<int32_t>(morton(coords[3 * n], coords[3 * n + 1], coords[3 * n + 2]));
}

__global__ void morton3D_invert_kernel(const int32_t* indices, int64_t N, int32_t* out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n >= N) return;
  for (int i = 0; i < 3; ++i)
    out[3 * n + i] = static_cast<int32_t>(gather_bits(static_cast<uint32_t>(indices[n]) >> i));
}

// One thread per cell, so that neighbours read neighbours; the vote of a warp is four bytes.
__global__ void packbits_kernel(const float* grid, const float* threshold, int64_t cells, uint8_t* out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  const unsigned votes = __ballot_sync(kAllLanes, n < cells && grid[n] > *threshold);
  const int lane = threadIdx.x % kWarp;
  if (n < cells && lane % 8 == 0) out[n / 8] = static_cast<uint8_t>(votes >> lane);
}

__global__ void flatten_rays_kernel(const int32_t* info, int64_t N, int64_t M, int32_t* out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kRaysPerBlock) + threadIdx.x / kWarp;
  if (n >= N) return;
  const int64_t count = samples_of(info, n, M);
  for (int64_t j = threadIdx.x % kWarp; j < count; j += kWarp) out[info[2 * n] + j] = static_cast<int32_t>(n);
}

std::tuple<Tensor, Tensor> near_far_from_aabb(const Tensor& rays_o, const Tensor& rays_d, const Tensor& aabb,
                                              double min_near) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  const Tensor box = checked(aabb, "aabb", {6});
  const int64_t N = o.size(0);
  const CudaScope scope(o);
  Tensor nears = new_empty(o, {N}), fars = new_empty(o, {N});
  if (N > 0) {
    scope.launch("near_far_from_aabb", near_far_from_aabb_kernel, {blocks(N, kThreads), kThreads}, data<float>(o),
                 data<float>(d), data<float>(box), min_near, N, data<float>(nears), data<float>(fars));
  }
  return {nears, fars};
}

Tensor sph_from_ray(const Tensor& rays_o, const Tensor& rays_d, double radius) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  const int64_t N = o.size(0);
  const CudaScope scope(o);
  Tensor coordinates = new_empty(o, {N, 2});
  if (N > 0) {
    scope.launch("sph_from_ray", sph_from_ray_kernel, {blocks(N, kThreads), kThreads}, data<float>(o), data<float>(d),
                 radius, N, data<float>(coordinates));
  }
  return coordinates;
}

Tensor morton3D(const Tensor& coords) {
  const Tensor c = checked(coords, "coords", {-1, 3}, ScalarType::Int);
  const int64_t N = c.size(0);
  const CudaScope scope(c);
  Tensor indices = new_empty(c, {N});
  if (N > 0) {
    scope.launch("morton3D", morton3D_kernel, {blocks(N, kThreads), kThreads}, data<int32_t>(c), N,
                 data<int32_t>(indices));
  }
  return indices;
}

Tensor morton3D_invert(const Tensor& indices) {
  const Tensor m = checked(indices, "indices", {-1}, ScalarType::Int);
  const int64_t N = m.size(0);
  const CudaScope scope(m);
  Tensor coords = new_empty(m, {N, 3});
  if (N > 0) {
    scope.launch("morton3D_invert", morton3D_invert_kernel, {blocks(N, kThreads), kThreads}, data<int32_t>(m), N,
                 data<int32_t>(coords));
  }
  return coords;
}

Tensor packbits(const Tensor& grid, const Tensor& thresh) {
  const Tensor flat = checked(grid, "grid", {-1, -1}), limit = checked(thresh, "thresh", {});
  const int64_t cells = flat.numel();
  STD_TORCH_CHECK(cells % 8 == 0, "raymarching: the grid must have a multiple of 8 cells, got ", cells);
  const CudaScope scope(flat);
  Tensor bits = new_empty(flat, {cells / 8}, ScalarType::Byte);
  if (cells > 0) {
    scope.launch("packbits", packbits_kernel, {blocks(cells, kThreads), kThreads}, data<float>(flat),
                 data<float>(limit), cells, data<uint8_t>(bits));
  }
  return bits;
}

Tensor flatten_rays(const Tensor& packed_info, int64_t M) {
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int64_t N = packed.size(0);
  const CudaScope scope(packed);
  Tensor owners = new_empty(packed, {M});
  torch::stable::fill_(owners, -1.0);
  if (N > 0) {
    scope.launch("flatten_rays", flatten_rays_kernel, {blocks(N, kRaysPerBlock), kThreads}, data<int32_t>(packed), N,
                 M, data<int32_t>(owners));
  }
  return owners;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(raymarching, CUDA, m) {
  m.impl("near_far_from_aabb", TORCH_BOX(&near_far_from_aabb));
  m.impl("sph_from_ray", TORCH_BOX(&sph_from_ray));
  m.impl("morton3D", TORCH_BOX(&morton3D));
  m.impl("morton3D_invert", TORCH_BOX(&morton3D_invert));
  m.impl("packbits", TORCH_BOX(&packbits));
  m.impl("flatten_rays", TORCH_BOX(&flatten_rays));
  m.impl("march_rays_train", TORCH_BOX(&march_rays_train));
  m.impl("march_rays", TORCH_BOX(&march_rays));
  m.impl("composite_rays_train", TORCH_BOX(&composite_rays_train));
  m.impl("composite_rays_train_backward", TORCH_BOX(&composite_rays_train_backward));
  m.impl("composite_rays", TORCH_BOX(&composite_rays));
}

}  // namespace raymarching
