// Winograd's minimal filtering, F(4x4, 3x3), on vectors of channels. Compiled
// once per kind of processor, with PROCESSOR as the name of what comes out.
//
// Lavin and Gray 2015 (arXiv 1509.09308), section 4.3: a tile of a convolution
// is A^T [(G g G^T) (B^T d B)] A, for a window d and weights g, and the product
// of the two is taken point by point. The gradient by images is such a
// convolution too, of gradients with the weights turned; that by weights is
// G^T [(B^T d B) (A y A^T)] G, for the gradient y by a tile.
//
// Nothing of the standard library but what the compiler has itself: the linker
// would take one processor's copy of it for all.

#include "winograd_blocks.h"

namespace hvd_imagenet::winograd {
namespace {

#ifdef __AVX512F__
constexpr int kLanes = 16;
constexpr int kRows = 8;
#else
#ifdef __AVX2__
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kRows = 4;
#endif
// Columns that are summed at once, for kRows rows, in as many registers as
// there are, but for a few.
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * kLanes;

typedef float Vector
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector Load(const float* from) {
  return *reinterpret_cast<const Vector*>(from);
}

inline void Store(Vector value, float* to) {
  *reinterpret_cast<Vector*>(to) = value;
}

// --- The matrices, of one column or row: numbers that are `stride` apart. ---

// B^T, from 6 to 6.
struct OfWindow {
  static constexpr int kFrom = kWindowSide, kTo = kWindowSide;

  static inline void Apply(const Vector* d, int stride, Vector* to) {
    const Vector d1 = d[stride], d2 = d[2 * stride], d3 = d[3 * stride],
                 d4 = d[4 * stride];
    const Vector even = d4 - 4 * d2, odd = d3 - 4 * d1;
    const Vector even_of_two = d4 - d2, odd_of_two = 2 * (d3 - d1);
    to[0] = 4 * d[0] - 5 * d2 + d4;
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even_of_two + odd_of_two;
    to[4] = even_of_two - odd_of_two;
    to[5] = 4 * d1 - 5 * d3 + d[5 * stride];
  }
};

// G, from 3 to 6.
struct OfWeights {
  static constexpr int kFrom = 3, kTo = kWindowSide;

  static inline void Apply(const Vector* g, int stride, Vector* to) {
    const Vector g0 = g[0], g1 = g[stride], g2 = g[2 * stride];
    const Vector even = (g0 + g2) * (1.0f / 6), odd = g1 * (1.0f / 6);
    const Vector even_of_two = g0 * (1.0f / 24) + g2 * (1.0f / 6);
    const Vector odd_of_two = g1 * (1.0f / 12);
    to[0] = g0 * 0.25f;
    to[1] = -even - odd;
    to[2] = odd - even;
    to[3] = even_of_two + odd_of_two;
    to[4] = even_of_two - odd_of_two;
    to[5] = g2;
  }
};

// A^T, from 6 to 4.
struct ToTile {
  static constexpr int kFrom = kWindowSide, kTo = kTileSide;

  static inline void Apply(const Vector* m, int stride, Vector* to) {
    const Vector m1 = m[stride], m2 = m[2 * stride], m3 = m[3 * stride],
                 m4 = m[4 * stride];
    const Vector sum = m1 + m2, difference = m1 - m2;
    const Vector sum_of_two = m3 + m4, difference_of_two = m3 - m4;
    to[0] = m[0] + sum + sum_of_two;
    to[1] = difference + 2 * difference_of_two;
    to[2] = sum + 4 * sum_of_two;
    to[3] = difference + 8 * difference_of_two + m[5 * stride];
  }
};

// A, from 4 to 6.
struct OfTile {
  static constexpr int kFrom = kTileSide, kTo = kWindowSide;

  static inline void Apply(const Vector* y, int stride, Vector* to) {
    const Vector y0 = y[0], y1 = y[stride], y2 = y[2 * stride],
                 y3 = y[3 * stride];
    const Vector even = y0 + y2, odd = y1 + y3;
    const Vector even_of_two = y0 + 4 * y2, odd_of_two = 2 * y1 + 8 * y3;
    to[0] = y0;
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even_of_two + odd_of_two;
    to[4] = even_of_two - odd_of_two;
    to[5] = y3;
  }
};

// G^T, from 6 to 3.
struct ToWeights {
  static constexpr int kFrom = kWindowSide, kTo = 3;

