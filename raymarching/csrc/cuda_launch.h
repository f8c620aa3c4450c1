// What all CUDA kernels share.
#pragma once

#include "raymarching/csrc/pieces.h"

namespace raymarching {

using tadpole::blocks;
using tadpole::CudaScope;
using tadpole::kAllLanes;
using tadpole::kWarp;

constexpr int kThreads = 128, kRaysPerBlock = kThreads / kWarp;

}  // namespace raymarching
