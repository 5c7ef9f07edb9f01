// Convolutions of 3 x 3 weights, step 1, padded by zeros to as many places, by
// Winograd's minimal filtering; and their gradients.
//
// Lavin and Gray 2015 (arXiv 1509.09308): F(4x4, 3x3) takes 36 products where
// the definition takes 144, for sums before and after. winograd_blocks.cc has
// the mathematics.
//
// Forwards, and for the gradient by images, tiles go from images to images in
// blocks that a core's own cache holds, if there is one for each thread; else
// threads share the points of all. For the gradient by weights, all tiles of a
// chunk are transformed, then multiplied. Sums over channels are taken in one
// order, and chunks follow from the shapes alone: the same numbers from any
// number of threads, and for an image from any batch.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

#include "convolution.h"
#include "processors.h"
#include "threads.h"
#include "winograd_blocks.h"

namespace {

using hvd_imagenet::Each;
using hvd_imagenet::winograd::BlockFunctions;
using hvd_imagenet::winograd::kChannelsTogether;
using hvd_imagenet::winograd::kPoints;
using hvd_imagenet::winograd::Panels;
using hvd_imagenet::winograd::Tiles;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr int64_t kWeightsSide = 3;
constexpr int64_t kTilesOfBlock = 64;
// Numbers of a chunk at each point, of images and gradients together: of few
// channels many tiles, as long as a cache holds them.
constexpr int64_t kNumbersOfChunk = 112 << 10;
// Tiles that a thread transforms at once.
constexpr int64_t kTilesAtOnce = 16;

const BlockFunctions& Functions() {
#ifdef __x86_64__
  if (hvd_imagenet::HasAvx512()) return hvd_imagenet::winograd::kAvx512;
  if (hvd_imagenet::HasAvx2()) return hvd_imagenet::winograd::kAvx2;
#endif
  return hvd_imagenet::winograd::kGeneric;
}

Tiles TilesOf(const Tensor& images) {
  return Tiles(images.dim_size(0), images.dim_size(1), images.dim_size(2));
}

// Memory for the time of an operation.
absl::Status Allocate(OpKernelContext* context, int64_t size, Tensor* tensor) {
  return context->allocate_temp(tensorflow::DT_FLOAT, TensorShape({size}),
                                tensor);
}

float* Data(Tensor& tensor) { return tensor.flat<float>().data(); }
const float* Data(const Tensor& tensor) { return tensor.flat<float>().data(); }

// --- Shapes. ---

// Of channels that fit.
absl::Status CheckImages(const Tensor& images, const char* name) {
  if (images.dims() == 4 && images.dim_size(3) > 0 &&
      images.dim_size(3) % kChannelsTogether == 0) {
    return absl::OkStatus();
  }
  return InvalidArgument(name, " must be [batch, height, width, a multiple of ",
                         kChannelsTogether, "], not ",
                         images.shape().DebugString());
}

// The shape of what is made; or, `by_images`, where `images` are the gradient
// by that, of the gradient by images.
absl::Status CheckConvolution(const Tensor& images, const Tensor& weights,
                              bool by_images, TensorShape* made) {
  TF_RETURN_IF_ERROR(CheckImages(images, "images"));
  const int from = by_images ? 3 : 2, to = 5 - from;
  if (weights.dims() != 4 || weights.dim_size(0) != kWeightsSide ||
      weights.dim_size(1) != kWeightsSide ||
      weights.dim_size(from) != images.dim_size(3) ||
      weights.dim_size(to) == 0 ||
      weights.dim_size(to) % kChannelsTogether != 0) {
    return InvalidArgument("weights of ", weights.shape().DebugString(),
                           " do not fit images of ",
                           images.shape().DebugString());
  }
  *made = images.shape();
  made->set_dim(3, weights.dim_size(to));
  return absl::OkStatus();
}

// The shape of the gradient by weights.
absl::Status CheckByWeights(const Tensor& images, const Tensor& upstream,
                            TensorShape* gradient) {
  TF_RETURN_IF_ERROR(CheckImages(images, "images"));
  TF_RETURN_IF_ERROR(CheckImages(upstream, "upstream"));
  TensorShape expected = images.shape();
  expected.set_dim(3, upstream.dim_size(3));
  TF_RETURN_IF_ERROR(hvd_imagenet::CheckUpstream(upstream, expected));
  *gradient = TensorShape({kWeightsSide, kWeightsSide, images.dim_size(3),
                           upstream.dim_size(3)});
  return absl::OkStatus();
}

// --- The operations. ---

class Winograd : public OpKernel {
 public:
  explicit Winograd(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("by_images", &by_images_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &weights = context->input(1);
    TensorShape made;
    OP_REQUIRES_OK(context,
                   CheckConvolution(images, weights, by_images_, &made));
    const int64_t channels = images.dim_size(3);
    const int64_t filters = made.dim_size(3);
    Tensor* outputs;
    OP_REQUIRES_OK(context, context->allocate_output(0, made, &outputs));

    const Panels of_weights = {channels, filters};
    Tensor points;
    OP_REQUIRES_OK(context, Allocate(context, of_weights.size(), &points));
    const auto transform = by_images_ ? of_.turned_weights : of_.weights;
    Each(context, channels / of_.panel, filters * kPoints * 4,
         [&](int64_t panel) {
           const int64_t first = panel * of_.panel;
           transform(of_weights, first, first + of_.panel, Data(weights),
                     Data(points));
         });

    const Tiles tiles = TilesOf(images);
    const int64_t threads = hvd_imagenet::Threads(context);
    const int64_t blocks = (tiles.count + kTilesOfBlock - 1) / kTilesOfBlock;
    const bool in_blocks = blocks >= threads;
    const int64_t rows = in_blocks ? kTilesOfBlock : tiles.count;
    const Panels of_windows = {rows, channels};
    const Panels of_sums = {rows, filters};
    const int64_t size = of_windows.size() + of_sums.size();
    Tensor between;
    OP_REQUIRES_OK(context, Allocate(context, (in_blocks ? threads : 1) * size,
                                     &between));
    // Of some tiles, with each(count, cost, work) for what can be done at once.
    const auto make = [&](int64_t first, int64_t count, float* windows,
                          auto each) {
      float* const sums = windows + of_windows.size();
      const int64_t parts = (count + kTilesAtOnce - 1) / kTilesAtOnce;
      each(parts, kTilesAtOnce * channels * kPoints, [&](int64_t part) {
        const int64_t row = part * kTilesAtOnce;
        of_.windows(tiles, first + row, std::min(kTilesAtOnce, count - row),
                    Data(images), of_windows, row, windows);
      });
      each(kPoints, count * channels * filters / 16, [&](int64_t i) {
        of_.convolve(count, of_windows, windows + i * of_windows.point_stride(),
                     of_weights, Data(points) + i * of_weights.point_stride(),
                     of_sums, sums + i * of_sums.point_stride());
      });
      each(parts, kTilesAtOnce * filters * kPoints, [&](int64_t part) {
        const int64_t row = part * kTilesAtOnce;
        of_.outputs(tiles, first + row, std::min(kTilesAtOnce, count - row),
                    of_sums, row, sums, Data(*outputs));
      });
    };
    if (!in_blocks) {
      make(0, tiles.count, Data(between),
           [&](int64_t count, int64_t cost, const auto& work) {
             Each(context, count, cost, work);
           });
      return;
    }
    std::atomic<int64_t> next = 0;
    Each(context, threads, hvd_imagenet::kThreadsWorth, [&](int64_t thread) {
      int64_t block;
      while ((block = next++) < blocks) {
        const int64_t first = block * kTilesOfBlock;
        make(first, std::min(kTilesOfBlock, tiles.count - first),
             Data(between) + thread * size,
             [](int64_t count, int64_t, const auto& work) {
               for (int64_t i = 0; i < count; ++i) work(i);
             });
      }
    });
  }

 private:
  const BlockFunctions& of_ = Functions();
  bool by_images_;
};

class WinogradByWeights : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &upstream = context->input(1);
    TensorShape made;
    OP_REQUIRES_OK(context, CheckByWeights(images, upstream, &made));
    const int64_t channels = images.dim_size(3);
    const int64_t filters = upstream.dim_size(3);
    Tensor* gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, made, &gradient));

    const Tiles tiles = TilesOf(images);
    const int64_t chunk = kNumbersOfChunk / (channels + filters) + 1;
    const Panels windows = {chunk, channels};
    const Panels upstreams = {chunk, filters};
    const Panels products = {channels, filters};
    Tensor of_windows, of_upstreams, of_products;
    OP_REQUIRES_OK(context, Allocate(context, windows.size(), &of_windows));
    OP_REQUIRES_OK(context, Allocate(context, upstreams.size(), &of_upstreams));
    OP_REQUIRES_OK(context, Allocate(context, products.size(), &of_products));
    if (tiles.count == 0) of_products.flat<float>().setZero();
    const int64_t panels = channels / of_.panel;
    for (int64_t first = 0; first < tiles.count; first += chunk) {
      const int64_t count = std::min(chunk, tiles.count - first);
      Each(context, (count + kTilesAtOnce - 1) / kTilesAtOnce,
           kTilesAtOnce * (channels + filters) * kPoints, [&](int64_t part) {
             const int64_t row = part * kTilesAtOnce;
             const int64_t rows = std::min(kTilesAtOnce, count - row);
             of_.windows(tiles, first + row, rows, Data(images), windows, row,
                         Data(of_windows));
             of_.upstreams(tiles, first + row, rows, Data(upstream), upstreams,
                           row, Data(of_upstreams));
           });
      Each(context, kPoints * panels, count * of_.panel * filters / 16,
           [&](int64_t part) {
             const int64_t point = part / panels;
             of_.correlate(
                 count, windows,
                 Data(of_windows) + point * windows.point_stride(), upstreams,
                 Data(of_upstreams) + point * upstreams.point_stride(),
                 part % panels, first > 0, products,
                 Data(of_products) + point * products.point_stride());
           });
    }
    Each(context, channels, filters * kPoints / 4, [&](int64_t channel) {
      of_.by_weights(products, channel, channel + 1, Data(of_products),
                     Data(*gradient));
    });
  }

 private:
  const BlockFunctions& of_ = Functions();
};

