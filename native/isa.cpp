#include <stdexcept>

#include "kernels.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace memfloor {

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx512Bf16, kAvx512, kAvx2;
#elif defined(__aarch64__)
extern const Kernels kNeonDotprod, kNeon;
#endif

namespace {

struct Candidate {
  const Kernels* kernels;
  bool usable;
};

// Best first.
std::vector<Candidate> candidates() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  return {{&kAvx512Bf16, bf16}, {&kAvx512, avx512}, {&kAvx2, avx2}, {&kPortable, true}};
#elif defined(__aarch64__)
  const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  return {{&kNeonDotprod, dotprod}, {&kNeon, true}, {&kPortable, true}};
#else
  return {{&kPortable, true}};
#endif
}

}  // namespace

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : candidates()) {
    if (candidate.usable) names.emplace_back(candidate.kernels->name);
  }
  return names;
}

const Kernels& kernels_of(const std::string& isa) {
  for (const Candidate& candidate : candidates()) {
    if (candidate.usable && isa == candidate.kernels->name) return *candidate.kernels;
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not usable here");
}

}  // namespace memfloor
