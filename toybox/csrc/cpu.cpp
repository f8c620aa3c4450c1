// DESIGN: eight rays march side by side in vector types (GCC and clang lower them to whatever the target has), so that
// a primitive is straight-line code. No wider than a register: GCC takes the comparisons of wider ones apart, lane by
// lane. A packet is 4 x 2 pixels and ends when all of its rays have hit or passed; the packets of a 4 x 4 tile share
// the list of primitives that they can notice (cull.h).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/csrc/common.h"
#include "cull.h"
#include "trace.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif
#define INLINE inline __attribute__((always_inline))

namespace toybox {
namespace {

using tadpole::Tensor;

#if defined(__x86_64__) // AVX2
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kTile = 4;   // pixels a side; a packet is as wide
constexpr int kBlock = 32; // pixels a side of the squares that are culled first
typedef float F __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes))); // masks are 0 or -1

INLINE F least(F a, F b) { return a < b ? a : b; }
INLINE F most(F a, F b) { return a > b ? a : b; }
INLINE F most(F a, float b) { return most(a, F{} + b); }
INLINE F magnitude(F a) { return a < 0 ? -a : a; }
INLINE F root(F a) {
  float lanes[kLanes]; // a loop over the lanes of a vector type would stay a loop of scalar roots
  std::memcpy(lanes, &a, sizeof a);
#pragma omp simd
  for (int l = 0; l < kLanes; ++l) lanes[l] = __builtin_sqrtf(lanes[l]);
  std::memcpy(&a, lanes, sizeof a);
  return a;
}
INLINE bool any(I mask) {
  int32_t some = 0;
  for (int l = 0; l < kLanes; ++l) some |= mask[l];
  return some != 0;
}
INLINE F length(F x, F y, F z) { return root(x * x + y * y + z * z); }

INLINE F ellipsoid(const float* inverse, F x, F y, F z) {
  F a = x * inverse[0], b = y * inverse[1], c = z * inverse[2];
  F k0 = length(a, b, c), k1 = length(a * inverse[0], b * inverse[1], c * inverse[2]);
  return k0 * (k0 - 1.f) / most(k1, 1e-6f);
}

INLINE F box(const float* h, F x, F y, F z) {
  F a = magnitude(x) - (h[0] - h[3]), b = magnitude(y) - (h[1] - h[3]), c = magnitude(z) - (h[2] - h[3]);
  return length(most(a, 0), most(b, 0), most(c, 0)) + least(most(a, most(b, c)), F{}) - h[3];
}

INLINE F cylinder(const float* s, F x, F y, F z) {
  F d = root(x * x + z * z) - (s[0] - s[3]), h = magnitude(y) - (s[1] - s[3]);
  F a = most(d, 0), b = most(h, 0);
  return least(most(d, h), F{}) + root(a * a + b * b) - s[3];
}

INLINE F cone(const float* s, F x, F y, F z) {
  const float h = s[0], bottom = s[1], top = s[2], slope = top - bottom, rise = 2 * h;
  const float inverse = 1 / (slope * slope + rise * rise);
  F q = root(x * x + z * z);
  F ax = q - least(q, y < 0 ? F{} + bottom : F{} + top), ay = magnitude(y) - h;
  F t = least(most(((top - q) * slope + (h - y) * rise) * inverse, 0), F{} + 1.f);
  F bx = q - top + slope * t, by = y - h + rise * t;
  F d = root(least(ax * ax + ay * ay, bx * bx + by * by));
  return (bx < 0) & (ay < 0) ? -d : d;
}

INLINE F torus(const float* s, F x, F y, F z) {
  F d = root(x * x + z * z) - s[0];
  return root(d * d + y * y) - s[1];
}

INLINE F distance(const Primitive& p, F px, F py, F pz) {
  const float* m = p.rotation;
  F u = px - p.centre[0], v = py - p.centre[1], w = pz - p.centre[2];
  F x = m[0] * u + m[1] * v + m[2] * w, y = m[3] * u + m[4] * v + m[5] * w, z = m[6] * u + m[7] * v + m[8] * w;
  switch (p.kind) {
    case kEllipsoid: return ellipsoid(p.inverse, x, y, z);
    case kBox: return box(p.size, x, y, z);
    case kCylinder: return cylinder(p.size, x, y, z);
    case kCone: return cone(p.size, x, y, z);
    default: return torus(p.size, x, y, z);
  }
}

