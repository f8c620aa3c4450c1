// CPU kernels of the fused field; field.h is their contract.
//
// DESIGN: forward, a thread takes a run of kRun samples: it encodes them level by level (a level's rows stay in the
// cache), then takes tiles of them through all layers, whose activations never leave the first caches. Backward, tiles
// compute their hidden layers again and leave the gradient of the encoding in a buffer, which is then added to the
// table with the levels split between threads: no atomics. Gradients of the layers are summed in kSums places by a
// fixed partition of the samples, so that no result depends on the number of threads.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "fusedfield/csrc/rays.h"

namespace fusedfield {

constexpr int64_t kPart = kRun / 5;        // a task of the backward pass
constexpr int64_t kSums = 32;              // places that sum the gradients of the layers
constexpr int64_t kChunk = kSums * kPart;  // samples whose gradients are kept before they are added to the table

namespace {

std::tuple<Tensor, Tensor, Tensor> field_query(const Tensor& positions, const Tensor& embeddings,
                                               const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                               bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                               double bound, double peak, double slope, int64_t activation, bool mixed,
                                               int64_t outputs, bool save) {
  const Setup s(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound,
                peak, slope, activation, mixed, outputs);
  const Forward forward(s, embeddings, offsets);
  const Layout layout = s.layout();
  Tensor sigma = torch::stable::new_empty(s.x, {s.count});
  Tensor albedo = torch::stable::new_empty(s.x, {s.count, outputs - 1});
  Tensor saved = torch::stable::new_empty(s.x, {save ? layout.floats() : 0});
  tadpole::large_pages(saved);
  float *sigmas = tadpole::data<float>(sigma), *albedos = tadpole::data<float>(albedo);
  float* encodings = tadpole::data<float>(saved);
  std::vector<std::unique_ptr<Room>> rooms(torch::stable::get_num_threads());
  tadpole::share(layout.runs(), [&](int64_t run, int64_t thread) {
    if (!rooms[thread]) rooms[thread].reset(new Room(s, layout.row(0), save));
    Room& room = *rooms[thread];
    const int64_t first = run * kRun, count = std::min(kRun, s.count - first);
    float* encoding = save ? encodings + layout.start(run) : room.encoding.get();
    forward(room, s.points() + 3 * first, count, encoding, sigmas + first, albedos + (outputs - 1) * first);
  });
  return {sigma, albedo, saved};
}

std::tuple<Tensor, int64_t> layers(const Tensor& encoding, const Tensor& parameters, Ints widths, bool mixed,
                                   int64_t rounds) {
  STD_TORCH_CHECK(!mixed || tadpole::has_bf16(), "fusedfield: this processor does not multiply bf16");
  STD_TORCH_CHECK(!widths.empty() && rounds >= 1, "fusedfield: layers need widths and rounds");
  const int64_t levels = widths[0] / 2, threads = torch::stable::get_num_threads();
  Setup::checked_widths(widths, static_cast<int>(levels));
  const Tensor x = tadpole::checked(encoding, "fusedfield: encoding", {levels, kTile, 2});
  const Tensor weights = tadpole::checked(parameters, "fusedfield: parameters", {Setup::parameter_count(widths)});
  const Network net(tadpole::data<float>(weights), widths, widths[0], mixed);
  const float* from = tadpole::data<float>(x);
  Tensor channels = torch::stable::new_empty(x, {kOutputs, kTile});
  float* to = tadpole::data<float>(channels);
  const Kernels kernel = kernels(tadpole::cpu_path(), mixed);
  const std::vector<float> origin(3 * kTile);
  tadpole::share(threads, [&](int64_t part, int64_t) {
    Tile tile(net);
    kernel.layers({.bound = 1.f, .outputs = kOutputs}, net, tile, origin.data(), from, rounds);
    if (part == 0) std::memcpy(to, tile.raw, sizeof(tile.raw));
  });
  return {channels, threads * rounds * kTile};
}

std::tuple<Tensor, Tensor> field_query_backward(const Tensor& sigma_gradient, const Tensor& albedo_gradient,
                                                const Tensor& saved, const Tensor& positions, const Tensor& embeddings,
                                                const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed,
                                                bool align_corners, bool smoothstep, int64_t active, Ints widths,
                                                double bound, double peak, double slope, int64_t activation, bool mixed,
                                                int64_t outputs) {
  const Setup s(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound,
                peak, slope, activation, mixed, outputs);
  const Layout layout = s.layout();
  const Tensor g = tadpole::checked(sigma_gradient, "fusedfield: gradient of sigma", {s.count});
  const Tensor a =
      tadpole::checked(albedo_gradient, "fusedfield: gradient of albedo", {s.count, outputs - 1});
  tadpole::checked(embeddings, "fusedfield: embeddings", {offsets.back(), 2});
  const Tensor encoded = tadpole::checked(saved, "fusedfield: saved", {layout.floats()});
  const float *sigmas = tadpole::data<float>(g), *albedos = tadpole::data<float>(a);
  const float* encodings = tadpole::data<float>(encoded);
  // Of the embeddings only the shape matters: they are an argument so that autograd sees that gradients depend on them.
  Tensor table = torch::stable::new_empty(s.x, {embeddings.size(0), 2});
  Tensor flat = torch::stable::new_empty(s.x, {s.weights.size(0)});
  tadpole::zero(table);

  const Problem p(s, 2, nullptr, nullptr, table);
  const auto add_to_table = gridencoder::kernels_for<3, 2>(p, gridencoder::choose_path(s.grid, 3, 2)).embedding_gradient;
  const Kernels kernel = kernels(s.path, s.mixed);
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
      kernel.load_columns(s.field, s.points() + 3 * first, end - begin, columns.position + begin, columns.row);
      const int64_t run = first / kRun;
      const float* encoding = encodings + layout.start(run) + 2 * (first - run * kRun);
      kernel.backward(s.field, s.net, *tiles[thread], s.points() + 3 * first, encoding, layout.row(run), end - begin,
                      sigmas + first, albedos + (outputs - 1) * first, sums.get() + part * s.net.gradients,
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

STABLE_TORCH_LIBRARY_IMPL(fusedfield, CompositeExplicitAutograd, m) {
  m.impl("has_bf16", TORCH_BOX(&tadpole::has_bf16));
}

STABLE_TORCH_LIBRARY_IMPL(fusedfield, CPU, m) {
  m.impl("field_query", TORCH_BOX(&fusedfield::field_query));
  m.impl("field_query_rays", TORCH_BOX(&fusedfield::field_query_rays));
  m.impl("field_query_backward", TORCH_BOX(&fusedfield::field_query_backward));
  m.impl("layers", TORCH_BOX(&fusedfield::layers));
}
