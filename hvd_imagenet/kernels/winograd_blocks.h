// Parts of convolutions by Winograd's products, compiled for several
// processors: winograd_blocks.cc.

#ifndef HVD_IMAGENET_KERNELS_WINOGRAD_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_WINOGRAD_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet::winograd {

// A convolution makes tiles of 4 x 4 places, each of a window of 6 x 6. In
// between, tile and window have 36 points, which are multiplied one by one.
constexpr int kTileSide = 4;
constexpr int kWindowSide = 6;
constexpr int kPoints = kWindowSide * kWindowSide;
// Channels have to be a multiple of this.
constexpr int kChannelsTogether = 32;

// Images, [batch, height, width, channels], as rows of tiles. The last ones of
// a row or column may reach beyond the image.
struct Tiles {
  Tiles(int64_t batch, int64_t height, int64_t width)
      : height(height),
        width(width),
        down((height + kTileSide - 1) / kTileSide),
        across((width + kTileSide - 1) / kTileSide),
        count(batch * down * across) {}

  const int64_t height, width, down, across, count;
};

// A matrix for each point. The columns are parted into panels, whose rows lie
// one after the other: [points, columns / panel, rows, panel], and some numbers
// between points, which else would compete for the same places of a cache.
struct Panels {
  int64_t rows, columns;

  int64_t point_stride() const { return rows * columns + kApart; }
  int64_t size() const { return kPoints * point_stride(); }

 private:
  static constexpr int64_t kApart = 16;
};

struct BlockFunctions {
  // Columns of a panel.
  int64_t panel;

  // Of weights, [3, 3, channels, filters], their points: [channels, filters],
  // in whole panels from channel `begin` to `end`; both multiples of a panel.
  void (*weights)(Panels of, int64_t begin, int64_t end, const float* weights,
                  float* points);

  // The same of the convolution that takes gradients from filters to channels:
  // `of` is [filters, channels] of weights that still are [3, 3, channels,
  // filters]; from filter `begin` to `end`.
  void (*turned_weights)(Panels of, int64_t begin, int64_t end,
                         const float* weights, float* points);

  // The points of `count` tiles, from tile `first` on, to rows from `row` on.
  void (*windows)(const Tiles& tiles, int64_t first, int64_t count,
                  const float* images, Panels of, int64_t row, float* points);

  // The same of gradients by what a convolution makes.
  void (*upstreams)(const Tiles& tiles, int64_t first, int64_t count,
                    const float* upstream, Panels of, int64_t row,
                    float* points);

  // Windows times weights, at one point, of `rows` rows: [rows, channels] times
  // [channels, filters].
  void (*convolve)(int64_t rows, Panels windows, const float* left,
                   Panels weights, const float* right, Panels sums,
                   float* made);

  // Windows, transposed, times upstreams, at one point, of `rows` rows: of
  // [channels, filters] those from a panel's first channel to its last. Added
  // to what is there, if there is something.
  void (*correlate)(int64_t rows, Panels windows, const float* left,
                    Panels upstreams, const float* right, int64_t panel,
                    bool is_added, Panels sums, float* made);

  // What the points say of `count` tiles, from tile `first` on, in rows from
  // `row` on.
  void (*outputs)(const Tiles& tiles, int64_t first, int64_t count, Panels of,
                  int64_t row, const float* points, float* outputs);

  // The gradient by weights from its points, for channels from `begin` to
  // `end`.
  void (*by_weights)(Panels of, int64_t begin, int64_t end, const float* points,
                     float* gradient);
};

// One for each name that winograd_blocks.cc is compiled with.
extern const BlockFunctions kGeneric, kAvx2, kAvx512;

}  // namespace hvd_imagenet::winograd

#endif
