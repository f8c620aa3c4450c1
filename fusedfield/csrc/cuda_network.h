// The MLP on tensor cores. A warp takes 16 samples through all layers; their activations stay in its registers.
//
// DESIGN: what a product leaves in registers (mma.h) is, rounded to bf16, what the next one reads: between two layers
// nothing is exchanged. The weights lie in shared memory once, rows of inputs; `load_transposed` reads them the other
// way for the gradient. A number is `Parts` bf16: one where the field is `mixed`; else two, its value rounded and what
// that left, whose products but for the smallest (2^-16 of the number) are all summed, in float32.
#pragma once

#include "common/csrc/mma.h"
#include "common/csrc/shared_memory.h"
#include "fusedfield/csrc/host.h"

namespace fusedfield {

using tadpole::kWarp;
using tadpole::load_transposed;
using tadpole::mma_bf16;
using tadpole::pack_bf16;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kRows = 16;                    // samples of a warp
constexpr int kBlockRows = kWarps * kRows;  // samples of a block
constexpr int kColumns = 8;                  // channels of a product

using Word = uint32_t;  // two neighbouring bf16
using Half = uint16_t;  // one, in memory

// 16 samples and 16 channels of them, as the left operand of a product.
template <int Parts>
struct Left {
  Word word[Parts][4];

  // Samples lane / 4 (`high` 0) or lane / 4 + 8 (1), channels 2 (lane % 4) and the next, plus 8 * `right`.
  __device__ void set(int high, int right, float first, float second) {
    const int i = high + 2 * right;
    word[0][i] = pack_bf16(first, second);
    if constexpr (Parts == 2) word[1][i] = pack_bf16(first - low_half(word[0][i]), second - high_half(word[0][i]));
  }
  static __device__ float low_half(Word w) { return __uint_as_float(w << 16); }
  static __device__ float high_half(Word w) { return __uint_as_float(w & 0xffff0000u); }
};

template <int Parts>
struct Right {
  Word word[Parts][2];
};

// 16 samples and 8 channels: sum[0] and [1] of sample lane / 4, channels 2 (lane % 4) and the next; [2] and [3] of the
// sample 8 behind.
struct Sums {
  float sum[4];

  template <int Parts>
  __device__ void add(const Left<Parts>& left, const Right<Parts>& right) {
    if constexpr (Parts == 2) {
      mma_bf16(sum, left.word[1], right.word[0]);
      mma_bf16(sum, left.word[0], right.word[1]);
    }
    mma_bf16(sum, left.word[0], right.word[0]);
  }
};

// Rows of bf16 in shared memory, `Width` numbers each, Parts matrices one behind the other.
template <int Rows, int Width, int Parts>
struct Matrix {
  static constexpr int kGap = Width < 16 ? 0 : 8;  // numbers between rows, so that 8 of them lie in different banks
  static constexpr int kRow = Width + kGap, kPart = Rows * kRow, kHalves = Parts * kPart;
  Half* start;

