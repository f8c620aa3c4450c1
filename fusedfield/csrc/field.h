// A hash-grid field in one operator: encode, MLP, blob, activations. The contract between ops.cpp, cpu.cpp
// and cuda.cu.
//
// Tensors, contiguous, all on one device:
//   positions   float32 [N, 3]   in [-bound, bound]; one outside (or NaN) encodes to 0 and gets no gradient there
//   embeddings  float32 [P, 2]   the table of gridencoder/csrc/grid.h, as are offsets, resolutions and the flags
//   parameters  float32          of the linear layers one after the other: weight [outputs, inputs], then bias [outputs]
//   widths      n + 1 ints       of n >= 2 layers, from 2 L to 4; ReLU between layers
//   sigma       float32 [N]      activation(channel 0 + peak - slope |x|)
//   albedo      float32 [N, outputs - 1]  sigmoid(channels 1..3)
//   saved       float32          the encoding for the backward pass: on a CPU 2 active floats for each of N samples (N
//                                rounded up to whole vectors of kPad), in the order of Layout (kernels.h); on CUDA the
//                                words of Encoding (cuda_network.h)
// and of field_query_rays, which is of CPUs
//   lengths     float32 [M]      of the samples, whose positions are [M, 3]
//   packed_info int32 [N, 2]     first sample and sample count of each ray, in the order of the samples
//   limit       float            a ray ends behind the sample with which sum(sigma * length) passes it
//   kept        int64 [K]        the samples up to there, ascending; sigma, albedo and saved are of these alone
//   counts      int32 [N]        how many of them each ray has
//
//   mixed       the layers in bf16, summed in float32; encoding, biases, blob and activations stay float32. Without it
//               a number of the layers is float32, or on CUDA the sum of two bf16
//   activation  0 none, 1 exp(min(., 15)) whose gradient does not vanish beyond 15, 2 softplus
#pragma once

#include <cstdint>

#include "gridencoder/csrc/host.h"

namespace fusedfield {

using gridencoder::Grid;
using gridencoder::Ints;
using tadpole::Tensor;

enum Activation { kNone, kExp, kSoftplus };

constexpr int kOutputs = 4;
constexpr int kMaxWidth = 256;
constexpr int kMaxLayers = 8;
constexpr int kPad = 16;       // widths are filled up to whole vectors with zeros
constexpr int64_t kTile = 48;  // samples that pass all layers together; their activations stay in the first caches

HOST_DEVICE int64_t padded(int64_t width) { return tadpole::ceil_div<int64_t>(width, kPad) * kPad; }

// What the kernels need to know beside the network.
struct Field {
  float bound;
  float peak;   // of the blob
  float slope;  // its fall over a unit of distance
  Activation activation;
  int outputs;  // 4, or 1: density alone
};

// False for NaN. It agrees with what gridencoder::inside says of the point in the unit cube, without its division.
HOST_DEVICE bool in_box(const Field& field, const float* position) {
  bool in = true;
  for (int d = 0; d < 3; ++d) {
    const float distance = position[d] + field.bound;
    in = in && distance >= 0.f && distance <= 2.f * field.bound;
  }
  return in;
}

}  // namespace fusedfield