  static inline void Apply(const Vector* u, int stride, Vector* to) {
    const Vector u1 = u[stride], u2 = u[2 * stride], u3 = u[3 * stride],
                 u4 = u[4 * stride];
    const Vector sum = (u1 + u2) * (1.0f / 6);
    const Vector difference = (u2 - u1) * (1.0f / 6);
    const Vector sum_of_two = u3 + u4, difference_of_two = u3 - u4;
    to[0] = u[0] * 0.25f - sum + sum_of_two * (1.0f / 24);
    to[1] = difference + difference_of_two * (1.0f / 12);
    to[2] = u[5 * stride] - sum + sum_of_two * (1.0f / 6);
  }
};

// A matrix from both sides: of [kFrom, kFrom] vectors, store(row, column,
// vector) for [kTo, kTo].
template <typename Matrix, typename Storing>
inline void Transform(const Vector* from, Storing store) {
  Vector columns[Matrix::kFrom][Matrix::kTo];
  for (int j = 0; j < Matrix::kFrom; ++j) {
    Matrix::Apply(from + j, Matrix::kFrom, columns[j]);
  }
  for (int i = 0; i < Matrix::kTo; ++i) {
    Vector row[Matrix::kTo];
    Matrix::Apply(&columns[0][i], Matrix::kTo, row);
    for (int j = 0; j < Matrix::kTo; ++j) store(i, j, row[j]);
  }
}

// The place of a vector: of a row, and of columns from `column` on.
inline int64_t Place(Panels of, int64_t row, int64_t column) {
  return column / kPanel * of.rows * kPanel + row * kPanel + column % kPanel;
}

// --- Weights. ---

inline void StoreWeights(Panels of, const Vector* weights, int64_t place,
                         float* points) {
  Transform<OfWeights>(weights, [=](int i, int j, Vector value) {
    Store(value, points + (i * kWindowSide + j) * of.point_stride() + place);
  });
}

void Weights(Panels of, int64_t begin, int64_t end, const float* weights,
             float* points) {
  const auto [channels, filters] = of;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < filters; k += kLanes) {
      Vector window[9];
      for (int i = 0; i < 9; ++i) {
        window[i] = Load(weights + (i * channels + c) * filters + k);
      }
      StoreWeights(of, window, Place(of, c, k), points);
    }
  }
}

void TurnedWeights(Panels of, int64_t begin, int64_t end, const float* weights,
                   float* points) {
  const auto [filters, channels] = of;
  for (int64_t k = begin; k < end; k += kLanes) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      // Some of each, transposed.
      float turned[kLanes][9][kLanes];
      for (int i = 0; i < 9; ++i) {
        for (int in = 0; in < kLanes; ++in) {
          const float* from = weights + ((8 - i) * channels + c + in) * filters;
          for (int out = 0; out < kLanes; ++out) {
            turned[out][i][in] = from[k + out];
          }
        }
      }
      for (int out = 0; out < kLanes; ++out) {
        Vector window[9];
        for (int i = 0; i < 9; ++i) window[i] = Load(turned[out][i]);
        StoreWeights(of, window, Place(of, k + out, c), points);
      }
    }
  }
}

void ByWeights(Panels of, int64_t begin, int64_t end, const float* points,
               float* gradient) {
  const auto [channels, filters] = of;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < filters; k += kLanes) {
      const float* from = points + Place(of, c, k);
      Vector all[kPoints];
      for (int i = 0; i < kPoints; ++i) {
        all[i] = Load(from + i * of.point_stride());
      }
      float* to = gradient + c * filters + k;
      Transform<ToWeights>(all, [=](int i, int j, Vector value) {
        Store(value, to + (i * 3 + j) * channels * filters);
      });
    }
  }
}

// --- Tiles. ---

// What a tile, or its window, has of an image.
struct Part {
  // Where it begins, which may be before the image.
  int64_t start;
  // Rows and columns of it that are in the image, from the first on.
  int top, bottom, left, right;
};

inline int Within(int64_t value, int limit) {
  return value < 0 ? 0 : value > limit ? limit : static_cast<int>(value);
}

// A square of `side` from `before` places before the tile's first one.
inline Part PartOf(const Tiles& tiles, int64_t tile, int side, int before) {
  const int64_t row = tile / tiles.across;
  const int64_t y = row % tiles.down * kTileSide - before;
  const int64_t x = tile % tiles.across * kTileSide - before;
  const int64_t image = row / tiles.down;
  return {(image * tiles.height + y) * tiles.width + x, Within(-y, side),
          Within(tiles.height - y, side), Within(-x, side),
          Within(tiles.width - x, side)};
}

template <typename Matrix, int kBefore>
void Points(const Tiles& tiles, int64_t first, int64_t count,
            const float* images, Panels of, int64_t row, float* points) {
  constexpr int kSide = Matrix::kFrom;
  const int64_t channels = of.columns;
  const int64_t line = tiles.width * channels;
  for (int64_t tile = 0; tile < count; ++tile) {
    const Part part = PartOf(tiles, first + tile, kSide, kBefore);
    const float* from = images + part.start * channels;
    const bool is_inside = part.top == 0 && part.left == 0 &&
                           part.bottom == kSide && part.right == kSide;
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vector square[kSide * kSide];
      if (is_inside) {
        for (int y = 0; y < kSide; ++y) {
          for (int x = 0; x < kSide; ++x) {
            square[y * kSide + x] = Load(from + y * line + x * channels + c);
          }
        }
      } else {
        for (Vector& each : square) each = Vector{};
        for (int y = part.top; y < part.bottom; ++y) {
          for (int x = part.left; x < part.right; ++x) {
            square[y * kSide + x] = Load(from + y * line + x * channels + c);
          }
        }
      }
      float* to = points + Place(of, row + tile, c);
      Transform<Matrix>(square, [=](int i, int j, Vector value) {
        Store(value, to + (i * kWindowSide + j) * of.point_stride());
      });
    }
  }
}

