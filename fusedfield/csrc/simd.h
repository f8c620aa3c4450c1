// A tile of samples through the network, forward and backward, with TADPOLE_LANES floats in a vector.
//
// No include guard: cpu.cpp includes it once per instruction set, inside a namespace of its own.
//
// DESIGN: activations lie sample after sample, [kTile, width], and vectors run along the width. Then all three products
// of a layer are one loop (`product`) over operands as they lie in memory: outputs = inputs W^T, gradient of the inputs
// = gradient W, gradient of W = gradient^T inputs; nothing is transposed but W. A block of about 24 accumulators stays
// in registers, a vector of the right operand serves all its rows, and a float of the left one all its columns. Every
// sample is summed in one order wherever it lies, so that results do not depend on how samples are grouped.

#include "fusedfield/csrc/vector.h"

// finish(r, c, start(r, c) + sum over k of left[r * row + k * step] * right[k * width + c]) for R rows and V vectors of
// columns.
template <int R, int V, class Start, class Finish>
HOST_DEVICE void block(int64_t r0, int64_t c0, int64_t depth, const float* left, int64_t row, int64_t step,
                       const float* right, int64_t width, const Start& start, const Finish& finish) {
  F sum[R][V];
  left += r0 * row;
  right += c0;
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = start(r0 + r, c0 + v * W);
  }
  for (int64_t k = 0; k < depth; ++k, left += step, right += width) {
    F factor[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) factor[v] = load(right + v * W);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += left[r * row] * factor[v];
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) finish(r0 + r, c0 + v * W, sum[r][v]);
  }
}

// All `rows`, a multiple of the rows of a block, and `width` columns, a multiple of kPad, in blocks of `Sums` vectors
// (and at most `Most` rows).
template <int Sums, int Most = Sums, class Start, class Finish>
HOST_DEVICE void product(int64_t rows, int64_t depth, const float* left, int64_t row, int64_t step, const float* right,
                         int64_t width, const Start& start, const Finish& finish) {
  int64_t c = 0;
  const auto columns = [&](auto vectors) {
    constexpr int V = decltype(vectors)::value, R = Sums / V < Most ? Sums / V : Most;
    for (; c + V * W <= width; c += V * W) {
      for (int64_t r = 0; r < rows; r += R) block<R, V>(r, c, depth, left, row, step, right, width, start, finish);
    }
  };
  if (W == 16) columns(gridencoder::Int<4>{});
  columns(gridencoder::Int<2>{});
  if (W == 16) columns(gridencoder::Int<1>{});
}

constexpr int kSampleSums = W == 16 ? 24 : 12;  // 6, 12 and 24 rows of samples divide the tile
constexpr int kWeightSums = W == 16 ? 16 : 8;   // 4, 8 and 16 rows divide the padded outputs

// Hidden layers, and the first `outputs` channels of the last.
HOST_DEVICE void run_layers(const Network& net, Tile& tile, int outputs) {
  for (int l = 0; l + 1 < net.count; ++l) {
    const Layer& n = net.layer[l];
    float* to = tile.input[l + 1];
    product<kSampleSums>(
        kTile, n.inputs, tile.input[l], n.in, 1, n.transposed, n.out, [&](int64_t, int64_t c) { return load(n.bias + c); },
        [&](int64_t r, int64_t c, F sum) { store(to + r * n.out + c, at_least(sum, 0.f)); });
  }
  // So few outputs would fill a quarter of a vector: here vectors run along the inputs, and their lanes are summed.
  const Layer& n = net.layer[net.count - 1];
  for (int64_t s = 0; s < kTile; s += W) {
    for (int o = 0; o < outputs; ++o) {
      F sum[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        const float* from = tile.input[net.count - 1] + (s + i) * n.in;
        sum[i] = F{};
        for (int64_t c = 0; c < n.in; c += W) sum[i] += load(from + c) * load(n.weight + o * n.in + c);
      }
      store(tile.raw + o * kTile + s, lane_sums(sum) + n.bias[o]);
    }
  }
}

// Channels -> values, and where wanted the slopes there.
template <bool Slopes>
HOST_DEVICE void activate(const Field& field, Tile& tile) {
  for (int64_t s = 0; s < kTile; s += W) {
    const F x = load(tile.raw + s) + (field.peak - field.slope * root(load(tile.distance + s)));
    if (field.activation == kExp) {
      const F e = exponential(at_most(x, 15.f));
      store(tile.value + s, e);
      if (Slopes) store(tile.slope + s, e);
    } else if (field.activation == kSoftplus) {
      store(tile.value + s, softplus(x));
      if (Slopes) store(tile.slope + s, sigmoid(x));
    } else {
      store(tile.value + s, x);
      if (Slopes) store(tile.slope + s, F{} + 1.f);
    }
    for (int o = 1; o < field.outputs; ++o) {
      const F y = sigmoid(load(tile.raw + o * kTile + s));
      store(tile.value + o * kTile + s, y);
      if (Slopes) store(tile.slope + o * kTile + s, y * (1.f - y));
    }
  }
}

