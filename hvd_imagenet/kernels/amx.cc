// Convolutions in float32 by AMX, and their gradients. See amx_plan.h for the
// products that they are sums of, and amx_blocks.h for how those are made.
//
// How sums are grouped follows from the shapes alone: the same numbers from any
// number of threads, and for an image from any batch.

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

#include "amx_blocks.h"
#include "amx_plan.h"
#include "convolution.h"
#include "threads.h"

namespace {

using hvd_imagenet::Each;
using hvd_imagenet::kThreadsWorth;
using hvd_imagenet::Threads;
using hvd_imagenet::amx::Channels;
using hvd_imagenet::amx::Grid;
using hvd_imagenet::amx::Half;
using hvd_imagenet::amx::kDepth;
using hvd_imagenet::amx::kParts;
using hvd_imagenet::amx::kSide;
using hvd_imagenet::amx::kTile;
using hvd_imagenet::amx::kTogether;
using hvd_imagenet::amx::Plan;
using hvd_imagenet::amx::Strides;
using hvd_imagenet::amx::Tap;
using hvd_imagenet::amx::Target;
using hvd_imagenet::amx::Tiles;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::errors::Unimplemented;

// What a block has of parts and results: half of a core's own cache, which then
// has room for the weights that go by.
constexpr int64_t kBlockBytes = 1 << 20;
constexpr int64_t kPositionsOfBlock = 512;
// Filters that are summed at once, and products per sum, before a block takes
// the next channels.
constexpr int64_t kFiltersOfBlock = 256;
constexpr int64_t kProductsOfSum = 1152;
// Results that are larger than caches go past them.
constexpr int64_t kCacheBytes = 16 << 20;
// Of gradients by weights: what a position has of both factors' parts, at most;
// and into how many sums of their own, at most, so that threads have something
// to do.
constexpr int64_t kBytesOfPosition = 4 << 10;
constexpr int64_t kSums = 16;

int64_t RoundedUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// --- Memory. ---

// What a thread needs again and again, which then is in its cache already; in
// pages so large that few are enough, where the system gives such.
Half* Scratch(int64_t bytes) {
  constexpr int64_t kPage = 2 << 20;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t size = 0;
  if (size < bytes) {
    size = RoundedUp(bytes, kPage);
    memory.reset(std::aligned_alloc(kPage, size));
    if (memory == nullptr) {
      size = 0;
    } else {
      madvise(memory.get(), size, MADV_HUGEPAGE);
    }
  }
  return static_cast<Half*>(memory.get());
}

template <typename T>
absl::Status Allocate(OpKernelContext* context, int64_t size, T** memory,
                      Tensor* keeper) {
  TF_RETURN_IF_ERROR(
      context->allocate_temp(tensorflow::DataTypeToEnum<T>::value,
                             TensorShape({size}), keeper));
  *memory = keeper->flat<T>().data();
  return absl::OkStatus();
}

// In so many positions, at least one.
int64_t SquaresOf(int64_t positions) {
  return std::max((positions + kTogether - 1) / kTogether, int64_t{1});
}

int64_t LargestOffset(const std::vector<Tap>& taps) {
  int64_t largest = 0;
  for (const Tap& tap : taps) largest = std::max(largest, tap.offset);
  return largest;
}

// --- From images to what is made, or from its gradient to that by images. ---

// Sums over taps of images' grids and their channels.
class Convolution {
 public:
  Convolution(std::vector<Grid> sources, std::vector<Target> targets,
              int64_t channels, int64_t filters)
      : sources_(std::move(sources)),
        targets_(std::move(targets)),
        channels_(channels),
        filters_(filters),
        steps_((channels + kDepth - 1) / kDepth) {
    for (const Target& target : targets_) {
      first_tap_.push_back(taps_);
      taps_ += target.taps.size();
      reach_ = std::max(reach_, LargestOffset(target.taps));
    }
    // Of channels, as many at once as a sum may have.
    const int64_t products = taps_ * steps_ * kDepth / targets_.size();
    chunks_ =
        std::min((products + kProductsOfSum - 1) / kProductsOfSum, steps_);
  }

