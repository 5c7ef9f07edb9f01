// Numbers of 16 bits, and what they are in 32. Plain arithmetic without
// branches, which compilers make vectors of, and which does not change where
// TensorFlow has subnormal float32 numbers taken for zero.

#ifndef HVD_IMAGENET_KERNELS_NUMBERS_H_
#define HVD_IMAGENET_KERNELS_NUMBERS_H_

#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace hvd_imagenet {
// Of every source its own: the linker would take one processor's for all.
namespace {

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Each: what a number is kept as, and both ways to and from float32. To the
// nearest, of two the even one; what is not a number stays so.

struct Float32 {
  using Kept = float;
  static float Load(Kept kept) { return kept; }
  static Kept Store(float value) { return value; }
};

struct BFloat16 {
  using Kept = uint16_t;

  static float Load(Kept kept) { return FloatOf(uint32_t{kept} << 16); }

  static Kept Store(float value) {
    const uint32_t bits = BitsOf(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<Kept>(value != value ? 0x7fc0 : rounded);
  }
};

struct Float16 {
  using Kept = uint16_t;

  static float Load(Kept kept) {
    constexpr uint32_t kLargestExponent = 0x7c00u << 13;
    constexpr uint32_t kRebias = (127u - 15) << 23;
    const uint32_t magnitude = (kept & 0x7fffu) << 13;
    const uint32_t exponent = magnitude & kLargestExponent;
    const uint32_t normal = magnitude + kRebias;
    // Inf and nan have the largest exponent here as well.
    const uint32_t infinite = normal + ((128u - 16) << 23);
    // With a leading bit that is subtracted again.
    const float subnormal =
        FloatOf(normal + (1u << 23)) - FloatOf(kRebias + (1u << 23));
    uint32_t bits = exponent == kLargestExponent ? infinite : normal;
    bits = exponent == 0 ? BitsOf(subnormal) : bits;
    return FloatOf(bits | uint32_t{kept & 0x8000u} << 16);
  }

  static Kept Store(float value) {
    constexpr uint32_t kInfinity = 0x7f800000;
    constexpr uint32_t kBeyond = (127u + 16) << 23;         // 65,536
    constexpr uint32_t kSmallestNormal = (127u - 14) << 23;  // 2^-14
    // To which float32 has the distances of float16's subnormal numbers.
    constexpr uint32_t kHalf = 126u << 23;
    const uint32_t bits = BitsOf(value);
    const uint32_t magnitude = bits & 0x7fffffff;
    const uint32_t special = magnitude > kInfinity ? 0x7e00 : 0x7c00;
    const uint32_t subnormal =
        BitsOf(FloatOf(magnitude) + FloatOf(kHalf)) - kHalf;
    const uint32_t normal =
        (magnitude - ((127u - 15) << 23) + 0xfff + ((magnitude >> 13) & 1)) >>
        13;
    uint32_t kept = magnitude < kSmallestNormal ? subnormal : normal;
    kept = magnitude >= kBeyond ? special : kept;
    return static_cast<Kept>(kept | (bits >> 16 & 0x8000));
  }
};

// Many of them.

template <typename Format>
inline void StoreAll(int64_t count, const float* __restrict from,
                     typename Format::Kept* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = Format::Store(from[i]);
}

template <typename Format>
inline void LoadAll(int64_t count, const typename Format::Kept* __restrict from,
                    float* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = Format::Load(from[i]);
}

#ifdef __F16C__
// Instructions of their own, which the compiler does not find.

template <>
inline void StoreAll<Float16>(int64_t count, const float* __restrict from,
                              uint16_t* __restrict to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i kept =
        _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), kept);
  }
  for (; i < count; ++i) to[i] = Float16::Store(from[i]);
}

template <>
inline void LoadAll<Float16>(int64_t count, const uint16_t* __restrict from,
                             float* __restrict to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i kept =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(kept));
  }
  for (; i < count; ++i) to[i] = Float16::Load(from[i]);
}

#endif

}  // namespace
}  // namespace hvd_imagenet

#endif
