// Batch normalization with what follows it in a residual network, in training.
//
//   outputs = relu((images - mean) * gamma / deviation + beta + shortcut)
//
// with mean and deviation of the batch for each channel (Ioffe and Szegedy
// 2015, arXiv 1502.03167, algorithm 1), shortcut and rectifier where they are
// asked for; and the gradient of it. TensorFlow has these as operations of
// their own, each of which reads and writes whole arrays of images. Here the
// images are read twice and written once, forwards as well as backwards.
//
// Sums are taken over blocks of rows in 32 bits, and over the blocks in 64. The
// blocks follow from the shape alone: the same numbers from any number of
// threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "batch_norm_blocks.h"
#include "processors.h"
#include "threads.h"

namespace {

using hvd_imagenet::BlockFunctions;
using hvd_imagenet::Channels;
using hvd_imagenet::Half;
using hvd_imagenet::ProcessorFunctions;
using hvd_imagenet::Rectified;
using hvd_imagenet::Size;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

// What a block has of each array: a share of a core's own cache.
constexpr int64_t kBlockBytes = 128 << 10;

// --- Functions for the processor that is there. ---

const ProcessorFunctions& Functions() {
#ifdef __x86_64__
  if (hvd_imagenet::HasAvx512()) return hvd_imagenet::kAvx512;
  if (hvd_imagenet::HasAvx2()) return hvd_imagenet::kAvx2;
#endif
  return hvd_imagenet::kGeneric;
}

template <typename T>
using Bits = std::conditional_t<std::is_same_v<T, float>, float, Half>;

template <typename T>
const BlockFunctions<Bits<T>>& FunctionsOf() {
  if constexpr (std::is_same_v<T, float>) {
    return Functions().of_float;
  } else {
    return Functions().of_half;
  }
}

// --- All blocks. ---

// How [rows, channels] are parted.
struct Blocks {
  Blocks(const Tensor& images, int64_t bytes_per_number)
      : channels(images.dim_size(images.dims() - 1)),
        rows(channels == 0 ? 0 : images.NumElements() / channels),
        rows_of_one(kBlockBytes / std::clamp<int64_t>(
                                      channels * bytes_per_number, 1,
                                      kBlockBytes)),
        count((rows + rows_of_one - 1) / rows_of_one) {}

  int64_t first_row(int64_t block) const { return block * rows_of_one; }
  Size size(int64_t block) const {
    return {std::min(rows_of_one, rows - first_row(block)), channels};
  }

  // Calls work(block) for all, on the threads that TensorFlow has for it.
  void Each(OpKernelContext* context,
            const std::function<void(int64_t)>& work) const {
    hvd_imagenet::Each(context, count, kNanosecondsPerBlock, work);
  }

  const int64_t channels, rows, rows_of_one, count;

