// Compiled for processors with AVX-512 and AMX. Nothing of the standard library
// but what the compiler has itself: the linker would take this processor's copy
// of it for all.

#include "pointwise_blocks.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hvd_imagenet::pointwise {
namespace {

constexpr int64_t kTile = kSide * kDepth;
constexpr int kParts = 3;
constexpr int kLanes = 16;

// arch_prctl(2), and the number of the tiles' state.
constexpr int kRequestPermission = 0x1023;
constexpr int kTileData = 18;

// As LDTILECFG reads it.
struct alignas(64) Configuration {
  unsigned char palette, start, reserved[14];
  unsigned short bytes[16];
  unsigned char rows[16];
};
static_assert(sizeof(Configuration) == 64);

inline __m512i BitsOf(__m512 numbers) { return _mm512_castps_si512(numbers); }

// The first eight bits; the rest is theirs subtracted, exactly.
inline __m512 Leading(__m512 numbers) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(BitsOf(numbers), _mm512_set1_epi32(0xffff0000)));
}

// Of 32 numbers in turn.
inline __m512i InTurn(__m512 first, __m512 second) {
  const __m512i upper_halves = _mm512_set_epi16(
      63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
      27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(BitsOf(first), upper_halves,
                                   BitsOf(second));
}

// Of 16 pairs.
inline __m512i InPairs(__m512 even, __m512 odd) {
  return _mm512_or_si512(_mm512_srli_epi32(BitsOf(even), 16),
                         BitsOf(Leading(odd)));
}

// store(part, leading bits of the first, and of the second) for all parts.
template <typename Storing>
inline void Split(__m512 first, __m512 second, Storing store) {
  for (int part = 0; part < kParts; ++part) {
    store(part, first, second);
    first = _mm512_sub_ps(first, Leading(first));
    second = _mm512_sub_ps(second, Leading(second));
  }
}

inline __m512 LoadIf(bool is_there, const float* from) {
  return is_there ? _mm512_loadu_ps(from) : _mm512_setzero_ps();
}

// 16 rows of 16.
inline void Transpose(__m512i rows[kSide]) {
  __m512i t[kSide];
  for (int i = 0; i < kSide; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < kSide; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // Even and odd quarters.
  constexpr int kEven = 0x88, kOdd = 0xdd;
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], kEven);
    t[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], kOdd);
    t[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], kEven);
    t[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], kOdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kEven);
    rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kOdd);
    rows[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], kEven);
    rows[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], kOdd);
  }
}

inline void StoreTransposed(__m512i rows[kSide], Half* to) {
  Transpose(rows);
  for (int i = 0; i < kSide; ++i) {
    _mm512_store_si512(to + i * kDepth, rows[i]);
  }
}

}  // namespace

bool Permit() {
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Tiles::Tiles() {
  _tile_storeconfig(before_);
  Configuration all = {};
  all.palette = 1;
  for (int i = 0; i < 8; ++i) {
    all.bytes[i] = 64;
    all.rows[i] = kSide;
  }
  // GCC 12 knows of eight of the bytes alone, and would leave the others out.
  asm volatile("" : : "r"(&all) : "memory");
  _tile_loadconfig(&all);
}

Tiles::~Tiles() {
  // Loading one without a palette is releasing all.
  _tile_loadconfig(before_);
}

void SplitLeft(int64_t rows, int64_t depth, const float* numbers, Half* parts) {
  const int64_t steps = depth / kDepth;
  const int64_t filled = (rows + kTogether - 1) / kTogether * kTogether;
  for (int64_t row = 0; row < filled; ++row) {
    const float* from = numbers + row * depth;
    Half* to = parts + row / kSide * steps * kParts * kTile +
               row % kSide * kDepth;
    for (int64_t step = 0; step < steps; ++step) {
      const bool is_there = row < rows;
      Split(LoadIf(is_there, from + step * kDepth),
            LoadIf(is_there, from + step * kDepth + kLanes),
            [=](int part, __m512 first, __m512 second) {
              _mm512_store_si512(to + (step * kParts + part) * kTile,
                                 InTurn(first, second));
            });
    }
  }
}

void SplitRight(int64_t depth, int64_t stride, const float* numbers,
                Half* parts) {
  for (int64_t row = 0; row < depth; row += 2) {
    const float* from = numbers + row * stride;
    Half* to = parts + row / kDepth * kParts * kTile +
               row % kDepth / 2 * kDepth;
    Split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + stride),
          [=](int part, __m512 even, __m512 odd) {
            _mm512_store_si512(to + part * kTile, InPairs(even, odd));
          });
  }
}

