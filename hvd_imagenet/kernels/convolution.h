// What operations for convolutions have in common: their shapes. Images are
// [batch, height, width, channels], weights [side, side, channels, filters], and
// outputs have the size of the images.

#ifndef HVD_IMAGENET_KERNELS_CONVOLUTION_H_
#define HVD_IMAGENET_KERNELS_CONVOLUTION_H_

#include <cstdint>

#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace hvd_imagenet {

// Of `multiple` channels, or several times as many.
inline absl::Status CheckImages(const tensorflow::Tensor& images,
                                int64_t multiple, const char* name) {
  if (images.dims() == 4 && images.dim_size(3) > 0 &&
      images.dim_size(3) % multiple == 0) {
    return absl::OkStatus();
  }
  return tensorflow::errors::InvalidArgument(
      name, " must be [batch, height, width, a multiple of ", multiple,
      "], not ", images.shape().DebugString());
}

// The shape of what is made; or, `by_images`, where `images` are the gradient by
// that, of the gradient by images.
inline absl::Status CheckConvolution(const tensorflow::Tensor& images,
                                     const tensorflow::Tensor& weights,
                                     int64_t side, int64_t multiple,
                                     bool by_images,
                                     tensorflow::TensorShape* made) {
  TF_RETURN_IF_ERROR(CheckImages(images, multiple, "images"));
  const int from = by_images ? 3 : 2, to = 5 - from;
  if (weights.dims() != 4 || weights.dim_size(0) != side ||
      weights.dim_size(1) != side ||
      weights.dim_size(from) != images.dim_size(3) ||
      weights.dim_size(to) == 0 || weights.dim_size(to) % multiple != 0) {
    return tensorflow::errors::InvalidArgument(
        "weights of ", weights.shape().DebugString(),
        " do not fit images of ", images.shape().DebugString());
  }
  *made = images.shape();
  made->set_dim(3, weights.dim_size(to));
  return absl::OkStatus();
}

// Of the gradient by what a convolution has made.
inline absl::Status CheckUpstream(const tensorflow::Tensor& upstream,
                                  const tensorflow::TensorShape& made) {
  if (upstream.shape() == made) return absl::OkStatus();
  return tensorflow::errors::InvalidArgument(
      "upstream must be ", made.DebugString(), ", not ",
      upstream.shape().DebugString());
}

// The shape of the gradient by weights.
inline absl::Status CheckByWeights(const tensorflow::Tensor& images,
                                   const tensorflow::Tensor& upstream,
                                   int64_t side, int64_t multiple,
                                   tensorflow::TensorShape* gradient) {
  TF_RETURN_IF_ERROR(CheckImages(images, multiple, "images"));
  TF_RETURN_IF_ERROR(CheckImages(upstream, multiple, "upstream"));
  tensorflow::TensorShape expected = images.shape();
  expected.set_dim(3, upstream.dim_size(3));
  TF_RETURN_IF_ERROR(CheckUpstream(upstream, expected));
  *gradient = tensorflow::TensorShape(
      {side, side, images.dim_size(3), upstream.dim_size(3)});
  return absl::OkStatus();
}

// Of an operation with images, weights and the attribute by_images.
inline absl::Status ConvolutionShape(
    tensorflow::shape_inference::InferenceContext* context) {
  bool by_images;
  TF_RETURN_IF_ERROR(context->GetAttr("by_images", &by_images));
  tensorflow::shape_inference::ShapeHandle images, weights;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &weights));
  TF_RETURN_IF_ERROR(context->ReplaceDim(
      images, 3, context->Dim(weights, by_images ? 2 : 3), &images));
  context->set_output(0, images);
  return absl::OkStatus();
}

// Of an operation with images and upstream.
template <int64_t kSide>
absl::Status ByWeightsShape(
    tensorflow::shape_inference::InferenceContext* context) {
  tensorflow::shape_inference::ShapeHandle images, upstream;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &upstream));
  context->set_output(
      0, context->MakeShape({kSide, kSide, context->Dim(images, 3),
                             context->Dim(upstream, 3)}));
  return absl::OkStatus();
}

}  // namespace hvd_imagenet

#endif
