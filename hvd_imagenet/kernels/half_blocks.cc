// Numbers to float16 and back. Compiled once per kind of processor, with
// PROCESSOR as the name of what comes out, and so with nothing of the standard
// library but what the compiler has itself.

#include "half_blocks.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "numbers.h"

namespace hvd_imagenet::half {
namespace {

void Pack(int64_t count, float factor, const float* from, uint16_t* to) {
  int64_t i = 0;
#ifdef __F16C__
  // Instructions of their own, which the compiler does not find.
  const __m256 factors = _mm256_set1_ps(factor);
  for (; i + 8 <= count; i += 8) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(from + i), factors);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < count; ++i) to[i] = Float16::Store(from[i] * factor);
}

void Unpack(int64_t count, float factor, const uint16_t* from, float* to) {
  int64_t i = 0;
#ifdef __F16C__
  const __m256 factors = _mm256_set1_ps(factor);
  for (; i + 8 <= count; i += 8) {
    const __m256 number = _mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    _mm256_storeu_ps(to + i, _mm256_mul_ps(number, factors));
  }
#endif
  for (; i < count; ++i) to[i] = Float16::Load(from[i]) * factor;
}

}  // namespace

extern const BlockFunctions PROCESSOR = {Pack, Unpack};

}  // namespace hvd_imagenet::half
