// Products of float32 matrices on AMX, which multiplies bfloat16 and sums
// float32: pointwise_blocks.cc.
//
// Henry, Tang and Heinecke 2019 (arXiv 1904.06376): a float32 number is the sum
// of three bfloat16 ones, of its leading, middle and last eight bits. Of the nine
// products of two such sums the six largest are taken; the others are below what
// float32 resolves. AMX makes sixteen of them in the time of one of float32.

#ifndef HVD_IMAGENET_KERNELS_POINTWISE_BLOCKS_H_
#define HVD_IMAGENET_KERNELS_POINTWISE_BLOCKS_H_

#include <cstdint>

namespace hvd_imagenet::pointwise {

// The bits of a bfloat16.
using Half = uint16_t;

// A register holds a tile: 16 rows of 32 numbers, of the left factor; or of the
// right one 32 rows, pairs of which are interleaved, of 16 numbers.
constexpr int64_t kSide = 16;
constexpr int64_t kDepth = 32;
// What a matrix is multiplied by: squares of two tiles a side. Channels have to
// be a multiple of it, and rows are filled up with zeros.
constexpr int64_t kTogether = 2 * kSide;

// Numbers in the parts of a matrix: [rows or columns / kSide, depth / kDepth, 3
// parts], tiles.
constexpr int64_t PartsSize(int64_t outer, int64_t depth) {
  return outer * depth * 3;
}

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

// The parts of a left factor, [rows, depth], of numbers in rows.
void SplitLeft(int64_t rows, int64_t depth, const float* numbers, Half* parts);

// The parts of kSide columns of a right factor, [depth, columns], of rows that
// are `stride` numbers apart.
void SplitRight(int64_t depth, int64_t stride, const float* numbers,
                Half* parts);

// The same of a transposed one, [columns, depth].
void SplitTurnedRight(int64_t depth, int64_t stride, const float* numbers,
                      Half* parts);

// Of kDepth rows, `stride` numbers apart, of which `rows` are there, of both
// factors of a product that sums over rows: one step of the parts of a left
// factor, [columns, steps * kDepth], and of a right one, [steps * kDepth,
// columns].
void SplitStepOfLeft(int64_t rows, int64_t stride, int64_t columns,
                     const float* numbers, int64_t steps, Half* parts);
void SplitStepOfRight(int64_t rows, int64_t stride, int64_t columns,
                      const float* numbers, int64_t steps, Half* parts);

// A square of products, [kTogether, kTogether], over the first `steps` of
// parts that have `stride` of them.
void Multiply(int64_t steps, int64_t stride, const Half* left,
              const Half* right, float* made);

// Copies squares, [columns / kTogether, rows of each, kTogether], to rows.
void CopyRows(int64_t rows, int64_t rows_of_each, int64_t columns,
              const float* squares, bool past_caches, float* to);

// Adds a square to rows that are `stride` numbers apart, or sets them.
void AddSquare(const float* square, bool is_added, int64_t stride, float* to);

}  // namespace hvd_imagenet::pointwise

#endif
