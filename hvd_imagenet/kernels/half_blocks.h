// Numbers in float16, compiled for several processors: half_blocks.cc.

#ifndef HVD_IMAGENET_KERNELS_HALF_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_HALF_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet::half {

struct BlockFunctions {
  // The products of a factor, to the nearest of float16, of two the even one.
  void (*pack)(int64_t count, float factor, const float* from, uint16_t* to);
  // In float32, and then times a factor.
  void (*unpack)(int64_t count, float factor, const uint16_t* from, float* to);
};

// One for each name that half_blocks.cc is compiled with.
extern const BlockFunctions kGeneric, kAvx2;

}  // namespace hvd_imagenet::half

#endif
