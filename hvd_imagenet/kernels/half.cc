// Gradients in float16, as they go to other hosts, with a factor on the way:
// read and written once, where TensorFlow multiplies and converts one after the
// other, and converts to float16 number by number.

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

#include "half_blocks.h"
#include "processors.h"
#include "threads.h"

namespace {

using hvd_imagenet::half::BlockFunctions;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// Numbers that are worth a thread, and what they take in nanoseconds.
constexpr int64_t kBlock = 64 << 10;
constexpr int64_t kNanoseconds = 20'000;

const BlockFunctions& Functions() {
#ifdef __x86_64__
  if (hvd_imagenet::HasAvx2()) return hvd_imagenet::half::kAvx2;
#endif
  return hvd_imagenet::half::kGeneric;
}

// From numbers of one type to as many of another, by `function`, which takes
// those of a block.
template <typename From, typename To, auto function>
class Convert : public OpKernel {
 public:
  explicit Convert(OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("factor", &factor_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    Tensor* output;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, input.shape(), &output));
    const int64_t size = input.NumElements();
    const auto from = static_cast<const From*>(input.data());
    const auto to = static_cast<To*>(output->data());
    const auto convert = Functions().*function;
    hvd_imagenet::Each(context, (size + kBlock - 1) / kBlock, kNanoseconds,
                       [&](int64_t block) {
                         const int64_t first = block * kBlock;
                         convert(std::min(kBlock, size - first), factor_,
                                 from + first, to + first);
                       });
  }

 private:
  float factor_;
};

REGISTER_OP("HvdImagenetPackHalf")
    .Input("numbers: float")
    .Output("packed: half")
    .Attr("factor: float")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Numbers times a factor, in float16.
)doc");

REGISTER_OP("HvdImagenetUnpackHalf")
    .Input("packed: half")
    .Output("numbers: float")
    .Attr("factor: float")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Numbers in float16, in float32 and times a factor.
)doc");

using Pack = Convert<float, uint16_t, &BlockFunctions::pack>;
using Unpack = Convert<uint16_t, float, &BlockFunctions::unpack>;

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetPackHalf").Device(tensorflow::DEVICE_CPU), Pack);
REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetUnpackHalf").Device(tensorflow::DEVICE_CPU), Unpack);

}  // namespace
