// The runtime's functions that are no templates, and those that torch has in its CUDA builds only.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <map>
#include <mutex>

#include "cuda_runtime.h"

namespace {

cudaError_t last_error = cudaSuccess;
std::string last_text;
std::map<const void*, size_t> allowed;  // shared memory beyond 48 kB
int64_t waits = 0;

cudaError_t failed(cudaError_t error, const std::string& text) {
  last_text = text;
  return last_error = error;
}

}  // namespace

namespace emulation {

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const dim3 grid = config.gridDim, block = config.blockDim;
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  const bool fits = grid.x > 0 && grid.x < 1u << 31 && grid.y - 1 < 65535 && grid.z - 1 < 65535;
  if (!fits) return failed(cudaErrorInvalidValue, "the grid is empty or too large");
  if (threads - 1 >= 1024) return failed(cudaErrorInvalidValue, "a block has 1 to 1024 threads");
  if (config.dynamicSmemBytes > (48 << 10) && config.dynamicSmemBytes > allowed[kernel]) {
    return failed(cudaErrorInvalidValue, "more than 48 kB of shared memory without cudaFuncSetAttribute");
  }
  const std::string error = run(grid, block, config.dynamicSmemBytes, body);
  return error.empty() ? cudaSuccess : failed(cudaErrorLaunchFailure, error);
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  if (bytes > 227 << 10) return failed(cudaErrorInvalidValue, "a block has at most 227 kB of shared memory");
  allowed[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace emulation

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++waits;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t) { return last_text.c_str(); }

extern "C" {

// How often this library's operators have waited for the GPU.
__attribute__((visibility("default"))) int64_t emulation_waits() { return waits; }

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return AOTI_TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

}
