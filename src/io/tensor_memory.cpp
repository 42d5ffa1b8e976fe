#include "mlxterp/io/tensor_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

#include "mlx/allocator.h"
#include "mlx/device.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;

constexpr size_t page = size_t{2} << 20;
constexpr size_t line = 64;

// Pieces double up to the latter; a tensor of more than half has one to itself.
constexpr size_t least = page / 8, most = 16 * page;

size_t up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

// A fault each 2 MB instead of each 4 KB, which take as long as reading does,
// and as many fewer addresses to translate. Where there are none, all stays as
// it is.
void prefer_large_pages(const char* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes < page || mx::default_device() != mx::Device::cpu) return;
  const auto from = reinterpret_cast<uintptr_t>(data);
  const auto begin = up(from, page), end = (from + bytes) / page * page;
  if (begin < end)
    static_cast<void>(
        ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

}  // namespace

mx::array own_memory(mx::Shape shape, mx::Dtype dtype) {
  size_t bytes = dtype.size();
  for (const auto dim : shape)
    bytes *= static_cast<size_t>(dim);
  auto data = mx::allocator::malloc(std::max<size_t>(bytes, 1));
  // The CPU's allocator does not throw.
  if (!data.buffer().ptr()) throw std::bad_alloc();
  mx::array out(std::move(data), std::move(shape), dtype);
  prefer_large_pages(out.data<char>(), bytes);
  return out;
}

TensorMemory::Piece TensorMemory::make_piece(size_t bytes) {
  // A page more, so that it can begin with a whole one. What is small has none.
  const size_t whole_ones = bytes < page ? line : page;
  const auto lines =
      static_cast<int>((up(bytes, whole_ones) + whole_ones) / line);
  auto whole = own_memory({lines, line}, mx::uint8);
  const auto at = reinterpret_cast<uintptr_t>(whole.data<char>());
  const size_t size = whole.nbytes();
  return {std::move(whole), up(at, whole_ones) - at, size};
}

mx::array TensorMemory::take(mx::Shape shape, mx::Dtype dtype) {
  mx::array out(std::move(shape), dtype, nullptr, {});
  const size_t bytes = up(std::max<size_t>(out.nbytes(), 1), line);
  std::optional<Piece> alone;
  if (bytes > most / 2)
    alone = make_piece(bytes);
  else if (!piece_ || bytes > piece_->size - piece_->used)
    piece_ = make_piece(std::clamp(
        piece_ ? 2 * piece_->size : 0, std::max(bytes, least), most));
  auto& piece = alone ? *alone : *piece_;
  mx::array::Flags flags{};
  flags.contiguous = flags.row_contiguous = true;
  const auto one_axis = [&](auto dim) {
    return static_cast<size_t>(dim) == out.size();
  };
  flags.col_contiguous =
      out.size() <= 1 || std::ranges::any_of(out.shape(), one_axis);
  out.copy_shared_buffer(
      piece.whole,
      out.strides(),
      flags,
      out.size(),
      static_cast<int64_t>(piece.used / out.itemsize()));
  out.set_status(mx::array::available);
  piece.used += bytes;
  return out;
}

}  // namespace mlxterp
