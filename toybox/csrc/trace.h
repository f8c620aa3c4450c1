// Sphere tracing of a union of coloured signed-distance primitives (Hart 1996, "Sphere tracing").
//
// primitives  float32 [P, 25]       kind, blend, rotation (world to local, row-major), centre (3), size (4),
//                                   colour (3), pattern, second colour (3)
// cameras     float32 [B, 12]       origin, right, up, forward / tan(fovy / 2); right and up of unit length
// picture     float32 [B, R, R, 8]  colour (3), hit (0 or 1), normal (3), distance along the ray
// points      float32 [M, 3]        -> float32 [M, 4]  signed distance, colour of the nearest primitive
//
// The constants are also those of reference.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace toybox {

constexpr int kRow = 25;
constexpr int kCamera = 12;
constexpr int kPicture = 8;

constexpr int kSteps = 96;
constexpr float kHit = 1.2e-3f;        // distance that counts as the surface, scene units
constexpr float kRelax = 0.9f;         // an ellipsoid's distance is only nearly a bound: step a little less
constexpr float kReach = 0.85f;        // radius of the ball that holds every object
constexpr float kNormalStep = 2e-3f;   // of the central differences
constexpr float kSpotCell = 0.17f;     // of the body-centred cubic lattice
constexpr float kSpotRadius = 0.05f;   // a spot is what is nearer than this to a point of the lattice
constexpr float kStripePeriod = 0.16f; // in y; half of it has the second colour

enum Kind { kEllipsoid, kBox, kCylinder, kCone, kTorus };
enum Pattern { kPlain, kSpots, kStripes };

// One row, with what every ray would otherwise work out again.
struct Primitive {
  Kind kind;
  float blend, rotation[9], centre[3], size[4];
  float inverse[3]; // of an ellipsoid's radii
  float half[3];    // of the box around it in its own frame
  Pattern pattern;
  float colour[3], second[3];
};

inline Primitive primitive(const float* row) {
  Primitive p{};
  p.kind = static_cast<Kind>(static_cast<int>(row[0]));
  p.blend = std::max(row[1], 0.f);
  std::copy(row + 2, row + 11, p.rotation);
  std::copy(row + 11, row + 14, p.centre);
  std::copy(row + 14, row + 18, p.size);
  std::copy(row + 18, row + 21, p.colour);
  p.pattern = static_cast<Pattern>(static_cast<int>(row[21]));
  std::copy(row + 22, row + 25, p.second);
  for (int i = 0; i < 3; ++i) p.inverse[i] = 1 / p.size[i];
  const float *s = p.size, widest = std::max(s[1], s[2]);
  auto within = [&p](float x, float y, float z) { p.half[0] = x, p.half[1] = y, p.half[2] = z; };
  switch (p.kind) {
    case kEllipsoid:
    case kBox: within(s[0], s[1], s[2]); break;
    case kCylinder: within(s[0], s[1], s[0]); break;
    case kCone: within(widest, s[0], widest); break;
    default: within(s[0] + s[1], s[1], s[0] + s[1]); break;
  }
  return p;
}

inline std::vector<Primitive> all_primitives(const float* rows, int64_t count) {
  std::vector<Primitive> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(primitive(rows + i * kRow));
  return all;
}

// Squared distance to the nearest point of the cubic lattice of unit cell.
inline float off_lattice(float x, float y, float z) {
  x -= std::nearbyint(x), y -= std::nearbyint(y), z -= std::nearbyint(z);
  return x * x + y * y + z * z;
}

// The colour of a primitive at a point of the scene.
inline const float* colour_at(const Primitive& p, float x, float y, float z) {
  bool marked = false;
  if (p.pattern == kSpots) {
    constexpr float share = kSpotRadius / kSpotCell;
    x /= kSpotCell, y /= kSpotCell, z /= kSpotCell;
    marked = off_lattice(x, y, z) < share * share || off_lattice(x + 0.5f, y + 0.5f, z + 0.5f) < share * share;
  } else if (p.pattern == kStripes) {
    y /= kStripePeriod;
    marked = y - std::floor(y) < 0.5f;
  }
  return marked ? p.second : p.colour;
}

} // namespace toybox
