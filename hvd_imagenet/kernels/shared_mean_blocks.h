// What becomes of consecutive numbers in a mean over processes, compiled for
// several processors: shared_mean_blocks.cc.

#ifndef HVD_IMAGENET_KERNELS_SHARED_MEAN_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_SHARED_MEAN_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet {

// Whose numbers are summed: what this rank has, and what the others have
// written, the first rank's at `first`, each rank `stride` bytes after the one
// before it. Where this rank's would be nothing is read.
struct Contributions {
  const float* own;
  const char* first;
  int64_t stride;
  int rank, ranks;
};

// For one format of what is shared.
struct MeanFunctions {
  void (*write)(int64_t count, const float* from, char* shared);
  void (*read)(int64_t count, const char* shared, float* to);
  // Sums in the order of the ranks, in float32, what all have in the format;
  // `to` gets what the others will read in `shared`, and may be `own`.
  void (*mean)(int64_t count, Contributions of, char* shared, float* to);
};

struct FormatFunctions {
  MeanFunctions of_float32, of_float16, of_bfloat16;
};

// One for each name that shared_mean_blocks.cc is compiled with.
namespace shared_mean {
extern const FormatFunctions kGeneric, kAvx2;
}  // namespace shared_mean

}  // namespace hvd_imagenet

#endif