  // Weights are [window, channels, filters], or turned [window, filters,
  // channels].
  absl::Status Run(OpKernelContext* context, const float* images,
                   const float* weights, bool is_turned, float* made) const {
    Tensor keeper;
    Half* right;
    TF_RETURN_IF_ERROR(Allocate(
        context, taps_ * steps_ * kDepth * filters_ * kParts, &right, &keeper));
    Each(context, filters_ / kSide, kThreadsWorth, [&](int64_t columns) {
      SplitWeights(columns * kSide, weights, is_turned, right);
    });

    const Parting parting = Part(Threads(context));
    std::atomic<int64_t> next = 0;
    std::atomic<bool> has_memory = true;
    Each(context, parting.threads, kThreadsWorth, [&](int64_t) {
      const int64_t of_all = sources_.size() * parting.of_source;
      Half* const left =
          Scratch(of_all * sizeof(Half) +
                  targets_.size() * parting.of_target * sizeof(float));
      if (left == nullptr) {
        has_memory = false;
        return;
      }
      float* const squares = reinterpret_cast<float*>(left + of_all);
      const Tiles tiles;
      int64_t block;
      while ((block = next++) < parting.blocks) {
        MakeBlock(block, parting, images, right, left, squares, made);
      }
    });
    if (has_memory) return absl::OkStatus();
    return tensorflow::errors::ResourceExhausted("no memory for a block");
  }

 private:
  // How positions are parted into blocks, of whole squares.
  struct Parting {
    int64_t threads, blocks;
    // Squares of all positions; positions of the largest block.
    int64_t squares, most;
    // Filters that are summed at once.
    int64_t filters;
    // Numbers of a plane of parts, of all parts of a source, and of the sums of
    // a target.
    int64_t plane, of_source, of_target;
  };

  Parting Part(int64_t threads) const {
    const int64_t targets = targets_.size();
    const int64_t steps = (steps_ + chunks_ - 1) / chunks_;
    const int64_t filters =
        std::min(filters_, std::max(kFiltersOfBlock / targets, kTogether));
    const int64_t bytes_of_left =
        sources_.size() * steps * kDepth * kParts * sizeof(Half);
    const int64_t bytes = bytes_of_left + targets * filters * sizeof(float);
    // Not smaller than what is seen beside.
    const int64_t largest =
        std::max(SquaresOf(reach_),
                 std::min((kBlockBytes - reach_ * bytes_of_left) / bytes,
                          kPositionsOfBlock) /
                     kTogether);
    // As many blocks for every thread.
    const int64_t squares = SquaresOf(targets_[0].grid.positions());
    threads = std::min(squares, threads);
    const int64_t blocks = std::min(
        squares, RoundedUp((squares + largest - 1) / largest, threads));
    const int64_t most = (squares + blocks - 1) / blocks * kTogether;
    // An odd number of lines, which else would compete for the same places of a
    // cache.
    const int64_t plane = ((most + reach_) | 1) * kDepth;
    return {threads, blocks, squares, most, filters, plane,
            steps * kParts * plane, most * filters};
  }

  void MakeBlock(int64_t block, const Parting& parting, const float* images,
                 const Half* right, Half* left, float* squares,
                 float* made) const {
    const int64_t first = parting.squares * block / parting.blocks * kTogether;
    const int64_t count =
        parting.squares * (block + 1) / parting.blocks * kTogether - first;
    for (int64_t f = 0; f < filters_; f += parting.filters) {
      const Channels filters = {f, std::min(parting.filters, filters_ - f)};
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        // Parts of all channels are there from the first filters on.
        for (size_t i = 0; i < sources_.size() && (f == 0 || chunks_ > 1);
             ++i) {
          hvd_imagenet::amx::SplitLeft(
              sources_[i], first, count + reach_, images, ChannelsOf(chunk),
              parting.plane, left + i * parting.of_source);
        }
        for (size_t i = 0; i < targets_.size(); ++i) {
          MultiplyBlock(i, chunk, filters, count, parting, right, left,
                        squares + i * parting.of_target);
        }
      }
      for (size_t i = 0; i < targets_.size(); ++i) {
        const Grid& grid = targets_[i].grid;
        hvd_imagenet::amx::CopyToImages(
            grid, first, count, squares + i * parting.of_target, parting.most,
            filters, grid.bytes() > kCacheBytes, made);
      }
    }
  }

  int64_t FirstStep(int64_t chunk) const { return steps_ * chunk / chunks_; }

  int64_t Steps(int64_t chunk) const {
    return FirstStep(chunk + 1) - FirstStep(chunk);
  }

  Channels ChannelsOf(int64_t chunk) const {
    const int64_t first = FirstStep(chunk) * kDepth;
    return {first, std::min(Steps(chunk) * kDepth, channels_ - first)};
  }