 private:
  // Roughly; enough to be worth a thread.
  static constexpr int64_t kNanosecondsPerBlock = 20'000;
};

// The sums over blocks, each of which has `channels` numbers in `parts`.
std::vector<double> Sums(const std::vector<float>& parts, int64_t channels) {
  std::vector<double> sums(channels);
  for (size_t at = 0; at < parts.size(); at += channels) {
    for (int64_t c = 0; c < channels; ++c) sums[c] += parts[at + c];
  }
  return sums;
}

// The place in an array, if there is the array.
template <typename T>
T* At(T* array, int64_t place) {
  return array == nullptr ? nullptr : array + place;
}

template <typename T>
const Bits<T>* Data(const Tensor& tensor) {
  return reinterpret_cast<const Bits<T>*>(tensor.flat<T>().data());
}

template <typename T>
Bits<T>* Data(Tensor* tensor) {
  return reinterpret_cast<Bits<T>*>(tensor->flat<T>().data());
}

absl::Status CheckShape(const Tensor& tensor, const TensorShape& shape,
                        const char* name) {
  if (tensor.shape() == shape) return absl::OkStatus();
  return InvalidArgument(name, " must be ", shape.DebugString(), ", not ",
                         tensor.shape().DebugString());
}

// Of the parameters and statistics.
absl::Status ChannelShape(const Tensor& images, TensorShape* shape) {
  if (images.dims() < 2) {
    return InvalidArgument("images must be [batch, ..., channels], not ",
                           images.shape().DebugString());
  }
  *shape = TensorShape({images.dim_size(images.dims() - 1)});
  return absl::OkStatus();
}

// --- The operations. ---

template <typename T>
class BatchNorm : public OpKernel {
 public:
  explicit BatchNorm(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(construction, construction->GetAttr("copies", &copies_));
    OP_REQUIRES(construction, construction->num_inputs() <= kShortcut + 1,
                InvalidArgument("there can be one shortcut"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &gamma = context->input(1),
                 &beta = context->input(2);
    TensorShape of_channels;
    OP_REQUIRES_OK(context, ChannelShape(images, &of_channels));
    OP_REQUIRES_OK(context, CheckShape(gamma, of_channels, "gamma"));
    OP_REQUIRES_OK(context, CheckShape(beta, of_channels, "beta"));
    const Bits<T>* shortcut = nullptr;
    if (context->num_inputs() > kShortcut) {
      const Tensor& added = context->input(kShortcut);
      OP_REQUIRES_OK(context, CheckShape(added, images.shape(), "shortcut"));
      shortcut = Data<T>(added);
    }
    Tensor* outputs;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, images.shape(), &outputs));
    for (int i = 1; i < copies_; ++i) context->set_output(i, *outputs);
    float* statistics[3];
    for (int i = 0; i < 3; ++i) {
      Tensor* vector;
      OP_REQUIRES_OK(context, context->allocate_output(copies_ + i, of_channels,
                                                       &vector));
      statistics[i] = Data<float>(vector);
    }
    const auto [mean, variance, inverse] = statistics;

    const Blocks blocks(images, sizeof(T));
    const Bits<T>* const from = Data<T>(images);
    FindMoments(context, blocks, from, mean, variance);
    std::vector<float> scale(blocks.channels);
    // From the variance of the batch to the unbiased one.
    const float unbias =
        double(blocks.rows) / std::max<int64_t>(blocks.rows - 1, 1);
    for (int64_t c = 0; c < blocks.channels; ++c) {
      inverse[c] = 1.0f / std::sqrt(variance[c] + epsilon_);
      scale[c] = Data<float>(gamma)[c] * inverse[c];
      variance[c] *= unbias;
    }

    const Channels of = {mean, scale.data(), Data<float>(beta)};
    const auto function =
        FunctionsOf<T>().outputs[relu_][shortcut != nullptr];
    blocks.Each(context, [&](int64_t number) {
      // The last ones first, which may still be in the cache.
      const int64_t block = blocks.count - 1 - number;
      const int64_t at = blocks.first_row(block) * blocks.channels;
      function(blocks.size(block), from + at, At(shortcut, at), of,
               Data<T>(outputs) + at);
    });
  }

 private:
  static constexpr int kShortcut = 3;