void Outputs(const Tiles& tiles, int64_t first, int64_t count, Panels of,
             int64_t row, const float* points, float* outputs) {
  const int64_t filters = of.columns;
  for (int64_t tile = 0; tile < count; ++tile) {
    const Part part = PartOf(tiles, first + tile, kTileSide, 0);
    for (int64_t k = 0; k < filters; k += kLanes) {
      const float* from = points + Place(of, row + tile, k);
      float* to = outputs + part.start * filters + k;
      Vector all[kPoints];
      for (int i = 0; i < kPoints; ++i) {
        all[i] = Load(from + i * of.point_stride());
      }
      Transform<ToTile>(all, [=, &tiles](int y, int x, Vector value) {
        if (y < part.bottom && x < part.right) {
          Store(value, to + (y * tiles.width + x) * filters);
        }
      });
    }
  }
}

// --- Products. ---

// Of kCount rows and a panel of columns: sums over `chunks` times `length`.
// Numbers of the left lie kRowStride apart from row to row, kDepthStride
// within a chunk, `chunk_stride` from chunk to chunk; those of the right are a
// panel.
template <int kCount, int kRowStride, int kDepthStride, bool kIsAdded>
inline void Product(int64_t chunks, int64_t length, int64_t chunk_stride,
                    const float* left, const float* right, float* made) {
  Vector sums[kCount][kVectors];
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      sums[i][j] = Vector{};
    }
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const float* row = left + chunk * chunk_stride;
#pragma GCC unroll 2
    for (int64_t k = 0; k < length; ++k, row += kDepthStride, right += kPanel) {
      const Vector first = Load(right), second = Load(right + kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) {
        sums[i][0] += row[i * kRowStride] * first;
        sums[i][1] += row[i * kRowStride] * second;
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      float* const to = made + i * kPanel + j * kLanes;
      Store(kIsAdded ? Load(to) + sums[i][j] : sums[i][j], to);
    }
  }
}

void Convolve(int64_t rows, Panels windows, const float* left, Panels weights,
              const float* right, Panels sums, float* made) {
  const int64_t chunks = windows.columns / kPanel;
  const int64_t chunk_stride = windows.rows * kPanel;
  for (int64_t panel = 0; panel < weights.columns / kPanel; ++panel) {
    const float* of = right + panel * weights.rows * kPanel;
    float* to = made + panel * sums.rows * kPanel;
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows) {
      Product<kRows, kPanel, 1, false>(chunks, kPanel, chunk_stride,
                                       left + row * kPanel, of,
                                       to + row * kPanel);
    }
    for (; row < rows; ++row) {
      Product<1, kPanel, 1, false>(chunks, kPanel, chunk_stride,
                                   left + row * kPanel, of, to + row * kPanel);
    }
  }
}

template <bool kIsAdded>
inline void CorrelateOne(int64_t rows, const float* left, const float* right,
                         float* made) {
  for (int c = 0; c < kPanel; c += kRows) {
    Product<kRows, 1, kPanel, kIsAdded>(1, rows, 0, left + c, right,
                                        made + c * kPanel);
  }
}

// Rows that are summed by themselves, as sums of sums round less.
constexpr int64_t kRowsOfSum = 64;

void Correlate(int64_t rows, Panels windows, const float* left,
               Panels upstreams, const float* right, int64_t panel,
               bool is_added, Panels sums, float* made) {
  left += panel * windows.rows * kPanel;
  made += panel * kPanel * kPanel;
  for (int64_t k = 0; k < sums.columns / kPanel; ++k) {
    const float* of = right + k * upstreams.rows * kPanel;
    for (int64_t row = 0; row < rows; row += kRowsOfSum) {
      const int64_t count = row + kRowsOfSum < rows ? kRowsOfSum : rows - row;
      (is_added || row > 0 ? CorrelateOne<true> : CorrelateOne<false>)(
          count, left + row * kPanel, of + row * kPanel,
          made + k * sums.rows * kPanel);
    }
  }
}

static_assert(kChannelsTogether % kPanel == 0);
static_assert(kPanel % kRows == 0);

}  // namespace

const BlockFunctions PROCESSOR = {
    kPanel,   Weights,   TurnedWeights, Points<OfWindow, 1>, Points<OfTile, 0>,
    Convolve, Correlate, Outputs,       ByWeights};

}  // namespace hvd_imagenet::winograd
