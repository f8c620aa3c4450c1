// The kernels of all instruction sets and the choice between them, what all operators are given, and the forward pass of
// samples that lie side by side.
#pragma once

#include <optional>
#include <utility>

#include "fusedfield/csrc/host.h"
#include "fusedfield/csrc/network.h"
#include "gridencoder/csrc/kernels.h"

namespace fusedfield {

using gridencoder::Columns;
using gridencoder::Problem;
using tadpole::Path;

#define TADPOLE_LANES 4
namespace baseline {
#include "fusedfield/csrc/simd.h"
}
#undef TADPOLE_LANES

#define TADPOLE_VECTOR_CODE "fusedfield/csrc/simd.h"
#define TADPOLE_WANT_BF16
#include "common/csrc/vectors.h"

struct Kernels {
  decltype(&baseline::load_columns) load_columns;
  decltype(&baseline::forward) forward;
  decltype(&baseline::backward) backward;
  decltype(&baseline::layers) layers;
};

// `mixed`: in bf16, where tadpole::has_bf16().
inline Kernels kernels(Path path, bool mixed) {
#ifdef TADPOLE_BF16_VECTORS
  if (mixed) return {avx512bf16::load_columns, avx512bf16::forward, avx512bf16::backward, avx512bf16::layers};
#endif
#ifdef TADPOLE_VECTORS
  if (path == tadpole::kAvx512) return {avx512::load_columns, avx512::forward, avx512::backward, avx512::layers};
  if (path == tadpole::kAvx2) return {avx2::load_columns, avx2::forward, avx2::backward, avx2::layers};
#endif
  return {baseline::load_columns, baseline::forward, baseline::backward, baseline::layers};
}

constexpr int64_t kRun = 85 * kTile;  // 4080 samples, whose encoding is saved together

// Where the encoding of `count` samples lies: runs of kRun samples follow each other without gaps, [active, row, 2] each.
struct Layout {
  int64_t count, active;

  int64_t runs() const { return tadpole::ceil_div(count, kRun); }
  int64_t row(int64_t run) const { return padded(std::min(kRun, count - run * kRun)); }
  int64_t start(int64_t run) const { return 2 * active * run * kRun; }
  int64_t floats() const { return 2 * active * padded(count); }
};

namespace {

// What is given, and how it is computed.
struct Setup : Given {
  Setup(const Tensor& positions, const Tensor& parameters, const Ints& offsets, const Ints& resolutions, bool hashed,
        bool align_corners, bool smoothstep, int64_t active, const Ints& widths, double bound, double peak, double slope,
        int64_t activation, bool mixed, int64_t outputs)
      : Given(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound, peak,
              slope, activation, outputs),
        net(this->parameters(), widths, 2 * active, mixed),
        mixed(mixed),
        path(tadpole::cpu_path()) {
    STD_TORCH_CHECK(!mixed || tadpole::has_bf16(), "fusedfield: this processor does not multiply bf16");
  }

  Layout layout() const { return {count, grid.active}; }

  Network net;
  bool mixed;
  Path path;
};

// What a thread works in for up to `capacity` samples side by side.
struct Room {
  Room(const Setup& s, int64_t capacity, bool save)
      : position(3 * capacity), encoding(save ? 0 : 2 * s.grid.active * capacity), tile(s.net) {}

  Floats position;
  Floats encoding;  // of samples whose encoding nobody keeps
  Tile tile;
};

class Forward {
 public:
  Forward(const Setup& s, const Tensor& embeddings, const Ints& offsets)
      : s_(s),
        table_(tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2})),
        unused_(torch::stable::new_empty(s.x, {0})),
        problem_(s, 2, &table_, nullptr, unused_),
        encode_(gridencoder::kernels_for<3, 2>(problem_, gridencoder::choose_path(s.grid, 3, 2)).encode),
        kernel_(kernels(s.path, s.mixed)) {}

  // x [count, 3] -> encoding [active, padded(count), 2], sigma [count], albedo [count, outputs - 1]
  void operator()(Room& room, const float* x, int64_t count, float* encoding, float* sigma, float* albedo) const {
    Columns columns{padded(count)};
    columns.position = room.position.get();
    columns.result = encoding;
    kernel_.load_columns(s_.field, x, count, columns.position, columns.row);
    for (int l = 0; l < s_.grid.active; ++l) {
      encode_(problem_, columns, l, 0, count);
      float* row = encoding + 2 * l * columns.row;
      std::fill(row + 2 * count, row + 2 * columns.row, 0.f);  // never read, but part of what an operator returns
    }
    kernel_.forward(s_.field, s_.net, room.tile, x, encoding, columns.row, count, sigma, albedo);
  }

 private:
  const Setup& s_;
  Tensor table_, unused_;
  Problem problem_;
  gridencoder::Kernel encode_;
  Kernels kernel_;
};

}  // namespace
}  // namespace fusedfield
