// What a CPU kernel works on: a run of points laid out for vectors, and the results of its levels.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "gridencoder/csrc/host.h"

namespace gridencoder {

struct Problem {
  Problem(const Given& given, int64_t channels, const Tensor* table, const Tensor* cotangent, Tensor& result)
      : grid(given.grid),
        count(given.count),
        dimensions(given.dimensions),
        channels(channels),
        inputs(given.points()),
        direction(given.directions()),
        embeddings(table ? table->const_data_ptr() : nullptr),
        type(table ? table->scalar_type() : ScalarType::Float),
        gradient(cotangent ? tadpole::data<float>(*cotangent) : nullptr),
        output(tadpole::data<float>(result)) {}

  const Grid& grid;
  int64_t count;           // N
  int64_t dimensions;      // D
  int64_t channels;        // C
  const float* inputs;     // [N, D]
  const float* direction;  // [N, D] or null
  const void* embeddings;  // [P, C] or null
  ScalarType type;         // of the embeddings
  const float* gradient;   // [N, L * C], the cotangent of the encoding, or null
  float* output;           // [N, L * C], [P, C] or [N, D]
};

// Points laid out for vectors: the lanes of one are neighbouring points. Points outside the unit cube, and those that
// fill up the last vector, lie in its middle with a zero direction and a zero gradient: kernels need no mask.
struct Columns {
  static constexpr int64_t kLanes = 16;  // of the widest vector

  // An odd number of cache lines between rows: a power of two would put the same point of all levels into one set.
  static int64_t row_for(int64_t points) { return (points + kLanes - 1) / kLanes * kLanes + kLanes; }

  int64_t row;  // points from one axis or level to the next
  float* position = nullptr;   // [D, row]
  float* direction = nullptr;  // [D, row] or null
  float* gradient = nullptr;   // [active, row, C] or null
  float* result = nullptr;     // [active, row, width]: what the levels leave
};

// Columns that own their memory, and how they are filled and read.
struct Points : Columns {
  // Up to `capacity` points; `width`: floats a level leaves for each.
  Points(const Problem& p, int64_t capacity, int64_t width) : Columns{row_for(capacity)} {
    // Not vectors: those would be filled with zeros first, which costs as much as a level.
    const auto floats = [this](std::unique_ptr<float[]>& store, int64_t count) {
      store.reset(new float[count * row]);
      return store.get();
    };
    position = floats(store_[0], p.dimensions);
    if (p.direction) direction = floats(store_[1], p.dimensions);
    if (p.gradient) gradient = floats(store_[2], p.grid.active * p.channels);
    result = floats(store_[3], p.grid.active * width);
  }

  // Points begin .. end of those that start at `first`; a caller with several threads gives each a range of whole
  // vectors.
  void load(const Problem& p, int64_t first, int64_t begin, int64_t end) {
    const int64_t D = p.dimensions, C = p.channels;
    const int64_t padded = begin + (end - begin + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = begin; i < padded; ++i) {
      const int64_t n = first + i;
      const bool in = i < end && inside(p.inputs + n * D, static_cast<int>(D));
      for (int64_t d = 0; d < D; ++d) {
        position[d * row + i] = in ? p.inputs[n * D + d] : 0.5f;
        if (p.direction) direction[d * row + i] = in ? p.direction[n * D + d] : 0.f;
      }
      if (!p.gradient) continue;
      const float* from = p.gradient + n * p.grid.levels * C;
      float* to = gradient + i * C;
      for (int l = 0; l < p.grid.active; ++l, from += C, to += row * C) {
        for (int64_t c = 0; c < C; ++c) to[c] = in ? from[c] : 0.f;
      }
    }
  }

  // Encodings: [active, row, C] -> [N, L * C]
  void store_features(const Problem& p, int64_t first, int64_t begin, int64_t end) const {
    const auto store = [&](const auto C) {
      const int64_t D = p.dimensions, features = p.grid.levels * C;
      for (int64_t i = begin; i < end; ++i) {
        const float* from = result + i * C;
        float* to = p.output + (first + i) * features;
        const int64_t filled = inside(p.inputs + (first + i) * D, static_cast<int>(D)) ? p.grid.active : 0;
        for (int64_t l = 0; l < filled; ++l, from += row * C) {
          for (int64_t c = 0; c < C; ++c) to[l * C + c] = from[c];
        }
        std::memset(to + filled * C, 0, (features - filled * C) * sizeof(float));
      }
    };
    if (p.channels == 2) return store(Int<2>{});  // a constant: both are copied as one
    store(p.channels);
  }

  // Input gradients, summed over the levels: [active, D, row] -> [N, D]
  void store_slopes(const Problem& p, int64_t first, int64_t begin, int64_t end) const {
    const int64_t D = p.dimensions;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t d = 0; d < D; ++d) {
        float sum = 0.f;
        for (int64_t l = 0; l < p.grid.active; ++l) sum += result[(l * D + d) * row + i];
        p.output[(first + i) * D + d] = sum;
      }
    }
  }

 private:
  std::unique_ptr<float[]> store_[4];
};

// A kernel works on points begin .. end (`begin` a multiple of kLanes) of one level.
using Kernel = void (*)(const Problem&, const Columns&, int level, int64_t begin, int64_t end);

struct Kernels {
  Kernel encode;
  Kernel input_gradient;
  Kernel embedding_gradient;
};

}  // namespace gridencoder
