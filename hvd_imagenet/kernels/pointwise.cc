// Convolutions of 1 x 1 weights in float32, by AMX; and their gradients. See
// pointwise_blocks.h for the products.
//
// What is parted, and how sums are grouped, follows from the shapes alone: the
// same numbers from any number of threads, and for an image from any batch.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

#include "convolution.h"
#include "pointwise_blocks.h"
#include "threads.h"

namespace {

using hvd_imagenet::Each;
using hvd_imagenet::kThreadsWorth;
using hvd_imagenet::pointwise::Half;
using hvd_imagenet::pointwise::kDepth;
using hvd_imagenet::pointwise::kSide;
using hvd_imagenet::pointwise::kTogether;
using hvd_imagenet::pointwise::PartsSize;
using hvd_imagenet::pointwise::Tiles;
using hvd_imagenet::Threads;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::Unimplemented;

// What a block has of parts and results: a share of a core's own cache.
constexpr int64_t kBlockBytes = 128 << 10;
constexpr int64_t kRowsOfBlock = 512;
// Results that are larger than caches go past them.
constexpr int64_t kCacheBytes = 16 << 20;
// Of gradients by weights: numbers that are summed at once, and numbers of both
// factors of which; and into how many sums of their own, at most, so that
// threads have something to do.
constexpr int64_t kNumbersOfSum = 128 << 10;
constexpr int64_t kNumbersOfChunk = 128 << 10;
constexpr int64_t kSums = 16;

int64_t RowsOf(const Tensor& images) {
  return images.NumElements() / images.dim_size(3);
}

absl::Status Allocate(OpKernelContext* context, int64_t size, float** memory,
                      Tensor* keeper) {
  TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT,
                                            TensorShape({size}), keeper));
  *memory = keeper->flat<float>().data();
  return absl::OkStatus();
}

absl::Status Allocate(OpKernelContext* context, int64_t size, Half** memory,
                      Tensor* keeper) {
  TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_UINT16,
                                            TensorShape({size}), keeper));
  *memory = keeper->flat<Half>().data();
  return absl::OkStatus();
}

// --- The operations. ---

