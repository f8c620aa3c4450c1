// The layers of the MLP as the kernels read them, in words of one float or two bf16 (vector.h), and the buffers a thread
// works in.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "fusedfield/csrc/field.h"

namespace fusedfield {

// Floats that start on a cache line, not initialised.
class Floats {
 public:
  explicit Floats(int64_t count) : store_(new float[count + kPad]) {
    const auto address = reinterpret_cast<uintptr_t>(store_.get());
    start_ = store_.get() + (64 - address % 64) % 64 / sizeof(float);
  }
  float* get() const { return start_; }

 private:
  std::unique_ptr<float[]> store_;
  float* start_;
};

struct Layer {
  int64_t inputs, outputs;  // that count: of the first layer, those of the active levels
  int64_t columns;          // inputs of the parameters
  int64_t in, out;          // padded; the outputs of the last layer are not
  float* weight;            // [out, in], neighbours in a column share a word
  float* transposed;        // [in, out], as these
  float* rows;              // [out, in], neighbours in a row share a word; of the last layer
  float* bias;              // [out] floats
  int64_t gradient;         // where weight [out, in] and bias [out] start in a sum of gradients
  int64_t parameters;       // where weight and bias start in the parameters
};

// Rounded to the nearest, ties to even. Not for NaN.
inline uint16_t bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

class Network {
 public:
  // `used`: inputs of the first layer that are not always 0. `mixed`: two bf16 in a word.
  Network(const float* parameters, const Ints& widths, int64_t used, bool mixed) : count(widths.size() - 1) {
    const int64_t of = mixed ? 2 : 1;
    for (int l = 0; l < count; ++l) {
      Layer& n = layer[l];
      n.columns = widths[l];
      n.inputs = l == 0 ? used : n.columns;
      n.outputs = widths[l + 1];
      n.in = l == 0 ? padded(n.inputs) : layer[l - 1].out;
      n.out = l + 1 == count ? n.outputs : of * padded(tadpole::ceil_div(n.outputs, of));
      n.parameters = this->parameters;
      n.gradient = gradients;
      this->parameters += n.outputs * (n.columns + 1);
      gradients += n.out * (n.in + 1);
      widest = std::max({widest, n.in, n.out});
    }
    const int64_t floats = 3 * gradients + count * kPad;
    store_.reset(new Floats(floats));
    std::fill_n(store_->get(), floats, 0.f);
    float* free = store_->get();
    const auto put = [&](float* matrix, int64_t place, float value) {
      if (mixed) {
        const uint16_t half = bf16(value);
        std::memcpy(reinterpret_cast<char*>(matrix) + place * sizeof(half), &half, sizeof(half));
      } else {
        matrix[place] = value;
      }
    };
    for (int l = 0; l < count; ++l) {
      Layer& n = layer[l];
      n.weight = free;
      n.transposed = n.weight + n.out * n.in;
      n.rows = n.transposed + n.out * n.in;
      n.bias = n.rows + n.out * n.in;
      free = n.bias + padded(n.out);
      const float* from = parameters + n.parameters;
      for (int64_t o = 0; o < n.outputs; ++o) {
        for (int64_t i = 0; i < n.inputs; ++i) {
          const float value = from[o * n.columns + i];
          put(n.weight, (o / of * n.in + i) * of + o % of, value);
          put(n.transposed, (i / of * n.out + o) * of + i % of, value);
          put(n.rows, o * n.in + i, value);
        }
        n.bias[o] = from[n.outputs * n.columns + o];
      }
    }
  }

  // A sum of gradients in the layout of the parameters.
  void unpack(const float* sum, float* parameters) const {
    for (int l = 0; l < count; ++l) {
      const Layer& n = layer[l];
      const float *weight = sum + n.gradient, *bias = weight + n.out * n.in;
      float* to = parameters + n.parameters;
      for (int64_t o = 0; o < n.outputs; ++o) {
        std::fill_n(std::copy_n(weight + o * n.in, n.inputs, to + o * n.columns), n.columns - n.inputs, 0.f);
        to[n.outputs * n.columns + o] = bias[o];
      }
    }
  }

  int count;
  Layer layer[kMaxLayers];
  int64_t parameters = 0;  // how many
  int64_t gradients = 0;   // floats of a sum of gradients
  int64_t widest = 0;

 private:
  std::unique_ptr<Floats> store_;
};

// Activations of a tile, sample after sample: input[l] is what layer l reads, [kTile, in]. In bf16 that is half of the room,
// and the other half is `across` of it (vector.h).
struct Tile {
  explicit Tile(const Network& net) : store_(size(net)) {
    float* free = store_.get();
    const auto take = [&](int64_t width) {
      float* taken = free;
      free += kTile * width;
      return taken;
    };
    for (int l = 0; l < net.count; ++l) input[l] = take(net.layer[l].in);
    for (float*& buffer : gradient) buffer = take(net.widest);
  }

  float* input[kMaxLayers];
  float* gradient[2];                        // of the outputs of a layer and of its inputs
  alignas(64) float raw[kOutputs * kTile];     // the channels: [kOutputs, kTile]
  alignas(64) float value[kOutputs * kTile];   // after activation
  alignas(64) float slope[kOutputs * kTile];   // derivatives of the activations
  alignas(64) float distance[kTile];           // from the origin

 private:
  static int64_t size(const Network& net) {
    int64_t width = 2 * net.widest;
    for (int l = 0; l < net.count; ++l) width += net.layer[l].in;
    return kTile * width;
  }
  Floats store_;
};

}  // namespace fusedfield
