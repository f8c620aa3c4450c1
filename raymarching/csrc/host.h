// What the CPU and the CUDA operators do before their kernels: checks at the border and new tensors.
#pragma once

#include <optional>
#include <utility>

#include "raymarching/csrc/composite.h"
#include "raymarching/csrc/march.h"

namespace raymarching {

using tadpole::checked;
using tadpole::data;
using tadpole::ScalarType;
using tadpole::Tensor;
using torch::stable::new_empty;
using torch::stable::new_zeros;

inline const float* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? data<float>(*tensor) : nullptr;
}

inline std::optional<Tensor> checked_optional(const std::optional<Tensor>& tensor, const char* name,
                                              std::initializer_list<int64_t> shape) {
  return tensor ? std::optional<Tensor>(checked(*tensor, name, shape)) : std::nullopt;
}

namespace {

// The inputs that both ways of marching share, checked and contiguous.
struct MarchInputs {
  Tensor origins, directions, bits, nears, fars;
  std::optional<Tensor> noises;
  Grid grid;
  Lattice lattice;

  MarchInputs(const Tensor& rays_o, const Tensor& rays_d, const Tensor& bitfield, const Tensor& nears_,
              const Tensor& fars_, const std::optional<Tensor>& noises_, double bound, int64_t C, int64_t H,
              double dt_gamma, int64_t max_steps)
      : origins(checked(rays_o, "rays_o", {-1, 3})),
        directions(checked(rays_d, "rays_d", {origins.size(0), 3})),
        bits(checked(bitfield, "density_bitfield", {-1}, ScalarType::Byte)),
        nears(checked(nears_, "nears", {origins.size(0)})),
        fars(checked(fars_, "fars", {origins.size(0)})),
        noises(checked_optional(noises_, "noises", {origins.size(0)})),
        grid(data<uint8_t>(std::as_const(bits)), bound, C, H, dt_gamma),
        lattice(dt_gamma, bound, H, max_steps) {
    STD_TORCH_CHECK(C >= 1 && C <= 16, "raymarching: 1 to 16 cascades, got ", C);
    STD_TORCH_CHECK(H >= 4 && H <= 1024 && (H & (H - 1)) == 0, "raymarching: H must be a power of two in 4..1024, got ",
                    H);
    STD_TORCH_CHECK(bits.numel() == C * grid.level_bytes, "density_bitfield must have ", C * grid.level_bytes,
                    " bytes, got ", bits.numel());
    STD_TORCH_CHECK(bound > 0 && max_steps >= 1, "raymarching: bound and max_steps must be positive");
  }

  int64_t rays() const { return origins.size(0); }
};

// The arguments of composite_rays_train_backward, likewise.
struct BackwardInputs {
  Tensor rgbs, ts, packed, weights, transmittance;
  int64_t M, channels, rays;
  std::optional<Tensor> grad_weights, grad_opacity, grad_depth, grad_rgb;

  BackwardInputs(const std::optional<Tensor>& grad_weights_, const std::optional<Tensor>& grad_opacity_,
                 const std::optional<Tensor>& grad_depth_, const std::optional<Tensor>& grad_rgb_, const Tensor& rgbs_,
                 const Tensor& ts_, const Tensor& packed_info, const Tensor& weights_, const Tensor& transmittance_)
      : rgbs(checked(rgbs_, "rgbs", {-1, -1})),
        ts(checked(ts_, "ts", {rgbs.size(0), 2})),
        packed(checked(packed_info, "packed_info", {-1, 2}, ScalarType::Int)),
        weights(checked(weights_, "weights", {rgbs.size(0)})),
        transmittance(checked(transmittance_, "transmittance", {rgbs.size(0)})),
        M(rgbs.size(0)),
        channels(rgbs.size(1)),
        rays(packed.size(0)),
        grad_weights(checked_optional(grad_weights_, "grad_weights", {M})),
        grad_opacity(checked_optional(grad_opacity_, "grad_opacity", {rays})),
        grad_depth(checked_optional(grad_depth_, "grad_depth", {rays})),
        grad_rgb(checked_optional(grad_rgb_, "grad_rgb", {rays, channels})) {}

  OutputGradients gradients() const {
    return {data_or_null(grad_weights), data_or_null(grad_opacity), data_or_null(grad_depth), data_or_null(grad_rgb)};
  }
};

}  // namespace

// Raw pointers to the rays, for a kernel to build ray n from.
struct RaySource {
  const float *origins, *directions, *nears, *fars, *noises;

  explicit RaySource(const MarchInputs& in)
      : origins(data<float>(in.origins)),
        directions(data<float>(in.directions)),
        nears(data<float>(in.nears)),
        fars(data<float>(in.fars)),
        noises(data_or_null(in.noises)) {}

  HOST_DEVICE Ray ray(int64_t n, const Lattice& lattice) const {
    return Ray(origins + 3 * n, directions + 3 * n, nears[n], fars[n], noises ? noises[n] : 0.5f, lattice);
  }
};

// Where a kernel puts sample j.
struct SampleSink {
  float *positions, *directions, *ts;

  HOST_DEVICE void write(int64_t j, const Ray& ray, const Lattice& lattice, int32_t k) const {
    const float t = lattice.distance(ray.place, k);
    for (int i = 0; i < 3; ++i) {
      positions[3 * j + i] = ray.at(i, t);
      directions[3 * j + i] = ray.direction[i];
    }
    ts[2 * j] = t;
    ts[2 * j + 1] = lattice.step_length(t);
  }

  HOST_DEVICE void clear(int64_t j) const {
    for (int i = 0; i < 3; ++i) positions[3 * j + i] = directions[3 * j + i] = 0.0f;
    ts[2 * j] = ts[2 * j + 1] = 0.0f;
  }
};

// What a ray may own of M samples: nothing, where packed_info points outside of them.
HOST_DEVICE int64_t samples_of(const int32_t* info, int64_t n, int64_t M) {
  const int64_t first = info[2 * n], count = info[2 * n + 1];
  return first >= 0 && count >= 0 && first + count <= M ? count : 0;
}

// Positions, directions and distances of `found` samples; or of as many rows as were asked for, zeros at first.
struct Samples {
  int64_t rows;
  Tensor xyzs, dirs, ts;

  Samples(const Tensor& like, int64_t found, const std::optional<int64_t>& asked)
      : rows(asked.value_or(found)),
        xyzs(make(like, 3, asked.has_value())),
        dirs(make(like, 3, asked.has_value())),
        ts(make(like, 2, asked.has_value())) {}

  SampleSink sink() { return {data<float>(xyzs), data<float>(dirs), data<float>(ts)}; }

 private:
  Tensor make(const Tensor& like, int64_t width, bool zeros) const {
    return zeros ? new_zeros(like, {rows, width}) : new_empty(like, {rows, width});
  }
};

}  // namespace raymarching
