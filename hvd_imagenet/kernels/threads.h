// Work on the threads that TensorFlow has for operations.

#ifndef HVD_IMAGENET_KERNELS_THREADS_H_
#define HVD_IMAGENET_KERNELS_THREADS_H_

#include <cstdint>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace hvd_imagenet {

// What is worth a thread of its own, in nanoseconds: enough for any.
constexpr int64_t kThreadsWorth = 1'000'000;

inline int64_t Threads(tensorflow::OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->num_threads;
}

// Calls work(number) for numbers below `count`, each of which takes about so
// many nanoseconds.
template <typename Work>
void Each(tensorflow::OpKernelContext* context, int64_t count,
          int64_t nanoseconds, const Work& work) {
  const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(threads.num_threads, threads.workers, count, nanoseconds,
                    [&work](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) work(i);
                    });
}

}  // namespace hvd_imagenet

#endif
