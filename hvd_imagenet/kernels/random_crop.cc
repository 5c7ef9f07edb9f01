// From encoded images to a batch of training images, in one operation.
//
// It does what hvd_imagenet/preprocessing.py does with TensorFlow's own
// operations, to the bit: draws the window, decodes that part of the JPEG,
// resizes it bilinearly, rounds, and mirrors. It takes less time as there is
// one operation where there were eighty per image, as rows are resized while
// they come out of the decoder, and as images are made where the batch has them.
//
// libjpeg-turbo is Pillow's, opened at run time: TensorFlow has one, but keeps
// its names to itself.

#include <dlfcn.h>
#include <setjmp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// After stdio, which it needs.
#include "external/libjpeg_turbo/jpeglib.h"
#include "external/libjpeg_turbo/jerror.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/lib/random/philox_random.h"
#include "tensorflow/core/lib/random/random_distributions_utils.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/threadpool.h"

namespace {

using tensorflow::AsyncOpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

constexpr int kChannels = 3;
constexpr int kTries = 10;
constexpr int kUniformsPerTry = 5;
// As TensorFlow: nothing larger is an image.
constexpr int64_t kPixelsMax = int64_t{1} << 29;

// --- libjpeg, by its names. ---

struct Library {
  decltype(&jpeg_std_error) std_error;
  decltype(&jpeg_CreateDecompress) create;
  decltype(&jpeg_read_header) read_header;
  decltype(&jpeg_resync_to_restart) resync_to_restart;
  decltype(&jpeg_start_decompress) start;
  decltype(&jpeg_crop_scanline) crop_scanline;
  decltype(&jpeg_skip_scanlines) skip_scanlines;
  decltype(&jpeg_read_scanlines) read_scanlines;
  decltype(&jpeg_destroy_decompress) destroy;
};

// Opens the library; gives an error's text, or nothing.
std::string Open(const std::string& path, Library* found) {
  // Never closed: kernels live as long as the process.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  std::string missing;
  auto find = [&](auto* function, const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr) missing = path + " has no " + name;
    *function = reinterpret_cast<std::decay_t<decltype(*function)>>(symbol);
  };
  find(&found->std_error, "jpeg_std_error");
  find(&found->create, "jpeg_CreateDecompress");
  find(&found->read_header, "jpeg_read_header");
  find(&found->resync_to_restart, "jpeg_resync_to_restart");
  find(&found->start, "jpeg_start_decompress");
  find(&found->crop_scanline, "jpeg_crop_scanline");
  find(&found->skip_scanlines, "jpeg_skip_scanlines");
  find(&found->read_scanlines, "jpeg_read_scanlines");
  find(&found->destroy, "jpeg_destroy_decompress");
  return missing;
}

// --- Random numbers. ---

// As tf.random.stateless_uniform with Philox gives them (Salmon et al. 2011,
// Parallel random numbers: as easy as 1, 2, 3).
class Uniforms {
 public:
  explicit Uniforms(const int64_t* seed) {
    using tensorflow::random::PhiloxRandom;
    PhiloxRandom::ResultType counter;
    for (int i = 0; i < 2; ++i) {
      counter[2 * i] = static_cast<uint32_t>(seed[i]);
      counter[2 * i + 1] = static_cast<uint32_t>(uint64_t(seed[i]) >> 32);
    }
    // TensorFlow mixes seeds so, that similar ones make different numbers.
    PhiloxRandom::Key key;
    key[0] = 0x3ec8f720;
    key[1] = 0x02461e29;
    const auto mixed = PhiloxRandom(counter, key)();
    key[0] = mixed[0];
    key[1] = mixed[1];
    counter[0] = counter[1] = 0;
    counter[2] = mixed[2];
    counter[3] = mixed[3];
    PhiloxRandom random(counter, key);
    for (int i = 0; i < kBlocks; ++i) {
      const auto block = random();
      for (int j = 0; j < kBlock; ++j) {
        numbers_[kBlock * i + j] = tsl::random::Uint32ToFloat(block[j]);
      }
    }
  }

  const float* tries() const { return numbers_; }
  float flip() const { return numbers_[kTries * kUniformsPerTry]; }

 private:
  static constexpr int kBlock = 4;
  static constexpr int kBlocks = kTries * kUniformsPerTry / kBlock + 1;
  float numbers_[kBlocks * kBlock];
};

// --- The window. ---

struct Window {
  int top, left, height, width;
};

struct Limits {
  float area_min, area_span, aspect_min, aspect_span;
};

