#pragma once

#include "cuda_runtime.h"

namespace tadpole {

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::shared_memory());
}

}  // namespace tadpole
