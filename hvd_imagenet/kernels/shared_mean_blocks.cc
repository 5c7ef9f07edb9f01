// Parts of a mean over processes, as plain loops that the compiler makes
// vectors of. Compiled once per kind of processor, with PROCESSOR as the name
// of what comes out, and so with nothing of the standard library but what the
// compiler has itself.

#include "shared_mean_blocks.h"

#include "numbers.h"

namespace hvd_imagenet {
namespace {

// Whose sums stay in the cache closest to the core.
constexpr int64_t kAtOnce = 1024;

template <typename Format>
void Write(int64_t count, const float* from, char* shared) {
  StoreAll<Format>(count, from,
                   reinterpret_cast<typename Format::Kept*>(shared));
}

template <typename Format>
void Read(int64_t count, const char* shared, float* to) {
  LoadAll<Format>(count, reinterpret_cast<const typename Format::Kept*>(shared),
                  to);
}

template <typename Format>
void Mean(int64_t count, Contributions of, char* shared, float* to) {
  using Kept = typename Format::Kept;
  const float factor = 1.0f / of.ranks;
  for (int64_t begin = 0; begin < count; begin += kAtOnce) {
    const int64_t n = count - begin < kAtOnce ? count - begin : kAtOnce;
    float sums[kAtOnce], values[kAtOnce];
    Kept own[kAtOnce];
    // In the format, as the others would have read it.
    StoreAll<Format>(n, of.own + begin, own);
    for (int64_t i = 0; i < n; ++i) sums[i] = 0;
    for (int rank = 0; rank < of.ranks; ++rank) {
      const Kept* const theirs =
          reinterpret_cast<const Kept*>(of.first + rank * of.stride) + begin;
      LoadAll<Format>(n, rank == of.rank ? own : theirs, values);
      for (int64_t i = 0; i < n; ++i) sums[i] += values[i];
    }
    for (int64_t i = 0; i < n; ++i) sums[i] *= factor;
    Kept* const means = reinterpret_cast<Kept*>(shared) + begin;
    StoreAll<Format>(n, sums, means);
    LoadAll<Format>(n, means, to + begin);
  }
}

template <typename Format>
constexpr MeanFunctions Of() {
  return {Write<Format>, Read<Format>, Mean<Format>};
}

}  // namespace

namespace shared_mean {
extern const FormatFunctions PROCESSOR = {Of<Float32>(), Of<Float16>(),
                                          Of<BFloat16>()};
}  // namespace shared_mean

}  // namespace hvd_imagenet