  // Of the batch: the mean, and the mean squared distance from it.
  static void FindMoments(OpKernelContext* context, const Blocks& blocks,
                          const Bits<T>* images, float* mean, float* variance) {
    const int64_t channels = blocks.channels;
    std::vector<float> means(blocks.count * channels);
    std::vector<float> squares(blocks.count * channels);
    blocks.Each(context, [&](int64_t block) {
      FunctionsOf<T>().moments(blocks.size(block),
                               images + blocks.first_row(block) * channels,
                               &means[block * channels],
                               &squares[block * channels]);
    });
    // Chan et al. 1979, Updating formulae and a pairwise algorithm for
    // computing sample variances.
    std::vector<double> whole(channels), spread(channels);
    for (int64_t block = 0; block < blocks.count; ++block) {
      const double rows = blocks.size(block).rows;
      for (int64_t c = 0; c < channels; ++c) {
        whole[c] += rows * means[block * channels + c];
      }
    }
    for (double& each : whole) each /= blocks.rows;
    for (int64_t block = 0; block < blocks.count; ++block) {
      const double rows = blocks.size(block).rows;
      for (int64_t c = 0; c < channels; ++c) {
        const double distance = means[block * channels + c] - whole[c];
        spread[c] += squares[block * channels + c] + rows * distance * distance;
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      mean[c] = whole[c];
      variance[c] = spread[c] / blocks.rows;
    }
  }

  bool relu_;
  float epsilon_;
  int copies_;
};

template <typename T>
class BatchNormGrad : public OpKernel {
 public:
  explicit BatchNormGrad(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("upstreams", &upstreams_));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("rectified", &rectified_));
    OP_REQUIRES(construction, upstreams_ <= 1 + rectified_ && rectified_ <= 1,
                InvalidArgument("two upstreams are for rectified outputs"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& images = context->input(upstreams_);
    TensorShape of_channels;
    OP_REQUIRES_OK(context, ChannelShape(images, &of_channels));
    const Bits<T>* upstream[2] = {};
    for (int i = 0; i < upstreams_; ++i) {
      const Tensor& one = context->input(i);
      OP_REQUIRES_OK(context, CheckShape(one, images.shape(), "upstream"));
      upstream[i] = Data<T>(one);
    }
    const float* vectors[4];
    for (int i = 0; i < 4; ++i) {
      const Tensor& vector = context->input(upstreams_ + 1 + i);
      OP_REQUIRES_OK(context, CheckShape(vector, of_channels, "parameters"));
      vectors[i] = Data<float>(vector);
    }
    const auto [gamma, beta, mean, inverse] = vectors;
    Tensor *by_images, *by_gamma, *by_beta;
    OP_REQUIRES_OK(context,
                   context->allocate_output(1, of_channels, &by_gamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, of_channels, &by_beta));
    // What the rectifier lets through: where there is a shortcut it is found
    // once and kept, as the shortcut's gradient.
    const Bits<T>* through = upstream[0];
    const Bits<T>* outputs = nullptr;
    Bits<T>* by_shortcut = nullptr;
    if (rectified_) {
      const Tensor& made = context->input(upstreams_ + 5);
      OP_REQUIRES_OK(context, CheckShape(made, images.shape(), "outputs"));
      outputs = Data<T>(made);
      Tensor* kept;
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                  {0}, 3, images.shape(), &kept));
      through = by_shortcut = Data<T>(kept);
    }
    // In the place of what nobody needs any more; after the shortcut's, which
    // takes that of the upstream.
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                {rectified_ ? upstreams_ : 0, upstreams_}, 0,
                                images.shape(), &by_images));

    const Blocks blocks(images, sizeof(T));
    const int64_t channels = blocks.channels;
    const Bits<T>* const from = Data<T>(images);
    std::vector<float> scale(channels);
    for (int64_t c = 0; c < channels; ++c) scale[c] = gamma[c] * inverse[c];
    std::vector<float> sums(blocks.count * channels);
    std::vector<float> products(blocks.count * channels);
    const Channels of = {mean, scale.data(), beta};
    const Rectified rectified = upstreams_ == 2 ? hvd_imagenet::kByOutputsOfTwo
                                : rectified_    ? hvd_imagenet::kByOutputs
                                : relu_         ? hvd_imagenet::kByImages
                                                : hvd_imagenet::kNot;
    const auto add = FunctionsOf<T>().gradients[rectified];
    blocks.Each(context, [&](int64_t block) {
      const int64_t at = blocks.first_row(block) * channels;
      add(blocks.size(block), upstream[0] + at, At(upstream[1], at), from + at,
          At(outputs, at), of, &sums[block * channels],
          &products[block * channels], At(by_shortcut, at));
    });
    const std::vector<double> sum = Sums(sums, channels);
    const std::vector<double> product = Sums(products, channels);
    std::vector<float> gradient_mean(channels), slope(channels);
    for (int64_t c = 0; c < channels; ++c) {
      Data<float>(by_beta)[c] = sum[c];
      Data<float>(by_gamma)[c] = product[c] * inverse[c];
      gradient_mean[c] = sum[c] / blocks.rows;
      slope[c] = product[c] / blocks.rows * inverse[c] * inverse[c];
    }

    const auto finish =
        FunctionsOf<T>().by_images[rectified == hvd_imagenet::kByImages];
    blocks.Each(context, [&](int64_t number) {
      // The last ones first, which may still be in the cache.
      const int64_t block = blocks.count - 1 - number;
      const int64_t at = blocks.first_row(block) * channels;
      finish(blocks.size(block), through + at, from + at, of,
             gradient_mean.data(), slope.data(), Data<T>(by_images) + at);
    });
  }

 private:
  bool relu_;
  int upstreams_;
  int rectified_;
};