  __device__ Word* words(int part, int row, int column) const {
    return reinterpret_cast<Word*>(start + part * kPart + row * kRow + column);
  }
  __device__ void put(int row, int column, float value) const {
    for (int p = 0; p < Parts; ++p) {
      const Word word = pack_bf16(value, 0.f);
      start[p * kPart + row * kRow + column] = static_cast<Half>(word);
      value -= Left<Parts>::low_half(word);
    }
  }
  // Where 16 numbers of `rows` 8 rows each lie as rows of inputs: rows are columns of the product.
  __device__ Right<Parts> right(int n, int k) const {
    const int lane = threadIdx.x % kWarp;
    Right<Parts> result;
    for (int p = 0; p < Parts; ++p) {
      const Word* from = words(p, n * kColumns + lane / 4, k * 16 + lane % 4 * 2);
      result.word[p][0] = from[0];
      result.word[p][1] = from[4];
    }
    return result;
  }
  // Rows are summed over: the columns 8 n on of rows 16 k on; of 8 rows, where there are no more.
  __device__ Right<Parts> right_transposed(int k, int n) const {
    const int lane = threadIdx.x % kWarp;
    Right<Parts> result;
    for (int p = 0; p < Parts; ++p) {
      const int row = k * 16 + lane % (Rows < 16 ? 8 : 16);
      load_transposed(result.word[p], words(p, row, n * kColumns));
      if (Rows < 16) result.word[p][1] = 0;
    }
    return result;
  }
  // Columns 16 m on become rows of the product, summed over rows 16 k on.
  __device__ Left<Parts> left_transposed(int k, int m) const {
    const int lane = threadIdx.x % kWarp;
    Left<Parts> result;
    for (int p = 0; p < Parts; ++p) {
      if constexpr (Width < 16) {
        Word both[2];
        load_transposed(both, words(p, k * 16 + lane % 16, 0));
        result.word[p][0] = both[0];
        result.word[p][1] = 0;
        result.word[p][2] = both[1];
        result.word[p][3] = 0;
      } else {
        load_transposed(result.word[p], words(p, k * 16 + lane / 16 * 8 + lane % 8, m * 16 + lane / 8 % 2 * 8));
      }
    }
    return result;
  }
  // A warp leaves its 16 samples from `row` on, channels 16 k on.
  __device__ void store(int row, int k, const Left<Parts>& left) const {
    const int lane = threadIdx.x % kWarp;
    for (int p = 0; p < Parts; ++p) {
      for (int i = 0; i < (Width < 16 ? 2 : 4); ++i) {
        *words(p, row + lane / 4 + i % 2 * 8, k * 16 + lane % 4 * 2 + i / 2 * 8) = left.word[p][i];
      }
    }
  }
  // What Sums hold of channels 8 n on, where the numbers here are above 0, and 0 elsewhere.
  __device__ Sums open(int row, int n, const Sums& sums) const {
    const int lane = threadIdx.x % kWarp;
    Sums result;
    for (int high = 0; high < 2; ++high) {
      const Word word = *words(0, row + lane / 4 + high * 8, n * kColumns + lane % 4 * 2);  // of a ReLU: none is below 0
      result.sum[2 * high] = (word & 0x7fffu) != 0 ? sums.sum[2 * high] : 0.f;
      result.sum[2 * high + 1] = (word & 0x7fff0000u) != 0 ? sums.sum[2 * high + 1] : 0.f;
    }
    return result;
  }
};

// The network: Depth * 16 inputs, `Hidden` layers of Width, 4 outputs.
template <int Width_, int Hidden_, int Depth_, int Parts_>
struct Shape {
  static constexpr int Width = Width_, Hidden = Hidden_, Depth = Depth_, Parts = Parts_;
  static constexpr int kTiles = Width / 16;
  using First = Matrix<Width, 16 * Depth, Parts>;
  using Middle = Matrix<Width, Width, Parts>;
  using Last = Matrix<kColumns, Width, Parts>;
  static constexpr int kBiases = Hidden * Width + kColumns;
  static constexpr int kWeightBytes =
      2 * (First::kHalves + (Hidden - 1) * Middle::kHalves + Last::kHalves) + static_cast<int>(sizeof(float)) * kBiases;
};

// Its parameters in shared memory.
template <class S>
struct Weights {
  float* bias;  // [Hidden, Width], then 8 of the last layer
  typename S::First first;
  typename S::Middle middle[S::Hidden];  // one of them too many: there may be none
  typename S::Last last;

  // `parameters` as field.h has them, of `columns` inputs. All threads call it.
  __device__ Weights(char* room, const float* parameters, int columns) : bias(reinterpret_cast<float*>(room)) {
    Half* free = reinterpret_cast<Half*>(bias + S::kBiases);
    first.start = free, free += S::First::kHalves;
    for (int l = 0; l + 1 < S::Hidden; ++l) middle[l].start = free, free += S::Middle::kHalves;
    last.start = free;
    const float* from = parameters;
    from = copy(first, from, bias, S::Width, columns);
    for (int l = 0; l + 1 < S::Hidden; ++l) from = copy(middle[l], from, bias + (l + 1) * S::Width, S::Width, S::Width);
    copy(last, from, bias + S::Hidden * S::Width, kOutputs, S::Width);
    __syncthreads();
  }

