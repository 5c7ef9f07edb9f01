// From an encoded image to a training image in one operation of TensorFlow.
//
// It does what hvd_imagenet/preprocessing.py does with TensorFlow's own
// operations, to the bit: draws the window, decodes that part of the JPEG,
// resizes it bilinearly, rounds, and mirrors. It takes less time as there is
// one operation where there were eighty, and as rows are resized while they
// come out of the decoder.
//
// libjpeg-turbo is Pillow's, opened at run time: TensorFlow has one, but keeps
// its names to itself.

#include <dlfcn.h>
#include <setjmp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
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

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

constexpr int kChannels = 3;
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

// --- The window. ---

struct Window {
  int top, left, height, width;
};

struct Limits {
  float area_min, area_span, aspect_min, aspect_span;
};

// `preprocessing.random_window`, in the same arithmetic of 32 bits.
Window Draw(int height, int width, const float* tries, int count,
            const Limits& limits) {
  const float whole = static_cast<float>(height * width);
  for (int i = 0; i < count; ++i, tries += kUniformsPerTry) {
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
  int count;
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
  *window = Draw(info.image_height, info.image_width, crop.tries, crop.count,
                 crop.limits);

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
    .Input("encoded: string")
    .Input("pixels: uint8")
    .Input("uniforms: float")
    .Output("image: uint8")
    .Output("window: int32")
    .Attr("library: string")
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
      context->set_output(0, context->MakeShape({size, size, kChannels}));
      context->set_output(1, context->MakeShape({4}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
A random resized crop; see `Preprocessing.train_image`.

encoded: [], a JPEG; not looked at where there are `pixels`.
pixels: [height, width, 3], RGB; or of no height.
uniforms: [5 x tries + 1], in [0, 1): the tries of `random_window`, the flip.
image: [size, size, 3], RGB.
window: [4]: top, left, height and width of what was taken.
library: path of libjpeg-turbo.
)doc");

class RandomCrop : public OpKernel {
 public:
  explicit RandomCrop(OpKernelConstruction* construction)
      : OpKernel(construction) {
    std::string path, dct_method;
    OP_REQUIRES_OK(construction, construction->GetAttr("library", &path));
    const std::string error = Open(path, &library_);
    OP_REQUIRES(construction, error.empty(), InvalidArgument(error));
    auto get = [&](const char* name, auto* value) {
      OP_REQUIRES_OK(construction, construction->GetAttr(name, value));
    };
    get("size", &size_);
    get("area_min", &limits_.area_min);
    get("area_span", &limits_.area_span);
    get("aspect_min", &limits_.aspect_min);
    get("aspect_span", &limits_.aspect_span);
    get("horizontal_flip", &horizontal_flip_);
    get("dct_method", &dct_method);
    dct_method_ = dct_method == "fast" ? JDCT_IFAST : JDCT_ISLOW;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& encoded = context->input(0);
    const Tensor& pixels = context->input(1);
    const Tensor& uniforms = context->input(2);
    OP_REQUIRES(context, encoded.dims() == 0,
                InvalidArgument("encoded must be one string"));
    OP_REQUIRES(context, pixels.dims() == 3 && pixels.dim_size(2) == kChannels,
                InvalidArgument("pixels must be [height, width, 3]"));
    const int64_t numbers = uniforms.NumElements();
    OP_REQUIRES(context, numbers % kUniformsPerTry == 1,
                InvalidArgument("uniforms must be [5 x tries + 1]"));
    Tensor *image, *window;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, {size_, size_, kChannels}, &image));
    OP_REQUIRES_OK(context, context->allocate_output(1, {4}, &window));

    const float* drawn = uniforms.flat<float>().data();
    Crop crop;
    crop.tries = drawn;
    crop.count = numbers / kUniformsPerTry;
    crop.limits = limits_;
    crop.size = size_;
    crop.mirror = horizontal_flip_ && drawn[numbers - 1] < 0.5f;
    crop.dct_method = dct_method_;
    thread_local Scratch scratch;
    uint8_t* to = image->flat<uint8_t>().data();
    Window taken;
    if (pixels.NumElements() > 0) {
      const int height = pixels.dim_size(0), width = pixels.dim_size(1);
      taken = Draw(height, width, crop.tries, crop.count, limits_);
      scratch.resizer.Begin(taken, size_, crop.mirror, to);
      const uint8_t* from = pixels.flat<uint8_t>().data();
      for (int row = taken.top; row < taken.top + taken.height; ++row) {
        scratch.resizer.Take(from +
                             kChannels * (ptrdiff_t{width} * row + taken.left));
      }
    } else {
      const tensorflow::tstring& jpeg = encoded.scalar<tensorflow::tstring>()();
      ErrorManager errors;
      OP_REQUIRES(
          context,
          Decode(library_, reinterpret_cast<const uint8_t*>(jpeg.data()),
                 jpeg.size(), crop, &scratch, to, &taken, &errors),
          InvalidArgument("Invalid JPEG data: ", errors.text));
    }
    auto place = window->flat<int32_t>();
    place(0) = taken.top;
    place(1) = taken.left;
    place(2) = taken.height;
    place(3) = taken.width;
  }

 private:
  Library library_;
  int64_t size_;
  Limits limits_;
  bool horizontal_flip_;
  J_DCT_METHOD dct_method_;
};

REGISTER_KERNEL_BUILDER(
    Name("HvdImagenetRandomCrop").Device(tensorflow::DEVICE_CPU), RandomCrop);

}  // namespace
