// The operators of torch.ops.raymarching; march.h and composite.h describe their arguments, march.py and composite.py
// their use.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(raymarching, m) {
  m.def("near_far_from_aabb(Tensor rays_o, Tensor rays_d, Tensor aabb, float min_near) -> (Tensor, Tensor)");
  m.def("sph_from_ray(Tensor rays_o, Tensor rays_d, float radius) -> Tensor");
  m.def("morton3D(Tensor coords) -> Tensor");
  m.def("morton3D_invert(Tensor indices) -> Tensor");
  m.def("packbits(Tensor grid, Tensor thresh) -> Tensor");
  m.def("flatten_rays(Tensor packed_info, SymInt M) -> Tensor");
  // -> xyzs, dirs, ts, packed_info
  m.def(
      "march_rays_train(Tensor rays_o, Tensor rays_d, Tensor density_bitfield, Tensor nears, Tensor fars, "
      "Tensor? noises, float bound, int C, int H, float dt_gamma, int max_steps, SymInt? rows) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  // -> xyzs, dirs, ts
  m.def(
      "march_rays(Tensor rays_alive, Tensor rays_t, Tensor rays_o, Tensor rays_d, Tensor density_bitfield, "
      "Tensor nears, Tensor fars, Tensor? noises, float bound, int C, int H, float dt_gamma, int max_steps, "
      "SymInt n_step) -> (Tensor, Tensor, Tensor)");
  // -> weights, opacity, depth, rgb, transmittance behind each sample (0 behind the last that counts)
  m.def(
      "composite_rays_train(Tensor sigmas, Tensor rgbs, Tensor ts, Tensor packed_info, float min_transmittance) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // d<gradients, outputs> by sigmas, rgbs
  m.def(
      "composite_rays_train_backward(Tensor? grad_weights, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_rgb, "
      "Tensor rgbs, Tensor ts, Tensor packed_info, Tensor weights, Tensor transmittance) -> (Tensor, Tensor)");
  m.def(
      "composite_rays(Tensor(a!) rays_alive, Tensor(b!) rays_t, Tensor sigmas, Tensor rgbs, Tensor ts, "
      "Tensor(c!) opacity, Tensor(d!) depth, Tensor(e!) image, SymInt n_step, float min_transmittance) -> ()");
}