 private:
  // A layer [outputs, inputs], filled up with zeros. Returns where the next one starts.
  template <int Rows, int Width, int Parts>
  __device__ static const float* copy(const Matrix<Rows, Width, Parts>& matrix, const float* from, float* bias,
                                      int outputs, int inputs) {
#pragma unroll 8  // loads that do not wait for each other
    for (int i = threadIdx.x; i < Rows * Width; i += kThreads) {
      const int row = i / Width, column = i % Width;
      matrix.put(row, column, row < outputs && column < inputs ? from[row * inputs + column] : 0.f);
    }
    from += outputs * inputs;
    for (int i = threadIdx.x; i < Rows; i += kThreads) bias[i] = i < outputs ? from[i] : 0.f;
    return from + outputs;
  }
};

__device__ __forceinline__ float relu(float x) { return x < 0.f ? 0.f : x; }  // NaN stays, which fmaxf would hide

// relu(W x + b) of K * 16 inputs.
template <int K, int N, int Parts, class M>
__device__ __forceinline__ void hidden_layer(const M& weight, const float* bias, const Left<Parts> (&x)[K],
                                             Left<Parts> (&y)[N]) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < 2 * N; ++n) {
    const float b[2] = {bias[n * kColumns + column], bias[n * kColumns + column + 1]};
    Sums sums{{b[0], b[1], b[0], b[1]}};
#pragma unroll
    for (int k = 0; k < K; ++k) sums.add(x[k], weight.right(n, k));
    for (int high = 0; high < 2; ++high) {
      y[n / 2].set(high, n % 2, relu(sums.sum[2 * high]), relu(sums.sum[2 * high + 1]));
    }
  }
}

// The channels of the last layer, from the inputs of the first. hidden(l, what layer l gives) is called on the way.
template <class S, class Hidden>
__device__ __forceinline__ Sums channels(const Weights<S>& weights, const Left<S::Parts> (&inputs)[S::Depth],
                                         const Hidden& hidden) {
  Left<S::Parts> x[S::kTiles], next[S::kTiles];
  hidden_layer(weights.first, weights.bias, inputs, x);
  hidden(0, x);
  for (int l = 1; l < S::Hidden; ++l) {
    hidden_layer(weights.middle[l - 1], weights.bias + l * S::Width, x, next);
    for (int k = 0; k < S::kTiles; ++k) x[k] = next[k];
    hidden(l, x);
  }
  const float* bias = weights.bias + S::Hidden * S::Width + threadIdx.x % 4 * 2;
  Sums sums{{bias[0], bias[1], bias[0], bias[1]}};
#pragma unroll
  for (int k = 0; k < S::kTiles; ++k) sums.add(x[k], weights.last.right(0, k));
  return sums;
}

// Encodings, [Parts, active, count] words of the two features of a level.
struct Encoding {
  const Word* words;
  int active;
  int64_t count;

  // Of rows first .. first + 16; what is not there is 0.
  template <class Rows, int Depth, int Parts>
  __device__ __forceinline__ void load(const Rows& rows, int64_t first, Left<Parts> (&x)[Depth]) const {
    const int lane = threadIdx.x % kWarp;
    for (int high = 0; high < 2; ++high) {
      const int64_t sample = rows.of(first + lane / 4 + high * 8);
      for (int k = 0; k < Depth; ++k) {
        for (int right = 0; right < 2; ++right) {
          const int level = k * 8 + lane % 4 + right * 4;
          for (int p = 0; p < Parts; ++p) {
            const bool there = level < active && sample >= 0;
            x[k].word[p][high + 2 * right] = there ? words[(p * active + level) * count + sample] : 0;
          }
        }
      }
    }
  }
};

// A channel that was activated, and the slope there.
struct Active {
  float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// Of channel `channel` at `position`.
__device__ __forceinline__ Active activated(const Field& field, int channel, float x, const float* position) {
  if (channel > 0) {
    const float y = sigmoid(x);
    return {y, y * (1.f - y)};
  }
  const float square = position[0] * position[0] + position[1] * position[1] + position[2] * position[2];
  x += field.peak - field.slope * sqrtf(square + 1e-8f);  // no infinite slope at the origin
  if (field.activation == kExp) {
    const float e = expf(x > 15.f ? 15.f : x);  // NaN stays
    return {e, e};
  }
  if (field.activation == kSoftplus) return {(x < 0.f ? 0.f : x) + log1pf(expf(-fabsf(x))), sigmoid(x)};
  return {x, 1.f};
}

}  // namespace fusedfield
