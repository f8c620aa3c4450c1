// The CPU kernels for 3 dimensions and 2 channels, with TADPOLE_LANES points in a vector: 16 with AVX-512, 8 with AVX2.
//
// No include guard: common/csrc/vectors.h includes it once per instruction set, inside a region compiled for it and a
// namespace of its own.
//
// DESIGN: levels outside, points inside, so that the rows of one level stay in the cache. A row (2 floats) is one
// 8-byte load. Rows of the fine levels come from memory: they are computed and prefetched kAhead vectors before they
// are used.

typedef float F __attribute__((vector_size(4 * TADPOLE_LANES)));
typedef uint32_t U __attribute__((vector_size(4 * TADPOLE_LANES)));
typedef int32_t I __attribute__((vector_size(4 * TADPOLE_LANES)));
constexpr int W = TADPOLE_LANES;
constexpr int kCorners = 8;
constexpr int kAhead = 4;
constexpr int64_t kCacheBytes = 1 << 18;  // tables below this are in the cache anyway

HOST_DEVICE U to_node(F x) { return (U) __builtin_convertvector(x, I); }
HOST_DEVICE F to_float(U x) { return __builtin_convertvector((I)x, F); }
HOST_DEVICE U wrap(const Level& level, U index) { return index & level.mask; }
HOST_DEVICE F rounded_product(float a, F b) {
  F product = a * b;
  asm("" : "+x"(product));  // or it becomes a fused multiply-add: other last bits, other cells than the reference
  return product;
}
HOST_DEVICE F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

#include "gridencoder/csrc/cell.h"

// A row out of memory, by a load of its own: the compiler would load several into a vector and take them out of there
// one by one, which is slow.
HOST_DEVICE int64_t single(const uint32_t& row) {
  uint32_t copy = row;
  asm("" : "+r"(copy));
  return copy;
}

// Both channels of two rows, neighbours in memory where `adjacent`: then one load has them all.
HOST_DEVICE __m128 pair(const float* table, const uint32_t& row, const uint32_t& other, bool adjacent) {
  const float* first = table + 2 * single(row);
  if (adjacent) return _mm_loadu_ps(first);
  const __m128 half = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(first)));
  return _mm_loadh_pi(half, reinterpret_cast<const __m64*>(table + 2 * single(other)));
}