// Of an operation with images, weights and the attribute by_images.
absl::Status ConvolutionShape(InferenceContext* context) {
  bool by_images;
  TF_RETURN_IF_ERROR(context->GetAttr("by_images", &by_images));
  ShapeHandle images, weights;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &weights));
  TF_RETURN_IF_ERROR(context->ReplaceDim(
      images, 3, context->Dim(weights, by_images ? 2 : 3), &images));
  context->set_output(0, images);
  return absl::OkStatus();
}

REGISTER_OP("HvdImagenetWinograd")
    .Input("images: float")
    .Input("weights: float")
    .Output("outputs: float")
    .Attr("by_images: bool")
    .SetShapeFn(ConvolutionShape)
    .Doc(R"doc(
Convolves images with weights of 3 x 3, step 1, padded to the same size.

images: [batch, height, width, channels].
weights: [3, 3, channels, filters]; [3, 3, filters, channels] by images.
outputs: [batch, height, width, filters].
by_images: instead, from a gradient by outputs to that by images.
)doc");

REGISTER_OP("HvdImagenetWinogradByWeights")
    .Input("images: float")
    .Input("upstream: float")
    .Output("gradient: float")
    .SetShapeFn([](InferenceContext* context) {
      return hvd_imagenet::ByWeightsShape(context, kWeightsSide);
    })
    .Doc(R"doc(
The gradient of HvdImagenetWinograd by its weights.

images: [batch, height, width, channels].
upstream: [batch, height, width, filters], the gradient by the outputs.
gradient: [3, 3, channels, filters].
)doc");

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetWinograd").Device(tensorflow::DEVICE_CPU), Winograd);
REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetWinogradByWeights").Device(tensorflow::DEVICE_CPU),
    WinogradByWeights);

}  // namespace
