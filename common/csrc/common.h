// Shared by the kernels of all extensions; compiles under g++, clang and nvcc.
//
//   #include "common/csrc/common.h"          // the include path is the repository root
//
//   HOST_DEVICE inline float f(float x)      // maths in <name>.h, once for CPU and CUDA
//   using namespace tadpole;
//   Tensor x = checked(input, "input", {-1, 3});           // float32, contiguous, [any, 3], else a readable error
//   const float* p = data<float>(x);          // of a const Tensor; of a plain one it may be written to
//   torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { ... });   // obeys torch.set_num_threads
//
// In a .cu file:
//   CudaScope scope(x);                       // makes x's device current; scope.stream is torch's current stream on it
//   if (n > 0) scope.launch("f", f_kernel, {blocks(n, 256), 256}, p, n);   // a grid of 0 blocks is a launch error
//
// Vector instructions: put TADPOLE_CLONES before a free function with a plain loop, and the compiler emits an AVX-512,
// an AVX2 and a baseline body of which the loader picks one. Lambdas cannot carry it: let the lambda call such a
// function. Everything that function calls must be inlined into it (HOST_DEVICE, in a header).
#pragma once

#if defined(__CUDACC__) && !defined(USE_CUDA)
#define USE_CUDA  // torch's shim declares its CUDA functions only then
#endif

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#ifdef USE_CUDA
#include <cuda_runtime.h>
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && !defined(__CUDACC__) && __GNUC__ >= 12
#define TADPOLE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && !defined(__CUDACC__)
#define TADPOLE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TADPOLE_CLONES
#endif

namespace tadpole {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
HOST_DEVICE T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

// Require a dtype and a shape (-1 takes any size) and return the tensor contiguous.
inline Tensor checked(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape,
                      ScalarType dtype = ScalarType::Float) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has the wrong dtype");
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (int64_t want : shape) {
    if (!fits) break;
    fits = want < 0 || tensor.size(axis) == want;
    ++axis;
  }
  STD_TORCH_CHECK(fits, name, " has the wrong shape ", shape_text(tensor));
  return torch::stable::contiguous(tensor);
}

// The same where a vector of 16 bytes can be read, which a part of another tensor may begin between.
inline Tensor aligned(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 ? tensor : torch::stable::clone(tensor);
}

template <typename T>
T* data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

#ifdef USE_CUDA

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline unsigned blocks(int64_t count, int threads) {
  return static_cast<unsigned>(ceil_div<int64_t>(count, threads));
}

inline void check(const char* what, cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();  // it is reported here, and not by whoever asks next
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

struct Launch {
  dim3 blocks;
  int threads;
  size_t shared = 0;  // bytes of dynamic_shared()
};

// Kernels run on the device of `tensor` and on torch's current stream there, never on the default stream.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& tensor) {
    const int32_t device = tensor.get_device_index();
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(device, &guard_));
    void* current = nullptr;
    const auto code = aoti_torch_get_current_cuda_stream(device, &current);
    if (code != TORCH_SUCCESS) aoti_torch_delete_cuda_guard(guard_);
    TORCH_ERROR_CODE_CHECK(code);
    stream = static_cast<cudaStream_t>(current);
  }
  ~CudaScope() { aoti_torch_delete_cuda_guard(guard_); }
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

  // The arguments are converted to the kernel's parameters. An error names the launch.
  template <class... Parameters, class... Arguments>
  void launch(const char* name, void (*kernel)(Parameters...), Launch size, Arguments&&... arguments) const {
    allow_shared(name, kernel, size.shared);
    cudaLaunchConfig_t config{};
    config.gridDim = size.blocks, config.blockDim = dim3(size.threads);
    config.dynamicSmemBytes = size.shared, config.stream = stream;
    check(name, cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
  }

  // How many blocks of such a launch the device runs at a time.
  template <class... Parameters>
  int64_t at_once(const char* name, void (*kernel)(Parameters...), int threads, size_t shared) const {
    allow_shared(name, kernel, shared);
    int device = 0, processors = 0, blocks = 0;
    check(name, cudaGetDevice(&device));
    check(name, cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    check(name, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared));
    return static_cast<int64_t>(processors) * blocks;
  }

  cudaStream_t stream = nullptr;

 private:
  template <class Kernel>
  void allow_shared(const char* name, Kernel* kernel, size_t bytes) const {
    constexpr size_t kWithoutAsking = 48 << 10;
    if (bytes <= kWithoutAsking) return;
    constexpr auto kMost = cudaFuncAttributeMaxDynamicSharedMemorySize;
    check(name, cudaFuncSetAttribute(kernel, kMost, static_cast<int>(bytes)));
  }

  CUDAGuardHandle guard_ = nullptr;
};

#endif

}  // namespace tadpole
