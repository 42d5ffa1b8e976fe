#include "io/npy.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// How numpy calls the numbers in a file, and what they are here.
struct Kind {
  std::string_view descr;
  mx::Dtype dtype;
  size_t bytes;
};

const Kind kinds[] = {
    {"<f4", mx::float32, 4},
    {"<f8", mx::float32, 8},
    {"<f2", mx::float16, 2},
    {"<V2", mx::bfloat16, 2},
    {"|V2", mx::bfloat16, 2},
    {"|b1", mx::bool_, 1},
    {"|i1", mx::int8, 1},
    {"|u1", mx::uint8, 1},
    {"<i2", mx::int16, 2},
    {"<u2", mx::uint16, 2},
    {"<i4", mx::int32, 4},
    {"<u4", mx::uint32, 4},
    {"<i8", mx::int64, 8},
    {"<u8", mx::uint64, 8}};

// The header of a .npy, a Python dictionary of three entries.
struct Header {
  Kind kind;
  std::vector<int64_t> shape;
};

class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  // Nothing where it reads otherwise than numpy and MLX write it.
  std::optional<Header> read() {
    std::optional<std::string_view> descr;
    std::optional<bool> fortran;
    std::optional<std::vector<int64_t>> shape;
    if (!take('{')) return {};
    while (!take('}')) {
      const auto key = string();
      if (!key || !take(':')) return {};
      if (*key == "descr" && !descr)
        descr = string();
      else if (*key == "fortran_order" && !fortran)
        fortran = boolean();
      else if (*key == "shape" && !shape)
        shape = numbers();
      else
        return {};
      if (!take(',') && !peek('}')) return {};
    }
    // One axis or none lies in both orders.
    if (!descr || !fortran || !shape || (*fortran && shape->size() > 1))
      return {};
    for (const auto& kind : kinds)
      if (kind.descr == *descr) return Header{kind, *shape};
    return {};
  }

 private:
  void skip() {
    while (!text_.empty() &&
           std::isspace(static_cast<unsigned char>(text_.front())))
      text_.remove_prefix(1);
  }
  bool peek(char c) {
    skip();
    return !text_.empty() && text_.front() == c;
  }
  bool take(char c) {
    if (!peek(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::optional<std::string_view> string() {
    const char quote = peek('"') ? '"' : '\'';
    if (!take(quote)) return {};
    const auto end = text_.find(quote);
    if (end == std::string_view::npos) return {};
    const auto value = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return value;
  }
  std::optional<bool> boolean() {
    skip();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true},
          std::pair{std::string_view("False"), false}})
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    return {};
  }
  std::optional<std::vector<int64_t>> numbers() {
    std::vector<int64_t> out;
    if (!take('(')) return {};
    while (!take(')')) {
      skip();
      int64_t value = 0;
      const auto parsed =
          std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (parsed.ec != std::errc() || value < 0 ||
          out.size() == limits::tensor_dims ||
          static_cast<uint64_t>(value) > limits::dim)
        return {};
      text_.remove_prefix(static_cast<size_t>(parsed.ptr - text_.data()));
      out.push_back(value);
      if (!take(',') && !peek(')')) return {};
    }
    return out;
  }

  std::string_view text_;
};

// One array on its way in.
class Reader {
 public:
  explicit Reader(const NpySource& source)
      : source_(source), left_(source.size) {}

  mx::array read() {
    const auto header = read_header();
    uint64_t count = 1;
    for (const auto dim : header.shape)
      if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count))
        bad("has a shape beyond 64 bits");
    const uint64_t bytes = header.kind.bytes;
    if (count != left_ / bytes || left_ % bytes != 0)
      bad("holds more or fewer bytes than its shape says");

    const mx::Shape shape(header.shape.begin(), header.shape.end());
    const bool doubles = header.kind.descr == "<f8";
    const uint64_t size = doubles ? left_ / 2 : left_;
    std::unique_ptr<std::byte[]> own(
        new (std::nothrow) std::byte[std::max<uint64_t>(size, 1)]);
    if (!own)
      fail(
          ErrorKind::environment,
          "[{}] no memory for the {} bytes of {}; close other programs",
          source_.caller,
          size,
          source_.shown);
    doubles ? narrow(count, own.get()) : fill({own.get(), size});
    return mx::array(own.release(), shape, header.kind.dtype, [](void* memory) {
      delete[] static_cast<std::byte*>(memory);
    });
  }

 private:
  [[noreturn]] void bad(std::string_view why) const {
    throw source_.error(why);
  }

  void fill(std::span<std::byte> to) {
    if (to.size() > left_) bad("is no .npy array");
    left_ -= to.size();
    source_.fill(to);
  }

  std::string text(size_t size) {
    std::string out(size, '\0');
    fill(std::as_writable_bytes(std::span(out)));
    return out;
  }

  Header read_header() {
    const auto start = text(8);
    if (!start.starts_with(npy_magic)) bad("is no .npy array");
    const int version = start[6];
    if (version < 1 || version > 3) bad("is of an unknown version of .npy");
    const auto digits = text(version >= 2 ? 4 : 2);
    size_t length = 0;
    for (size_t i = digits.size(); i-- > 0;)
      length = length << 8 | static_cast<unsigned char>(digits[i]);
    if (length > limits::npy_header_bytes || length > left_)
      bad("has a header longer than itself");
    const auto written = text(length);
    const auto header = HeaderReader(written).read();
    if (!header)
      bad("has a header that is none of little-endian numbers in C order");
    return *header;
  }

  void narrow(uint64_t count, std::byte* to) {
    std::vector<double> wide;
    for (uint64_t done = 0; done < count; done += wide.size()) {
      wide.resize(std::min<uint64_t>(count - done, 1u << 16));
      fill(std::as_writable_bytes(std::span(wide)));
      for (const double value : wide) {
        const auto single = static_cast<float>(value);
        std::memcpy(to, &single, sizeof single);
        to += sizeof single;
      }
    }
  }

  const NpySource& source_;
  uint64_t left_;
};

}  // namespace

mx::array read_npy(const NpySource& source) {
  return Reader(source).read();
}

std::string_view npy_descr(mx::Dtype dtype) {
  for (const auto& kind : kinds)
    if (kind.dtype == dtype) return kind.descr;
  return {};
}

}  // namespace mlxterp
