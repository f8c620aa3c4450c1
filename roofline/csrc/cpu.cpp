// The probes on all threads of torch; ops.cpp says what they do.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "common/csrc/cpu.h"

namespace roofline {

#define TADPOLE_LANES 4
namespace baseline {
#include "roofline/csrc/simd.h"
}
#undef TADPOLE_LANES

#define TADPOLE_VECTOR_CODE "roofline/csrc/simd.h"
#define TADPOLE_WANT_BF16
#include "common/csrc/vectors.h"

namespace {

using tadpole::Tensor;

struct Probe {
  float (*run)(int64_t);
  int64_t products;  // of a round
};

Probe choose(bool bf16) {
#ifdef TADPOLE_BF16_VECTORS
  if (bf16) return {avx512bf16::multiply_add, avx512bf16::kSums * avx512bf16::kProducts};
#endif
#ifdef TADPOLE_VECTORS
  if (tadpole::cpu_path() == tadpole::kAvx512) return {avx512::multiply_add, avx512::kSums * avx512::kProducts};
  if (tadpole::cpu_path() == tadpole::kAvx2) return {avx2::multiply_add, avx2::kSums * avx2::kProducts};
#endif
  return {baseline::multiply_add, baseline::kSums * baseline::kProducts};
}

// The sum over all threads of work(begin, end) of their shares of 0 .. count.
template <class Work>
double on_all_threads(int64_t count, const Work& work) {
  const int64_t threads = torch::stable::get_num_threads(), share = tadpole::ceil_div(count, threads);
  std::vector<double> sums(8 * threads);  // a cache line apart
  tadpole::share(threads, [&](int64_t part, int64_t) {
    sums[8 * part] = work(std::min(part * share, count), std::min((part + 1) * share, count));
  });
  double sum = 0;
  for (int64_t part = 0; part < threads; ++part) sum += sums[8 * part];
  return sum;
}

std::tuple<int64_t, double> multiply_add(int64_t rounds, bool bf16) {
  STD_TORCH_CHECK(!bf16 || tadpole::has_bf16(), "roofline: this processor does not multiply bf16");
  const Probe probe = choose(bf16);
  const int64_t threads = torch::stable::get_num_threads();
  const double sum = on_all_threads(threads, [&](int64_t begin, int64_t end) {
    return begin < end ? static_cast<double>(probe.run(rounds)) : 0.0;
  });
  return {threads * rounds * probe.products, sum};
}

double gather(const Tensor& table, const Tensor& rows) {
  tadpole::checked(table, "roofline: table", {-1, 2});
  tadpole::checked(rows, "roofline: rows", {-1}, tadpole::ScalarType::Int);
  const int64_t size = table.size(0);
  const int32_t* row = tadpole::data<int32_t>(rows);
  const char* start = reinterpret_cast<const char*>(tadpole::data<float>(table));
  for (int64_t i = 0; i < rows.size(0); ++i) {
    STD_TORCH_CHECK(row[i] >= 0 && row[i] < size, "roofline: row ", row[i], " of a table of ", size);
  }
  return on_all_threads(rows.size(0), [&](int64_t begin, int64_t end) {
    uint64_t sums[4] = {};  // of the bits: whole rows are loaded, and nothing waits for an addition of floats
    for (int64_t i = begin; i + 4 <= end; i += 4) {
      for (int k = 0; k < 4; ++k) {
        uint64_t bits;
        std::memcpy(&bits, start + 8 * static_cast<int64_t>(row[i + k]), sizeof(bits));
        sums[k] += bits;
      }
    }
    return static_cast<double>(sums[0] ^ sums[1] ^ sums[2] ^ sums[3]);
  });
}

void copy(Tensor to, const Tensor& source) {
  STD_TORCH_CHECK(to.numel() == source.numel(), "roofline: copy needs tensors of one size");
  float* target = tadpole::data<float>(to);
  const float* from = tadpole::data<float>(source);
  on_all_threads(source.numel(), [&](int64_t begin, int64_t end) {
    std::memcpy(target + begin, from + begin, (end - begin) * sizeof(float));
    return 0.0;
  });
}

}  // namespace
}  // namespace roofline

STABLE_TORCH_LIBRARY_IMPL(roofline, CompositeExplicitAutograd, m) {
  m.impl("multiply_add", TORCH_BOX(&roofline::multiply_add));
}

STABLE_TORCH_LIBRARY_IMPL(roofline, CPU, m) {
  m.impl("gather", TORCH_BOX(&roofline::gather));
  m.impl("copy", TORCH_BOX(&roofline::copy));
}
