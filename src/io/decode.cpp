#include "io/decode.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <exception>
#include <span>
#include <utility>

#include "core/fail.h"
#include "core/parallel.h"
#include "io/half.h"
#include "io/input_file.h"
#include "mlxterp/io/tensor_memory.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;

constexpr std::array encodings{
    Encoding{"F32", 1, 4, mx::float32, unpack_f32},
    Encoding{"F16", 1, 2, mx::float16, unpack_f16},
    Encoding{"BF16", 1, 2, mx::bfloat16, unpack_bf16},
    Encoding{"I8", 1, 1, mx::int8},
    Encoding{"I16", 1, 2, mx::int16},
    Encoding{"I32", 1, 4, mx::int32},
    Encoding{"I64", 1, 8, mx::int64},
    Encoding{"U8", 1, 1, mx::uint8},
    Encoding{"U16", 1, 2, mx::uint16},
    Encoding{"U32", 1, 4, mx::uint32},
    Encoding{"U64", 1, 8, mx::uint64},
    Encoding{"BOOL", 1, 1, mx::bool_},
    Encoding{"Q4_0", 32, 18, mx::float16, unpack_q4_0},
    Encoding{"Q4_1", 32, 20, mx::float16, unpack_q4_1},
    Encoding{"Q5_0", 32, 22, mx::float16, unpack_q5_0},
    Encoding{"Q5_1", 32, 24, mx::float16, unpack_q5_1},
    Encoding{"Q8_0", 32, 34, mx::float16, unpack_q8_0},
    Encoding{"Q2_K", 256, 84, mx::float16, unpack_q2_k},
    Encoding{"Q3_K", 256, 110, mx::float16, unpack_q3_k},
    Encoding{"Q4_K", 256, 144, mx::float16, unpack_q4_k},
    Encoding{"Q5_K", 256, 176, mx::float16, unpack_q5_k},
    Encoding{"Q6_K", 256, 210, mx::float16, unpack_q6_k},
    Encoding{"IQ4_NL", 32, 18, mx::float16, unpack_iq4_nl},
    Encoding{"IQ4_XS", 256, 136, mx::float16, unpack_iq4_xs},
    Encoding{"MXFP4", 32, 17, mx::bfloat16, unpack_mxfp4},
};

// Work is cut so that what was just unpacked is still in the first cache when
// it is rounded and looked over, and so that a thread has something to do.
constexpr size_t chunk = 4096;
constexpr size_t piece = 16 * chunk;
constexpr size_t least_for_a_thread = 4 * piece;

// So many counters side by side that a compiler takes them for a vector.
constexpr size_t lanes = 16;

template <typename T, typename Count>
uint64_t count_if(const T* values, size_t n, const Count& is) {
  uint32_t each[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t lane = 0; lane < lanes; ++lane)
      each[lane] += is(values[i + lane]);
  uint64_t count = 0;
  for (; i < n; ++i)
    count += is(values[i]);
  for (const auto it : each)
    count += it;
  return count;
}

uint64_t count_not_finite(const float* values, size_t n) {
  constexpr uint32_t exponent = 0x7F800000u;
  return count_if(values, n, [](float x) -> uint32_t {
    return (std::bit_cast<uint32_t>(x) & exponent) == exponent;
  });
}

uint64_t count_not_finite(const uint16_t* values, size_t n, uint16_t exponent) {
  return count_if(values, n, [exponent](uint16_t x) -> uint32_t {
    return (x & exponent) == exponent;
  });
}

uint64_t count_not_finite(mx::Dtype dtype, const std::byte* at, size_t n) {
  if (dtype == mx::float32)
    return count_not_finite(reinterpret_cast<const float*>(at), n);
  const auto* narrow = reinterpret_cast<const uint16_t*>(at);
  return count_not_finite(narrow, n, dtype == mx::float16 ? 0x7C00 : 0x7F80);
}

mx::Shape to_shape(const std::vector<int64_t>& shape) {
  mx::Shape result;
  for (const int64_t dim : shape)
    result.push_back(static_cast<mx::ShapeElem>(dim));
  return result;
}

mx::array memory_for(
    const TensorInfo& tensor, mx::Dtype dtype, const DecodeOptions& options) {
  try {
    auto shape = to_shape(tensor.shape);
    return options.memory ? options.memory->take(std::move(shape), dtype)
                          : own_memory(std::move(shape), dtype);
  } catch (const std::exception&) {
  }
  fail(
      ErrorKind::environment,
      "[{}] no memory for the {} bytes of {}; close other programs or use a "
      "smaller model or dtype",
      options.caller,
      *count_numbers(tensor.shape) * dtype.size(),
      printable(tensor.name));
}

