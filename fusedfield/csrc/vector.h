// Vectors of TADPOLE_LANES floats: 16 with AVX-512, 8 with AVX2, 4 elsewhere; and what lies in memory between the layers:
// words of 32 bits, a float each, or two bf16 with TADPOLE_BF16. Part of simd.h.

typedef float F __attribute__((vector_size(4 * TADPOLE_LANES)));
typedef int32_t I __attribute__((vector_size(4 * TADPOLE_LANES)));
constexpr int W = TADPOLE_LANES;

HOST_DEVICE F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
HOST_DEVICE void store(float* p, F v) { std::memcpy(p, &v, sizeof(v)); }

// lane_sums: lane i of the result is the sum over the lanes of v[i]; by halving, two vectors become one of half sums.
// at_least, at_most: the larger, the smaller of two numbers; NaN stays.
#if TADPOLE_LANES == 16
HOST_DEVICE F lane_sums(const F* v) {
  F quad[4], pair[2];
  for (int i = 0; i < 4; ++i) {
    const __m512* p = reinterpret_cast<const __m512*>(v + 4 * i);
    const __m512d low = _mm512_castps_pd(_mm512_unpacklo_ps(p[0], p[1]) + _mm512_unpackhi_ps(p[0], p[1]));
    const __m512d high = _mm512_castps_pd(_mm512_unpacklo_ps(p[2], p[3]) + _mm512_unpackhi_ps(p[2], p[3]));
    quad[i] = (F)_mm512_unpacklo_pd(low, high) + (F)_mm512_unpackhi_pd(low, high);
  }
  const auto halve = [](F a, F b) {
    return (F)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88) + (F)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd);
  };
  for (int i = 0; i < 2; ++i) pair[i] = halve(quad[2 * i], quad[2 * i + 1]);
  return halve(pair[0], pair[1]);
}
HOST_DEVICE F root(F x) { return (F)_mm512_sqrt_ps((__m512)x); }
HOST_DEVICE F at_least(F x, float low) { return (F)_mm512_max_ps(_mm512_set1_ps(low), (__m512)x); }
HOST_DEVICE F at_most(F x, float high) { return (F)_mm512_min_ps(_mm512_set1_ps(high), (__m512)x); }
#elif TADPOLE_LANES == 8
HOST_DEVICE F lane_sums(const F* v) {
  __m256 quad[2];
  for (int i = 0; i < 2; ++i) {
    const __m256* p = reinterpret_cast<const __m256*>(v + 4 * i);
    quad[i] = _mm256_hadd_ps(_mm256_hadd_ps(p[0], p[1]), _mm256_hadd_ps(p[2], p[3]));
  }
  return (F)_mm256_permute2f128_ps(quad[0], quad[1], 0x20) + (F)_mm256_permute2f128_ps(quad[0], quad[1], 0x31);
}
HOST_DEVICE F root(F x) { return (F)_mm256_sqrt_ps((__m256)x); }
HOST_DEVICE F at_least(F x, float low) { return (F)_mm256_max_ps(_mm256_set1_ps(low), (__m256)x); }
HOST_DEVICE F at_most(F x, float high) { return (F)_mm256_min_ps(_mm256_set1_ps(high), (__m256)x); }
#else
HOST_DEVICE F lane_sums(const F* v) {
  F sums;
  for (int i = 0; i < W; ++i) sums[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
  return sums;
}
HOST_DEVICE F root(F x) {
  for (int i = 0; i < W; ++i) x[i] = std::sqrt(x[i]);
  return x;
}
HOST_DEVICE F at_least(F x, float low) { return low > x ? F{} + low : x; }
HOST_DEVICE F at_most(F x, float high) { return high < x ? F{} + high : x; }
#endif

// Matrices lie in memory row after row, [rows, width / kOf] words; `across(m, width)` is the same matrix with kOf rows in
// a word, [rows / kOf, width].
// multiply_add: sum + what the words of a and b, numbers one by one, have as products.
// put: 16 or fewer numbers of row r, from column c on.
// open: sum where the numbers of row r, from column c on, are above 0, and 0 elsewhere.
// place: `count` pairs of floats, the first two numbers of that many rows.
// pair_up: fills `across` from the rows of a tile.
#ifdef TADPOLE_BF16
typedef uint16_t __attribute__((may_alias)) Half;
typedef uint32_t __attribute__((may_alias)) Word;
constexpr int kOf = 2;
inline const float kOne = [] {
  const uint32_t ones = 0x3f803f80;
  float word;
  std::memcpy(&word, &ones, sizeof(word));
  return word;
}();

HOST_DEVICE F multiply_add(F sum, F a, F b) { return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
HOST_DEVICE F multiply_add(F sum, float a, F b) { return multiply_add(sum, (F)_mm512_set1_ps(a), b); }
HOST_DEVICE __m256i* numbers(float* m, int64_t width, int64_t r, int64_t c) {
  return reinterpret_cast<__m256i*>(reinterpret_cast<Half*>(m) + r * width + c);
}
HOST_DEVICE void put(float* m, int64_t width, int64_t r, int64_t c, F v) {
  _mm256_storeu_si256(numbers(m, width, r, c), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
HOST_DEVICE F open(const float* m, int64_t width, int64_t r, int64_t c, F sum) {
  const __m256i x = _mm256_loadu_si256(numbers(const_cast<float*>(m), width, r, c));
  return (F)_mm512_maskz_mov_ps(_mm256_cmpgt_epi16_mask(x, _mm256_setzero_si256()), (__m512)sum);
}
HOST_DEVICE void place(const float* from, int64_t count, float* to, int64_t words) {
  alignas(64) float pairs[W];
  for (int64_t first = 0; first < count; first += W, from += 2 * W) {
    store(pairs, (F)_mm512_cvtne2ps_pbh((__m512)load(from + W), (__m512)load(from)));
    for (int64_t i = first; i < std::min(first + W, count); ++i) std::memcpy(to + i * words, pairs + i - first, 4);
  }
}
HOST_DEVICE float* across(float* m, int64_t width) { return m + kTile * width / kOf; }
HOST_DEVICE void pair_up(float* m, int64_t width) {
  const Half* from = reinterpret_cast<const Half*>(m);
  Word* to = reinterpret_cast<Word*>(across(m, width));
  for (int64_t k = 0; k < kTile / kOf; ++k, from += kOf * width, to += width) {
    for (int64_t c = 0; c < width; ++c) to[c] = from[c] | static_cast<uint32_t>(from[width + c]) << 16;
  }
}
#else
constexpr int kOf = 1;
constexpr float kOne = 1.f;

HOST_DEVICE F multiply_add(F sum, F a, F b) { return sum + a * b; }
HOST_DEVICE F multiply_add(F sum, float a, F b) { return sum + a * b; }
HOST_DEVICE void put(float* m, int64_t width, int64_t r, int64_t c, F v) { store(m + r * width + c, v); }
HOST_DEVICE F open(const float* m, int64_t width, int64_t r, int64_t c, F sum) {
  return load(m + r * width + c) > 0.f ? sum : F{};
}
HOST_DEVICE void place(const float* from, int64_t count, float* to, int64_t words) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * words, from + 2 * i, 2 * sizeof(float));
}
HOST_DEVICE float* across(float* m, int64_t) { return m; }
HOST_DEVICE void pair_up(float*, int64_t) {}
#endif

// e^x, relative error below 2e-7; x beyond +-87 counts as +-87. x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor
// series; 2^n by its exponent bits.
HOST_DEVICE F exponential(F x) {
  x = at_most(at_least(x, -87.f), 87.f);
  const F shifter = F{} + 12582912.f;  // 1.5 x 2^23: adding it rounds to the nearest integer
  const F shifted = x * 1.44269504f + shifter;
  const F n = shifted - shifter;
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  F e = F{} + 1.f / 5040;
  for (float c : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) e = e * r + c;
  return e * (F)(((I)shifted << 23) + (127 << 23));
}

// log(1 + u) for u in [0, 1]: 2 artanh(u / (2 + u)) by its series, whose terms fall by 9 each.
HOST_DEVICE F log_one_plus(F u) {
  const F z = u / (u + 2.f), z2 = z * z;
  F series = F{} + 2.f / 13;
  for (float c : {2.f / 11, 2.f / 9, 2.f / 7, 2.f / 5, 2.f / 3, 2.f}) series = series * z2 + c;
  return series * z;
}

HOST_DEVICE F sigmoid(F x) { return 1.f / (1.f + exponential(-x)); }
HOST_DEVICE F softplus(F x) {
  const F size = x < 0.f ? -x : x;
  return at_least(x, 0.f) + log_one_plus(exponential(-size));
}