  // The parts of weights lie in the order in which they are taken: [targets,
  // filters / kTogether, chunks, taps, steps].
  int64_t PlaceOfWeights(int64_t target, int64_t filter, int64_t chunk,
                         int64_t tap) const {
    const int64_t taps = targets_[target].taps.size();
    const int64_t steps =
        steps_ * (first_tap_[target] * (filters_ / kTogether) +
                  filter / kTogether * taps) +
        FirstStep(chunk) * taps + tap * Steps(chunk);
    return steps * kParts * 2 * kTile;
  }

  // Of kSide filters.
  void SplitWeights(int64_t filter, const float* weights, bool is_turned,
                    Half* parts) const {
    for (size_t target = 0; target < targets_.size(); ++target) {
      const std::vector<Tap>& taps = targets_[target].taps;
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const auto [channel, count] = ChannelsOf(chunk);
        for (size_t tap = 0; tap < taps.size(); ++tap) {
          Half* const to = parts + PlaceOfWeights(target, filter, chunk, tap) +
                           filter % kTogether / kSide * kTile;
          const float* const from =
              weights + taps[tap].weight * channels_ * filters_;
          if (is_turned) {
            hvd_imagenet::amx::SplitTurnedRight(
                count, channels_, from + filter * channels_ + channel, to);
          } else {
            hvd_imagenet::amx::SplitRight(
                count, filters_, from + channel * filters_ + filter, to);
          }
        }
      }
    }
  }

  // All squares of a block, for a target, of a chunk of the channels.
  void MultiplyBlock(int64_t target, int64_t chunk, Channels filters,
                     int64_t count, const Parting& parting, const Half* right,
                     const Half* left, float* squares) const {
    const std::vector<Tap>& taps = targets_[target].taps;
    const Strides of_left = {kParts * parting.plane, parting.plane,
                             kSide * kDepth};
    const Strides of_right = {kParts * 2 * kTile, 2 * kTile, kTile};
    std::vector<const Half*> places(taps.size());
    for (int64_t f = 0; f < filters.count; f += kTogether) {
      const Half* const of_filters =
          right + PlaceOfWeights(target, filters.first + f, chunk, 0);
      for (int64_t row = 0; row < count; row += kTogether) {
        for (size_t tap = 0; tap < taps.size(); ++tap) {
          places[tap] = left + taps[tap].grid * parting.of_source +
                        (row + taps[tap].offset) * kDepth;
        }
        hvd_imagenet::amx::Multiply(
            taps.size(), Steps(chunk), places.data(), of_left, of_filters,
            of_right, chunk > 0, kTogether,
            squares + f * parting.most + row * kTogether);
      }
    }
  }

  const std::vector<Grid> sources_;
  const std::vector<Target> targets_;
  const int64_t channels_, filters_, steps_;
  std::vector<int64_t> first_tap_;
  int64_t taps_ = 0, reach_ = 0, chunks_ = 1;
};

// --- The gradient by weights. ---

// Products of images with upstreams, summed over positions.
class Correlation {
 public:
  explicit Correlation(const Plan& plan)
      : taps_(plan.Taps()),
        sources_(plan.OfImages()),
        upstream_(plan.OfMade()),
        channels_(plan.channels()),
        filters_(plan.filters()),
        depth_(RoundedUp(channels_, kTogether)),
        reach_(RoundedUp(LargestOffset(taps_), 2)),
        is_even_(taps_.size() == 1),
        group_(depth_),
        filter_group_(filters_) {
    while (BytesOfPosition() > kBytesOfPosition) {
      int64_t& larger =
          BytesOfLeft() >= BytesOfRight() ? group_ : filter_group_;
      if (larger % (2 * kTogether) != 0) break;
      larger /= 2;
    }
    chunk_ = kDepth * std::max(SquaresOf(reach_),
                               (kBlockBytes - reach_ * BytesOfRight()) /
                                   BytesOfPosition() / kDepth);
  }

