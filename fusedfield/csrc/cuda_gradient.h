// The gradients of the MLP on tensor cores, and the sums of them over samples.
//
// DESIGN: a block takes 64 of the samples that have a gradient. Each warp computes the layers of its 16 again and leaves
// what each layer read in shared memory; then, from the last layer to the first, it leaves the gradient of the layer's
// outputs there too, and all warps share the product of both, each a part of the weights, whose sums stay in its
// registers until the block has seen all its samples. No atomics: a block leaves its sums in a row of its own, and rows
// are added in their order.
#pragma once

#include "fusedfield/csrc/cuda_network.h"
#include "fusedfield/csrc/cuda_reached.h"

namespace fusedfield {

// What the layers read, and the gradient of what one gave, of the samples of a block.
template <class S>
struct Kept {
  static constexpr int P = S::Parts;
  using Inputs = Matrix<kBlockRows, 16 * S::Depth, P>;
  using Layer = Matrix<kBlockRows, S::Width, P>;
  using Channels = Matrix<kBlockRows, kColumns, P>;
  static constexpr int kBytes = 2 * (Inputs::kHalves + (S::Hidden + 1) * Layer::kHalves + Channels::kHalves);

  Inputs inputs;
  Layer hidden[S::Hidden], gradient;
  Channels channels;

  __device__ explicit Kept(char* room) {
    Half* free = reinterpret_cast<Half*>(room);
    inputs.start = free, free += Inputs::kHalves;
    for (Layer& layer : hidden) layer.start = free, free += Layer::kHalves;
    gradient.start = free, free += Layer::kHalves;
    channels.start = free;
  }
};

// This warp's part of the gradient of a layer of Rows outputs (a multiple of 16, of which there may be fewer) and
// Columns inputs, summed over samples.
template <int Rows, int Columns>
struct WeightSums {
  static constexpr int kAcross = Columns / kColumns, kTiles = Rows / 16 * kAcross / kWarps;
  static_assert(kTiles > 0 && Rows / 16 * kAcross % kWarps == 0 && (kTiles % kAcross == 0 || kAcross % kTiles == 0));
  Sums weight[kTiles], bias;

  template <class G, class X>
  __device__ void add(const G& gradient, const X& inputs) {
    constexpr Word kOnes[2] = {0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int k = 0; k < kBlockRows / 16; ++k) {
      const auto left = gradient.left_transposed(k, row());
      for (const auto& part : left.word) mma_bf16(bias.sum, part, kOnes);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) weight[i].add(left, inputs.right_transposed(k, column() + i));
    }
  }

  // To the parameters of a layer [outputs, inputs], bias last; returns where the next layer starts.
  __device__ float* write(float* to, int outputs, int inputs) const {
    const int lane = threadIdx.x % kWarp;
    for (int half = 0; half < 4; ++half) {
      const int o = row() * 16 + lane / 4 + half / 2 * 8;
      if (o >= outputs) continue;
      for (int i = 0; i < kTiles; ++i) {
        const int c = (column() + i) * kColumns + lane % 4 * 2 + half % 2;
        if (c < inputs) to[o * inputs + c] = weight[i].sum[half];
      }
      if (column() == 0 && lane % 4 == 0 && half % 2 == 0) to[outputs * inputs + o] = bias.sum[half];
    }
    return to + outputs * (inputs + 1);
  }

 private:
  static __device__ int first() { return threadIdx.x / kWarp * kTiles; }
  static __device__ int row() { return first() / kAcross; }
  static __device__ int column() { return first() % kAcross; }
};

template <class S>
struct NetworkSums {
  WeightSums<S::Width, 16 * S::Depth> first = {};
  WeightSums<S::Width, S::Width> middle[S::Hidden] = {};  // one too many, as in Weights
  WeightSums<16, S::Width> last = {};

  __device__ void write(float* to, int columns) const {
    to = first.write(to, S::Width, columns);
    for (int l = 0; l + 1 < S::Hidden; ++l) to = middle[l].write(to, S::Width, S::Width);
    last.write(to, kOutputs, S::Width);
  }
};

// finish(n, the gradient of inputs 8 n on) for the gradient of outputs.
template <int N, int K, int Parts, class M, class Finish>
__device__ __forceinline__ void input_gradients(const M& weight, const Left<Parts> (&outputs)[K], const Finish& finish) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    Sums sums = {};
#pragma unroll
    for (int k = 0; k < K; ++k) sums.add(outputs[k], weight.right_transposed(k, n));
    finish(n, sums);
  }
}