// `preprocessing.random_window`, in the same arithmetic of 32 bits.
Window Draw(int height, int width, const float* tries, const Limits& limits) {
  const float whole = static_cast<float>(height * width);
  for (int i = 0; i < kTries; ++i, tries += kUniformsPerTry) {
    const float area = whole * (limits.area_min + limits.area_span * tries[0]);
    float aspect = limits.aspect_min + limits.aspect_span * tries[1];
    if (tries[2] < 0.5f) aspect = 1.0f / aspect;
    const int high = static_cast<int>(std::nearbyint(std::sqrt(area / aspect)));
    const int wide = static_cast<int>(std::nearbyint(std::sqrt(area * aspect)));
    if (high <= 0 || wide <= 0 || high > height || wide > width) continue;
    const int top = tries[3] * static_cast<float>(height - high + 1);
    const int left = tries[4] * static_cast<float>(width - wide + 1);
    return {top, left, high, wide};
  }
  const int side = std::min(height, width);
  return {(height - side) / 2, (width - side) / 2, side, side};
}

// --- Bilinear resizing, row by row. ---

using Float4 = float __attribute__((vector_size(16)));

struct Step {
  int lower;  // -1 for what lies before the first one.
  float share;
};

// TensorFlow's ResizeBilinear with half_pixel_centers.
void Plan(int from, int to, std::vector<Step>* steps) {
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  steps->resize(to);
  for (int i = 0; i < to; ++i) {
    const float place = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
    const float below = std::floor(place);
    (*steps)[i] = {static_cast<int>(below), place - below};
  }
}

// Makes an image of the rows of a window, which it takes one after the other.
class Resizer {
 public:
  void Begin(const Window& window, int size, bool mirror, uint8_t* image) {
    height_ = window.height;
    width_ = window.width;
    size_ = size;
    image_ = image;
    taken_ = written_ = 0;
    Plan(height_, size, &rows_);
    Plan(width_, size, &columns_);
    if (mirror) std::reverse(columns_.begin(), columns_.end());
    // A pixel more at either edge, and one number, as four are read for three.
    source_.resize(kChannels * (width_ + 2) + 1);
    above_.resize(kChannels * size + 1);
    below_.resize(kChannels * size + 1);
  }

  void Take(const uint8_t* row) {
    const int number = taken_++;
    // Of a large window some rows are between those that count.
    if (written_ == size_ || rows_[written_].lower > number) return;
    std::swap(above_, below_);
    Across(row);
    const bool is_last = number == height_ - 1;
    for (; written_ < size_ && (rows_[written_].lower < number || is_last);
         ++written_) {
      const Step& step = rows_[written_];
      const bool is_between = number > 0 && step.lower == number - 1;
      Down(is_between ? above_.data() : below_.data(), step.share);
    }
  }

 private:
  // Resizes a row of the window into `below_`.
  void Across(const uint8_t* row) {
    float* source = source_.data();
    for (int i = 0; i < kChannels; ++i) {
      source[i] = row[i];
      source[kChannels * (width_ + 1) + i] = row[kChannels * (width_ - 1) + i];
    }
    const int count = kChannels * width_;
    for (int i = 0; i < count; ++i) source[kChannels + i] = row[i];
    float* to = below_.data();
    for (const Step& step : columns_) {
      const float* from = source + kChannels * (step.lower + 1);
      Float4 left, right;
      std::memcpy(&left, from, sizeof left);
      std::memcpy(&right, from + kChannels, sizeof right);
      left += (right - left) * step.share;
      // The fourth number is the next pixel's, which comes after.
      std::memcpy(to, &left, sizeof left);
      to += kChannels;
    }
  }

  // Writes a row of the image, between `top` and `below_`.
  void Down(const float* top, float share) {
    // So large that the last bits are whole numbers, rounded half to even.
    constexpr float kShift = 12582912.0f;
    const float* bottom = below_.data();
    // Bytes may be part of anything, for all that a compiler knows.
    const int count = kChannels * size_;
    uint8_t* __restrict__ to = image_ + ptrdiff_t{count} * written_;
    for (int i = 0; i < count; ++i) {
      const float shifted = top[i] + (bottom[i] - top[i]) * share + kShift;
      uint32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      to[i] = static_cast<uint8_t>(bits);
    }
  }

  int height_, width_, size_, taken_, written_;
  uint8_t* image_;
  std::vector<Step> rows_, columns_;
  std::vector<float> source_, above_, below_;
};

// --- JPEGs. ---

struct ErrorManager {
  jpeg_error_mgr base;
  jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
};

