// Parts of convolutions of float32 by AMX, which multiplies bfloat16: a number
// is the sum of three of those, 8 bits of its 24 each, and six of the nine
// products of two such sums are taken; what the others add is below a float32's
// last bit. Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial
// Intelligence Datatype For Higher-Precision Computations" (arXiv 1904.06376),
// section III. AMX makes sixteen of them in the time of one of float32.

#ifndef HVD_IMAGENET_KERNELS_AMX_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_AMX_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet::amx {

// The bits of a bfloat16.
using Half = uint16_t;

// A register holds a tile: 16 rows of 32 numbers, of the left factor; or of the
// right one 32 rows, pairs of which are interleaved, of 16 numbers.
constexpr int64_t kSide = 16;
constexpr int64_t kDepth = 32;
constexpr int64_t kTile = kSide * kDepth;
constexpr int64_t kParts = 3;
// A square of two tiles a side is multiplied at once.
constexpr int64_t kTogether = 2 * kSide;

// Lets this process use AMX; false if the system does not.
bool Permit();

// Of a thread, while it uses what is below; what others had set is there again
// afterwards.
class Tiles {
 public:
  Tiles();
  ~Tiles();
  Tiles(const Tiles&) = delete;

 private:
  alignas(64) unsigned char before_[64];
};

// Images as one sequence of positions: those of a grid, [rows, columns], for
// each image, some of which may lie outside of it.
struct Grid {
  // Of the images: [batch, height, width, numbers of a pixel].
  int64_t batch, height, width, pixel;
  int64_t rows, columns;
  // From row to row and column to column of the grid.
  int64_t step;
  // Of the image: where the grid begins, which may be before it.
  int64_t first_row, first_column;

  int64_t positions() const { return batch * rows * columns; }
  int64_t bytes() const {
    return batch * height * width * pixel * sizeof(float);
  }
};

// Channels from `first` on, `count` of them. Those up to the next multiple of
// kDepth are zeros.
struct Channels {
  int64_t first, count;
};

// The parts of a left factor, [positions, channels]: of `count` positions from
// `first` on, to [channels / kDepth, kParts] planes of [count, kDepth]. Zeros
// where there is no pixel.
void SplitLeft(const Grid& grid, int64_t first, int64_t count,
               const float* images, Channels channels, int64_t plane,
               Half* parts);

// The parts of kSide columns of a right factor, [depth, columns], of rows that
// are `stride` numbers apart: for each kDepth rows, kParts pairs of tiles, of
// which this is one of two.
void SplitRight(int64_t depth, int64_t stride, const float* numbers,
                Half* parts);

// The same of a transposed one, [columns, depth].
void SplitTurnedRight(int64_t depth, int64_t stride, const float* numbers,
                      Half* parts);

// Of kDepth positions from `first` on, for a product that sums over positions:
// one step of the parts of a left factor, [channels, steps * kDepth], which are
// [channels / kSide, steps, kParts] tiles.
void SplitStepOfLeft(const Grid& grid, int64_t first, const float* images,
                     Channels channels, int64_t steps, Half* parts);

// And all parts of the right one, [count, channels], from every pair of
// positions: [channels / kSide, kParts] pairs of planes of [count / 2, kDepth].
// The first of them has pairs that begin at even positions of the `count`, the
// other those at odd ones, unless `is_even`.
void SplitPairs(const Grid& grid, int64_t first, int64_t count, bool is_even,
                const float* images, Channels channels, int64_t plane,
                Half* parts);

// How far the tiles of a factor's parts lie apart.
struct Strides {
  int64_t step, part, outer;
};

// A square of products, [kTogether, kTogether], whose rows are `stride` numbers
// apart: the sum over `taps` left factors and as many right ones, which lie one
// after the other, of `steps` each; and of what was there, if it `is_added`.
void Multiply(int64_t taps, int64_t steps, const Half* const* left,
              Strides of_left, const Half* right, Strides of_right,
              bool is_added, int64_t stride, float* made);

// Copies squares, [channels / kTogether, rows_of_each, kTogether], of `count`
// positions from `first` on, to the pixels that there are.
void CopyToImages(const Grid& grid, int64_t first, int64_t count,
                  const float* squares, int64_t rows_of_each,
                  Channels channels, bool past_caches, float* images);

}  // namespace hvd_imagenet::amx

#endif