// As above, through the ReLU before, to the gradient of the outputs of the layer before.
template <int K, int N, int Parts, class M, class X>
__device__ __forceinline__ void hidden_gradients(const M& weight, const Left<Parts> (&outputs)[K], const X& hidden,
                                                 int row, Left<Parts> (&below)[N]) {
  input_gradients<2 * N>(weight, outputs, [&](int n, const Sums& sums) {
    const Sums open = hidden.open(row, n, sums);
    for (int high = 0; high < 2; ++high) below[n / 2].set(high, n % 2, open.sum[2 * high], open.sum[2 * high + 1]);
  });
}

// Cotangents of the channels of rows first .. first + 16, of those of the outputs.
template <int Parts>
__device__ __forceinline__ Left<Parts> of_channels(const Cotangents& cotangents, const Field& field, const Sums& raw,
                                                   const float* positions, const Reached& reached, int64_t first) {
  const int lane = threadIdx.x % kWarp;
  Left<Parts> result = {};
  for (int high = 0; high < 2; ++high) {
    const int64_t n = reached.of(first + lane / 4 + high * 8);
    float value[2] = {};
    for (int i = 0; i < 2; ++i) {
      const int channel = lane % 4 * 2 + i;
      if (n < 0 || channel >= field.outputs) continue;
      value[i] = activated(field, channel, raw.sum[2 * high + i], positions + 3 * n).slope * cotangents.of(n, channel);
    }
    result.set(high, 0, value[0], value[1]);
  }
  return result;
}

// `gradient`: of the encoding of the samples that are listed, [active, count]. `sums`: [blocks, parameters].
template <class S>
__global__ void __launch_bounds__(kThreads)
    field_backward_kernel(Field field, Listed listed, int columns, int64_t parameter_count,
                          const float* __restrict__ parameters, Encoding encoding, const float* __restrict__ positions,
                          Cotangents cotangents, float2* __restrict__ gradient, float* __restrict__ sums) {
  constexpr int T = S::kTiles, P = S::Parts;
  char* room = tadpole::dynamic_shared<char>();
  const Weights<S> weights(room, parameters, columns);
  const Kept<S> kept(room + S::kWeightBytes);
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * kRows;
  const Reached reached(listed);
  NetworkSums<S> total;
  for (int64_t start = static_cast<int64_t>(blockIdx.x) * kBlockRows; start < reached.size();
       start += static_cast<int64_t>(gridDim.x) * kBlockRows) {
    const int64_t first = start + row;
    Left<P> x[S::Depth], below[T], mine[T];
    encoding.load(reached, first, x);
    for (int k = 0; k < S::Depth; ++k) kept.inputs.store(row, k, x[k]);
    const Sums raw = channels(weights, x, [&](int l, const Left<P>(&hidden)[T]) {
      for (int k = 0; k < T; ++k) kept.hidden[l].store(row, k, hidden[k]);
    });
    const Left<P> outputs[1] = {of_channels<P>(cotangents, field, raw, positions, reached, first)};
    kept.channels.store(row, 0, outputs[0]);
    hidden_gradients(weights.last, outputs, kept.hidden[S::Hidden - 1], row, mine);
    for (int k = 0; k < T; ++k) kept.gradient.store(row, k, mine[k]);
    __syncthreads();
    total.last.add(kept.channels, kept.hidden[S::Hidden - 1]);
#pragma unroll
    for (int l = S::Hidden - 1; l > 0; --l) {
      total.middle[l - 1].add(kept.gradient, kept.hidden[l - 1]);
      hidden_gradients(weights.middle[l - 1], mine, kept.hidden[l - 1], row, below);
      __syncthreads();  // all have read the gradient
      for (int k = 0; k < T; ++k) mine[k] = below[k], kept.gradient.store(row, k, mine[k]);
      __syncthreads();
    }
    total.first.add(kept.gradient, kept.inputs);
    input_gradients<2 * S::Depth>(weights.first, mine, [&](int n, const Sums& sum) {
      const int level = n * 4 + lane % 4;
      for (int high = 0; high < 2; ++high) {
        const int64_t i = first + lane / 4 + high * 8;
        if (level >= encoding.active || i >= reached.size()) continue;
        gradient[level * encoding.count + i] = make_float2(sum.sum[2 * high], sum.sum[2 * high + 1]);
      }
    });
    __syncthreads();  // all have read everything
  }
  total.write(sums + blockIdx.x * parameter_count, columns);
}

__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(int64_t rows, int64_t count, const float* __restrict__ sums, float* __restrict__ total) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float sum = 0.f;
  for (int64_t row = 0; row < rows; ++row) sum += sums[row * count + i];
  total[i] = sum;
}

}  // namespace fusedfield