using tensorflow::shape_inference::InferenceContext;

REGISTER_OP("HvdImagenetBatchNorm")
    .Input("images: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("shortcut: shortcuts * T")
    .Output("outputs: copies * T")
    .Output("mean: float")
    .Output("variance: float")
    .Output("inverse: float")
    .Attr("T: {float, bfloat16}")
    .Attr("shortcuts: int >= 0")
    .Attr("copies: int >= 1")
    .Attr("relu: bool")
    .Attr("epsilon: float")
    .SetShapeFn([](InferenceContext* context) {
      const int copies = context->num_outputs() - 3;
      for (int i = 0; i < context->num_outputs(); ++i) {
        context->set_output(i, context->input(i < copies ? 0 : 1));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
Normalizes images by the mean and variance of each channel, adds a shortcut, and
rectifies.

images: [batch, ..., channels].
gamma, beta: [channels].
shortcut: none, or one as the images.
outputs: as the images; each the same memory, for as many users, so that their
  gradients are not summed before they come back.
mean, variance: [channels], of the batch; the variance unbiased.
inverse: [channels], 1 / sqrt(biased variance + epsilon).
)doc");

REGISTER_OP("HvdImagenetBatchNormGrad")
    .Input("upstream: upstreams * T")
    .Input("images: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("inverse: float")
    .Input("outputs: rectified * T")
    .Output("by_images: T")
    .Output("by_gamma: float")
    .Output("by_beta: float")
    .Output("by_shortcut: rectified * T")
    .Attr("T: {float, bfloat16}")
    .Attr("upstreams: int >= 1")
    .Attr("rectified: int >= 0")
    .Attr("relu: bool")
    .SetShapeFn([](InferenceContext* context) {
      // The upstreams have the shape of the images, and the parameters come
      // after those.
      int upstreams;
      TF_RETURN_IF_ERROR(context->GetAttr("upstreams", &upstreams));
      for (int i = 0; i < context->num_outputs(); ++i) {
        const bool is_vector = i == 1 || i == 2;
        context->set_output(i, context->input(is_vector ? upstreams + 1 : 0));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of HvdImagenetBatchNorm.

upstream: the gradient by its outputs; of rectified ones, that by each of two
  copies.
outputs: those themselves, if they came of a shortcut and a rectifier; else
  none.
by_shortcut: the gradient by the shortcut in that case.
)doc");

#define REGISTER(T)                                           \
  REGISTER_KERNEL_BUILDER(Name("HvdImagenetBatchNorm")        \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<T>("T"),        \
                          BatchNorm<T>);                      \
  REGISTER_KERNEL_BUILDER(Name("HvdImagenetBatchNormGrad")    \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<T>("T"),        \
                          BatchNormGrad<T>);
REGISTER(float)
REGISTER(tensorflow::bfloat16)
#undef REGISTER

}  // namespace