// Signed distance of the union, and the place in the list of what is nearest to each point: it gives the colour.
INLINE F solid(const std::vector<Candidate>& list, F x, F y, F z, I& nearest) {
  F d = F{} + 1e9f, best = d;
  nearest = I{};
  int32_t place = 0;
  for (const Candidate& candidate : list) {
    F s = distance(*candidate.primitive, x, y, z);
    nearest = s < best ? I{} + place : nearest;
    best = least(best, s);
    ++place;
    const float k = candidate.primitive->blend;
    if (k > 0) { // polynomial smooth minimum
      F h = most(k - magnitude(d - s), 0) / k;
      d = least(d, s) - h * h * (k * 0.25f);
    } else {
      d = least(d, s);
    }
  }
  return d;
}

struct Rays {
  const float* o;
  F dx, dy, dz, t, end;
  I alive;
};

// The rays of a packet, from where they enter the ball or the span to where they leave it.
INLINE Rays rays_of(const float* camera, int64_t resolution, int64_t left, int64_t top, Span span) {
  const float *o = camera, *right = camera + 3, *up = camera + 6, *forward = camera + 9;
  F sx, sy;
  for (int l = 0; l < kLanes; ++l) {
    sx[l] = 2 * (left + l % kTile + 0.5f) / resolution - 1;
    sy[l] = 1 - 2 * (top + l / kTile + 0.5f) / resolution;
  }
  F dx = forward[0] + sx * right[0] + sy * up[0], dy = forward[1] + sx * right[1] + sy * up[1];
  F dz = forward[2] + sx * right[2] + sy * up[2], scale = 1.f / length(dx, dy, dz);
  dx *= scale, dy *= scale, dz *= scale;
  F b = o[0] * dx + o[1] * dy + o[2] * dz;
  F inside = b * b - (o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - kReach * kReach);
  F half = root(most(inside, 0)), end = half - b;
  I alive = (inside > 0) & (end > 0);
  return {o, dx, dy, dz, most(most(-b - half, 0), span.enter), least(end, F{} + span.leave), alive};
}

// March to the surface. Returns which rays hit it; their t is where.
INLINE I march(const std::vector<Candidate>& list, Rays& ray) {
  I hit = I{}, unused;
  for (int step = 0; step < kSteps && any(ray.alive); ++step) {
    F d = solid(list, ray.o[0] + ray.t * ray.dx, ray.o[1] + ray.t * ray.dy, ray.o[2] + ray.t * ray.dz, unused);
    I reached = ray.alive & (d < kHit);
    hit |= reached;
    ray.alive &= ~reached;
    ray.t += ray.alive ? d * kRelax : F{};
    ray.alive &= ray.t < ray.end;
  }
  return hit;
}

// Those of the list that a hit notices, for its normal: mostly one.
INLINE void narrow(const std::vector<Candidate>& list, F x, F y, F z, I hit, std::vector<Candidate>& near) {
  near.clear();
  for (const Candidate& c : list) {
    if (any(hit & (distance(*c.primitive, x, y, z) < c.margin))) near.push_back(c);
  }
}

// The normal: central differences of the distance.
INLINE void normal(const std::vector<Candidate>& list, F x, F y, F z, F* n) {
  I unused;
  for (int axis = 0; axis < 3; ++axis) {
    const float hx = axis == 0 ? kNormalStep : 0, hy = axis == 1 ? kNormalStep : 0, hz = axis == 2 ? kNormalStep : 0;
    n[axis] = solid(list, x + hx, y + hy, z + hz, unused) - solid(list, x - hx, y - hy, z - hz, unused);
  }
  F scale = 1.f / most(length(n[0], n[1], n[2]), 1e-12f);
  for (int axis = 0; axis < 3; ++axis) n[axis] *= scale;
}

TADPOLE_CLONES void trace_packet(const std::vector<Candidate>& list, std::vector<Candidate>& near, Span span,
                                const float* camera, int64_t resolution, int64_t left, int64_t top, float* picture) {
  Rays ray = rays_of(camera, resolution, left, top, span);
  I hit = march(list, ray), nearest;
  if (!any(hit)) return;
  F x = ray.o[0] + ray.t * ray.dx, y = ray.o[1] + ray.t * ray.dy, z = ray.o[2] + ray.t * ray.dz, n[3];
  narrow(list, x, y, z, hit, near);
  solid(near, x, y, z, nearest);
  normal(near, x, y, z, n);
  for (int l = 0; l < kLanes; ++l) {
    const int64_t column = left + l % kTile, line = top + l / kTile;
    if (!hit[l] || column >= resolution || line >= resolution) continue;
    float* p = picture + (line * resolution + column) * kPicture;
    const float* colour = colour_at(*near[nearest[l]].primitive, x[l], y[l], z[l]);
    p[0] = colour[0], p[1] = colour[1], p[2] = colour[2], p[3] = 1.f;
    p[4] = n[0][l], p[5] = n[1][l], p[6] = n[2][l], p[7] = ray.t[l];
  }
}

