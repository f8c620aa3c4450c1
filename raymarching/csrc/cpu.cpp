// CPU kernels: boxes, spheres, bits, and the registration of them all. Every ray is worked on by one thread and every
// result has its own place: no atomics on data, and the same bits for any number of threads.
#include <algorithm>
#include <tuple>

#include "raymarching/csrc/cpu_composite.h"
#include "raymarching/csrc/cpu_march.h"

namespace raymarching {
namespace {

std::tuple<Tensor, Tensor> near_far_from_aabb(const Tensor& rays_o, const Tensor& rays_d, const Tensor& aabb,
                                              double min_near) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  const Tensor box = checked(aabb, "aabb", {6});
  Tensor nears = new_empty(o, {o.size(0)}), fars = new_empty(o, {o.size(0)});
  const float *po = data<float>(o), *pd = data<float>(d), *pb = data<float>(box);
  float *near = data<float>(nears), *far = data<float>(fars);
  parallel_for(0, o.size(0), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      box_interval(po + 3 * n, pd + 3 * n, pb, static_cast<float>(min_near), near + n, far + n);
    }
  });
  return {nears, fars};
}

Tensor sph_from_ray(const Tensor& rays_o, const Tensor& rays_d, double radius) {
  const Tensor o = checked(rays_o, "rays_o", {-1, 3}), d = checked(rays_d, "rays_d", {o.size(0), 3});
  Tensor coordinates = new_empty(o, {o.size(0), 2});
  const float *po = data<float>(o), *pd = data<float>(d);
  float* out = data<float>(coordinates);
  parallel_for(0, o.size(0), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      sphere_coordinates(po + 3 * n, pd + 3 * n, static_cast<float>(radius), out + 2 * n);
    }
  });
  return coordinates;
}

Tensor morton3D(const Tensor& coords) {
  const Tensor c = checked(coords, "coords", {-1, 3}, ScalarType::Int);
  Tensor indices = new_empty(c, {c.size(0)});
  const int32_t* in = data<int32_t>(c);
  int32_t* out = data<int32_t>(indices);
  parallel_for(0, c.size(0), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      out[n] = static_cast<int32_t>(morton(in[3 * n], in[3 * n + 1], in[3 * n + 2]));
  });
  return indices;
}

Tensor morton3D_invert(const Tensor& indices) {
  const Tensor m = checked(indices, "indices", {-1}, ScalarType::Int);
  Tensor coords = new_empty(m, {m.size(0), 3});
  const int32_t* in = data<int32_t>(m);
  int32_t* out = data<int32_t>(coords);
  parallel_for(0, m.size(0), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int i = 0; i < 3; ++i) out[3 * n + i] = static_cast<int32_t>(gather_bits(static_cast<uint32_t>(in[n]) >> i));
    }
  });
  return coords;
}

Tensor packbits(const Tensor& grid, const Tensor& thresh) {
  const Tensor flat = checked(grid, "grid", {-1, -1}), limit = checked(thresh, "thresh", {});
  STD_TORCH_CHECK(flat.numel() % 8 == 0, "raymarching: the grid must have a multiple of 8 cells, got ", flat.numel());
  Tensor bits = new_empty(flat, {flat.numel() / 8}, ScalarType::Byte);
  const float* in = data<float>(flat);
  uint8_t* out = data<uint8_t>(bits);
  const float threshold = *data<float>(limit);
  parallel_for(0, bits.numel(), 8192, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      uint32_t byte = 0;
      for (int i = 0; i < 8; ++i) byte |= static_cast<uint32_t>(in[8 * n + i] > threshold) << i;
      out[n] = static_cast<uint8_t>(byte);
    }
  });
  return bits;
}

Tensor flatten_rays(const Tensor& packed_info, int64_t M) {
  const Tensor packed = checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int);
  const int32_t* info = data<int32_t>(packed);
  Tensor owners = new_empty(packed, {M});
  int32_t* out = data<int32_t>(owners);
  if (checked_count(info, packed.size(0), M) != M) std::fill_n(out, M, -1);
  for_ray_blocks(packed.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) std::fill_n(out + info[2 * n], info[2 * n + 1], static_cast<int32_t>(n));
  });
  return owners;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(raymarching, CPU, m) {
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
