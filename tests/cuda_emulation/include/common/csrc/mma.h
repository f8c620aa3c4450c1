// The functions of common/csrc/mma.h, element by element from its table of the lanes' parts.
#pragma once

#include <array>

#include "cuda_runtime.h"

namespace emulation {

// The bfloat16 in the lower (0) or the upper (1) half of a word.
inline float half_of_word(uint32_t word, int half) { return std::bit_cast<float>(half ? word & 0xffff0000u : word << 16); }

struct Operands {
  std::array<uint32_t, 4> a;
  std::array<uint32_t, 2> b;
};

// Row r is lane r % 8's, twice; column c is in word c / 8, of the lane that has c / 2 % 4.
inline float a_element(const Operands* const* lanes, int row, int column) {
  const Operands& owner = *lanes[row % 8 * 4 + column % 8 / 2];
  return half_of_word(owner.a[column / 8 * 2 + row / 8], column % 2);
}

inline float b_element(const Operands* const* lanes, int row, int column) {
  const Operands& owner = *lanes[column * 4 + row % 8 / 2];
  return half_of_word(owner.b[row / 8], row % 2);
}

template <int N>
void load_matrices(uint32_t (&words)[N], const void* row, Site site) {
  const int own = static_cast<int>(lane()), group = own / 4, pair = own % 4 * 2;
  if (own < 8 * N && (reinterpret_cast<uintptr_t>(row) % 16 || !is_shared(row, 16))) {
    fail("a row of a matrix that is not aligned to 16 bytes of shared memory");
  }
  const auto read = [=](const void* const* const* rows) {
    const auto element = [=](int matrix, int r) {
      uint16_t value;
      std::memcpy(&value, static_cast<const char*>(*rows[matrix * 8 + r]) + 2 * group, sizeof(value));
      return static_cast<uint32_t>(value);
    };
    std::array<uint32_t, N> result;
    for (int i = 0; i < N; ++i) result[i] = element(i, pair) | element(i, pair + 1) << 16;
    return result;
  };
  const auto result = exchange(~0u, row, read, site);
  for (int i = 0; i < N; ++i) words[i] = result[i];
}

}  // namespace emulation

namespace tadpole {

inline void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     emulation::Site site = emulation::Site::current()) {
  const int group = static_cast<int>(emulation::lane()) / 4, pair = static_cast<int>(emulation::lane()) % 4 * 2;
  const auto multiply = [=](const emulation::Operands* const* lanes) {
    std::array<float, 4> product{};
    for (int i = 0; i < 4; ++i) {
      for (int k = 0; k < 16; ++k) {
        product[i] += emulation::a_element(lanes, group + i / 2 * 8, k) * emulation::b_element(lanes, k, pair + i % 2);
      }
    }
    return product;
  };
  const emulation::Operands given{std::to_array(a), std::to_array(b)};
  const auto product = emulation::exchange(~0u, given, multiply, site);
  for (int i = 0; i < 4; ++i) sum[i] += product[i];
}

inline void load_transposed(uint32_t (&words)[4], const void* row, emulation::Site site = emulation::Site::current()) {
  emulation::load_matrices(words, row, site);
}

inline void load_transposed(uint32_t (&words)[2], const void* row, emulation::Site site = emulation::Site::current()) {
  emulation::load_matrices(words, row, site);
}

inline uint32_t pack_bf16(float low, float high) {
  const auto rounded = [](float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
  };
  return rounded(low) | rounded(high) << 16;
}

}  // namespace tadpole
