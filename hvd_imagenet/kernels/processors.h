// What build.py lets the compiler make use of, and whether it is there.

#ifndef HVD_IMAGENET_KERNELS_PROCESSORS_H_
#define HVD_IMAGENET_KERNELS_PROCESSORS_H_

namespace hvd_imagenet {

#ifdef __x86_64__

// -march=haswell; what has AVX2 has F16C.
inline bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("fma");
}

// -march=skylake-avx512.
inline bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

#endif

}  // namespace hvd_imagenet

#endif
