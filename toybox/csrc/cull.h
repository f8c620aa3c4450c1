// Which primitives a bundle of neighbouring rays can see, and between which distances.
//
// DESIGN: a primitive may be left out where that changes nothing near a surface: neither the distance wherever it is
// below kSkin (it gives the normal too), nor which primitive is nearest (it gives the colour).
//   Distance: the smooth union with blend k of something >= L and s is either s itself (s <= L - k) or >= L - k. So if
// a primitive is farther away than its own blend, plus the blends of all that follow, plus kSkin, then with and without
// it the list comes to the same distance or stays above kSkin. `cull` walks from last to first to know the blends of
// those that follow and are kept.
//   Colour: a blended surface lies at most a quarter of all blends outside the nearest primitive.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "trace.h"

namespace toybox {

// Hits, and the points of their normals, are nearer than this to the surface. 1e-3: rounding.
constexpr float kSkin = kHit + 2 * kNormalStep + 1e-3f;

// Every ray of the bundle, at the distance t, is within `radius` of origin + t * axis.
struct Beam {
  float origin[3], axis[3], radius;
};

struct Span {
  float enter = 1e9f, leave = -1e9f; // distances from the origin; empty if enter > leave
};

// A primitive of a bundle; a point that is farther than `margin` from it does not notice it.
struct Candidate {
  const Primitive* primitive;
  float margin;
};

// The beam of a square of pixels.
inline Beam beam_of(const float* camera, int64_t resolution, int64_t left, int64_t top, int pixels) {
  Beam beam{{camera[0], camera[1], camera[2]}};
  auto direction = [&](float column, float line, float* d) {
    const float sx = 2 * column / resolution - 1, sy = 1 - 2 * line / resolution;
    float squared = 0;
    for (int i = 0; i < 3; ++i) {
      d[i] = camera[9 + i] + sx * camera[3 + i] + sy * camera[6 + i];
      squared += d[i] * d[i];
    }
    for (int i = 0; i < 3; ++i) d[i] /= std::sqrt(squared);
  };
  const float half = pixels * 0.5f, edge = half - 0.5f; // rays go through the centres of pixels
  direction(left + half, top + half, beam.axis);
  float spread = 0; // the ray farthest from the axis is one at a corner
  for (int corner = 0; corner < 4; ++corner) {
    float d[3], squared = 0;
    direction(left + half + (corner & 1 ? edge : -edge), top + half + (corner & 2 ? edge : -edge), d);
    for (int i = 0; i < 3; ++i) squared += (d[i] - beam.axis[i]) * (d[i] - beam.axis[i]);
    spread = std::max(spread, squared);
  }
  const float* o = beam.origin;
  beam.radius = std::sqrt(spread) * (std::sqrt(o[0] * o[0] + o[1] * o[1] + o[2] * o[2]) + kReach);
  return beam;
}

// Where o + t * d is inside the ellipsoid with these inverse radii, times `grown`.
inline Span through_ellipsoid(const float* inverse, float grown, const float* o, const float* d) {
  float a = 0, b = 0, c = -grown * grown;
  for (int i = 0; i < 3; ++i) {
    const float u = o[i] * inverse[i], v = d[i] * inverse[i];
    a += v * v, b += u * v, c += u * u;
  }
  const float squared = b * b - a * c;
  if (squared < 0) return {};
  const float root = std::sqrt(squared);
  return {(-b - root) / a, (-b + root) / a};
}

inline Span through_box(const float* half, float grown, const float* o, const float* d) {
  Span span{-1e9f, 1e9f};
  for (int i = 0; i < 3; ++i) {
    const float inverse = 1 / (std::fabs(d[i]) > 1e-9f ? d[i] : 1e-9f);
    const float middle = -o[i] * inverse, reach = std::fabs((half[i] + grown) * inverse);
    span.enter = std::max(span.enter, middle - reach);
    span.leave = std::min(span.leave, middle + reach);
  }
  return span;
}

// Where a ray of the beam can be nearer than `margin` to the primitive, as the tracer computes its distance.
inline Span span_of(const Primitive& p, const Beam& beam, float margin) {
  float o[3], d[3], nearest = 0;
  for (int i = 0; i < 3; ++i) {
    const float* m = p.rotation + 3 * i;
    o[i] = d[i] = 0;
    for (int j = 0; j < 3; ++j) {
      o[i] += m[j] * (beam.origin[j] - p.centre[j]);
      d[i] += m[j] * beam.axis[j];
    }
    nearest -= o[i] * d[i];
  }
  for (int i = 0; i < 3; ++i) o[i] += nearest * d[i]; // from here on t counts from there: float keeps its digits
  Span span;
  if (p.kind == kEllipsoid) { // k0 (k0 - 1) / k1 is at least the least radius times (k0 - 1)
    const float least = std::min(p.half[0], std::min(p.half[1], p.half[2]));
    span = through_ellipsoid(p.inverse, 1 + (margin + beam.radius) / least, o, d);
  } else {
    span = through_box(p.half, margin + beam.radius, o, d);
  }
  return {span.enter + nearest, span.leave + nearest};
}

// Those of `from` that the rays of the beam can notice, in their order. Returns where they are.
inline Span cull(const std::vector<Candidate>& from, const Beam& beam, std::vector<Candidate>& kept) {
  kept.clear();
  Span whole;
  float bulge = 0, rest = 0;
  for (const Candidate& c : from) bulge += c.primitive->blend / 4;
  for (auto c = from.rbegin(); c != from.rend(); ++c) {
    const float blend = c->primitive->blend, margin = kSkin + std::max(bulge, rest + blend);
    const Span span = span_of(*c->primitive, beam, margin);
    if (span.enter > span.leave || span.leave < 0) continue;
    kept.push_back({c->primitive, margin});
    rest += blend;
    whole = {std::min(whole.enter, span.enter), std::max(whole.leave, span.leave)};
  }
  std::reverse(kept.begin(), kept.end());
  return whole;
}

} // namespace toybox
