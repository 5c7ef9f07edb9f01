// Numbers to float16 and back. Compiled once per kind of processor, with
// PROCESSOR as the name of what comes out, and so with nothing of the standard
// library but what the compiler has itself.

#include "half_blocks.h"

#include "numbers.h"

namespace hvd_imagenet::half {
namespace {

// What stays in the cache closest to the core meanwhile.
constexpr int64_t kAtOnce = 1024;

inline void Scale(int64_t count, float factor, const float* from, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
}

void Pack(int64_t count, float factor, const float* from, uint16_t* to) {
  float scaled[kAtOnce];
  for (int64_t begin = 0; begin < count; begin += kAtOnce) {
    const int64_t n = count - begin < kAtOnce ? count - begin : kAtOnce;
    Scale(n, factor, from + begin, scaled);
    StoreAll<Float16>(n, scaled, to + begin);
  }
}

void Unpack(int64_t count, float factor, const uint16_t* from, float* to) {
  for (int64_t begin = 0; begin < count; begin += kAtOnce) {
    const int64_t n = count - begin < kAtOnce ? count - begin : kAtOnce;
    LoadAll<Float16>(n, from + begin, to + begin);
    Scale(n, factor, to + begin, to + begin);
  }
}

}  // namespace

extern const BlockFunctions PROCESSOR = {Pack, Unpack};

}  // namespace hvd_imagenet::half
