// A tile of samples through the network, forward and backward, with TADPOLE_LANES floats in a vector; with TADPOLE_BF16,
// weights, activations and their gradients are rounded to bf16, whose products are summed in float32.
//
// No include guard: cpu.cpp includes it once per instruction set, inside a namespace of its own.
//
// DESIGN: activations lie sample after sample, [kTile, width], and vectors run along the width. Then all three products
// of a layer are one loop (`product`) over operands as they lie in memory: outputs = inputs W^T, gradient of the inputs
// = gradient W, gradient of W = gradient^T inputs; nothing is transposed but W. A block of about 24 accumulators stays
// in registers, a vector of the right operand serves all its rows, and a float of the left one all its columns. Every
// sample is summed in one order wherever it lies, so that results do not depend on how samples are grouped. In bf16 a word
// of 32 bits holds two numbers that are neighbours along the sum, so that the loop is the same: it runs over words.

#include "fusedfield/csrc/vector.h"

// finish(r, c, start(r, c) + sum over k of left[r * row + k * step] * right[k * width + c]) for R rows and V vectors of
// columns; `left` and `right` are words, and so many are `depth`, `row` and `step`.
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
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add(sum[r][v], left[r * row], factor[v]);
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
    const Layer n = net.layer[l];  // a copy: the stores below could change what a reference leads to
    float* to = tile.input[l + 1];
    product<kSampleSums>(
        kTile, tadpole::ceil_div<int64_t>(n.inputs, kOf), tile.input[l], n.in / kOf, 1, n.transposed, n.out,
        [=](int64_t, int64_t c) { return load(n.bias + c); },
        [=](int64_t r, int64_t c, F sum) { put(to, n.out, r, c, at_least(sum, 0.f)); });
  }
  // So few outputs would fill a quarter of a vector: here vectors run along the inputs, and their lanes are summed.
  const Layer& last = net.layer[net.count - 1];
  const int64_t width = last.in / kOf;
  for (int64_t s = 0; s < kTile; s += W) {
    for (int o = 0; o < outputs; ++o) {
      const float *from = tile.input[net.count - 1] + s * width, *weight = last.rows + o * width;
      F sum[W] = {};
      for (int64_t c = 0; c < width; c += W, from += W) {
        const F factor = load(weight + c);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) sum[i] = multiply_add(sum[i], load(from + i * width), factor);
      }
      store(tile.raw + o * kTile + s, lane_sums(sum) + last.bias[o]);
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
  const int64_t width = net.layer[0].in / kOf, features = net.layer[0].inputs;
  float* to = tile.input[0];
  if (features < width || count < kTile) std::memset(to, 0, kTile * width * sizeof(float));
  for (int64_t f = 0; f < features; f += 2) {
    place(encoding + f * row + 2 * first, count, to + f / kOf, width);
  }
  const float* x = positions + 3 * first;
  for (int64_t i = 0; i < count; ++i, x += 3) {
    tile.distance[i] = (x[0] * x[0] + x[1] * x[1] + x[2] * x[2]) + 1e-8f;  // no infinite slope at the origin
    if (!in_box(field, x)) std::memset(to + i * width, 0, features / kOf * sizeof(float));
  }
  for (int64_t i = count; i < kTile; ++i) tile.distance[i] = 0.f;
}

// The points of a run in the unit cube, by axis, filled up to a whole vector with its middle; so are those outside.
inline void load_columns(const Field& field, const float* positions, int64_t count, float* to, int64_t row) {
  alignas(64) float unit[3 * kTile];
  for (int64_t first = 0; first < count; first += kTile) {
    const int64_t part = std::min(kTile, count - first), filled = padded(part);
    const float* x = positions + 3 * first;
    std::memcpy(unit, x, 3 * part * sizeof(float));
    for (int64_t i = 0; i < 3 * part; i += W) {
      store(unit + i, (load(unit + i) + field.bound) / (F{} + 2.f * field.bound));
    }
    for (int64_t i = 0; i < part; ++i) {
      const bool in = in_box(field, x + 3 * i);
      for (int d = 0; d < 3; ++d) to[d * row + first + i] = in ? unit[3 * i + d] : 0.5f;
    }
    for (int d = 0; d < 3; ++d) std::fill_n(to + d * row + first + part, filled - part, 0.5f);
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
    const int colours = field.outputs - 1;
    for (int o = 0; o < colours; ++o) {
      for (int64_t i = 0; i < part; ++i) albedo[colours * (first + i) + o] = tile.value[(o + 1) * kTile + i];
    }
  }
}