void Fail(j_common_ptr info) {
  auto* errors = reinterpret_cast<ErrorManager*>(info->err);
  errors->base.format_message(info, errors->text);
  longjmp(errors->escape, 1);
}

void IgnoreMessage(j_common_ptr, int) {}
void IgnoreSource(j_decompress_ptr) {}

boolean EndOfData(j_decompress_ptr info) {
  ERREXIT(info, JERR_INPUT_EOF);
  return FALSE;
}

void Skip(j_decompress_ptr info, long bytes) {
  jpeg_source_mgr* source = info->src;
  if (bytes <= 0) return;
  if (static_cast<size_t>(bytes) > source->bytes_in_buffer) EndOfData(info);
  source->next_input_byte += bytes;
  source->bytes_in_buffer -= bytes;
}

// Cyan, magenta, yellow and black to RGB, as TensorFlow does.
void ToRgb(const uint8_t* cmyk, int width, bool is_inverted, uint8_t* rgb) {
  for (int i = 0; i < width; ++i, cmyk += 4) {
    for (int channel = 0; channel < kChannels; ++channel) {
      const int ink = is_inverted ? cmyk[channel] : 255 - cmyk[channel];
      const int black = is_inverted ? cmyk[3] : 255 - cmyk[3];
      *rgb++ = ink * black / 255;
    }
  }
}

// What a thread keeps for the next image.
struct Scratch {
  Resizer resizer;
  std::vector<uint8_t> row, rgb;
};

struct Crop {
  const float* tries;
  Limits limits;
  int size;
  bool mirror;
  J_DCT_METHOD dct_method;
};

// Whether it worked; else `errors` has a text. Nothing in here has a
// destructor, as libjpeg leaves it by a jump.
bool Decode(const Library& library, const uint8_t* data, size_t bytes,
            const Crop& crop, Scratch* scratch, uint8_t* image, Window* window,
            ErrorManager* errors) {
  jpeg_decompress_struct info = {};
  info.err = library.std_error(&errors->base);
  errors->base.error_exit = Fail;
  errors->base.emit_message = IgnoreMessage;
  if (setjmp(errors->escape)) {
    library.destroy(&info);
    return false;
  }
  library.create(&info, JPEG_LIB_VERSION, sizeof info);
  jpeg_source_mgr source = {};
  source.next_input_byte = data;
  source.bytes_in_buffer = bytes;
  source.init_source = source.term_source = IgnoreSource;
  source.fill_input_buffer = EndOfData;
  source.skip_input_data = Skip;
  source.resync_to_restart = library.resync_to_restart;
  info.src = &source;
  library.read_header(&info, TRUE);
  const int64_t pixels = int64_t{info.image_height} * info.image_width;
  if (pixels >= kPixelsMax / kChannels) {
    ERREXIT1(&info, JERR_IMAGE_TOO_BIG, JPEG_MAX_DIMENSION);
  }
  *window =
      Draw(info.image_height, info.image_width, crop.tries, crop.limits);

  const bool is_cmyk = info.jpeg_color_space == JCS_CMYK ||
                       info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
  info.dct_method = crop.dct_method;
  library.start(&info);
  // Columns can begin at whole blocks only.
  JDIMENSION left = window->left, width = window->width;
  library.crop_scanline(&info, &left, &width);
  scratch->row.resize(size_t{width} * info.output_components + 1);
  scratch->rgb.resize(size_t{kChannels} * width);
  library.skip_scanlines(&info, window->top);
  scratch->resizer.Begin(*window, crop.size, crop.mirror, image);
  const bool is_inverted = info.saw_Adobe_marker;
  const size_t offset = kChannels * (window->left - left);
  JSAMPROW row = scratch->row.data();
  // libjpeg-turbo writes an aligned row past the caches, from where resizing
  // would have to fetch it: so it is not aligned.
  row += reinterpret_cast<uintptr_t>(row) % 2 == 0;
  for (int i = 0; i < window->height; ++i) {
    library.read_scanlines(&info, &row, 1);
    if (is_cmyk) ToRgb(row, width, is_inverted, scratch->rgb.data());
    scratch->resizer.Take((is_cmyk ? scratch->rgb.data() : row) + offset);
  }
  // As TensorFlow: what comes after the window is not looked at.
  library.destroy(&info);
  return true;
}

// --- The operation. ---