  absl::Status Run(OpKernelContext* context, const float* images,
                   const float* upstream, float* gradient) const {
    const int64_t groups = depth_ / group_;
    const int64_t items = groups * (filters_ / filter_group_);
    const int64_t chunks = (upstream_.positions() + chunk_ - 1) / chunk_;
    const int64_t sums =
        std::clamp<int64_t>(kSums / items, 1, std::min(chunks, kSums));
    const int64_t threads = std::min(items * sums, Threads(context));
    const int64_t size = taps_.size() * depth_ * filters_;
    Tensor keeper;
    float* all_sums;
    TF_RETURN_IF_ERROR(Allocate(context, sums * size, &all_sums, &keeper));

    std::atomic<int64_t> next = 0;
    std::atomic<bool> has_memory = true;
    Each(context, threads, kThreadsWorth, [&](int64_t) {
      const int64_t of_all = sources_.size() * OfSource();
      Half* const left = Scratch((of_all + OfUpstream()) * sizeof(Half));
      if (left == nullptr) {
        has_memory = false;
        return;
      }
      Half* const right = left + of_all;
      const Tiles tiles;
      int64_t number;
      while ((number = next++) < items * sums) {
        const int64_t sum = number / items;
        const int64_t channel = number % groups * group_;
        const Channels of_left = {channel,
                                  std::min(group_, channels_ - channel)};
        const Channels of_right = {number % items / groups * filter_group_,
                                   filter_group_};
        float* const to =
            all_sums + sum * size + channel * filters_ + of_right.first;
        const int64_t begin = chunks * sum / sums;
        const int64_t end = chunks * (sum + 1) / sums;
        for (int64_t at = begin; at < end; ++at) {
          AddChunk(at * chunk_, at > begin, images, of_left, left, upstream,
                   of_right, right, to);
        }
      }
    });
    if (!has_memory) {
      return tensorflow::errors::ResourceExhausted("no memory for a block");
    }

    Each(context, taps_.size() * channels_, kThreadsWorth, [&](int64_t row) {
      float* const to = gradient + row * filters_;
      const float* const from =
          all_sums + (row / channels_ * depth_ + row % channels_) * filters_;
      std::copy_n(from, filters_, to);
      for (int64_t sum = 1; sum < sums; ++sum) {
        for (int64_t i = 0; i < filters_; ++i) to[i] += from[sum * size + i];
      }
    });
    return absl::OkStatus();
  }

 private:
  int64_t Pairings() const { return is_even_ ? 1 : 2; }
  int64_t BytesOfLeft() const { return group_ * kParts * sizeof(Half); }
  int64_t BytesOfRight() const {
    return filter_group_ * kParts * Pairings() * sizeof(Half);
  }
  int64_t BytesOfPosition() const {
    return sources_.size() * BytesOfLeft() + BytesOfRight();
  }

  // Numbers of the parts of a source; of a plane of the upstream's, of all
  // planes of kSide filters, and of all.
  int64_t OfSource() const { return group_ * kParts * chunk_; }
  int64_t Plane() const { return ((chunk_ + reach_) / 2 + 1) * kDepth; }
  int64_t OfColumns() const { return kParts * Pairings() * Plane(); }
  int64_t OfUpstream() const { return filter_group_ / kSide * OfColumns(); }

  // Adds the products of positions of the images from `first` on.
  void AddChunk(int64_t first, bool is_added, const float* images,
                Channels of_left, Half* left, const float* upstream,
                Channels of_right, Half* right, float* to) const {
    // Of the images; those of what is made reach further back. There are no
    // pixels beyond the last one.
    const int64_t count =
        std::min(chunk_, RoundedUp(upstream_.positions() - first, kDepth));
    const int64_t steps = count / kDepth;
    for (size_t i = 0; i < sources_.size(); ++i) {
      for (int64_t step = 0; step < steps; ++step) {
        hvd_imagenet::amx::SplitStepOfLeft(
            sources_[i], first + step * kDepth, images, of_left, steps,
            left + i * OfSource() + step * kParts * kTile);
      }
    }
    const int64_t plane = Plane();
    hvd_imagenet::amx::SplitPairs(upstream_, first - reach_, count + reach_,
                                  is_even_, upstream, of_right, plane, right);
    const Strides left_strides = {kParts * kTile, kTile,
                                  steps * kParts * kTile};
    const Strides right_strides = {kTile, Pairings() * plane, OfColumns()};
    const int64_t channels = RoundedUp(of_left.count, kTogether);
    for (int64_t f = 0; f < of_right.count; f += kTogether) {
      for (int64_t c = 0; c < channels; c += kTogether) {
        for (const Tap& tap : taps_) {
          const int64_t pair = reach_ - tap.offset;
          const Half* const of_channels =
              left + tap.grid * OfSource() + c / kSide * left_strides.outer;
          hvd_imagenet::amx::Multiply(
              1, steps, &of_channels, left_strides,
              right + f / kSide * OfColumns() + pair % 2 * plane +
                  pair / 2 * kDepth,
              right_strides, is_added, filters_,
              to + (tap.weight * depth_ + c) * filters_ + f);
        }
      }
    }
  }

