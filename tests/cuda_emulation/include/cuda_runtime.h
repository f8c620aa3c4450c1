// What the kernels use of CUDA, for g++: the keywords, the built-in variables and functions, and the runtime. From here
// on the compiler takes itself for nvcc, and operators register for tensors on the CPU.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "emulation.h"

#define __CUDACC__
#ifndef EMULATED_ARCHITECTURE
#define EMULATED_ARCHITECTURE 900
#endif
#define __CUDA_ARCH__ EMULATED_ARCHITECTURE
#define CUDA CPU

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static thread_local  // see find_variables()

// ---- The runtime: one device without a clock, whose launches have ended when they return ----

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorLaunchFailure,
  cudaErrorInvalidDeviceFunction,
  cudaErrorNoKernelImageForDevice,
};
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  int ptxVersion;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulation {
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body);
cudaError_t allow_shared_memory(const void* kernel, int bytes);
}  // namespace emulation

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return [&](Parameters... values) {
    return emulation::launch(*config, reinterpret_cast<const void*>(kernel), [&] { kernel(values...); });
  }(std::forward<Arguments>(arguments)...);
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return emulation::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = __CUDA_ARCH__ / 10;
  return cudaSuccess;
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 2;
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 2;
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t);  // counted: see emulation_waits

// ---- Barriers and warps ----

inline void __syncthreads(emulation::Site site = emulation::Site::current()) { emulation::wait_for_block(site); }

inline void __syncwarp(unsigned mask = ~0u, emulation::Site site = emulation::Site::current()) {
  emulation::wait_for_lanes(mask, &mask, [](emulation::Given) {}, site);
}

// The fewest that CUDA may answer.
inline unsigned __activemask() { return 1u << emulation::lane(); }

namespace emulation {

// The value of lane `source` of this lane's group of `width`, or the lane's own where there is none.
template <class T>
T shuffle(unsigned mask, T value, int source, int width, Site site) {
  const int own = static_cast<int>(lane()), group = own / width * width;
  const int from = source >= group && source < group + width ? source : own;
  if (!(mask >> from & 1)) fail("it reads from lane " + std::to_string(from) + ", which is not in the mask");
  return exchange(mask, value, [=](const T* const* values) { return *values[from]; }, site);
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emulation::Site site = emulation::Site::current()) {
  const int group = static_cast<int>(emulation::lane()) / width * width;
  return emulation::shuffle(mask, value, group + (source & (width - 1)), width, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32,
                 emulation::Site site = emulation::Site::current()) {
  return emulation::shuffle(mask, value, static_cast<int>(emulation::lane() - step), width, site);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32,
                   emulation::Site site = emulation::Site::current()) {
  return emulation::shuffle(mask, value, static_cast<int>(emulation::lane() + step), width, site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  emulation::Site site = emulation::Site::current()) {
  return emulation::shuffle(mask, value, static_cast<int>(emulation::lane()) ^ bits, width, site);
}

// The lanes whose value equals this one's.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, emulation::Site site = emulation::Site::current()) {
  const auto equal = [=](const T* const* values) {
    unsigned lanes = 0;
    for (int i = 0; i < 32; ++i) {
      if (values[i] != nullptr && *values[i] == value) lanes |= 1u << i;
    }
    return lanes;
  };
  return emulation::exchange(mask, value, equal, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emulation::Site site = emulation::Site::current()) {
  const unsigned alike = __match_any_sync(mask, predicate != 0, site);
  return predicate ? alike : mask & ~alike;
}

inline int __any_sync(unsigned mask, int predicate, emulation::Site site = emulation::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate, emulation::Site site = emulation::Site::current()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

[[noreturn]] inline void __trap() { emulation::fail("__trap"); }

// ---- Memory ----

inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* address) {
  return *address;
}

struct alignas(8) float2 {
  float x, y;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T before = *address;
  *address = before + value;
  return before;
}

inline float2 atomicAdd(float2* address, float2 value) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(float2)) emulation::fail("an atomicAdd that is not aligned");
  return {atomicAdd(&address->x, value.x), atomicAdd(&address->y, value.y)};
}

// ---- Numbers ----

using std::max;
using std::min;

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }

inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

namespace emulation {

// Out of sight of the compiler, which would fuse it with a later sum.
inline float rounded(float x) {
  asm("" : "+x"(x));
  return x;
}

}  // namespace emulation

inline float __fmul_rn(float a, float b) { return emulation::rounded(a * b); }
inline float __fadd_rn(float a, float b) { return emulation::rounded(emulation::rounded(a) + emulation::rounded(b)); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