REGISTER_OP("HvdImagenetRandomCrop")
    .Input("buffer: uint8")
    .Input("starts: int64")
    .Input("lengths: int64")
    .Input("shapes: int64")
    .Input("seeds: int64")
    .Output("images: uint8")
    .Output("windows: int32")
    .Output("errors: string")
    .Attr("library: string")
    .Attr("threads: int >= 1")
    .Attr("skip: bool")
    .Attr("size: int >= 1")
    .Attr("area_min: float")
    .Attr("area_span: float")
    .Attr("aspect_min: float")
    .Attr("aspect_span: float")
    .Attr("horizontal_flip: bool")
    .Attr("dct_method: {'fast', 'accurate'}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      int64_t size;
      TF_RETURN_IF_ERROR(context->GetAttr("size", &size));
      const auto count = context->Dim(context->input(1), 0);
      context->set_output(
          0, context->MakeShape({count, size, size, kChannels}));
      context->set_output(1, context->MakeShape({count, 4}));
      context->set_output(2, context->MakeShape({count}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Random resized crops; see `Preprocessing.train_image`.

buffer: [bytes], all encoded images.
starts: [images], first byte of each.
lengths: [images], bytes of each.
shapes: [images, 3], height, width and 3 of RGB pixels that nobody has to
  decode; of no height where there is a JPEG.
seeds: [images, 2], of tf.random.stateless_uniform.
images: [images, size, size, 3], RGB; black where there is an error.
windows: [images, 4]: top, left, height and width of what was taken.
errors: [images], why there is no image, or nothing.
library: path of libjpeg-turbo.
threads: that make images at the same time.
skip: whether to leave it at `errors`, and not to fail with the first one.
)doc");

struct Settings {
  Library library;
  Limits limits;
  int64_t size;
  bool horizontal_flip;
  J_DCT_METHOD dct_method;
};

// A batch while it is being made, by any number of threads.
class Batch {
 public:
  Batch(const Settings& settings, const OpKernelContext& context,
        Tensor* images, Tensor* windows, Tensor* errors)
      : settings_(settings),
        buffer_(context.input(0).flat<uint8_t>().data()),
        starts_(context.input(1).flat<int64_t>().data()),
        lengths_(context.input(2).flat<int64_t>().data()),
        shapes_(context.input(3).flat<int64_t>().data()),
        seeds_(context.input(4).flat<int64_t>().data()),
        count_(context.input(1).NumElements()),
        images_(images->flat<uint8_t>().data()),
        windows_(windows->flat<int32_t>().data()),
        errors_(errors->flat<tensorflow::tstring>().data()) {}

  // Makes images until there are no more of them to be begun.
  void Work() {
    thread_local Scratch scratch;
    for (int64_t i; (i = next_++) < count_;) Make(i, &scratch);
  }

  absl::Status FirstError() const {
    for (int64_t i = 0; i < count_; ++i) {
      if (!errors_[i].empty()) return InvalidArgument(std::string(errors_[i]));
    }
    return absl::OkStatus();
  }

 private:
  void Make(int64_t i, Scratch* scratch) {
    const int64_t size = settings_.size;
    const int64_t bytes = size * size * kChannels;
    uint8_t* image = images_ + bytes * i;
    const uint8_t* data = buffer_ + starts_[i];
    const Uniforms uniforms(seeds_ + 2 * i);
    Crop crop;
    crop.tries = uniforms.tries();
    crop.limits = settings_.limits;
    crop.size = size;
    crop.mirror = settings_.horizontal_flip && uniforms.flip() < 0.5f;
    crop.dct_method = settings_.dct_method;
    Window window = {};
    const int64_t height = shapes_[kChannels * i];
    if (height > 0) {
      const int64_t width = shapes_[kChannels * i + 1];
      window = Draw(height, width, crop.tries, crop.limits);
      scratch->resizer.Begin(window, size, crop.mirror, image);
      data += kChannels * (width * window.top + window.left);
      for (int row = 0; row < window.height; ++row) {
        scratch->resizer.Take(data + kChannels * width * row);
      }
    } else {
      ErrorManager errors;
      if (!Decode(settings_.library, data, lengths_[i], crop, scratch, image,
                  &window, &errors)) {
        std::memset(image, 0, bytes);
        errors_[i] = std::string("Invalid JPEG data: ") + errors.text;
      }
    }
    int32_t* place = windows_ + 4 * i;
    place[0] = window.top;
    place[1] = window.left;
    place[2] = window.height;
    place[3] = window.width;
  }

  const Settings& settings_;
  const uint8_t* buffer_;
  const int64_t *starts_, *lengths_, *shapes_, *seeds_;
  const int64_t count_;
  uint8_t* images_;
  int32_t* windows_;
  tensorflow::tstring* errors_;
  std::atomic<int64_t> next_{0};
};

// Threads for all batches: there is work for each of them to the end of one, and
// no kernel ends on a thread that it would have to wait for.
tensorflow::thread::ThreadPool* Pool(int64_t threads) {
  // Never destroyed, as they may be at work when the process exits.
  static auto* const mutex = new std::mutex;
  static auto* const pools =
      new std::map<int64_t, tensorflow::thread::ThreadPool*>;
  const std::lock_guard<std::mutex> lock(*mutex);
  auto*& pool = (*pools)[threads];
  if (pool == nullptr) {
    pool = new tensorflow::thread::ThreadPool(tensorflow::Env::Default(),
                                              "random_crop", threads);
  }
  return pool;
}

class RandomCrop : public AsyncOpKernel {
 public:
  explicit RandomCrop(OpKernelConstruction* construction)
      : AsyncOpKernel(construction) {
    std::string path, dct_method;
    OP_REQUIRES_OK(construction, construction->GetAttr("library", &path));
    const std::string error = Open(path, &settings_.library);
    OP_REQUIRES(construction, error.empty(), InvalidArgument(error));
    auto get = [&](const char* name, auto* value) {
      OP_REQUIRES_OK(construction, construction->GetAttr(name, value));
    };
    get("threads", &threads_);
    get("skip", &skip_);
    get("size", &settings_.size);
    get("area_min", &settings_.limits.area_min);
    get("area_span", &settings_.limits.area_span);
    get("aspect_min", &settings_.limits.aspect_min);
    get("aspect_span", &settings_.limits.aspect_span);
    get("horizontal_flip", &settings_.horizontal_flip);
    get("dct_method", &dct_method);
    settings_.dct_method = dct_method == "fast" ? JDCT_IFAST : JDCT_ISLOW;
    pool_ = Pool(threads_);
  }

  void ComputeAsync(OpKernelContext* context, DoneCallback done) override {
    OP_REQUIRES_OK_ASYNC(context, Check(*context), done);
    const int64_t count = context->input(1).NumElements();
    const int64_t size = settings_.size;
    Tensor *images, *windows, *errors;
    OP_REQUIRES_OK_ASYNC(
        context,
        context->allocate_output(0, {count, size, size, kChannels}, &images),
        done);
    OP_REQUIRES_OK_ASYNC(
        context, context->allocate_output(1, {count, 4}, &windows), done);
    OP_REQUIRES_OK_ASYNC(context,
                         context->allocate_output(2, {count}, &errors), done);
    auto batch =
        std::make_shared<Batch>(settings_, *context, images, windows, errors);
    // The last one to come to the end tells.
    auto working = std::make_shared<std::atomic<int64_t>>(threads_);
    for (int64_t i = 0; i < threads_; ++i) {
      pool_->Schedule([this, batch, working, context, done] {
        batch->Work();
        if (--*working != 0) return;
        if (!skip_) OP_REQUIRES_OK_ASYNC(context, batch->FirstError(), done);
        done();
      });
    }
  }

 private:
  static absl::Status Check(const OpKernelContext& context) {
    auto values = [&](int input) {
      return context.input(input).flat<int64_t>();
    };
    const int64_t count = context.input(1).NumElements();
    if (context.input(2).NumElements() != count ||
        context.input(3).NumElements() != kChannels * count ||
        context.input(4).NumElements() != 2 * count) {
      return InvalidArgument(
          "starts and lengths must be [images], shapes [images, 3], and seeds"
          " [images, 2]");
    }
    const auto starts = values(1), lengths = values(2), shapes = values(3);
    const int64_t bytes = context.input(0).NumElements();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t height = shapes(kChannels * i);
      const int64_t width = shapes(kChannels * i + 1);
      if (starts(i) < 0 || lengths(i) < 0 || starts(i) > bytes ||
          lengths(i) > bytes - starts(i) || height < 0 || width < 0 ||
          (height > 0 && (height > kPixelsMax || width > kPixelsMax ||
                          lengths(i) == 0 ||
                          height * width * kChannels != lengths(i)))) {
        return InvalidArgument("image ", i, " is not within the buffer");
      }
    }
    return absl::OkStatus();
  }

  Settings settings_;
  int64_t threads_;
  bool skip_;
  tensorflow::thread::ThreadPool* pool_;
};

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetRandomCrop").Device(tensorflow::DEVICE_CPU), RandomCrop);

}  // namespace