  const std::vector<Tap> taps_;
  const std::vector<Grid> sources_;
  const Grid upstream_;
  const int64_t channels_, filters_;
  // Channels filled up to whole squares.
  const int64_t depth_;
  // How far back products reach, even.
  const int64_t reach_;
  // Whether they take the positions as they come, in pairs.
  const bool is_even_;
  // Channels and filters of an item, and positions that it takes at once.
  int64_t group_, filter_group_, chunk_;
};

// --- The operations. ---

class Amx : public OpKernel {
 public:
  explicit Amx(OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES(construction, hvd_imagenet::amx::Permit(),
                Unimplemented("the system does not let this process use AMX"));
    OP_REQUIRES_OK(construction, construction->GetAttr("step", &step_));
    OP_REQUIRES_OK(construction, construction->GetAttr("zeros", &zeros_));
  }

  void Compute(OpKernelContext* context) override {
    for (int i = 0; i < 2; ++i) {
      OP_REQUIRES(context, context->input(i).dims() == 4,
                  InvalidArgument("inputs must have rank 4, not ",
                                  context->input(i).shape().DebugString()));
    }
    const auto [images, weights] =
        Shapes(context->input(0).shape(), context->input(1).shape());
    OP_REQUIRES_OK(context, Plan::Check(images, weights, step_, zeros_));
    OP_REQUIRES_OK(context,
                   Make(context, Plan(images, weights, step_, zeros_)));
  }

 protected:
  // Of images and weights, from those of the inputs.
  virtual std::pair<TensorShape, TensorShape> Shapes(
      const TensorShape& first, const TensorShape& second) const = 0;
  virtual absl::Status Make(OpKernelContext* context, const Plan& plan) = 0;

 private:
  int64_t step_, zeros_;
};

const float* Input(OpKernelContext* context, int number) {
  return context->input(number).flat<float>().data();
}

class Forwards : public Amx {
 public:
  using Amx::Amx;

 protected:
  std::pair<TensorShape, TensorShape> Shapes(
      const TensorShape& images, const TensorShape& weights) const override {
    return {images, weights};
  }

  absl::Status Make(OpKernelContext* context, const Plan& plan) override {
    Tensor* made;
    TF_RETURN_IF_ERROR(context->allocate_output(0, plan.made(), &made));
    if (made->NumElements() == 0) return absl::OkStatus();
    const Convolution convolution(plan.OfImages(),
                                  {{plan.OfMade(), plan.Taps()}},
                                  plan.channels(), plan.filters());
    return convolution.Run(context, Input(context, 0), Input(context, 1), false,
                           made->flat<float>().data());
  }
};

class ByImages : public Amx {
 public:
  explicit ByImages(OpKernelConstruction* construction) : Amx(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("height", &height_));
    OP_REQUIRES_OK(construction, construction->GetAttr("width", &width_));
  }

 protected:
  std::pair<TensorShape, TensorShape> Shapes(
      const TensorShape& upstream, const TensorShape& weights) const override {
    return {{upstream.dim_size(0), height_, width_, weights.dim_size(2)},
            weights};
  }

  absl::Status Make(OpKernelContext* context, const Plan& plan) override {
    if (plan.is_merged()) {
      return InvalidArgument("there is no gradient by images of few channels");
    }
    TF_RETURN_IF_ERROR(
        hvd_imagenet::CheckUpstream(context->input(0), plan.made()));
    Tensor* gradient;
    TF_RETURN_IF_ERROR(context->allocate_output(0, plan.images(), &gradient));
    if (gradient->NumElements() == 0) return absl::OkStatus();
    float* const to = gradient->flat<float>().data();
    if (plan.skips_pixels()) {
      const int64_t images = gradient->dim_size(0);
      const int64_t size = gradient->NumElements() / images;
      Each(context, images, kThreadsWorth,
           [&](int64_t image) { std::fill_n(to + image * size, size, 0.0f); });
    }
    const Convolution convolution({plan.OfUpstream()}, plan.ByImages(),
                                  plan.filters(), plan.channels());
    return convolution.Run(context, Input(context, 0), Input(context, 1), true,
                           to);
  }

 private:
  int64_t height_, width_;
};

