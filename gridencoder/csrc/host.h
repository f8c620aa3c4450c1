// What the CPU and the CUDA operators do before their kernels: checks at the border, the levels, the choice of a
// template.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <type_traits>
#include <vector>

#include "gridencoder/csrc/grid.h"

namespace gridencoder {

using tadpole::ScalarType;
using tadpole::Tensor;
using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using Ints = std::vector<int64_t>;

inline Grid make_grid(int D, const Ints& offsets, const Ints& resolutions, bool hashed, bool align_corners,
                      bool smoothstep, int64_t active) {
  const int levels = static_cast<int>(resolutions.size());
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels, "gridencoder: 1 to ", kMaxLevels, " levels, got ", levels);
  STD_TORCH_CHECK(offsets.size() == resolutions.size() + 1,
                  "gridencoder: offsets need one entry more than resolutions");
  STD_TORCH_CHECK(active >= 0 && active <= levels, "gridencoder: active levels must be in 0..", levels, ", got ",
                  active);
  STD_TORCH_CHECK(offsets[0] == 0, "gridencoder: offsets must start at 0");
  Grid grid{};
  grid.levels = levels;
  grid.active = static_cast<int>(active);
  grid.smoothstep = smoothstep;
  grid.shift = align_corners ? 0.f : 0.5f;
  for (int l = 0; l < levels; ++l) {
    const int64_t size = offsets[l + 1] - offsets[l], resolution = resolutions[l];
    STD_TORCH_CHECK(size >= 1 && offsets[l + 1] <= INT32_MAX, "gridencoder: offsets must increase and stay below 2^31");
    STD_TORCH_CHECK(resolution >= 2 && resolution <= (1 << 22), "gridencoder: resolutions must be in 2..2^22, got ",
                    resolution);
    bool dense = true;
    uint64_t nodes = 1;
    for (int d = 0; d < D && dense; ++d) {
      nodes *= static_cast<uint64_t>(resolution);
      dense = nodes <= static_cast<uint64_t>(size);
    }
    const bool power_of_two = (size & (size - 1)) == 0;
    Level& level = grid.level[l];
    level.offset = static_cast<uint32_t>(offsets[l]);
    level.size = static_cast<uint32_t>(size);
    level.hash = hashed && !dense;
    level.modulo = !dense && !power_of_two;
    level.mask = !dense && power_of_two ? level.size - 1 : ~0u;
    uint32_t stride = 1;
    for (int d = 0; d < D; ++d, stride *= static_cast<uint32_t>(resolution)) {
      level.multiplier[d] = level.hash ? kPrimes[d] : stride;
    }
    level.resolution = static_cast<int>(resolution);
    level.scale = static_cast<float>(align_corners ? resolution - 1 : resolution);
  }
  return grid;
}

inline Tensor checked_table(const Tensor& embeddings, const Ints& offsets) {
  const ScalarType type = embeddings.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "gridencoder: embeddings must be float32, float16 or bfloat16");
  const int64_t rows = offsets.empty() ? 0 : offsets.back();
  return tadpole::aligned(tadpole::checked(embeddings, "gridencoder: embeddings", {rows, -1}, type));
}

// What every operator on points takes: the points, what they are differentiated along, and the grid.
struct Given {
  Given(const Tensor& checked, const Grid& grid)
      : x(checked), count(x.size(0)), dimensions(x.size(1)), grid(grid) {}

  Given(const Tensor& inputs, const std::optional<Tensor>& direction, const Ints& offsets, const Ints& resolutions,
        bool hashed, bool align_corners, bool smoothstep, int64_t active)
      : Given{checked_points(inputs),  // braces: before its size is asked for
              make_grid(inputs.size(1), offsets, resolutions, hashed, align_corners, smoothstep, active)} {
    if (direction) along = tadpole::checked(*direction, "gridencoder: direction", {count, dimensions});
  }

  static Tensor checked_points(const Tensor& inputs) {
    STD_TORCH_CHECK(inputs.dim() == 2 && inputs.size(1) >= 2 && inputs.size(1) <= kMaxDimensions,
                    "gridencoder: inputs must be [N, D] with D in 2..5, got ", tadpole::shape_text(inputs));
    return tadpole::checked(inputs, "gridencoder: inputs", {-1, -1});
  }

  // The cotangent of the encoding, with so many channels a level.
  Tensor cotangent(const Tensor& gradient, int64_t channels) const {
    return tadpole::aligned(tadpole::checked(gradient, "gridencoder: gradient", {count, grid.levels * channels}));
  }

  const float* points() const { return tadpole::data<float>(x); }
  const float* directions() const { return along ? tadpole::data<float>(*along) : nullptr; }

  Tensor x;  // [N, D]
  int64_t count, dimensions;
  Grid grid;
  std::optional<Tensor> along;  // [N, D]
};

// A gradient that is added to in place.
inline void check_accumulator(const Tensor& gradient, const Tensor& embeddings) {
  tadpole::checked(gradient, "gridencoder: gradient", {embeddings.size(0), embeddings.size(1)});
  STD_TORCH_CHECK(gradient.is_contiguous(), "gridencoder: gradient must be contiguous");
}

template <class T>
struct Type {
  using type = T;
};

template <int I>
using Int = std::integral_constant<int, I>;

// Calls f(Int<D>, Int<C>) for the run-time values.
template <class F>
auto with_sizes(int64_t D, int64_t C, const F& f) {
  const auto with_channels = [&](auto dimensions) {
    switch (C) {
      case 1: return f(dimensions, Int<1>{});
      case 2: return f(dimensions, Int<2>{});
      case 4: return f(dimensions, Int<4>{});
      case 8: return f(dimensions, Int<8>{});
    }
    STD_TORCH_CHECK(false, "gridencoder: level_dim must be 1, 2, 4 or 8, got ", C);
  };
  switch (D) {
    case 2: return with_channels(Int<2>{});
    case 3: return with_channels(Int<3>{});
    case 4: return with_channels(Int<4>{});
    case 5: return with_channels(Int<5>{});
  }
  STD_TORCH_CHECK(false, "gridencoder: 2 to 5 dimensions, got ", D);
}

// Calls f(Type<T>) for the element type of the table.
template <class F>
auto with_type(ScalarType type, const F& f) {
  if (type == ScalarType::Half) return f(Type<Half>{});
  if (type == ScalarType::BFloat16) return f(Type<BFloat16>{});
  return f(Type<float>{});
}

}  // namespace gridencoder