// Samples first .. first + count of a run, whose encoding lies in [active, row, 2] from `encoding` on.
HOST_DEVICE void load_tile(const Field& field, const Network& net, Tile& tile, const float* positions,
                           const float* encoding, int64_t row, int64_t first, int64_t count) {
  const Layer& n = net.layer[0];
  float* to = tile.input[0];
  std::memset(to, 0, kTile * n.in * sizeof(float));
  for (int64_t i = 0; i < kTile; ++i) {
    float unit[3], square = 1e-8f;  // keeps the slope of the root finite at the origin
    const float* x = positions + 3 * (first + i);
    if (i < count) square = (x[0] * x[0] + x[1] * x[1] + x[2] * x[2]) + 1e-8f;
    tile.distance[i] = square;
    if (i >= count || !to_unit(field, x, unit)) continue;
    const float* from = encoding + 2 * (first + i);
    for (int64_t l = 0; l < n.inputs / 2; ++l) std::memcpy(to + i * n.in + 2 * l, from + 2 * l * row, 2 * sizeof(float));
  }
}

inline void forward(const Field& field, const Network& net, Tile& tile, const float* positions, const float* encoding,
                    int64_t row, int64_t count, float* sigma, float* albedo) {
  for (int64_t first = 0; first < count; first += kTile) {
    const int64_t part = std::min(kTile, count - first);
    load_tile(field, net, tile, positions, encoding, row, first, part);
    run_layers(net, tile, field.outputs);
    activate<false>(field, tile);
    std::memcpy(sigma + first, tile.value, part * sizeof(float));
    for (int o = 1; o < field.outputs; ++o) {
      for (int64_t i = 0; i < part; ++i) albedo[3 * (first + i) + o - 1] = tile.value[o * kTile + i];
    }
  }
}

// Adds the gradients of layer l's parameters for the gradient of its outputs; leaves that of its inputs.
template <bool Last>
HOST_DEVICE void layer_backward(const Network& net, int l, const float* inputs, const float* outputs_gradient,
                                float* inputs_gradient, float* sums) {
  const Layer& n = net.layer[l];
  float *weight = sums + n.gradient, *bias = weight + n.out * n.in;
  const auto start = [&](int64_t r, int64_t c) { return load(weight + r * n.in + c); };
  const auto finish = [&](int64_t r, int64_t c, F sum) { store(weight + r * n.in + c, sum); };
  product<kWeightSums, Last ? kOutputs : kWeightSums>(n.out, kTile, outputs_gradient, 1, n.out, inputs, n.in, start,
                                                      finish);
  for (int64_t s = 0; s < kTile; ++s) {
    for (int64_t o = 0; o < n.out; ++o) bias[o] += outputs_gradient[s * n.out + o];
  }
  product<kSampleSums>(
      kTile, n.out, outputs_gradient, n.out, 1, n.weight, n.in, [](int64_t, int64_t) { return F{}; },
      [&](int64_t r, int64_t c, F sum) {
        // The derivative of ReLU, 0 at 0; the encoding has none.
        const F open = l == 0 ? sum : load(inputs + r * n.in + c) > 0.f ? sum : F{};
        store(inputs_gradient + r * n.in + c, open);
      });
}

// Like `forward` for cotangents: adds to `sums` (Network::gradients floats), and writes the gradient of the encoding to
// `gradient`, [active, row, 2] as the encoding, zeros up to a whole vector of points.
inline void backward(const Field& field, const Network& net, Tile& tile, const float* positions, const float* encoding,
                     int64_t row, int64_t count, const float* sigma, const float* albedo, float* sums, float* gradient,
                     int64_t gradient_row) {
  const Layer& head = net.layer[0];
  for (int64_t first = 0; first < count; first += kTile) {
    const int64_t part = std::min(kTile, count - first);
    load_tile(field, net, tile, positions, encoding, row, first, part);
    run_layers(net, tile, field.outputs);
    activate<true>(field, tile);
    float *mine = tile.gradient[0], *below = tile.gradient[1];
    std::memset(mine, 0, kTile * kOutputs * sizeof(float));
    for (int64_t i = 0; i < part; ++i) {
      mine[kOutputs * i] = sigma[first + i] * tile.slope[i];
      for (int o = 1; o < field.outputs; ++o) {
        mine[kOutputs * i + o] = albedo[3 * (first + i) + o - 1] * tile.slope[o * kTile + i];
      }
    }
    layer_backward<true>(net, net.count - 1, tile.input[net.count - 1], mine, below, sums);
    for (int l = net.count - 2; l >= 0; --l) {
      std::swap(mine, below);
      layer_backward<false>(net, l, tile.input[l], mine, below, sums);
    }
    const int64_t filled = std::min(kTile, tadpole::ceil_div<int64_t>(part, kPad) * kPad);
    for (int64_t i = 0; i < filled; ++i) {
      float unit[3];
      const bool in = i < part && to_unit(field, positions + 3 * (first + i), unit);
      float* to = gradient + 2 * (first + i);
      for (int64_t l = 0; l < head.inputs / 2; ++l) {
        const float zeros[2] = {};
        std::memcpy(to + 2 * l * gradient_row, in ? below + i * head.in + 2 * l : zeros, sizeof(zeros));
      }
    }
  }
}
