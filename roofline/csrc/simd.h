// Multiply-adds that never leave the registers, TADPOLE_LANES floats in a vector. No include guard: see vectors.h.

typedef float F __attribute__((vector_size(4 * TADPOLE_LANES)));
constexpr int kSums = 12;  // independent, to hide the latency, and few enough for 16 registers

#ifdef TADPOLE_BF16
constexpr int64_t kProducts = 2 * TADPOLE_LANES;  // of a vector
HOST_DEVICE F step(F sum, F a, F b) { return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
constexpr int64_t kProducts = TADPOLE_LANES;
HOST_DEVICE F step(F sum, F a, F b) { return sum * a + b; }
#endif

inline float multiply_add(int64_t rounds) {
  F sum[kSums], a = F{} + 0.999f, b = F{} + 0.001f;
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sum[i] = F{} + static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sum[i] = step(sum[i], a, b);
    asm volatile("" : "+x"(a), "+x"(b));  // so that no two rounds become one
  }
  float total = 0;
  for (int i = 0; i < kSums; ++i) total += sum[i][0];
  return total;
}