// A square of kBlock pixels, in tiles. Its own beam first: most squares see few of the primitives, and many none.
void trace_block(const std::vector<Candidate>& everything, const float* camera, int64_t resolution, int64_t left,
                 int64_t top, float* picture) {
  const int64_t right = std::min(left + kBlock, resolution), bottom = std::min(top + kBlock, resolution);
  for (int64_t line = top; line < bottom; ++line) {
    float* p = picture + line * resolution * kPicture;
    std::fill(p + left * kPicture, p + right * kPicture, 0.f);
  }
  thread_local std::vector<Candidate> ours, list, near; // kept from block to block for their memory
  cull(everything, beam_of(camera, resolution, left, top, kBlock), ours);
  if (ours.empty()) return;
  for (int64_t y = top; y < bottom; y += kTile) {
    for (int64_t x = left; x < right; x += kTile) {
      const Span span = cull(ours, beam_of(camera, resolution, x, y, kTile), list);
      if (list.empty()) continue;
      for (int line = 0; line < kTile; line += kLanes / kTile) {
        trace_packet(list, near, span, camera, resolution, x, y + line, picture);
      }
    }
  }
}

TADPOLE_CLONES void query_packet(const std::vector<Candidate>& list, const float* points, int64_t first, int64_t total,
                                float* out) {
  constexpr float black[3] = {};
  F x, y, z;
  I nearest;
  for (int l = 0; l < kLanes; ++l) {
    const float* p = points + 3 * std::min(first + l, total - 1);
    x[l] = p[0], y[l] = p[1], z[l] = p[2];
  }
  F d = solid(list, x, y, z, nearest);
  for (int l = 0; l < kLanes && first + l < total; ++l) {
    const float* colour = list.empty() ? black : colour_at(*list[nearest[l]].primitive, x[l], y[l], z[l]);
    float* p = out + 4 * (first + l);
    p[0] = d[l], p[1] = colour[0], p[2] = colour[1], p[3] = colour[2];
  }
}

std::vector<Candidate> candidates(const std::vector<Primitive>& all) {
  std::vector<Candidate> list;
  for (const Primitive& p : all) list.push_back({&p, 0.f});
  return list;
}

Tensor trace(const Tensor& primitives_, const Tensor& cameras_, int64_t resolution) {
  Tensor primitives = tadpole::checked(primitives_, "primitives", {-1, kRow});
  Tensor cameras = tadpole::checked(cameras_, "cameras", {-1, kCamera});
  const int64_t batch = cameras.size(0), side = tadpole::ceil_div<int64_t>(resolution, kBlock), blocks = side * side;
  Tensor out = torch::stable::new_empty(primitives, {batch, resolution, resolution, kPicture});
  const float* rows = tadpole::data<float>(std::as_const(primitives));
  const std::vector<Primitive> all = all_primitives(rows, primitives.size(0));
  const std::vector<Candidate> list = candidates(all);
  const float* views = tadpole::data<float>(std::as_const(cameras));
  float* picture = tadpole::data<float>(out);
  torch::stable::parallel_for(0, batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / blocks, block = i % blocks;
      trace_block(list, views + b * kCamera, resolution, block % side * kBlock, block / side * kBlock,
                  picture + b * resolution * resolution * kPicture);
    }
  });
  return out;
}

Tensor query(const Tensor& primitives_, const Tensor& points_) {
  Tensor primitives = tadpole::checked(primitives_, "primitives", {-1, kRow});
  Tensor points = tadpole::checked(points_, "points", {-1, 3});
  const int64_t n = points.size(0);
  Tensor out = torch::stable::new_empty(points, {n, 4});
  const float* rows = tadpole::data<float>(std::as_const(primitives));
  const std::vector<Primitive> all = all_primitives(rows, primitives.size(0));
  const std::vector<Candidate> list = candidates(all);
  const float* p = tadpole::data<float>(std::as_const(points));
  float* result = tadpole::data<float>(out);
  torch::stable::parallel_for(0, tadpole::ceil_div<int64_t>(n, kLanes), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) query_packet(list, p, i * kLanes, n, result);
  });
  return out;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(toybox, CPU, library) {
  library.impl("trace", TORCH_BOX(&trace));
  library.impl("query", TORCH_BOX(&query));
}

} // namespace toybox
