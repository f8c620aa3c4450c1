// The gradient of the total variation of a grid (grid.h), for 3 dimensions and 2 channels.
//
// No include guard: simd.h includes it, once per instruction set, after what it reads, writes and locates rows with.

// The nodes nearest to W points, and their neighbours along each axis: those beyond the last node, and all of a point
// outside the unit cube, are the node itself, and do not count.
struct Nodes {
  alignas(64) uint32_t row[4][W];
  I counts[3];  // all ones or zeros
};

HOST_DEVICE void find(Nodes& nodes, const Level& level, const float* inputs, int64_t first, int64_t count) {
  const int present = static_cast<int>(std::min<int64_t>(W, count - first));
  alignas(64) float column[3][W] = {};
  I lane;
  for (int j = 0; j < W; ++j) lane[j] = j;
  for (int j = 0; j < present; ++j) {
    for (int d = 0; d < 3; ++d) column[d][j] = inputs[3 * (first + j) + d];
  }
  F x[3];
  I in = lane < I{} + present;
  for (int d = 0; d < 3; ++d) {
    x[d] = load(column[d]);
    in &= (x[d] >= F{}) & (x[d] <= F{} + 1.f);  // false for NaN
  }
  const U top = U{} + static_cast<uint32_t>(level.resolution - 1);
  U at[3], centre = {};
  for (int d = 0; d < 3; ++d) {
    U node = to_node((in ? x[d] : F{}) * static_cast<float>(level.resolution));
    node = node < top ? node : top;
    nodes.counts[d] = in & (I)(node != top);
    at[d] = node * level.multiplier[d];
    centre = level.hash ? centre ^ at[d] : centre + at[d];
  }
  const U row = wrap(level, centre);
  std::memcpy(nodes.row[0], &row, sizeof(row));
  for (int d = 0; d < 3; ++d) {
    const U next = at[d] + level.multiplier[d];
    const U neighbour = wrap(level, level.hash ? centre ^ at[d] ^ next : centre + level.multiplier[d]);
    const U counted = nodes.counts[d] ? neighbour : row;
    std::memcpy(nodes.row[1 + d], &counted, sizeof(counted));
  }
  asm("" : "+m"(nodes.row));  // as in `find` of simd.h
}

HOST_DEVICE void add_total_variation(const Nodes& nodes, const float* table, float weight, float* gradient) {
  F value[2][4], difference[3][2], energy[2] = {F{} + 1e-9f, F{} + 1e-9f}, sum[2] = {};
  for (int k = 0; k < 4; k += 2) gather_two(table, nodes.row + k, false, value[0] + k, value[1] + k);
  for (int d = 0; d < 3; ++d) {
    for (int c = 0; c < 2; ++c) {
      difference[d][c] = nodes.counts[d] ? value[c][1 + d] - value[c][0] : F{};
      energy[c] += difference[d][c] * difference[d][c];
      sum[c] += difference[d][c];
    }
  }
  const F factor[2] = {weight / square_root(energy[0]), weight / square_root(energy[1])};
  alignas(64) float change[4][2 * W];
  interleave(change[0], -factor[0] * sum[0], -factor[1] * sum[1]);
  for (int d = 0; d < 3; ++d) interleave(change[1 + d], factor[0] * difference[d][0], factor[1] * difference[d][1]);
  for (int j = 0; j < W; ++j) {  // lanes may share a row, so they take turns
    for (int k = 0; k < 4; ++k) {
      const __m128 value = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(change[k] + 2 * j)));
      add_pair(gradient + 2 * static_cast<int64_t>(nodes.row[k][j]), value);
    }
  }
}

// Adds the gradient of the total variation (grid.h) at the points; `table` and `gradient` begin with the level's rows.
inline void total_variation(const Level& level, const float* inputs, int64_t count, const float* table, float weight,
                            float* gradient) {
  constexpr int kNear = 2;  // kAhead of simd.h is too many for eight cache lines a point: they drive each other out
  Nodes ring[kNear];
  const bool far = level.size * sizeof(float[2]) > kCacheBytes;
  for (int64_t i = 0; i < count + kNear * W; i += W) {
    Nodes& slot = ring[i / W % kNear];
    if (i >= kNear * W) add_total_variation(slot, table, weight, gradient);
    if (i >= count) continue;
    find(slot, level, inputs, i, count);
    for (int k = 0; far && k < 4; ++k) {
      for (int j = 0; j < W; ++j) {
        __builtin_prefetch(table + 2 * static_cast<int64_t>(slot.row[k][j]));
        __builtin_prefetch(gradient + 2 * static_cast<int64_t>(slot.row[k][j]), 1);
      }
    }
  }
}
