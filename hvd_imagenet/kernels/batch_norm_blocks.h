// What batch normalization does to a block of rows, compiled for several
// processors: batch_norm_blocks.cc.

#ifndef HVD_IMAGENET_KERNELS_BATCH_NORM_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_BATCH_NORM_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet {

// The bits of a bfloat16.
using Half = uint16_t;

// [rows, channels] of images.
struct Size {
  int64_t rows, channels;
};

// [channels] each, of the whole batch.
struct Channels {
  const float* mean;
  const float* scale;  // gamma / sqrt(variance + epsilon)
  const float* beta;
};

// Which gradients a rectifier lets through: all, where there is none; those of
// images that it let through; or, if a shortcut was added before it, those of
// outputs above zero, which one or two others have used.
enum Rectified { kNot, kByImages, kByOutputs, kByOutputsOfTwo };

template <typename T>
struct BlockFunctions {
  // The mean of each channel, and the sum of the squared distances from it.
  void (*moments)(Size size, const T* images, float* mean, float* squares);

  // By [whether it is rectified][whether a shortcut is added].
  void (*outputs[2][2])(Size size, const T* images, const T* shortcut,
                        Channels channels, T* outputs);

  // By Rectified: the sums of the gradient before the rectifier, and of its
  // products with the distances from the mean. By outputs, it writes that
  // gradient, which is the shortcut's: `upstream` may be the same memory.
  void (*gradients[4])(Size size, const T* upstream, const T* other_upstream,
                       const T* images, const T* outputs, Channels channels,
                       float* sums, float* products, T* by_shortcut);

  // By [whether it is rectified by images]: the gradient by the images,
  //   scale * (gradient - gradient_mean - slope * (image - mean)).
  // `by_images` may be the same memory as `upstream` or `images`.
  void (*by_images[2])(Size size, const T* upstream, const T* images,
                       Channels channels, const float* gradient_mean,
                       const float* slope, T* by_images);
};

struct ProcessorFunctions {
  BlockFunctions<float> of_float;
  BlockFunctions<Half> of_half;
};

// One for each name that batch_norm_blocks.cc is compiled with.
extern const ProcessorFunctions kGeneric, kAvx2, kAvx512;

}  // namespace hvd_imagenet

#endif