// gather_two: a[c], b[c] are the two channels of W rows, for each of two corners. Loads and shuffles are faster than gather
// instructions, by a tenth of the encoding along rays; of 16-bit numbers, a row is what a gather instruction takes.
#if TADPOLE_LANES == 16
HOST_DEVICE void gather_two(const float* table, const uint32_t (*row)[W], bool adjacent, F* a, F* b) {
  const auto both = [&](int i) { return pair(table, row[0][i], row[1][i], adjacent); };
  __m512 quad[4];  // a b a b of the points i, i + 4, i + 8, i + 12
  for (int i = 0; i < 4; ++i) {
    quad[i] = _mm512_castps128_ps512(both(i));
    quad[i] = _mm512_insertf32x4(quad[i], both(i + 4), 1);
    quad[i] = _mm512_insertf32x4(quad[i], both(i + 8), 2);
    quad[i] = _mm512_insertf32x4(quad[i], both(i + 12), 3);
  }
  const __m512d first = _mm512_castps_pd(_mm512_unpacklo_ps(quad[0], quad[1]));
  const __m512d second = _mm512_castps_pd(_mm512_unpacklo_ps(quad[2], quad[3]));
  const __m512d third = _mm512_castps_pd(_mm512_unpackhi_ps(quad[0], quad[1]));
  const __m512d fourth = _mm512_castps_pd(_mm512_unpackhi_ps(quad[2], quad[3]));
  a[0] = (F)_mm512_unpacklo_pd(first, second);
  b[0] = (F)_mm512_unpackhi_pd(first, second);
  a[1] = (F)_mm512_unpacklo_pd(third, fourth);
  b[1] = (F)_mm512_unpackhi_pd(third, fourth);
}
HOST_DEVICE void gather(const BFloat16* table, U row, F& a, F& b) {
  const U both = (U)_mm512_i32gather_epi32((__m512i)row, table, 4);
  a = (F)(both << 16);
  b = (F)(both & 0xffff0000u);
}
HOST_DEVICE void gather(const Half* table, U row, F& a, F& b) {
  const __m512i both = _mm512_i32gather_epi32((__m512i)row, table, 4);
  a = (F)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
  b = (F)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
}
HOST_DEVICE F square_root(F x) { return (F)_mm512_sqrt_ps((__m512)x); }
// a0 b0 a1 b1 ...
HOST_DEVICE void interleave(float* to, F a, F b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  _mm512_storeu_ps(to, _mm512_permutex2var_ps((__m512)a, low, (__m512)b));
  _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps((__m512)a, high, (__m512)b));
}
// a0 b0 a1 b1 of point i from to + i % 4 * W + i / 4 * 4 on.
HOST_DEVICE void interleave_two(float* to, F a0, F b0, F a1, F b1) {
  const __m512d first_low = _mm512_castps_pd(_mm512_unpacklo_ps((__m512)a0, (__m512)b0));
  const __m512d first_high = _mm512_castps_pd(_mm512_unpackhi_ps((__m512)a0, (__m512)b0));
  const __m512d second_low = _mm512_castps_pd(_mm512_unpacklo_ps((__m512)a1, (__m512)b1));
  const __m512d second_high = _mm512_castps_pd(_mm512_unpackhi_ps((__m512)a1, (__m512)b1));
  _mm512_store_pd(to, _mm512_unpacklo_pd(first_low, second_low));
  _mm512_store_pd(to + W, _mm512_unpackhi_pd(first_low, second_low));
  _mm512_store_pd(to + 2 * W, _mm512_unpacklo_pd(first_high, second_high));
  _mm512_store_pd(to + 3 * W, _mm512_unpackhi_pd(first_high, second_high));
}
HOST_DEVICE void deinterleave(const float* from, F& a, F& b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
  a = (F)_mm512_permutex2var_ps(low, even, high);
  b = (F)_mm512_permutex2var_ps(low, odd, high);
}
#else
// a0 b0 a1 b1 | a2 ... in two registers: their even and their odd elements.
HOST_DEVICE void unzip(__m256 low, __m256 high, F& a, F& b) {
  const __m256 first = _mm256_permute2f128_ps(low, high, 0x20), second = _mm256_permute2f128_ps(low, high, 0x31);
  a = (F)_mm256_shuffle_ps(first, second, 0x88);  // a0 a1 a2 a3 per half: the halves are 0,2 and 1,3 of the four blocks
  b = (F)_mm256_shuffle_ps(first, second, 0xdd);
}
HOST_DEVICE void gather_two(const float* table, const uint32_t (*row)[W], bool adjacent, F* a, F* b) {
  const auto both = [&](int i) { return pair(table, row[0][i], row[1][i], adjacent); };
  __m256 quad[4];  // a b a b of the points i, i + 4
  for (int i = 0; i < 4; ++i) quad[i] = _mm256_set_m128(both(i + 4), both(i));
  const __m256d first = _mm256_castps_pd(_mm256_unpacklo_ps(quad[0], quad[1]));
  const __m256d second = _mm256_castps_pd(_mm256_unpacklo_ps(quad[2], quad[3]));
  const __m256d third = _mm256_castps_pd(_mm256_unpackhi_ps(quad[0], quad[1]));
  const __m256d fourth = _mm256_castps_pd(_mm256_unpackhi_ps(quad[2], quad[3]));
  a[0] = (F)_mm256_unpacklo_pd(first, second);
  b[0] = (F)_mm256_unpackhi_pd(first, second);
  a[1] = (F)_mm256_unpacklo_pd(third, fourth);
  b[1] = (F)_mm256_unpackhi_pd(third, fourth);
}
HOST_DEVICE void gather(const BFloat16* table, U row, F& a, F& b) {
  const U both = (U)_mm256_i32gather_epi32(reinterpret_cast<const int*>(table), (__m256i)row, 4);
  a = (F)(both << 16);
  b = (F)(both & 0xffff0000u);
}
HOST_DEVICE void gather(const Half* table, U row, F& a, F& b) {
  const __m256i both = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), (__m256i)row, 4);
  const __m256i low = _mm256_and_si256(both, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(both, 16);
  const auto narrow = [](__m256i v) {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  };
  a = (F)_mm256_cvtph_ps(narrow(low));
  b = (F)_mm256_cvtph_ps(narrow(high));
}
HOST_DEVICE F square_root(F x) { return (F)_mm256_sqrt_ps((__m256)x); }
HOST_DEVICE void interleave(float* to, F a, F b) {
  const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
  _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
HOST_DEVICE void interleave_two(float* to, F a0, F b0, F a1, F b1) {
  const __m256d first_low = _mm256_castps_pd(_mm256_unpacklo_ps((__m256)a0, (__m256)b0));
  const __m256d first_high = _mm256_castps_pd(_mm256_unpackhi_ps((__m256)a0, (__m256)b0));
  const __m256d second_low = _mm256_castps_pd(_mm256_unpacklo_ps((__m256)a1, (__m256)b1));
  const __m256d second_high = _mm256_castps_pd(_mm256_unpackhi_ps((__m256)a1, (__m256)b1));
  _mm256_store_pd(reinterpret_cast<double*>(to), _mm256_unpacklo_pd(first_low, second_low));
  _mm256_store_pd(reinterpret_cast<double*>(to + W), _mm256_unpackhi_pd(first_low, second_low));
  _mm256_store_pd(reinterpret_cast<double*>(to + 2 * W), _mm256_unpacklo_pd(first_high, second_high));
  _mm256_store_pd(reinterpret_cast<double*>(to + 3 * W), _mm256_unpackhi_pd(first_high, second_high));
}
HOST_DEVICE void deinterleave(const float* from, F& a, F& b) {
  unzip(_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8), a, b);
}
#endif