// The channels of one tile of samples, `rounds` times in a row: what the layers reach where nothing else is done.
inline void layers(const Field& field, const Network& net, Tile& tile, const float* positions, const float* encoding,
                   int64_t rounds) {
  load_tile(field, net, tile, positions, encoding, kTile, 0, kTile);
  for (int64_t round = 0; round < rounds; ++round) {
    run_layers(net, tile, kOutputs);
    asm volatile("" : : : "memory");  // so that no two rounds become one
  }
}

// Adds the gradients of layer l's parameters for the gradient of its outputs; leaves that of its inputs.
template <bool Last>
HOST_DEVICE void layer_backward(const Network& net, int l, float* inputs, float* outputs_gradient,
                                float* inputs_gradient, float* sums) {
  const Layer n = net.layer[l];
  float *weight = sums + n.gradient, *bias = weight + n.out * n.in;
  pair_up(inputs, n.in);
  pair_up(outputs_gradient, n.out);
  const float* gradient = across(outputs_gradient, n.out);
  product<kWeightSums, Last ? kOutputs : kWeightSums>(
      n.out, kTile / kOf, gradient, 1, n.out, across(inputs, n.in), n.in,
      [=](int64_t r, int64_t c) { return load(weight + r * n.in + c); },
      [=](int64_t r, int64_t c, F sum) { store(weight + r * n.in + c, sum); });
  if (Last) {
    F sum = {};  // of several samples side by side
    for (int64_t i = 0; i < kTile / kOf * kOutputs; i += W) sum = multiply_add(sum, kOne, load(gradient + i));
    for (int i = 0; i < W; ++i) bias[i % kOutputs] += sum[i];
  } else {
    for (int64_t o = 0; o < n.out; o += W) {
      F sum = load(bias + o);
      for (int64_t s = 0; s < kTile / kOf; ++s) sum = multiply_add(sum, kOne, load(gradient + s * n.out + o));
      store(bias + o, sum);
    }
  }
  product<kSampleSums>(
      kTile, n.out / kOf, outputs_gradient, n.out / kOf, 1, n.weight, n.in, [](int64_t, int64_t) { return F{}; },
      [=](int64_t r, int64_t c, F sum) {
        if (l == 0) {  // the encoding, which has no ReLU and whose gradient is not rounded
          store(inputs_gradient + r * n.in + c, sum);
        } else {  // the derivative of ReLU, 0 at 0
          put(inputs_gradient, n.in, r, c, open(inputs, n.in, r, c, sum));
        }
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
    float *mine = tile.gradient[0], *below = tile.gradient[1], *channels = tile.value;  // which nobody reads now
    std::memset(channels, 0, kTile * kOutputs * sizeof(float));
    const int colours = field.outputs - 1;
    for (int64_t i = 0; i < part; ++i) {
      channels[kOutputs * i] = sigma[first + i] * tile.slope[i];
      for (int o = 0; o < colours; ++o) {
        channels[kOutputs * i + o + 1] = albedo[colours * (first + i) + o] * tile.slope[(o + 1) * kTile + i];
      }
    }
    for (int64_t i = 0; i < kTile * kOutputs; i += W) put(mine, 0, 0, i, load(channels + i));
    layer_backward<true>(net, net.count - 1, tile.input[net.count - 1], mine, below, sums);
    for (int l = net.count - 2; l >= 0; --l) {
      std::swap(mine, below);
      layer_backward<false>(net, l, tile.input[l], mine, below, sums);
    }
    const int64_t filled = padded(part), width = head.in;
    for (int64_t f = 0; f < head.inputs; f += 2) {
      float* to = gradient + f * gradient_row + 2 * first;
      for (int64_t i = 0; i < part; ++i) std::memcpy(to + 2 * i, below + i * width + f, 2 * sizeof(float));
      std::fill_n(to + 2 * part, 2 * (filled - part), 0.f);
    }
    for (int64_t i = 0; i < part; ++i) {
      if (in_box(field, positions + 3 * (first + i))) continue;
      for (int64_t f = 0; f < head.inputs; f += 2) std::fill_n(gradient + f * gradient_row + 2 * (first + i), 2, 0.f);
    }
  }
}
