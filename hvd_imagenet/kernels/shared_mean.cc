// Means over the processes of one host, through memory that they share.
//
// A ring allreduce between processes of one host copies every number into its
// buffer, through the kernel's sockets, and out again. Here each rank writes
// what others need where they can read it, a chunk at a time, so that it stays
// in the caches; each sums its own part of the chunk, for all; and all read the
// sums of the others. Sums are taken in the order of the ranks: the same bits
// on all of them.
//
// The memory is a file, of which every rank has a descriptor of its own and
// holds a lock on the byte that is its number (fcntl's F_OFD_SETLK) for as long
// as it lives. Ranks meet twice per chunk; who waits for one that has gone, or
// that does not come, gets an error that names it.

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

#include "processors.h"
#include "shared_mean_blocks.h"

namespace {

using hvd_imagenet::Contributions;
using hvd_imagenet::FormatFunctions;
using hvd_imagenet::MeanFunctions;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

// What processors fetch together.
constexpr int64_t kLineBytes = 128;
constexpr int64_t kPageBytes = 4096;
// Of all ranks' chunks together about what caches hold; more meetings cost more
// than misses.
constexpr int64_t kMostChunkBytes = 2 << 20;
// Sums of a few numbers travel with the first chunk.
constexpr int kMostNumbers = 16;
// Looks before who waits lets others have the core; some tens of microseconds.
constexpr int kLooks = 1000;

const FormatFunctions& Functions() {
#ifdef __x86_64__
  if (hvd_imagenet::HasAvx2()) return hvd_imagenet::shared_mean::kAvx2;
#endif
  return hvd_imagenet::shared_mean::kGeneric;
}

// What a rank tells the others.
struct alignas(kLineBytes) Place {
  // Meetings that it has come to, modulo 2^32.
  std::atomic<uint32_t> meetings;
  // Whether it has given up, and so cannot take part any more.
  std::atomic<uint32_t> has_failed;
  // Numbers of all its gradients of the exchange that has begun.
  int64_t elements;
  float numbers[kMostNumbers];
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// The memory that ranks share: their places, a chunk of each, and the means.
class Segment {
 public:
  Segment() = default;
  Segment(const Segment&) = delete;
  ~Segment() {
    if (memory_ != nullptr) munmap(memory_, length_);
  }

  absl::Status Map(int descriptor, int ranks) {
    struct stat file;
    if (fstat(descriptor, &file) != 0) return Error("examined");
    const int64_t places = RoundUp(ranks * sizeof(Place), kPageBytes);
    const int64_t room = (file.st_size - places) / (ranks + 1);
    chunk_bytes = std::min(room, kMostChunkBytes) / kPageBytes * kPageBytes;
    if (chunk_bytes <= 0) {
      return InvalidArgument(file.st_size, " bytes are too few for ", ranks,
                             " ranks");
    }
    void* memory = mmap(nullptr, file.st_size, PROT_READ | PROT_WRITE,
                        MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) return Error("mapped");
    memory_ = static_cast<char*>(memory);
    length_ = file.st_size;
    chunks = memory_ + places;
    means = chunks + ranks * chunk_bytes;
    return absl::OkStatus();
  }

  Place& place(int rank) const {
    return reinterpret_cast<Place*>(memory_)[rank];
  }

  int64_t chunk_bytes;
  char* chunks;
  char* means;

 private:
  static absl::Status Error(const char* what) {
    return tensorflow::errors::Internal(
        "the shared memory cannot be ", what, ": ", std::strerror(errno));
  }
  static int64_t RoundUp(int64_t value, int64_t to) {
    return (value + to - 1) / to * to;
  }

  char* memory_ = nullptr;
  int64_t length_ = 0;
};

// The gradients of a step, one behind the other.
class Pieces {
 public:
  Pieces(OpKernelContext* context, int count) : starts_(count + 1) {
    for (int i = 0; i < count; ++i) {
      starts_[i + 1] = starts_[i] + context->input(i).NumElements();
    }
  }

  int64_t elements() const { return starts_.back(); }

  // Calls visit(gradient, place in it, place among all, count) for what there
  // is from `begin` to `end`.
  template <typename Visit>
  void Each(int64_t begin, int64_t end, const Visit& visit) const {
    size_t i = std::upper_bound(starts_.begin(), starts_.end(), begin) -
               starts_.begin() - 1;
    for (; begin < end; ++i) {
      const int64_t stop = std::min(end, starts_[i + 1]);
      if (stop > begin) visit(i, begin - starts_[i], begin, stop - begin);
      begin = stop;
    }
  }