// The rows of a level, of any table type. The type is looked up for each vector: cheap, and a third of the code.
struct Table {
  const char* start;
  ScalarType type;
  int64_t row_bytes;

  Table(const Problem& p, const Level& level)
      : start(static_cast<const char*>(p.embeddings)), type(p.type), row_bytes(type == ScalarType::Float ? 8 : 4) {
    start += row_bytes * level.offset;
  }
  // As gather_two.
  HOST_DEVICE void read_two(const uint32_t (*rows)[W], bool adjacent, F* a, F* b) const {
    if (type == ScalarType::Float) return gather_two(reinterpret_cast<const float*>(start), rows, adjacent, a, b);
    for (int c = 0; c < 2; ++c) {
      U row;
      std::memcpy(&row, rows[c], sizeof(row));
      if (type == ScalarType::Half) {
        gather(reinterpret_cast<const Half*>(start), row, a[c], b[c]);
      } else {
        gather(reinterpret_cast<const BFloat16*>(start), row, a[c], b[c]);
      }
    }
  }
};

// Whether the rows of two corners along x are neighbours: whether nodes are stored one by one.
HOST_DEVICE bool neighbours_along_x(const Level& level) { return !level.hash && level.mask == ~0u; }

// W points of one level: where their corners are, and what their weights need.
struct Corners {
  Cell<3> cell;
  F direction[3];
  alignas(64) uint32_t row[kCorners][W];
};

// `Order` derivatives of the weights are wanted. The others are not stored: the ring of `each` is memory, and every
// store to it costs.
template <bool Directional, int Order>
HOST_DEVICE void find(Corners& corners, const Grid& grid, const Level& level, const Columns& points, int64_t i) {
  F x[3];
  for (int d = 0; d < 3; ++d) {
    x[d] = load(points.position + d * points.row + i);
    if (Directional) corners.direction[d] = load(points.direction + d * points.row + i);
  }
  const Cell<3> cell = locate<3>(grid, level, x);
  for (int d = 0; d < 3; ++d) {
    corners.cell.weight[d] = cell.weight[d];
    if (Order > 0) corners.cell.slope[d] = cell.slope[d];
    if (Order > 1) corners.cell.curve[d] = cell.curve[d];
  }
  for (int k = 0; k < kCorners; ++k) {
    const U row = corner_row<3>(level, cell, k);
    std::memcpy(corners.row[k], &row, sizeof(row));
  }
  asm("" : "+m"(corners.row));  // or the compiler takes rows out of the vectors one by one, which is slow
}

// Calls use(corners, i) for the points i of a level in order. Their corners are found kAhead vectors before, and what
// `use` will read or write is prefetched: 2 floats of each point from `stream` on, and of large tables all rows, for of
// neighbours along x the second begins another cache line one time in eight.
template <bool Directional, int Order, class Use>
HOST_DEVICE void each(const Grid& grid, const Level& level, const Columns& points, int64_t begin, int64_t end,
                      const char* table, int64_t row_bytes, const float* stream, const Use& use) {
  Corners ring[kAhead];
  const bool far = level.size * row_bytes > kCacheBytes;
  for (int64_t i = begin; i < end + kAhead * W; i += W) {
    Corners& slot = ring[i / W % kAhead];
    if (i >= begin + kAhead * W) use(slot, i - kAhead * W);
    if (i >= end) continue;
    find<Directional, Order>(slot, grid, level, points, i);
    for (int k = 0; far && k < kCorners; ++k) {
      for (int j = 0; j < W; ++j) __builtin_prefetch(table + row_bytes * slot.row[k][j]);
    }
    for (int j = 0; j < 2 * W; j += 16) __builtin_prefetch(stream + 2 * i + j);
  }
}