/** Has `make` write at most a chunk of float32 and rounds it to `dtype`. */
template <typename MakeChunk>
void write_floats(
    mx::Dtype dtype, size_t n, std::byte* to, const MakeChunk& make) {
  if (dtype == mx::float32) {
    make(reinterpret_cast<float*>(to));
    return;
  }
  std::array<float, chunk> wide;
  make(wide.data());
  auto* narrow = reinterpret_cast<uint16_t*>(to);
  if (dtype == mx::float16)
    std::transform(wide.data(), wide.data() + n, narrow, to_half);
  else
    std::transform(wide.data(), wide.data() + n, narrow, to_bfloat);
}

/** One tensor on its way from file to memory, on one thread. */
class Unpacker {
 public:
  Unpacker(
      const InputFile& file,
      const TensorInfo& tensor,
      const Encoding& encoding,
      mx::Dtype dtype,
      std::byte* to,
      std::string_view caller)
      : file_(file),
        tensor_(tensor),
        encoding_(encoding),
        dtype_(dtype),
        to_(to),
        caller_(caller) {}

  /** Numbers `first`.. of the file to place `target`.. of the array. */
  uint64_t move(size_t first, size_t n, size_t target) {
    uint64_t not_finite = 0;
    for (size_t done = 0; done < n; done += piece) {
      const size_t some = std::min(piece, n - done);
      std::byte* const to = to_ + (target + done) * dtype_.size();
      if (dtype_ == encoding_.dtype && encoding_.block == 1)
        not_finite += copy(first + done, some, to);
      else
        not_finite += convert(first + done, some, to);
    }
    return not_finite;
  }

 private:
  uint64_t offset(size_t first) const {
    return tensor_.offset + first / encoding_.block * encoding_.bytes;
  }

  uint64_t copy(size_t first, size_t n, std::byte* to) {
    const std::span bytes(to, n * dtype_.size());
    file_.read(offset(first), bytes, caller_);
    if (encoding_.name == "BOOL") check_bools(first, bytes);
    return not_finite(to, n);
  }

  uint64_t convert(size_t first, size_t n, std::byte* to) {
    buffer_.resize(n / encoding_.block * encoding_.bytes);
    file_.read(offset(first), buffer_, caller_);
    uint64_t count = 0;
    for (size_t done = 0; done < n; done += chunk) {
      const size_t some = std::min(chunk, n - done);
      const auto* from =
          buffer_.data() + done / encoding_.block * encoding_.bytes;
      write_floats(dtype_, some, to, [&](float* out) {
        encoding_.unpack(from, some, out);
      });
      count += not_finite(to, some);
      to += some * dtype_.size();
    }
    return count;
  }

  uint64_t not_finite(const std::byte* at, size_t n) const {
    return encoding_.unpack ? count_not_finite(dtype_, at, n) : 0;  // integers
  }

  void check_bools(size_t first, std::span<const std::byte> bytes) const {
    const auto bad = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) {
      return b > std::byte{1};
    });
    if (bad == bytes.end()) return;
    fail(
        ErrorKind::bad_data,
        "[{}] {} is BOOL and holds the byte {} at {}; only 0 and 1 are "
        "booleans, save it as U8",
        caller_,
        printable(tensor_.name),
        static_cast<int>(*bad),
        first + static_cast<size_t>(bad - bytes.begin()));
  }

  const InputFile& file_;
  const TensorInfo& tensor_;
  const Encoding& encoding_;
  mx::Dtype dtype_;
  std::byte* to_;
  std::string_view caller_;
  std::vector<std::byte> buffer_;  // of the file, at most a piece
};

/** The sum of `count(first, n)` over stretches of whole chunks. */
template <typename Count>
uint64_t sum_over_cores(size_t n, const Count& count) {
  std::atomic<uint64_t> sum = 0;
  const size_t pieces = (n + piece - 1) / piece;
  split_over_cores(
      pieces, least_for_a_thread / piece, [&](size_t begin, size_t end) {
        const size_t first = begin * piece;
        sum += count(first, std::min(end * piece, n) - first);
      });
  return sum;
}

