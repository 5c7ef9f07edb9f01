// Numbers of 16 bits, and what they are in 32. Plain arithmetic without
// branches, which compilers make vectors of, and which does not change where
// TensorFlow has subnormal float32 numbers taken for zero.

#ifndef HVD_IMAGENET_KERNELS_NUMBERS_H_
#define HVD_IMAGENET_KERNELS_NUMBERS_H_

#include <cstdint>
#include <cstring>

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

}  // namespace
}  // namespace hvd_imagenet

#endif
