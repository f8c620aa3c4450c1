// CPU kernels of the fused field; field.h is their contract.
//
// DESIGN: forward, a thread takes a run of kRun samples: it encodes them level by level (a level's rows stay in the
// cache), then takes tiles of them through all layers, whose activations never leave the first caches. Backward, tiles
// compute their hidden layers again and leave the gradient of the encoding in a buffer, which is then added to the
// table with the levels split between threads: no atomics. Gradients of the layers are summed in kSums places by a
// fixed partition of the samples, so that no result depends on the number of threads.
#include <torch/csrc/stable/library.h>

#include <tuple>

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
#include "common/csrc/vectors.h"

constexpr int64_t kRun = 85 * kTile;        // 4080 samples a task of the forward pass, whose encoding is saved together
constexpr int64_t kPart = kRun / 5;         // a task of the backward pass
constexpr int64_t kSums = 32;               // places that sum the gradients of the layers
constexpr int64_t kChunk = kSums * kPart;   // samples whose gradients are kept before they are added to the table

struct Kernels {
  decltype(&baseline::load_columns) load_columns;
  decltype(&baseline::forward) forward;
  decltype(&baseline::backward) backward;
};

Kernels kernels(Path path) {
#ifdef TADPOLE_VECTORS
  if (path == tadpole::kAvx512) return {avx512::load_columns, avx512::forward, avx512::backward};
  if (path == tadpole::kAvx2) return {avx2::load_columns, avx2::forward, avx2::backward};
#endif
  return {baseline::load_columns, baseline::forward, baseline::backward};
}

namespace {

// Everything both passes need, checked.
struct Setup {
  Setup(const Tensor& positions, const Tensor& parameters, const Ints& offsets, const Ints& resolutions, bool hashed,
        bool align_corners, bool smoothstep, int64_t active, const Ints& widths, double bound, double peak, double slope,
        int64_t activation, int64_t outputs)
      : grid(gridencoder::make_grid(3, offsets, resolutions, hashed, align_corners, smoothstep, active)),
        x(tadpole::checked(positions, "fusedfield: positions", {-1, 3})),
        count(x.size(0)),
        widths(checked_widths(widths, grid.levels)),
        weights(tadpole::checked(parameters, "fusedfield: parameters", {parameter_count(widths)})),
        net(tadpole::data<float>(std::as_const(weights)), widths, 2 * active),
        field{static_cast<float>(bound), static_cast<float>(peak), static_cast<float>(slope),
              static_cast<Activation>(activation), static_cast<int>(outputs)},
        path(tadpole::cpu_path()) {
    STD_TORCH_CHECK(activation >= kNone && activation <= kSoftplus, "fusedfield: no activation ", activation);
    STD_TORCH_CHECK(outputs == 1 || outputs == kOutputs, "fusedfield: outputs must be 1 or 4, got ", outputs);
    STD_TORCH_CHECK(active >= 1, "fusedfield: active levels must be at least 1, got ", active);
  }

  static const Ints& checked_widths(const Ints& widths, int levels) {
    STD_TORCH_CHECK(widths.size() >= 3 && widths.size() <= kMaxLayers + 1, "fusedfield: 2 to ", kMaxLayers, " layers");
    for (int64_t width : widths) {
      STD_TORCH_CHECK(width >= 1 && width <= kMaxWidth, "fusedfield: widths must be in 1..", kMaxWidth, ", got ", width);
    }
    STD_TORCH_CHECK(widths[0] == 2 * levels && widths.back() == kOutputs, "fusedfield: widths go from ", 2 * levels,
                    " to 4");
    return widths;
  }

  static int64_t parameter_count(const Ints& widths) {
    int64_t sum = 0;
    for (size_t l = 0; l + 1 < widths.size(); ++l) sum += widths[l + 1] * (widths[l] + 1);
    return sum;
  }

  const float* positions() const { return tadpole::data<float>(x); }
  int64_t runs() const { return tadpole::ceil_div(count, kRun); }
  // The encoding of a run lies in [active, row, 2]; runs follow each other without gaps.
  int64_t row(int64_t run) const { return padded(std::min(kRun, count - run * kRun)); }
  int64_t encoding_floats() const { return 2 * grid.active * padded(count); }
  int64_t encoding_of(int64_t run) const { return 2 * grid.active * run * kRun; }