class Pointwise : public OpKernel {
 public:
  explicit Pointwise(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES(construction, hvd_imagenet::pointwise::Permit(),
                Unimplemented("the system does not let this process use AMX"));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("by_images", &by_images_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &weights = context->input(1);
    TensorShape made;
    OP_REQUIRES_OK(context, hvd_imagenet::CheckConvolution(
                                images, weights, 1, kTogether,
                                by_images_, &made));
    const int64_t channels = images.dim_size(3);
    const int64_t filters = made.dim_size(3);
    Tensor* outputs;
    OP_REQUIRES_OK(context, context->allocate_output(0, made, &outputs));

    // All weights' parts.
    Tensor keepers[3];
    Half *right, *left_of_all;
    OP_REQUIRES_OK(context, Allocate(context, PartsSize(filters, channels),
                                     &right, &keepers[0]));
    const float* const of_weights = weights.flat<float>().data();
    Each(context, filters / kSide, kThreadsWorth, [&](int64_t columns) {
      const int64_t first = columns * kSide;
      Half* const to = right + PartsSize(first, channels);
      if (by_images_) {
        hvd_imagenet::pointwise::SplitTurnedRight(
            channels, channels, of_weights + first * channels, to);
      } else {
        hvd_imagenet::pointwise::SplitRight(channels, filters,
                                            of_weights + first, to);
      }
    });

    // Blocks of rows.
    const int64_t rows = RowsOf(images);
    const int64_t bytes_of_row = PartsSize(1, channels) * sizeof(Half) +
                                 filters * sizeof(float);
    const int64_t block =
        std::clamp(kBlockBytes / bytes_of_row / kTogether * kTogether,
                   kTogether, kRowsOfBlock);
    const int64_t blocks = (rows + block - 1) / block;
    const int64_t threads = std::min(blocks, Threads(context));
    float* squares_of_all;
    OP_REQUIRES_OK(context,
                   Allocate(context, threads * PartsSize(block, channels),
                            &left_of_all, &keepers[1]));
    OP_REQUIRES_OK(context, Allocate(context, threads * block * filters,
                                     &squares_of_all, &keepers[2]));
    const float* const from = images.flat<float>().data();
    float* const to = outputs->flat<float>().data();
    const bool past_caches =
        outputs->NumElements() * sizeof(float) > kCacheBytes;
    const int64_t steps = channels / kDepth;
    std::atomic<int64_t> next = 0;
    Each(context, threads, kThreadsWorth, [&](int64_t thread) {
      const Tiles tiles;
      Half* const left = left_of_all + thread * PartsSize(block, channels);
      float* const squares = squares_of_all + thread * block * filters;
      int64_t number;
      while ((number = next++) < blocks) {
        const int64_t first = number * block;
        const int64_t count = std::min(block, rows - first);
        hvd_imagenet::pointwise::SplitLeft(count, channels,
                                           from + first * channels, left);
        for (int64_t filter = 0; filter < filters; filter += kTogether) {
          for (int64_t row = 0; row < count; row += kTogether) {
            hvd_imagenet::pointwise::Multiply(
                steps, steps, left + PartsSize(row, channels),
                right + PartsSize(filter, channels),
                squares + filter * block + row * kTogether);
          }
        }
        hvd_imagenet::pointwise::CopyRows(count, block, filters, squares,
                                          past_caches, to + first * filters);
      }
    });
  }

 private:
  bool by_images_;
};

class PointwiseByWeights : public OpKernel {
 public:
  explicit PointwiseByWeights(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES(construction, hvd_imagenet::pointwise::Permit(),
                Unimplemented("the system does not let this process use AMX"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &upstream = context->input(1);
    TensorShape made;
    OP_REQUIRES_OK(context,
                   hvd_imagenet::CheckByWeights(images, upstream, 1,
                                                kTogether, &made));
    const int64_t channels = images.dim_size(3);
    const int64_t filters = upstream.dim_size(3);
    Tensor* gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, made, &gradient));
    if (images.NumElements() == 0) {
      gradient->flat<float>().setZero();
      return;
    }

    // Groups of channels, each of which is summed over parts of the rows.
    int64_t group = channels;
    while (group * filters > kNumbersOfSum && group % (2 * kTogether) == 0) {
      group /= 2;
    }
    const int64_t groups = channels / group;
    const int64_t rows = RowsOf(images);
    const int64_t chunk = std::max(
        kNumbersOfChunk / (group + filters) / kDepth * kDepth, kDepth);
    const int64_t chunks = (rows + chunk - 1) / chunk;
    const int64_t sums =
        std::clamp<int64_t>(kSums / groups, 1, std::min(chunks, kSums));
    const int64_t threads = std::min(groups * sums, Threads(context));

    Tensor keepers[3];
    float* all_sums;
    Half *left_of_all, *right_of_all;
    OP_REQUIRES_OK(context, Allocate(context, sums * channels * filters,
                                     &all_sums, &keepers[0]));
    OP_REQUIRES_OK(context, Allocate(context, threads * PartsSize(group, chunk),
                                     &left_of_all, &keepers[1]));
    OP_REQUIRES_OK(context,
                   Allocate(context, threads * PartsSize(filters, chunk),
                            &right_of_all, &keepers[2]));
    const float* const of_images = images.flat<float>().data();
    const float* const of_upstream = upstream.flat<float>().data();
    const int64_t steps = chunk / kDepth;
    std::atomic<int64_t> next = 0;
    Each(context, threads, kThreadsWorth, [&](int64_t thread) {
      const Tiles tiles;
      Half* const left = left_of_all + thread * PartsSize(group, chunk);
      Half* const right = right_of_all + thread * PartsSize(filters, chunk);
      alignas(64) float square[kTogether * kTogether];
      int64_t number;
      while ((number = next++) < groups * sums) {
        const int64_t sum = number / groups;
        const int64_t channel = number % groups * group;
        float* const to = all_sums + (sum * channels + channel) * filters;
        const int64_t begin = chunks * sum / sums;
        const int64_t end = chunks * (sum + 1) / sums;
        for (int64_t at = begin; at < end; ++at) {
          const int64_t first = at * chunk;
          const int64_t count = std::min(chunk, rows - first);
          int64_t filled = 0;
          for (int64_t row = 0; row < count; row += kDepth, ++filled) {
            hvd_imagenet::pointwise::SplitStepOfRight(
                count - row, filters, filters,
                of_upstream + (first + row) * filters, steps,
                right + PartsSize(kSide, row));
            hvd_imagenet::pointwise::SplitStepOfLeft(
                count - row, channels, group,
                of_images + (first + row) * channels + channel, steps,
                left + PartsSize(kSide, row));
          }
          for (int64_t filter = 0; filter < filters; filter += kTogether) {
            for (int64_t row = 0; row < group; row += kTogether) {
              hvd_imagenet::pointwise::Multiply(
                  filled, steps, left + PartsSize(row, chunk),
                  right + PartsSize(filter, chunk), square);
              hvd_imagenet::pointwise::AddSquare(square, at > begin, filters,
                                                 to + row * filters + filter);
            }
          }
        }
      }
    });

    const int64_t size = channels * filters;
    Each(context, channels, kThreadsWorth, [&](int64_t channel) {
      float* const to = gradient->flat<float>().data() + channel * filters;
      const float* const from = all_sums + channel * filters;
      std::copy_n(from, filters, to);
      for (int64_t sum = 1; sum < sums; ++sum) {
        for (int64_t i = 0; i < filters; ++i) to[i] += from[sum * size + i];
      }
    });
  }
};

REGISTER_OP("HvdImagenetPointwise")
    .Input("images: float")
    .Input("weights: float")
    .Output("outputs: float")
    .Attr("by_images: bool")
    .SetShapeFn(hvd_imagenet::ConvolutionShape)
    .Doc(R"doc(
Convolves images with weights of 1 x 1.

images: [batch, height, width, channels].
weights: [1, 1, channels, filters]; [1, 1, filters, channels] by images.
outputs: [batch, height, width, filters].
by_images: instead, from a gradient by outputs to that by images.
)doc");

REGISTER_OP("HvdImagenetPointwiseByWeights")
    .Input("images: float")
    .Input("upstream: float")
    .Output("gradient: float")
    .SetShapeFn(hvd_imagenet::ByWeightsShape<1>)
    .Doc(R"doc(
The gradient of HvdImagenetPointwise by its weights.

images: [batch, height, width, channels].
upstream: [batch, height, width, filters], the gradient by the outputs.
gradient: [1, 1, channels, filters].
)doc");

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetPointwise").Device(tensorflow::DEVICE_CPU), Pointwise);
REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetPointwiseByWeights").Device(tensorflow::DEVICE_CPU),
    PointwiseByWeights);

}  // namespace

// Whether the system lets this process use AMX; asked by pointwise.py.
extern "C" bool HvdImagenetPermitAmx() {
  return hvd_imagenet::pointwise::Permit();
}
