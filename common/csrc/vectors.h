// Compiles the header TADPOLE_VECTOR_CODE, which has no include guard, for AVX2 in a namespace avx2 and for AVX-512 in a
// namespace avx512, TADPOLE_LANES floats in a vector. Where there are none (TADPOLE_VECTORS), this is empty. With
// TADPOLE_WANT_BF16 also for AVX-512 with bf16 in a namespace avx512bf16, with TADPOLE_BF16 defined, where there is that
// (TADPOLE_BF16_VECTORS).
//
//   #define TADPOLE_VECTOR_CODE "gridencoder/csrc/simd.h"
//   #include "common/csrc/vectors.h"         // inside the extension's namespace, after common/csrc/cpu.h
#ifdef TADPOLE_VECTORS

#define TADPOLE_LANES 8
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
#include TADPOLE_VECTOR_CODE
}
#undef TADPOLE_LANES
#ifdef __clang__  // of two targets it would take the first; GCC adds the second
#pragma clang attribute pop
#endif

#define TADPOLE_LANES 16
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512dq,avx512vl,avx512bw"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw")
#endif
namespace avx512 {
#include TADPOLE_VECTOR_CODE
}
#ifdef __clang__
#pragma clang attribute pop
#endif
#if defined(TADPOLE_WANT_BF16) && defined(TADPOLE_BF16_VECTORS)
#define TADPOLE_BF16
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512dq,avx512vl,avx512bw,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512bf16")
#endif
namespace avx512bf16 {
#include TADPOLE_VECTOR_CODE
}
#ifdef __clang__
#pragma clang attribute pop
#endif
#undef TADPOLE_BF16
#endif
#undef TADPOLE_LANES
#ifndef __clang__
#pragma GCC pop_options
#endif

#endif  // TADPOLE_VECTORS
#undef TADPOLE_WANT_BF16
#undef TADPOLE_VECTOR_CODE