template <bool Directional>
void encode(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  const Table table(p, level);
  const bool adjacent = neighbours_along_x(level);
  float* result = points.result + 2 * l * points.row;
  each<Directional, Directional>(
      p.grid, level, points, begin, end, table.start, table.row_bytes, result, [&](const Corners& corners, int64_t i) {
        F weight[kCorners], sum[2] = {};
        corner_weights<3, Directional>(corners.cell, corners.direction, -1, weight);
        for (int k = 0; k < kCorners; k += 2) {
          F a[2], b[2];
          table.read_two(corners.row + k, adjacent, a, b);
          sum[0] += weight[k] * a[0] + weight[k + 1] * a[1];
          sum[1] += weight[k] * b[0] + weight[k + 1] * b[1];
        }
        interleave(result + 2 * i, sum[0], sum[1]);
      });
}

template <bool Directional>
void input_gradient(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  const Table table(p, level);
  const bool adjacent = neighbours_along_x(level);
  const float* gradient = points.gradient + 2 * l * points.row;
  float* result = points.result + 3 * l * points.row;
  each<Directional, 1 + Directional>(
      p.grid, level, points, begin, end, table.start, table.row_bytes, gradient,
      [&](const Corners& corners, int64_t i) {
        F g[2], dot[kCorners];
        deinterleave(gradient + 2 * i, g[0], g[1]);
        for (int k = 0; k < kCorners; k += 2) {
          F a[2], b[2];
          table.read_two(corners.row + k, adjacent, a, b);
          for (int c = 0; c < 2; ++c) dot[k + c] = a[c] * g[0] + b[c] * g[1];
        }
        for (int d = 0; d < 3; ++d) {
          F weight[kCorners], slope = {};
          corner_weights<3, Directional>(corners.cell, corners.direction, d, weight);
          for (int k = 0; k < kCorners; ++k) slope += weight[k] * dot[k];
          std::memcpy(result + d * points.row + i, &slope, sizeof(slope));
        }
      });
}

HOST_DEVICE void add_pair(float* to, __m128 value) {
  double* both = reinterpret_cast<double*>(to);
  _mm_store_sd(both, _mm_castps_pd(_mm_add_ps(_mm_castpd_ps(_mm_load_sd(both)), value)));
}

template <bool Directional>
void embedding_gradient(const Problem& p, const Columns& points, int l, int64_t begin, int64_t end) {
  const Level& level = p.grid.level[l];
  float* table = p.output + 2 * static_cast<int64_t>(level.offset);
  const float* gradient = points.gradient + 2 * l * points.row;
  const bool adjacent = neighbours_along_x(level);
  each<Directional, Directional>(
      p.grid, level, points, begin, end, reinterpret_cast<const char*>(table), 8, gradient,
      [&](const Corners& corners, int64_t i) {
        F g[2], weight[kCorners];
        deinterleave(gradient + 2 * i, g[0], g[1]);
        corner_weights<3, Directional>(corners.cell, corners.direction, -1, weight);
        alignas(64) float change[kCorners / 2][4 * W];
        for (int k = 0; k < kCorners; k += 2) {
          interleave_two(change[k / 2], weight[k] * g[0], weight[k] * g[1], weight[k + 1] * g[0], weight[k + 1] * g[1]);
        }
        // One read, add and write of both channels: lanes may share a row, so they take turns.
        for (int j = 0; j < W; ++j) {
          const int place = j % 4 * W + j / 4 * 4;  // as interleave_two leaves it
          for (int k = 0; k < kCorners; k += 2) {
            const __m128 value = _mm_load_ps(change[k / 2] + place);
            float* to = table + 2 * static_cast<int64_t>(corners.row[k][j]);
            if (adjacent) {
              _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), value));
            } else {
              add_pair(to, value);
              add_pair(table + 2 * static_cast<int64_t>(corners.row[k + 1][j]), _mm_movehl_ps(value, value));
            }
          }
        }
      });
}

#include "gridencoder/csrc/variation.h"

inline Kernels kernels(bool directional) {
  if (directional) return {encode<true>, input_gradient<true>, embedding_gradient<true>};
  return {encode<false>, input_gradient<false>, embedding_gradient<false>};
}