class ByWeights : public Amx {
 public:
  explicit ByWeights(OpKernelConstruction* construction) : Amx(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("side", &side_));
  }

 protected:
  std::pair<TensorShape, TensorShape> Shapes(
      const TensorShape& images, const TensorShape& upstream) const override {
    return {images,
            {side_, side_, images.dim_size(3), upstream.dim_size(3)}};
  }

  absl::Status Make(OpKernelContext* context, const Plan& plan) override {
    TF_RETURN_IF_ERROR(
        hvd_imagenet::CheckUpstream(context->input(1), plan.made()));
    Tensor* gradient;
    TF_RETURN_IF_ERROR(context->allocate_output(0, plan.weights(), &gradient));
    if (plan.made().num_elements() == 0) {
      gradient->flat<float>().setZero();
      return absl::OkStatus();
    }
    return Correlation(plan).Run(context, Input(context, 0), Input(context, 1),
                                 gradient->flat<float>().data());
  }

 private:
  int64_t side_;
};

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status ShapeForwards(InferenceContext* context) {
  int64_t step, zeros;
  TF_RETURN_IF_ERROR(context->GetAttr("step", &step));
  TF_RETURN_IF_ERROR(context->GetAttr("zeros", &zeros));
  ShapeHandle images, weights;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &images));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &weights));
  DimensionHandle sides[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t size = context->Value(context->Dim(images, i + 1));
    const int64_t window = context->Value(context->Dim(weights, i));
    const bool is_known = size >= 0 && window >= 0 && step > 0 &&
                          size + 2 * zeros >= window;
    sides[i] = is_known
                   ? context->MakeDim((size + 2 * zeros - window) / step + 1)
                   : context->UnknownDim();
  }
  context->set_output(
      0, context->MakeShape({context->Dim(images, 0), sides[0], sides[1],
                             context->Dim(weights, 3)}));
  return absl::OkStatus();
}

absl::Status ShapeByImages(InferenceContext* context) {
  int64_t height, width;
  TF_RETURN_IF_ERROR(context->GetAttr("height", &height));
  TF_RETURN_IF_ERROR(context->GetAttr("width", &width));
  ShapeHandle upstream, weights;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &upstream));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &weights));
  context->set_output(
      0, context->MakeShape({context->Dim(upstream, 0), height, width,
                             context->Dim(weights, 2)}));
  return absl::OkStatus();
}

absl::Status ShapeByWeights(InferenceContext* context) {
  int64_t side;
  TF_RETURN_IF_ERROR(context->GetAttr("side", &side));
  return hvd_imagenet::ByWeightsShape(context, side);
}

REGISTER_OP("HvdImagenetAmx")
    .Input("images: float")
    .Input("weights: float")
    .Output("outputs: float")
    .Attr("step: int")
    .Attr("zeros: int")
    .SetShapeFn(ShapeForwards)
    .Doc(R"doc(
Convolves images.

images: [batch, height, width, channels].
weights: [side, side, channels, filters].
outputs: [batch, rows, columns, filters].
step: from window to window, 1 or 2.
zeros: rows and columns of zeros on each side of an image.
)doc");

REGISTER_OP("HvdImagenetAmxByImages")
    .Input("upstream: float")
    .Input("weights: float")
    .Output("gradient: float")
    .Attr("step: int")
    .Attr("zeros: int")
    .Attr("height: int")
    .Attr("width: int")
    .SetShapeFn(ShapeByImages)
    .Doc(R"doc(
The gradient of HvdImagenetAmx by its images, of that height and width.

upstream: [batch, rows, columns, filters], the gradient by the outputs.
weights: [side, side, channels, filters].
gradient: [batch, height, width, channels].
)doc");

REGISTER_OP("HvdImagenetAmxByWeights")
    .Input("images: float")
    .Input("upstream: float")
    .Output("gradient: float")
    .Attr("step: int")
    .Attr("zeros: int")
    .Attr("side: int")
    .SetShapeFn(ShapeByWeights)
    .Doc(R"doc(
The gradient of HvdImagenetAmx by its weights, of that side.

images: [batch, height, width, channels].
upstream: [batch, rows, columns, filters], the gradient by the outputs.
gradient: [side, side, channels, filters].
)doc");

#define REGISTER(name, kernel) \
  REGISTER_KERNEL_BUILDER(Name(name).Device(tensorflow::DEVICE_CPU), kernel);
REGISTER("HvdImagenetAmx", Forwards)
REGISTER("HvdImagenetAmxByImages", ByImages)
REGISTER("HvdImagenetAmxByWeights", ByWeights)
#undef REGISTER

}  // namespace

// Whether the system lets this process use AMX; asked by amx.py.
extern "C" bool HvdImagenetPermitAmx() { return hvd_imagenet::amx::Permit(); }
