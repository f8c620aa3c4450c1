// Sphere tracing of a union of coloured signed-distance primitives (Hart 1996, "Sphere tracing").
//
// primitives  float32 [P, 25]       kind, blend, rotation (world to local, row-major), centre (3), size (4), colour (3),
//                                   pattern, second colour (3)
// cameras     float32 [B, 12]       origin, right, up, forward / tan(fovy / 2); right and up of unit length
// picture     float32 [B, R, R, 8]  colour (3), hit (0 or 1), normal (3), distance along the ray
// points      float32 [M, 3]        -> float32 [M, 4]  signed distance, colour of the nearest primitive
#pragma once

namespace toybox {

constexpr int kRow = 25;
constexpr int kCamera = 12;
constexpr int kPicture = 8;

} // namespace toybox
