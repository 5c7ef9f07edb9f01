// Blocks of batch normalization, as plain loops that the compiler makes vectors
// of. Compiled once per kind of processor, with PROCESSOR as the name of what
// comes out.
//
// Nothing of the standard library but what the compiler has itself: the linker
// would take one processor's copy of it for all.

#include "batch_norm_blocks.h"

#include "numbers.h"

namespace hvd_imagenet {
namespace {

// Rows that are summed before the sum is added to what is in memory.
constexpr int kRowsAtOnce = 4;

inline float Load(const float* from) { return *from; }

inline float Load(const Half* from) { return BFloat16::Load(*from); }

inline void Store(float value, float* to) { *to = value; }

inline void Store(float value, Half* to) { *to = BFloat16::Store(value); }

// What an image becomes before shortcut and rectifier; found again backwards.
inline float Normalized(float image, float mean, float scale, float beta) {
  return (image - mean) * scale + beta;
}

template <int kRows, typename T>
inline void AddSums(int64_t channels, const T* __restrict images,
                    float* __restrict sums) {
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0;
    for (int k = 0; k < kRows; ++k) sum += Load(images + k * channels + c);
    sums[c] += sum;
  }
}

template <int kRows, typename T>
inline void AddSquares(int64_t channels, const T* __restrict images,
                       const float* __restrict mean,
                       float* __restrict squares) {
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0;
    for (int k = 0; k < kRows; ++k) {
      const float distance = Load(images + k * channels + c) - mean[c];
      sum += distance * distance;
    }
    squares[c] += sum;
  }
}

template <typename T>
void Moments(Size size, const T* images, float* mean, float* squares) {
  const auto [rows, channels] = size;
  for (int64_t c = 0; c < channels; ++c) mean[c] = squares[c] = 0;
  int64_t row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
    AddSums<kRowsAtOnce>(channels, images + row * channels, mean);
  }
  for (; row < rows; ++row) AddSums<1>(channels, images + row * channels, mean);
  for (int64_t c = 0; c < channels; ++c) mean[c] /= rows;
  row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
    AddSquares<kRowsAtOnce>(channels, images + row * channels, mean, squares);
  }
  for (; row < rows; ++row) {
    AddSquares<1>(channels, images + row * channels, mean, squares);
  }
}

template <bool kRelu, bool kShortcut, typename T>
void Outputs(Size size, const T* __restrict images,
             const T* __restrict shortcut, Channels of,
             T* __restrict outputs) {
  const float* __restrict mean = of.mean;
  const float* __restrict scale = of.scale;
  const float* __restrict beta = of.beta;
  for (int64_t row = 0; row < size.rows; ++row) {
    for (int64_t c = 0; c < size.channels; ++c) {
      const int64_t at = row * size.channels + c;
      float value = Normalized(Load(images + at), mean[c], scale[c], beta[c]);
      if (kShortcut) value += Load(shortcut + at);
      // What is not a number stays so.
      if (kRelu) value = value < 0 ? 0.0f : value;
      Store(value, outputs + at);
    }
  }
}

template <int kRows, Rectified kRectified, typename T>
inline void AddGradients(int64_t channels, const T* upstream,
                         const T* __restrict other_upstream,
                         const T* __restrict images,
                         const T* __restrict outputs, Channels of,
                         float* __restrict sums, float* __restrict products,
                         T* by_shortcut) {
  const float* __restrict mean = of.mean;
  const float* __restrict scale = of.scale;
  const float* __restrict beta = of.beta;
#pragma GCC ivdep
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0, product = 0;
    for (int k = 0; k < kRows; ++k) {
      const int64_t at = k * channels + c;
      const float image = Load(images + at);
      float gradient = Load(upstream + at);
      if (kRectified == kByImages) {
        const float before = Normalized(image, mean[c], scale[c], beta[c]);
        gradient = before > 0 ? gradient : 0.0f;
      }
      if (kRectified == kByOutputsOfTwo) gradient += Load(other_upstream + at);
      if (kRectified >= kByOutputs) {
        gradient = Load(outputs + at) > 0 ? gradient : 0.0f;
        Store(gradient, by_shortcut + at);
      }
      sum += gradient;
      product += gradient * (image - mean[c]);
    }
    sums[c] += sum;
    products[c] += product;
  }
}

template <Rectified kRectified, typename T>
void Gradients(Size size, const T* upstream, const T* other_upstream,
               const T* images, const T* outputs, Channels of, float* sums,
               float* products, T* by_shortcut) {
  const auto [rows, channels] = size;
  for (int64_t c = 0; c < channels; ++c) sums[c] = products[c] = 0;
  // Null where they are not used.
  const int64_t used = kRectified >= kByOutputs ? channels : 0;
  const int64_t two_used = kRectified == kByOutputsOfTwo ? channels : 0;
  int64_t row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
    AddGradients<kRowsAtOnce, kRectified>(
        channels, upstream + row * channels, other_upstream + row * two_used,
        images + row * channels, outputs + row * used, of, sums, products,
        by_shortcut + row * used);
  }
  for (; row < rows; ++row) {
    AddGradients<1, kRectified>(
        channels, upstream + row * channels, other_upstream + row * two_used,
        images + row * channels, outputs + row * used, of, sums, products,
        by_shortcut + row * used);
  }
}

template <bool kRelu, typename T>
void ByImages(Size size, const T* upstream, const T* images, Channels of,
              const float* __restrict gradient_mean,
              const float* __restrict slope, T* by_images) {
  const float* __restrict mean = of.mean;
  const float* __restrict scale = of.scale;
  const float* __restrict beta = of.beta;
  for (int64_t row = 0; row < size.rows; ++row) {
#pragma GCC ivdep
    for (int64_t c = 0; c < size.channels; ++c) {
      const int64_t at = row * size.channels + c;
      const float image = Load(images + at);
      float gradient = Load(upstream + at);
      if (kRelu) {
        const float before = Normalized(image, mean[c], scale[c], beta[c]);
        gradient = before > 0 ? gradient : 0.0f;
      }
      gradient = gradient - gradient_mean[c] - slope[c] * (image - mean[c]);
      Store(scale[c] * gradient, by_images + at);
    }
  }
}

template <typename T>
constexpr BlockFunctions<T> kFunctions = {
    Moments<T>,
    {{Outputs<false, false, T>, Outputs<false, true, T>},
     {Outputs<true, false, T>, Outputs<true, true, T>}},
    {Gradients<kNot, T>, Gradients<kByImages, T>, Gradients<kByOutputs, T>,
     Gradients<kByOutputsOfTwo, T>},
    {ByImages<false, T>, ByImages<true, T>}};

}  // namespace

const ProcessorFunctions PROCESSOR = {kFunctions<float>, kFunctions<Half>};

}  // namespace hvd_imagenet
