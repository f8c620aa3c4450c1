// Samples along rays, each evaluated once, and none behind the place where its ray has ended.
//
// DESIGN: a task is kRays neighbouring rays, which go on together: kRound samples of each that lives are laid side by
// side for `Forward`, then the optical depths are summed and ends are found. What a task finds stays with it, in the
// order of its rounds, until all tasks are done and everyone knows where it goes. A sample's values do not depend on
// those around it and a ray is summed in one order, so that no result depends on the number of threads.
#pragma once

#include <tuple>

#include "fusedfield/csrc/kernels.h"

namespace fusedfield {

constexpr int64_t kRays = 128;  // of a task
constexpr int64_t kRound = 16;  // samples of each ray between two looks at which rays have ended

namespace {

// Samples of one ray that were reached, one after the other.
struct Piece {
  int64_t ray, sample, count;
  const float* encoding;  // [active, row, 2] from the first of them on; null where nobody keeps it
  int64_t row;
};

// What a task has found.
struct Found {
  std::vector<Piece> pieces;
  std::vector<float> sigma, albedo;  // of all pieces, one after the other
  std::vector<std::unique_ptr<Floats>> encodings;
};

// The rays, checked.
struct Bundle {
  Bundle(const Setup& s, const Tensor& lengths, const Tensor& packed_info, double limit, bool save)
      : lengths(tadpole::checked(lengths, "fusedfield: lengths", {s.count})),
        packed(tadpole::checked(packed_info, "fusedfield: packed_info", {-1, 2}, tadpole::ScalarType::Int)),
        count(packed.size(0)),
        info(tadpole::data<int32_t>(std::as_const(packed))),
        length(tadpole::data<float>(std::as_const(this->lengths))),
        limit(static_cast<float>(limit)),
        save(save) {
    int64_t end = 0;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t first = info[2 * n], samples = info[2 * n + 1];
      STD_TORCH_CHECK(samples >= 0 && first >= end && first + samples <= s.count, "packed_info: ray ", n,
                      " owns samples ", first, " to ", first + samples, " of ", s.count, ", behind sample ", end);
      end = first + samples;
    }
  }

  bool ended(float depth) const { return depth > limit; }

  Tensor lengths, packed;
  int64_t count;
  const int32_t* info;  // [count, 2]
  const float* length;
  float limit;
  bool save;
};

struct RayRoom : Room {
  static constexpr int64_t kCapacity = kRays * kRound;
  RayRoom(const Setup& s, bool save)
      : Room(s, kCapacity, save), x(3 * kCapacity), sigma(kCapacity), albedo((kOutputs - 1) * kCapacity) {}

  Floats x, sigma, albedo;
};

// Rays begin .. end: what they reach, and how many samples that are of each.
void follow(const Setup& s, const Forward& forward, const Bundle& rays, int64_t begin, int64_t end, RayRoom& room,
            Found& found, int32_t* counts) {
  struct Living {
    int64_t ray, sample, end;
    float depth;  // optical, of the samples before
  };
  const int64_t colours = s.field.outputs - 1;
  Living living[kRays];
  int64_t alive = 0;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t first = rays.info[2 * n], count = rays.info[2 * n + 1];
    counts[n] = 0;
    if (count > 0 && !rays.ended(0.f)) living[alive++] = {n, first, first + count, 0.f};
  }
  while (alive > 0) {
    int64_t total = 0;
    for (int64_t i = 0; i < alive; ++i) {
      const int64_t part = std::min(kRound, living[i].end - living[i].sample);
      std::copy_n(s.points() + 3 * living[i].sample, 3 * part, room.x.get() + 3 * total);
      total += part;
    }
    const int64_t row = padded(total);
    if (rays.save) found.encodings.emplace_back(new Floats(2 * s.grid.active * row));
    float* encoding = rays.save ? found.encodings.back()->get() : room.encoding.get();
    forward(room, room.x.get(), total, encoding, room.sigma.get(), room.albedo.get());
    int64_t going = 0, place = 0;
    for (int64_t i = 0; i < alive; ++i) {
      Living ray = living[i];
      const int64_t part = std::min(kRound, ray.end - ray.sample);
      const float *sigma = room.sigma.get() + place, *albedo = room.albedo.get() + colours * place;
      int64_t reached = 0;
      for (; reached < part && !rays.ended(ray.depth); ++reached) {
        ray.depth += sigma[reached] * rays.length[ray.sample + reached];
      }
      found.pieces.push_back({ray.ray, ray.sample, reached, rays.save ? encoding + 2 * place : nullptr, row});
      found.sigma.insert(found.sigma.end(), sigma, sigma + reached);
      found.albedo.insert(found.albedo.end(), albedo, albedo + colours * reached);
      counts[ray.ray] += static_cast<int32_t>(reached);
      ray.sample += reached;
      place += part;
      if (ray.sample < ray.end && !rays.ended(ray.depth)) living[going++] = ray;
    }
    alive = going;
  }
}

