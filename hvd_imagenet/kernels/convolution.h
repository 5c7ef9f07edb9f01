// What operations for convolutions have in common. Images are [batch, height,
// width, channels], and weights [side, side, channels, filters].

#ifndef HVD_IMAGENET_KERNELS_CONVOLUTION_H_
#define HVD_IMAGENET_KERNELS_CONVOLUTION_H_

#include <cstdint>

#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace hvd_imagenet {

// Of the gradient by what a convolution has made.
inline absl::Status CheckUpstream(const tensorflow::Tensor& upstream,
                                  const tensorflow::TensorShape& made) {
  if (upstream.shape() == made) return absl::OkStatus();
  return tensorflow::errors::InvalidArgument(
      "upstream must be ", made.DebugString(), ", not ",
      upstream.shape().DebugString());
}

// The shape of the gradient by weights of a side, for an operation with images
// and the gradient by what is made.
inline absl::Status ByWeightsShape(
    tensorflow::shape_inference::InferenceContext* context, int64_t side) {
  tensorflow::shape_inference::ShapeHandle images, upstream;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &upstream));
  context->set_output(
      0, context->MakeShape(
             {side, side, context->Dim(images, 3), context->Dim(upstream, 3)}));
  return absl::OkStatus();
}

}  // namespace hvd_imagenet

#endif
