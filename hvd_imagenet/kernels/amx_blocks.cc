// Compiled for processors with AVX-512 and AMX. Nothing of the standard library
// but what the compiler has itself: the linker would take this processor's copy
// of it for all.

#include "amx_blocks.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hvd_imagenet::amx {
namespace {

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

// Those of 16 numbers that are there, `count` of them.
inline __mmask16 First(int64_t count) {
  return count >= kLanes ? 0xffff : count <= 0 ? 0 : (1 << count) - 1;
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

// Goes from position to position.
class Walk {
 public:
  Walk(const Grid& grid, int64_t position) : grid_(grid) {
    // Before the first image as well.
    const int64_t of_image = grid.rows * grid.columns;
    image_ = position / of_image - (position % of_image < 0);
    const int64_t rest = position - image_ * of_image;
    row_ = rest / grid.columns;
    column_ = rest % grid.columns;
    FindLine();
  }

  // Where the numbers of the pixel are, or -1 if there is none.
  int64_t Place() const {
    const int64_t x = grid_.first_column + column_ * grid_.step;
    if (line_ < 0 || x < 0 || x >= grid_.width) return -1;
    return line_ + x * grid_.pixel;
  }

  void Next() {
    if (++column_ < grid_.columns) return;
    column_ = 0;
    if (++row_ == grid_.rows) {
      row_ = 0;
      ++image_;
    }
    FindLine();
  }

 private:
  void FindLine() {
    const int64_t y = grid_.first_row + row_ * grid_.step;
    const bool is_there =
        image_ >= 0 && image_ < grid_.batch && y >= 0 && y < grid_.height;
    line_ = is_there
                ? (image_ * grid_.height + y) * grid_.width * grid_.pixel
                : -1;
  }

  const Grid& grid_;
  int64_t image_, row_, column_, line_;
};

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

void SplitLeft(const Grid& grid, int64_t first, int64_t count,
               const float* images, Channels channels, int64_t plane,
               Half* parts) {
  Walk walk(grid, first);
  for (int64_t i = 0; i < count; ++i, walk.Next(), parts += kDepth) {
    const int64_t place = walk.Place();
    const int64_t there = place < 0 ? 0 : channels.count;
    const float* from = images + (place < 0 ? 0 : place + channels.first);
    Half* to = parts;
    for (int64_t c = 0; c < channels.count; c += kDepth) {
      Split(_mm512_maskz_loadu_ps(First(there - c), from + c),
            _mm512_maskz_loadu_ps(First(there - c - kLanes), from + c + kLanes),
            [&](int, __m512 first, __m512 second) {
              _mm512_store_si512(to, InTurn(first, second));
              to += plane;
            });
    }
  }
}

// Of the tiles of a step: two for each part.
constexpr int64_t kPair = 2 * kTile;
constexpr int64_t kStep = kParts * kPair;

void SplitRight(int64_t depth, int64_t stride, const float* numbers,
                Half* parts) {
  for (int64_t row = 0; row < depth; row += 2) {
    const float* from = numbers + row * stride;
    const __mmask16 second = row + 1 < depth ? 0xffff : 0;
    Half* to = parts + row / kDepth * kStep + row % kDepth / 2 * kDepth;
    Split(_mm512_loadu_ps(from), _mm512_maskz_loadu_ps(second, from + stride),
          [=](int part, __m512 even, __m512 odd) {
            _mm512_store_si512(to + part * kPair, InPairs(even, odd));
          });
  }
  // What fills the last step up.
  for (int64_t row = (depth + 1) / 2 * 2; row % kDepth != 0; row += 2) {
    Half* to = parts + row / kDepth * kStep + row % kDepth / 2 * kDepth;
    for (int64_t part = 0; part < kParts; ++part) {
      _mm512_store_si512(to + part * kPair, _mm512_setzero_si512());
    }
  }
}

void SplitTurnedRight(int64_t depth, int64_t stride, const float* numbers,
                      Half* parts) {
  for (int64_t step = 0; step < depth / kDepth; ++step, parts += kStep) {
    __m512i rows[kParts][kSide];
    for (int column = 0; column < kSide; ++column) {
      const float* from = numbers + column * stride + step * kDepth;
      Split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes),
            [&](int part, __m512 first, __m512 second) {
              rows[part][column] = InTurn(first, second);
            });
    }
    for (int64_t part = 0; part < kParts; ++part) {
      StoreTransposed(rows[part], parts + part * kPair);
    }
  }
}

void SplitStepOfLeft(const Grid& grid, int64_t first, const float* images,
                     Channels channels, int64_t steps, Half* parts) {
  const float* from[kDepth];
  __mmask16 there[kDepth];
  Walk walk(grid, first);
  for (int64_t i = 0; i < kDepth; ++i, walk.Next()) {
    const int64_t place = walk.Place();
    from[i] = images + (place < 0 ? 0 : place + channels.first);
    there[i] = place < 0 ? 0 : 0xffff;
  }
  for (int64_t c = 0; c < channels.count; c += kSide) {
    const __mmask16 of_all = First(channels.count - c);
    __m512i pairs[kParts][kSide];
    for (int64_t i = 0; i < kDepth; i += 2) {
      Split(_mm512_maskz_loadu_ps(there[i] & of_all, from[i] + c),
            _mm512_maskz_loadu_ps(there[i + 1] & of_all, from[i + 1] + c),
            [&](int part, __m512 even, __m512 odd) {
              pairs[part][i / 2] = InPairs(even, odd);
            });
    }
    Half* to = parts + c / kSide * steps * kParts * kTile;
    for (int64_t part = 0; part < kParts; ++part) {
      StoreTransposed(pairs[part], to + part * kTile);
    }
  }
}