 private:
  std::vector<int64_t> starts_;
};

class SharedMean : public OpKernel {
 public:
  explicit SharedMean(OpKernelConstruction* construction)
      : OpKernel(construction) {
    std::string format;
    OP_REQUIRES_OK(construction, construction->GetAttr("count", &count_));
    OP_REQUIRES_OK(construction, construction->GetAttr("format", &format));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("descriptor", &descriptor_));
    OP_REQUIRES_OK(construction, construction->GetAttr("rank", &rank_));
    OP_REQUIRES_OK(construction, construction->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("timeout_seconds", &timeout_seconds_));
    OP_REQUIRES(construction, 0 <= rank_ && rank_ < ranks_,
                InvalidArgument("rank ", rank_, " is not one of ", ranks_));
    OP_REQUIRES_OK(construction, segment_.Map(descriptor_, ranks_));
    const FormatFunctions& functions = Functions();
    functions_ = format == "float16"    ? functions.of_float16
                 : format == "bfloat16" ? functions.of_bfloat16
                                        : functions.of_float32;
    bytes_ = format == "float32" ? 4 : 2;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& numbers = context->input(count_);
    OP_REQUIRES(context, numbers.NumElements() <= kMostNumbers,
                InvalidArgument(numbers.NumElements(),
                                " numbers are more than ", kMostNumbers));
    const Pieces pieces(context, count_);
    std::vector<const float*> from(count_);
    std::vector<float*> to(count_);
    for (int i = 0; i < count_; ++i) {
      from[i] = context->input(i).flat<float>().data();
      Tensor* mean;
      // What is read of it is read before it is written.
      OP_REQUIRES_OK(context,
                     context->forward_input_or_allocate_output(
                         {i}, i, context->input(i).shape(), &mean));
      to[i] = mean->flat<float>().data();
    }
    Tensor* sums;
    OP_REQUIRES_OK(context, context->allocate_output(count_, numbers.shape(),
                                                     &sums));
    const absl::Status status = Exchange(context, pieces, from, to, sums);
    if (!status.ok()) {
      // The others would wait for this one.
      Place& own = segment_.place(rank_);
      own.has_failed.store(1);
      Wake(own);
    }
    OP_REQUIRES_OK(context, status);
  }

 private:
  absl::Status Exchange(OpKernelContext* context, const Pieces& pieces,
                        const std::vector<const float*>& from,
                        const std::vector<float*>& to, Tensor* sums) {
    const Tensor& numbers = context->input(count_);
    Place& own = segment_.place(rank_);
    own.elements = pieces.elements();
    std::copy_n(numbers.flat<float>().data(), numbers.NumElements(),
                own.numbers);
    const int64_t size = segment_.chunk_bytes / bytes_;
    int64_t first = 0;
    // Once also where there is nothing but numbers.
    do {
      const int64_t end = std::min(first + size, pieces.elements());
      const int64_t part = PartSize(end - first);
      const int64_t begin = std::min(first + rank_ * part, end);
      const int64_t stop = std::min(begin + part, end);
      char* const chunk = segment_.chunks + rank_ * segment_.chunk_bytes;
      const auto write = [&](int i, int64_t at, int64_t place, int64_t n) {
        functions_.write(n, from[i] + at, chunk + (place - first) * bytes_);
      };
      InParallel(context, pieces, first, begin, write);
      InParallel(context, pieces, stop, end, write);
      TF_RETURN_IF_ERROR(Meet(context));
      if (first == 0) {
        TF_RETURN_IF_ERROR(CheckSizes());
        Sum(sums);
      }
      const auto mean = [&](int i, int64_t at, int64_t place, int64_t n) {
        const int64_t offset = (place - first) * bytes_;
        const Contributions of = {from[i] + at, segment_.chunks + offset,
                                  segment_.chunk_bytes, rank_, ranks_};
        functions_.mean(n, of, segment_.means + offset, to[i] + at);
      };
      InParallel(context, pieces, begin, stop, mean);
      TF_RETURN_IF_ERROR(Meet(context));
      const auto read = [&](int i, int64_t at, int64_t place, int64_t n) {
        const int64_t offset = (place - first) * bytes_;
        functions_.read(n, segment_.means + offset, to[i] + at);
      };
      InParallel(context, pieces, first, begin, read);
      InParallel(context, pieces, stop, end, read);
      first = end;
    } while (first < pieces.elements());
    return absl::OkStatus();
  }

  // Of a chunk what each rank sums: whole lines, which no other rank writes.
  int64_t PartSize(int64_t elements) const {
    const int64_t line = kLineBytes / bytes_;
    return ((elements + ranks_ - 1) / ranks_ + line - 1) / line * line;
  }

  // As Pieces::Each, in parts, on TensorFlow's threads.
  template <typename Visit>
  static void InParallel(OpKernelContext* context, const Pieces& pieces,
                         int64_t begin, int64_t end, const Visit& visit) {
    if (begin >= end) return;
    constexpr int64_t kAtOnce = 16384;
    constexpr int64_t kNanoseconds = 10'000;  // For as many, about.
    const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
    const int64_t blocks = (end - begin + kAtOnce - 1) / kAtOnce;
    tensorflow::Shard(threads.num_threads, threads.workers, blocks,
                      kNanoseconds, [&](int64_t block, int64_t last) {
                        pieces.Each(begin + block * kAtOnce,
                                    std::min(begin + last * kAtOnce, end),
                                    visit);
                      });
  }

