// DESIGN: sixteen rays march side by side in vector types (GCC and clang lower them to whatever the target has), so that
// a primitive is straight-line code; a packet is a 4 x 4 tile and ends when all of its rays have hit or left the ball.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#include "trace.h"

#include <algorithm>
#include <utility>

#include "common/csrc/common.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif
#define INLINE inline __attribute__((always_inline))

namespace toybox {
namespace {

using tadpole::Tensor;

constexpr int kLanes = 16, kTile = 4;
constexpr int kSteps = 96;
constexpr float kHit = 1.2e-3f; // distance that counts as the surface, scene units
constexpr float kRelax = 0.9f;  // an ellipsoid's distance is only nearly a bound: step a little less
constexpr float kReach = 0.85f; // radius of the ball that holds every object

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes))); // masks are 0 or -1

INLINE F least(F a, F b) { return a < b ? a : b; }
INLINE F most(F a, F b) { return a > b ? a : b; }
INLINE F most(F a, float b) { return a > b ? a : F{} + b; }
INLINE F magnitude(F a) { return a < 0 ? -a : a; }
INLINE F root(F a) {
  F r;
  for (int l = 0; l < kLanes; ++l) r[l] = __builtin_sqrtf(a[l]);
  return r;
}
INLINE bool any(I mask) {
  int32_t some = 0;
  for (int l = 0; l < kLanes; ++l) some |= mask[l];
  return some != 0;
}
INLINE F length(F x, F y, F z) { return root(x * x + y * y + z * z); }

INLINE F ellipsoid(const float* r, F x, F y, F z) {
  const float ra = 1 / r[0], rb = 1 / r[1], rc = 1 / r[2];
  F a = x * ra, b = y * rb, c = z * rc;
  F k0 = length(a, b, c), k1 = length(a * ra, b * rb, c * rc);
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

// Signed distance of the union, and the primitive nearest to each point (it gives the colour).
INLINE F solid(const float* rows, int64_t count, F px, F py, F pz, I& nearest) {
  F d = F{} + 1e9f, best = d;
  nearest = I{};
  for (int64_t i = 0; i < count; ++i) {
    const float *row = rows + i * kRow, *m = row + 2, *c = row + 11, *size = row + 14;
    F u = px - c[0], v = py - c[1], w = pz - c[2], s;
    F x = m[0] * u + m[1] * v + m[2] * w, y = m[3] * u + m[4] * v + m[5] * w, z = m[6] * u + m[7] * v + m[8] * w;
    switch (static_cast<int>(row[0])) {
      case 0: s = ellipsoid(size, x, y, z); break;
      case 1: s = box(size, x, y, z); break;
      case 2: s = cylinder(size, x, y, z); break;
      case 3: s = cone(size, x, y, z); break;
      default: s = torus(size, x, y, z); break;
    }
    nearest = s < best ? I{} + static_cast<int32_t>(i) : nearest;
    best = least(best, s);
    const float k = row[1];
    if (k > 0) { // polynomial smooth minimum
      F h = most(k - magnitude(d - s), 0) / k;
      d = least(d, s) - h * h * (k * 0.25f);
    } else {
      d = least(d, s);
    }
  }
  return d;
}

TADPOLE_CLONES void trace_tile(const float* rows, int64_t count, const float* camera, int64_t resolution, int64_t left,
                              int64_t top, float* picture) {
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
  F half = root(most(inside, 0)), t = most(-b - half, 0), end = half - b, x, y, z, d;
  I alive = (inside > 0) & (end > 0), hit = I{}, nearest, unused;
  for (int step = 0; step < kSteps && any(alive); ++step) {
    x = o[0] + t * dx, y = o[1] + t * dy, z = o[2] + t * dz;
    d = solid(rows, count, x, y, z, unused);
    I reached = alive & (d < kHit);
    hit |= reached;
    alive &= ~reached;
    t += alive ? d * kRelax : F{};
    alive &= t < end;
  }
  F nx = F{}, ny = F{}, nz = F{};
  if (any(hit)) { // the normal: central differences of the distance
    constexpr float h = 2e-3f;
    x = o[0] + t * dx, y = o[1] + t * dy, z = o[2] + t * dz;
    solid(rows, count, x, y, z, nearest);
    nx = solid(rows, count, x + h, y, z, unused) - solid(rows, count, x - h, y, z, unused);
    ny = solid(rows, count, x, y + h, z, unused) - solid(rows, count, x, y - h, z, unused);
    nz = solid(rows, count, x, y, z + h, unused) - solid(rows, count, x, y, z - h, unused);
    F n = 1.f / most(length(nx, ny, nz), 1e-12f);
    nx *= n, ny *= n, nz *= n;
  }
  for (int l = 0; l < kLanes; ++l) {
    const int64_t column = left + l % kTile, line = top + l / kTile;
    if (column >= resolution || line >= resolution) continue;
    float* p = picture + (line * resolution + column) * kPicture;
    if (!hit[l]) {
      std::fill(p, p + kPicture, 0.f);
      continue;
    }
    const float* colour = rows + nearest[l] * kRow + 18;
    p[0] = colour[0], p[1] = colour[1], p[2] = colour[2], p[3] = 1.f;
    p[4] = nx[l], p[5] = ny[l], p[6] = nz[l], p[7] = t[l];
  }
}

TADPOLE_CLONES void query_packet(const float* rows, int64_t count, const float* points, int64_t first, int64_t total,
                                float* out) {
  F x, y, z;
  I nearest;
  for (int l = 0; l < kLanes; ++l) {
    const float* p = points + 3 * std::min(first + l, total - 1);
    x[l] = p[0], y[l] = p[1], z[l] = p[2];
  }
  F d = solid(rows, count, x, y, z, nearest);
  for (int l = 0; l < kLanes && first + l < total; ++l) {
    const float* colour = rows + nearest[l] * kRow + 18;
    float* p = out + 4 * (first + l);
    p[0] = d[l], p[1] = colour[0], p[2] = colour[1], p[3] = colour[2];
  }
}

Tensor trace(const Tensor& primitives_, const Tensor& cameras_, int64_t resolution) {
  Tensor primitives = tadpole::checked(primitives_, "primitives", {-1, kRow});
  Tensor cameras = tadpole::checked(cameras_, "cameras", {-1, kCamera});
  const int64_t batch = cameras.size(0), side = (resolution + kTile - 1) / kTile, tiles = side * side;
  Tensor out = torch::stable::new_empty(primitives, {batch, resolution, resolution, kPicture});
  const float *rows = tadpole::data<float>(std::as_const(primitives)), *views = tadpole::data<float>(std::as_const(cameras));
  float* picture = tadpole::data<float>(out);
  torch::stable::parallel_for(0, batch * tiles, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tiles, tile = i % tiles;
      trace_tile(rows, primitives.size(0), views + b * kCamera, resolution, tile % side * kTile, tile / side * kTile,
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
  const float *rows = tadpole::data<float>(std::as_const(primitives)), *p = tadpole::data<float>(std::as_const(points));
  float* result = tadpole::data<float>(out);
  torch::stable::parallel_for(0, tadpole::ceil_div<int64_t>(n, kLanes), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) query_packet(rows, primitives.size(0), p, i * kLanes, n, result);
  });
  return out;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(toybox, CPU, library) {
  library.impl("trace", TORCH_BOX(&trace));
  library.impl("query", TORCH_BOX(&query));
}

} // namespace toybox
