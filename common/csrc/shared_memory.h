// The dynamic shared memory of a block: as many bytes as its launch asked for, aligned to 16.
#pragma once

namespace tadpole {

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
}

}  // namespace tadpole