  absl::Status CheckSizes() const {
    const int64_t own = segment_.place(rank_).elements;
    for (int rank = 0; rank < ranks_; ++rank) {
      const int64_t other = segment_.place(rank).elements;
      if (other != own) {
        return InvalidArgument("rank ", rank, " averages ", other,
                               " numbers, and rank ", rank_, " ", own);
      }
    }
    return absl::OkStatus();
  }

  void Sum(Tensor* sums) const {
    float* const to = sums->flat<float>().data();
    std::fill_n(to, sums->NumElements(), 0.0f);
    for (int rank = 0; rank < ranks_; ++rank) {
      for (int64_t i = 0; i < sums->NumElements(); ++i) {
        to[i] += segment_.place(rank).numbers[i];
      }
    }
  }

  // Returns when all ranks have called it as often.
  absl::Status Meet(OpKernelContext* context) const {
    Place& own = segment_.place(rank_);
    // Only this rank writes it.
    const uint32_t meetings =
        own.meetings.load(std::memory_order_relaxed) + 1;
    own.meetings.store(meetings, std::memory_order_release);
    Wake(own);
    for (int rank = 0; rank < ranks_; ++rank) {
      if (rank != rank_) TF_RETURN_IF_ERROR(WaitFor(rank, meetings, context));
    }
    return absl::OkStatus();
  }

  absl::Status WaitFor(int rank, uint32_t meetings,
                       OpKernelContext* context) const {
    Place& place = segment_.place(rank);
    const auto has_come = [&] {
      const uint32_t there = place.meetings.load(std::memory_order_acquire);
      return static_cast<int32_t>(there - meetings) >= 0;
    };
    for (int look = 0; look < kLooks; ++look) {
      if (has_come()) return absl::OkStatus();
#ifdef __x86_64__
      __builtin_ia32_pause();
#endif
    }
    const auto begun = std::chrono::steady_clock::now();
    while (true) {
      const uint32_t seen = place.meetings.load(std::memory_order_acquire);
      // Before it is asked whether others come: one that has gone may have been
      // here before.
      const bool is_gone = IsGone(rank);
      const bool has_failed = place.has_failed.load() != 0;
      if (has_come()) return absl::OkStatus();
      if (is_gone || has_failed) {
        // Who gave up knows whom it waited for.
        return tensorflow::errors::Aborted(
            "rank ", rank, is_gone ? " has gone" : " has given up",
            " while gradients were exchanged");
      }
      auto* cancellation = context->cancellation_manager();
      if (cancellation != nullptr && cancellation->IsCancelled()) {
        return tensorflow::errors::Cancelled("the exchange was cancelled");
      }
      if (std::chrono::steady_clock::now() - begun >
          std::chrono::duration<double>(timeout_seconds_)) {
        return tensorflow::errors::DeadlineExceeded(
            "rank ", rank, " has not come to exchange gradients for ",
            timeout_seconds_, " seconds");
      }
      constexpr timespec kSecond = {1, 0};
      syscall(SYS_futex, &place.meetings, FUTEX_WAIT, seen, &kSecond, nullptr,
              0);
    }
  }

  static void Wake(Place& place) {
    syscall(SYS_futex, &place.meetings, FUTEX_WAKE, INT_MAX, nullptr, nullptr,
            0);
  }

  // Whether nobody holds the lock of a rank.
  bool IsGone(int rank) const {
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = rank;
    lock.l_len = 1;
    return fcntl(descriptor_, F_OFD_GETLK, &lock) == 0 &&
           lock.l_type == F_UNLCK;
  }

  int count_;
  int descriptor_;
  int rank_;
  int ranks_;
  float timeout_seconds_;
  int64_t bytes_;
  MeanFunctions functions_;
  Segment segment_;
};

using tensorflow::shape_inference::InferenceContext;

REGISTER_OP("HvdImagenetSharedMean")
    .Input("gradients: count * float")
    .Input("numbers: float")
    .Output("means: count * float")
    .Output("sums: float")
    .Attr("count: int >= 0")
    .Attr("format: {'float32', 'float16', 'bfloat16'}")
    .Attr("descriptor: int")
    .Attr("rank: int")
    .Attr("ranks: int >= 1")
    .Attr("timeout_seconds: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* context) {
      for (int i = 0; i < context->num_outputs(); ++i) {
        context->set_output(i, context->input(i));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
Means of gradients, and sums of a few numbers, over the processes of a host.

gradients: of any shapes, the same on all ranks.
numbers: at most 16.
format: what others read of a gradient, and of its mean.
descriptor: of a file in memory, zeros before it is used, of which this rank has
  locked the byte of its number; it must stay open.
rank, ranks: which one this is, of how many.
timeout_seconds: for how long to wait for another rank.
)doc");

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetSharedMean").Device(tensorflow::DEVICE_CPU), SharedMean);

}  // namespace
