// A convolution as a sum of products of matrices, for amx.cc.
//
// Images become one sequence of positions: the places of a grid with a few more
// rows and columns than what is made has, for the zeros around an image. Those
// after a row are those before the next, and so it is with images. What a
// weight of the window multiplies then lies as far from a position, whatever
// position that is: a convolution is a sum of products of matrices, each of
// which begins some rows further on. With steps of two there are four such
// sequences, of even and odd rows and columns. What comes out for a position
// that is no place of an image is thrown away.

#ifndef HVD_IMAGENET_KERNELS_AMX_PLAN_H_
#define HVD_IMAGENET_KERNELS_AMX_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/platform/errors.h"

#include "amx_blocks.h"

namespace hvd_imagenet::amx {

// Rows or columns of images.
struct Axis {
  // Of `size` places, padded by `zeros` on both sides, a window sees `window`
  // each time, `step` apart: `made` times.
  int64_t size, window, step, zeros;
  int64_t made = (size + 2 * zeros - window) / step + 1;
  // What a grid has beside.
  int64_t beside = step == 1 ? zeros : (window - 1) / step;

  int64_t of_grid() const { return made + beside; }
  // Grids that begin at a place each; of a window without neighbours one.
  int64_t grids() const { return std::min(step, window); }
};

// A weight of the window, by its number, times what is `offset` positions on in
// one of the grids.
struct Tap {
  int64_t weight, grid, offset;
};

// What comes of a sum over taps.
struct Target {
  Grid grid;
  std::vector<Tap> taps;
};

// A convolution of images, [batch, height, width, channels], with weights,
// [rows, columns, channels, filters].
//
// Where the numbers of the window's columns lie one after the other in the
// images and are few, as a stem's of three colours, they are taken for channels
// of a window without columns.
class Plan {
 public:
  Plan(const tensorflow::TensorShape& images,
       const tensorflow::TensorShape& weights, int64_t step, int64_t zeros)
      : images_(images),
        weights_(weights),
        batch_(images.dim_size(0)),
        pixel_(images.dim_size(3)),
        channels_(pixel_),
        filters_(weights.dim_size(3)),
        down_{images.dim_size(1), weights.dim_size(0), step, zeros},
        across_{images.dim_size(2), weights.dim_size(1), step, zeros} {
    if (is_merged()) {
      channels_ *= across_.window;
      across_.window = 1;
      across_.beside = 0;
    }
  }

  // Whether there is a plan for these; both have rank 4.
  static absl::Status Check(const tensorflow::TensorShape& images,
                            const tensorflow::TensorShape& weights,
                            int64_t step, int64_t zeros) {
    using tensorflow::errors::InvalidArgument;
    if (weights.dim_size(2) != images.dim_size(3)) {
      return InvalidArgument("weights of ", weights.DebugString(),
                             " do not fit images of ", images.DebugString());
    }
    const int64_t rows = weights.dim_size(0), columns = weights.dim_size(1);
    if (step < 1 || step > 2 || rows % 2 == 0 || columns != rows ||
        zeros < 0 || zeros >= rows ||
        (step == 1 && rows != 2 * zeros + 1)) {
      return InvalidArgument(
          "a window of ", rows, " x ", columns, ", step ", step, ", with ",
          zeros, " zeros around is not one of those that are made");
    }
    for (int i = 1; i <= 2; ++i) {
      if (images.dim_size(i) + 2 * zeros < rows) {
        return InvalidArgument("images of ", images.DebugString(),
                               " are smaller than the window");
      }
    }
    const int64_t channels = weights.dim_size(2);
    const bool is_merged = zeros == 0 && channels * columns <= kDepth;
    if (channels == 0 || (channels % kDepth != 0 && !is_merged)) {
      return InvalidArgument("there must be a multiple of ", kDepth,
                             " channels, not ", channels);
    }
    if (weights.dim_size(3) == 0 || weights.dim_size(3) % kTogether != 0) {
      return InvalidArgument("there must be a multiple of ", kTogether,
                             " filters, not ", weights.dim_size(3));
    }
    return absl::OkStatus();
  }

  const tensorflow::TensorShape& images() const { return images_; }
  const tensorflow::TensorShape& weights() const { return weights_; }
  tensorflow::TensorShape made() const {
    return tensorflow::TensorShape(
        {batch_, down_.made, across_.made, filters_});
  }
  // Numbers that a weight of the window is for, and those that come out.
  int64_t channels() const { return channels_; }
  int64_t filters() const { return filters_; }
  bool is_merged() const { return pixel_ % kDepth != 0; }
  // Whether some pixels are in no window.
  bool skips_pixels() const { return down_.window < down_.step; }

  // The grids of images that taps are of.
  std::vector<Grid> OfImages() const {
    std::vector<Grid> grids;
    for (int64_t y = 0; y < down_.grids(); ++y) {
      for (int64_t x = 0; x < across_.grids(); ++x) {
        grids.push_back(GridOf(down_.size, across_.size, pixel_, down_.step,
                               y - down_.zeros, x - across_.zeros));
      }
    }
    return grids;
  }

  // That of what is made.
  Grid OfMade() const {
    return GridOf(down_.made, across_.made, filters_, 1, 0, 0);
  }

  std::vector<Tap> Taps() const {
    std::vector<Tap> taps;
    for (int64_t y = 0; y < down_.window; ++y) {
      for (int64_t x = 0; x < across_.window; ++x) {
        taps.push_back({y * across_.window + x,
                        y % down_.step * across_.grids() + x % across_.step,
                        y / down_.step * across_.of_grid() + x / across_.step});
      }
    }
    return taps;
  }

  // Of the gradient by images: the grid of that by what is made, and what comes
  // of it.
  Grid OfUpstream() const {
    return GridOf(down_.made, across_.made, filters_, 1, -down_.beside,
                  -across_.beside);
  }

  std::vector<Target> ByImages() const {
    std::vector<Target> targets;
    const std::vector<Tap> taps = Taps();
    const bool is_turned = down_.step == 1;
    for (const Grid& grid : OfImages()) {
      Target target = {grid, {}};
      if (is_turned) target.grid.first_row = target.grid.first_column = 0;
      // As far back as a tap goes forth, from the last one's place.
      const int64_t last =
          is_turned ? taps.back().offset
                    : down_.beside * across_.of_grid() + across_.beside;
      for (const Tap& tap : taps) {
        if (tap.grid == static_cast<int64_t>(targets.size())) {
          target.taps.push_back({tap.weight, 0, last - tap.offset});
        }
      }
      targets.push_back(target);
    }
    return targets;
  }

 private:
  Grid GridOf(int64_t height, int64_t width, int64_t pixel, int64_t step,
              int64_t first_row, int64_t first_column) const {
    return {batch_,           height, width,     pixel,       down_.of_grid(),
            across_.of_grid(), step,   first_row, first_column};
  }

  const tensorflow::TensorShape images_, weights_;
  int64_t batch_, pixel_, channels_, filters_;
  Axis down_, across_;
};

}  // namespace hvd_imagenet::amx

#endif
