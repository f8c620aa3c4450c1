// Tensor cores (sm_80 and newer) on bfloat16, two in a word with the lower index in the lower half. All lanes of a warp
// call together; with g = lane / 4 and t = lane % 4 a lane holds of the matrices, as the PTX ISA lays them out,
//
//   a [16, 16]  rows g, g + 8, g, g + 8; columns 2t and 2t + 1 in the first two words, 2t + 8 and 2t + 9 in the others
//   b [16, 8]   rows 2t and 2t + 1, then 2t + 8 and 2t + 9; column g
//   sum [16, 8] row g, columns 2t and 2t + 1; then row g + 8
#pragma once

#include <cstdint>

namespace tadpole {

// sum += a b
__device__ __forceinline__ void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// Word i is column g, rows 2t and 2t + 1, of the i-th of four 8x8 matrices in shared memory; lane 8i + r gives the
// address of row r of matrix i: 16 bytes, aligned to 16.
__device__ __forceinline__ void load_transposed(uint32_t (&words)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  __trap();
#endif
}

// The same for two matrices: lanes 0 to 15 give the rows.
__device__ __forceinline__ void load_transposed(uint32_t (&words)[2], const void* row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(words[0]), "=r"(words[1])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  __trap();
#endif
}

// Two numbers rounded to the nearest bfloat16.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t both = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
  __trap();
#endif
  return both;
}

}  // namespace tadpole