  Grid grid;
  Tensor x;
  int64_t count;
  Ints widths;
  Tensor weights;
  Network net;
  Field field;
  Path path;
};

std::tuple<Tensor, Tensor, Tensor> field_query(const Tensor& positions, const Tensor& embeddings,
                                               const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                               bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                               double bound, double peak, double slope, int64_t activation,
                                               int64_t outputs, bool save) {
  const Setup s(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound,
                peak, slope, activation, outputs);
  const Tensor table = tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2});
  Tensor sigma = torch::stable::new_empty(s.x, {s.count});
  Tensor albedo = torch::stable::new_empty(s.x, {s.count, outputs - 1});
  Tensor saved = torch::stable::new_empty(s.x, {save ? s.encoding_floats() : 0});
  float *sigmas = tadpole::data<float>(sigma), *albedos = tadpole::data<float>(albedo);
  float* encodings = tadpole::data<float>(saved);
  const Problem p(s.grid, 2, s.x, std::nullopt, &table, nullptr, sigma);
  const auto encode = gridencoder::kernels_for<3, 2>(p, gridencoder::choose_path(s.grid, 3, 2)).encode;
  const Kernels kernel = kernels(s.path);
  struct Room {
    Room(const Setup& s, bool save) : position(3 * s.row(0)), encoding(save ? 0 : 2 * s.grid.active * s.row(0)), tile(s.net) {}
    Floats position, encoding;
    Tile tile;
  };
  std::vector<std::unique_ptr<Room>> rooms(torch::stable::get_num_threads());
  tadpole::share(s.runs(), [&](int64_t run, int64_t thread) {
    if (!rooms[thread]) rooms[thread].reset(new Room(s, save));
    Room& room = *rooms[thread];
    Columns columns{s.row(run)};
    columns.position = room.position.get();
    columns.result = save ? encodings + s.encoding_of(run) : room.encoding.get();
    const int64_t first = run * kRun, count = std::min(kRun, s.count - first);
    kernel.load_columns(s.field, s.positions() + 3 * first, count, columns.position, columns.row);
    for (int l = 0; l < s.grid.active; ++l) encode(p, columns, l, 0, count);
    kernel.forward(s.field, s.net, room.tile, s.positions() + 3 * first, columns.result, columns.row, count, sigmas + first,
            albedos + (outputs - 1) * first);
  });
  return {sigma, albedo, saved};
}

std::tuple<Tensor, Tensor> field_query_backward(const Tensor& sigma_gradient, const Tensor& albedo_gradient,
                                                const Tensor& saved, const Tensor& positions, const Tensor& embeddings,
                                                const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                                bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                                double bound, double peak, double slope, int64_t activation,
                                                int64_t outputs) {
  const Setup s(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound,
                peak, slope, activation, outputs);
  const Tensor g = tadpole::checked(sigma_gradient, "fusedfield: gradient of sigma", {s.count});
  const Tensor a =
      tadpole::checked(albedo_gradient, "fusedfield: gradient of albedo", {s.count, outputs - 1});
  tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2});
  const Tensor encoded = tadpole::checked(saved, "fusedfield: saved", {s.encoding_floats()});
  const float *sigmas = tadpole::data<float>(g), *albedos = tadpole::data<float>(a);
  const float* encodings = tadpole::data<float>(encoded);
  // Of the embeddings only the shape matters: they are an argument so that autograd sees that gradients depend on them.
  Tensor table = torch::stable::new_empty(s.x, {embeddings.size(0), 2});
  Tensor flat = torch::stable::new_empty(s.x, {s.weights.size(0)});
  tadpole::zero(table);

  const Problem p(s.grid, 2, s.x, std::nullopt, nullptr, nullptr, table);
  const auto add_to_table = gridencoder::kernels_for<3, 2>(p, gridencoder::choose_path(s.grid, 3, 2)).embedding_gradient;
  const Kernels kernel = kernels(s.path);
  const int64_t chunk = std::min(kChunk, s.count), places = std::min(kSums, tadpole::ceil_div(s.count, kPart));
  Columns columns{Columns::row_for(chunk)};
  const Floats position(3 * columns.row), gradient(2 * s.grid.active * columns.row), sums(places * s.net.gradients);
  columns.position = position.get();
  columns.gradient = gradient.get();
  std::fill_n(sums.get(), places * s.net.gradients, 0.f);
  std::vector<std::unique_ptr<Tile>> tiles(torch::stable::get_num_threads());
  for (int64_t start = 0; start < s.count; start += kChunk) {
    const int64_t size = std::min(kChunk, s.count - start);
    tadpole::share(tadpole::ceil_div(size, kPart), [&](int64_t part, int64_t thread) {
      if (!tiles[thread]) tiles[thread].reset(new Tile(s.net));
      const int64_t begin = part * kPart, end = std::min(begin + kPart, size), first = start + begin;
      kernel.load_columns(s.field, s.positions() + 3 * first, end - begin, columns.position + begin, columns.row);
      const int64_t run = first / kRun;
      const float* encoding = encodings + s.encoding_of(run) + 2 * (first - run * kRun);
      kernel.backward(s.field, s.net, *tiles[thread], s.positions() + 3 * first, encoding, s.row(run), end - begin, sigmas + first,
               albedos + (outputs - 1) * first, sums.get() + part * s.net.gradients,
               columns.gradient + 2 * begin, columns.row);
    });
    tadpole::share(s.grid.active, [&](int64_t l, int64_t) { add_to_table(p, columns, static_cast<int>(l), 0, size); });
  }
  for (int64_t place = 1; place < places; ++place) {
    for (int64_t i = 0; i < s.net.gradients; ++i) sums.get()[i] += sums.get()[place * s.net.gradients + i];
  }
  if (places == 0) {
    std::memset(tadpole::data<float>(flat), 0, flat.numel() * sizeof(float));
  } else {
    s.net.unpack(sums.get(), tadpole::data<float>(flat));
  }
  return {table, flat};
}

}  // namespace
}  // namespace fusedfield

STABLE_TORCH_LIBRARY_IMPL(fusedfield, CPU, m) {
  m.impl("field_query", TORCH_BOX(&fusedfield::field_query));
  m.impl("field_query_backward", TORCH_BOX(&fusedfield::field_query_backward));
}