void SplitTurnedRight(int64_t depth, int64_t stride, const float* numbers,
                      Half* parts) {
  for (int64_t step = 0; step < depth / kDepth; ++step) {
    __m512i rows[kParts][kSide];
    for (int column = 0; column < kSide; ++column) {
      const float* from = numbers + column * stride + step * kDepth;
      Split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes),
            [&](int part, __m512 first, __m512 second) {
              rows[part][column] = InTurn(first, second);
            });
    }
    for (int part = 0; part < kParts; ++part) {
      StoreTransposed(rows[part], parts + (step * kParts + part) * kTile);
    }
  }
}

void SplitStepOfLeft(int64_t rows, int64_t stride, int64_t columns,
                     const float* numbers, int64_t steps, Half* parts) {
  for (int64_t column = 0; column < columns; column += kSide) {
    __m512i pairs[kParts][kSide];
    for (int64_t row = 0; row < kDepth; row += 2) {
      const float* from = numbers + row * stride + column;
      Split(LoadIf(row < rows, from), LoadIf(row + 1 < rows, from + stride),
            [&](int part, __m512 even, __m512 odd) {
              pairs[part][row / 2] = InPairs(even, odd);
            });
    }
    Half* to = parts + column / kSide * steps * kParts * kTile;
    for (int part = 0; part < kParts; ++part) {
      StoreTransposed(pairs[part], to + part * kTile);
    }
  }
}

void SplitStepOfRight(int64_t rows, int64_t stride, int64_t columns,
                      const float* numbers, int64_t steps, Half* parts) {
  for (int64_t row = 0; row < kDepth; row += 2) {
    const float* from = numbers + row * stride;
    for (int64_t column = 0; column < columns; column += kSide) {
      Half* to = parts + column / kSide * steps * kParts * kTile +
                 row / 2 * kDepth;
      Split(LoadIf(row < rows, from + column),
            LoadIf(row + 1 < rows, from + stride + column),
            [=](int part, __m512 even, __m512 odd) {
              _mm512_store_si512(to + part * kTile, InPairs(even, odd));
            });
    }
  }
}

// Registers: 0 to 3 are the sums, 4 and 5 rows of the left, 6 and 7 columns of
// the right. Each order of parts has one factor in common with that before it;
// small products come first.
#define LEFT(part)                                                     \
  _tile_loadd(4, left + part * kTile, 2 * kDepth);                     \
  _tile_loadd(5, left + outer + part * kTile, 2 * kDepth);
#define RIGHT(part)                                                    \
  _tile_loadd(6, right + part * kTile, 2 * kDepth);                    \
  _tile_loadd(7, right + outer + part * kTile, 2 * kDepth);
#define PRODUCTS           \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7);

void Multiply(int64_t steps, int64_t stride, const Half* left,
              const Half* right, float* made) {
  constexpr int64_t kStep = kParts * kTile;
  const int64_t outer = stride * kStep;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, left += kStep, right += kStep) {
    LEFT(0) RIGHT(2) PRODUCTS
    RIGHT(1) PRODUCTS
    LEFT(1) PRODUCTS
    RIGHT(0) PRODUCTS
    LEFT(2) PRODUCTS
    LEFT(0) PRODUCTS
  }
  constexpr int kBytes = kTogether * sizeof(float);
  _tile_stored(0, made, kBytes);
  _tile_stored(1, made + kSide, kBytes);
  _tile_stored(2, made + kSide * kTogether, kBytes);
  _tile_stored(3, made + kSide * kTogether + kSide, kBytes);
}

#undef LEFT
#undef RIGHT
#undef PRODUCTS

void CopyRows(int64_t rows, int64_t rows_of_each, int64_t columns,
              const float* squares, bool past_caches, float* to) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; column += kLanes) {
      const __m512 numbers =
          _mm512_load_ps(squares + column / kTogether * rows_of_each * kTogether +
                         row * kTogether + column % kTogether);
      float* const place = to + row * columns + column;
      if (past_caches) {
        _mm512_stream_ps(place, numbers);
      } else {
        _mm512_storeu_ps(place, numbers);
      }
    }
  }
  // Others see them after this, as they see all other stores.
  if (past_caches) _mm_sfence();
}

void AddSquare(const float* square, bool is_added, int64_t stride, float* to) {
  for (int64_t row = 0; row < kTogether; ++row) {
    for (int64_t column = 0; column < kTogether; column += kLanes) {
      __m512 sum = _mm512_load_ps(square + row * kTogether + column);
      float* const place = to + row * stride + column;
      if (is_added) sum = _mm512_add_ps(sum, _mm512_loadu_ps(place));
      _mm512_storeu_ps(place, sum);
    }
  }
}

}  // namespace hvd_imagenet::pointwise