// Row 2j + s of a head in the file is its row s * half + j.
uint64_t move_rotary_rows(
    const Unpacker& whole, size_t rows, size_t columns, size_t heads) {
  const size_t per_head = rows / heads;
  std::atomic<uint64_t> not_finite = 0;
  split_over_cores(
      rows,
      least_for_a_thread / std::max<size_t>(columns, 1),
      [&](size_t begin, size_t end) {
        auto unpacker = whole;
        uint64_t count = 0;
        for (size_t row = begin; row < end; ++row) {
          const size_t in_head = row % per_head;
          const size_t target =
              row - in_head + in_head % 2 * (per_head / 2) + in_head / 2;
          count += unpacker.move(row * columns, columns, target * columns);
        }
        not_finite += count;
      });
  return not_finite;
}

// A TensorInfo may have been made by hand; the file is the measure.
const Encoding& check_tensor(
    const InputFile& file,
    const TensorInfo& tensor,
    const DecodeOptions& options) {
  const Encoding* encoding = find_encoding(tensor.type);
  const uint64_t size = file.size();
  const bool fits = encoding && tensor.offset <= size &&
                    tensor.bytes <= size - tensor.offset &&
                    count_bytes(tensor.shape, *encoding) == tensor.bytes;
  if (!fits)
    fail(
        ErrorKind::usage,
        "[{}] {} ({} {}, {} bytes at {}) is not a tensor of {}; take it from "
        "tensors()",
        options.caller,
        printable(tensor.name),
        printable(tensor.type),
        shown(tensor.shape),
        tensor.bytes,
        tensor.offset,
        quoted(file.path()));
  return *encoding;
}

mx::Dtype target_dtype(
    mx::Dtype own, const TensorInfo& tensor, const DecodeOptions& options) {
  if (!options.dtype) return own;
  const mx::Dtype dtype = *options.dtype;
  if (dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16)
    return dtype;
  fail(
      ErrorKind::usage,
      "[{}] {} holds floats; ask for float32, float16 or bfloat16",
      options.caller,
      printable(tensor.name));
}

}  // namespace

const Encoding* find_encoding(std::string_view name) {
  const auto found = std::find_if(
      encodings.begin(), encodings.end(), [&](const Encoding& encoding) {
        return encoding.name == name;
      });
  return found == encodings.end() ? nullptr : &*found;
}

std::optional<uint64_t> count_numbers(const std::vector<int64_t>& shape) {
  uint64_t product = 1;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(dim), &product))
      return std::nullopt;
  }
  return product;
}

std::optional<uint64_t> count_bytes(
    const std::vector<int64_t>& shape, const Encoding& encoding) {
  const auto numbers = count_numbers(shape);
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (!numbers || row % encoding.block != 0) return std::nullopt;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(
          *numbers / encoding.block, uint64_t{encoding.bytes}, &bytes))
    return std::nullopt;
  return bytes;
}

std::string shown(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Decoded decode(
    const InputFile& file,
    const TensorInfo& tensor,
    const DecodeOptions& options) {
  const Encoding& encoding = check_tensor(file, tensor, options);
  const mx::Dtype dtype = encoding.unpack
                              ? target_dtype(encoding.dtype, tensor, options)
                              : encoding.dtype;
  const size_t n = *count_numbers(tensor.shape);
  auto out = memory_for(tensor, dtype, options);

  const Unpacker whole(
      file, tensor, encoding, dtype, out.data<std::byte>(), options.caller);
  uint64_t not_finite = 0;
  if (options.interleaved_heads > 0 && n > 0) {
    const auto rows = static_cast<size_t>(tensor.shape.front());
    const auto heads = static_cast<size_t>(options.interleaved_heads);
    not_finite = move_rotary_rows(whole, rows, n / rows, heads);
  } else {
    not_finite = sum_over_cores(n, [&](size_t first, size_t count) {
      return Unpacker(whole).move(first, count, first);
    });
  }
  file.check_unchanged(options.caller);
  return {std::move(out), not_finite};
}

Decoded decode_made(
    const TensorInfo& tensor,
    mx::Dtype own,
    const DecodeOptions& options,
    const Make& make) {
  const mx::Dtype dtype = target_dtype(own, tensor, options);
  const size_t n = *count_numbers(tensor.shape);
  auto out = memory_for(tensor, dtype, options);
  auto* const to = out.data<std::byte>();
  const auto not_finite = sum_over_cores(n, [&](size_t first, size_t count) {
    uint64_t bad = 0;
    for (size_t done = 0; done < count; done += chunk) {
      const size_t at = first + done, some = std::min(chunk, count - done);
      std::byte* const target = to + at * dtype.size();
      write_floats(
          dtype, some, target, [&](float* wide) { make(at, some, wide); });
      bad += count_not_finite(dtype, target, some);
    }
    return bad;
  });
  return {std::move(out), not_finite};
}

}  // namespace mlxterp