void SplitPairs(const Grid& grid, int64_t first, int64_t count, bool is_even,
                const float* images, Channels channels, int64_t plane,
                Half* parts) {
  Walk walk(grid, first);
  const int64_t pairings = is_even ? 1 : 2;
  int64_t next = walk.Place();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = next;
    walk.Next();
    next = walk.Place();
    if (is_even && i % 2 == 1) continue;
    const __mmask16 is_first = place < 0 ? 0 : 0xffff;
    const __mmask16 is_second = next < 0 ? 0 : 0xffff;
    const float* from = images + (place < 0 ? 0 : place + channels.first);
    const float* second = images + (next < 0 ? 0 : next + channels.first);
    Half* to = parts + (is_even ? 0 : i % 2) * plane + i / 2 * kDepth;
    for (int64_t c = 0; c < channels.count; c += kSide) {
      Split(_mm512_maskz_loadu_ps(is_first, from + c),
            _mm512_maskz_loadu_ps(is_second, second + c),
            [&](int, __m512 even, __m512 odd) {
              _mm512_store_si512(to, InPairs(even, odd));
              to += pairings * plane;
            });
    }
  }
}

// Registers: 0 to 3 are the sums, 4 and 5 rows of the left, 6 and 7 columns of
// the right. Each order of parts has one factor in common with that before it,
// and loads the other as soon as its last product is under way; small products
// come first.
#define UPPER(number) _tile_loadd(4, from + number * of_left.part, 2 * kDepth);
#define LOWER(number) \
  _tile_loadd(5, from + of_left.outer + number * of_left.part, 2 * kDepth);
#define FIRST(number) \
  _tile_loadd(6, right + number * of_right.part, 2 * kDepth);
#define SECOND(number) \
  _tile_loadd(7, right + of_right.outer + number * of_right.part, 2 * kDepth);
#define BY_UPPER           \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7);
#define BY_LOWER           \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7);
#define BY_FIRST           \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(2, 5, 6);
#define BY_SECOND          \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(3, 5, 7);

void Multiply(int64_t taps, int64_t steps, const Half* const* left,
              Strides of_left, const Half* right, Strides of_right,
              bool is_added, int64_t stride, float* made) {
  const int64_t bytes = stride * sizeof(float);
  float* const lower = made + kSide * stride;
  if (is_added) {
    _tile_loadd(0, made, bytes);
    _tile_loadd(1, made + kSide, bytes);
    _tile_loadd(2, lower, bytes);
    _tile_loadd(3, lower + kSide, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    const Half* from = left[tap];
    for (int64_t step = 0; step < steps;
         ++step, from += of_left.step, right += of_right.step) {
      UPPER(0) FIRST(2) SECOND(2) LOWER(0)
      BY_FIRST FIRST(1) BY_SECOND SECOND(1)
      BY_UPPER UPPER(1) BY_LOWER LOWER(1)
      BY_FIRST FIRST(0) BY_SECOND SECOND(0)
      BY_UPPER UPPER(2) BY_LOWER LOWER(2)
      BY_UPPER UPPER(0) BY_LOWER LOWER(0)
      BY_UPPER BY_LOWER
    }
  }
  _tile_stored(0, made, bytes);
  _tile_stored(1, made + kSide, bytes);
  _tile_stored(2, lower, bytes);
  _tile_stored(3, lower + kSide, bytes);
}

#undef UPPER
#undef LOWER
#undef FIRST
#undef SECOND
#undef BY_UPPER
#undef BY_LOWER
#undef BY_FIRST
#undef BY_SECOND

void CopyToImages(const Grid& grid, int64_t first, int64_t count,
                  const float* squares, int64_t rows_of_each,
                  Channels channels, bool past_caches, float* images) {
  Walk walk(grid, first);
  for (int64_t i = 0; i < count; ++i, walk.Next(), squares += kTogether) {
    const int64_t place = walk.Place();
    if (place < 0) continue;
    float* to = images + place + channels.first;
    for (int64_t c = 0; c < channels.count; c += kTogether) {
      const float* from = squares + c * rows_of_each;
      const __m512 low = _mm512_load_ps(from);
      const __m512 high = _mm512_load_ps(from + kLanes);
      if (past_caches) {
        _mm512_stream_ps(to + c, low);
        _mm512_stream_ps(to + c + kLanes, high);
      } else {
        _mm512_storeu_ps(to + c, low);
        _mm512_storeu_ps(to + c + kLanes, high);
      }
    }
  }
  // Others see them after this, as they see all other stores.
  if (past_caches) _mm_sfence();
}

}  // namespace hvd_imagenet::amx