// The encoding of `count` samples to where the backward pass looks for samples `to` and after.
void keep(const Layout& layout, float* saved, int64_t to, const float* encoding, int64_t row, int64_t count) {
  while (count > 0) {
    const int64_t run = to / kRun, place = to - run * kRun, part = std::min(count, kRun - place);
    for (int64_t l = 0; l < layout.active; ++l) {
      std::copy_n(encoding + 2 * l * row, 2 * part, saved + layout.start(run) + 2 * (l * layout.row(run) + place));
    }
    to += part;
    encoding += 2 * part;
    count -= part;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> field_query_rays(
    const Tensor& positions, const Tensor& lengths, const Tensor& packed_info, double limit, const Tensor& embeddings,
    const Tensor& parameters, Ints offsets, Ints resolutions, bool hashed, bool align_corners, bool smoothstep,
    int64_t active, Ints widths, double bound, double peak, double slope, int64_t activation, bool mixed, int64_t outputs,
    bool save) {
  using torch::stable::new_empty;
  const Setup s(positions, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, widths, bound,
                peak, slope, activation, mixed, outputs);
  const Forward forward(s, embeddings, offsets);
  const Bundle rays(s, lengths, packed_info, limit, save);
  const int64_t tasks = tadpole::ceil_div(rays.count, kRays), colours = outputs - 1;
  Tensor reached = new_empty(s.x, {rays.count}, tadpole::ScalarType::Int);
  int32_t* counts = tadpole::data<int32_t>(reached);
  std::vector<Found> found(tasks);
  std::vector<std::unique_ptr<RayRoom>> rooms(torch::stable::get_num_threads());
  tadpole::share(tasks, [&](int64_t task, int64_t thread) {
    if (!rooms[thread]) rooms[thread].reset(new RayRoom(s, save));
    const int64_t begin = task * kRays, end = std::min(begin + kRays, rays.count);
    follow(s, forward, rays, begin, end, *rooms[thread], found[task], counts);
  });

  std::vector<int64_t> starts(rays.count + 1, 0);
  for (int64_t n = 0; n < rays.count; ++n) starts[n + 1] = starts[n] + counts[n];
  const Layout layout{starts[rays.count], s.grid.active};
  Tensor kept = new_empty(s.x, {layout.count}, tadpole::ScalarType::Long);
  Tensor sigma = new_empty(s.x, {layout.count}), albedo = new_empty(s.x, {layout.count, colours});
  Tensor saved = new_empty(s.x, {save ? layout.floats() : 0});
  tadpole::large_pages(saved);
  int64_t* index = tadpole::data<int64_t>(kept);
  float *sigmas = tadpole::data<float>(sigma), *albedos = tadpole::data<float>(albedo);
  float* encodings = tadpole::data<float>(saved);
  tadpole::share(tasks, [&](int64_t task, int64_t) {
    const Found mine = std::move(found[task]);
    const float *from_sigma = mine.sigma.data(), *from_albedo = mine.albedo.data();
    for (const Piece& piece : mine.pieces) {
      const int64_t to = starts[piece.ray] + piece.sample - rays.info[2 * piece.ray];
      for (int64_t i = 0; i < piece.count; ++i) index[to + i] = piece.sample + i;
      std::copy_n(from_sigma, piece.count, sigmas + to);
      std::copy_n(from_albedo, colours * piece.count, albedos + colours * to);
      from_sigma += piece.count;
      from_albedo += colours * piece.count;
      if (save) keep(layout, encodings, to, piece.encoding, piece.row, piece.count);
    }
  });
  if (save && layout.count > 0) {  // what fills up the last run
    const int64_t run = layout.runs() - 1, row = layout.row(run), filled = layout.count - run * kRun;
    for (int64_t l = 0; l < layout.active; ++l) {
      std::fill_n(encodings + layout.start(run) + 2 * (l * row + filled), 2 * (row - filled), 0.f);
    }
  }
  return {sigma, albedo, kept, reached, saved};
}

}  // namespace
}  // namespace fusedfield
