#include "mlxterp/io/tensor_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "mlx/memory.h"
#include "mlx/ops.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<mx::Dtype> dtypes{
    mx::float32, mx::float16, mx::uint8, mx::int64};

// A number that no neighbour has at the same place.
uint8_t byte(size_t tensor, size_t i) {
  return static_cast<uint8_t>(tensor * 31 + i * 7);
}

TEST(TensorMemory, TensorsLieBesideEachOtherAndApart) {
  TensorMemory memory;
  std::vector<mx::array> all;
  for (size_t i = 0; i < 200; ++i) {
    const auto rows = static_cast<int>(i * 37 % 113),
               columns = static_cast<int>(1 + i % 97);
    all.push_back(memory.take({rows, columns}, dtypes[i % dtypes.size()]));
    all.push_back(memory.take({}, mx::float32));
  }
  // More than a piece may have, and then small ones again.
  all.push_back(memory.take({9 << 10, 1 << 10}, mx::float32));
  all.push_back(memory.take({3, 5}, mx::float32));
  for (size_t t = 0; t < all.size(); ++t)
    for (size_t i = 0; i < all[t].nbytes(); ++i)
      all[t].data<uint8_t>()[i] = byte(t, i);
  size_t checked = 0;
  for (size_t t = 0; t < all.size(); ++t) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(all[t].data<char>()) % 64, 0u);
    EXPECT_TRUE(all[t].flags().row_contiguous && all[t].flags().contiguous);
    EXPECT_TRUE(all[t].is_available());
    for (size_t i = 0; i < all[t].nbytes(); ++i, ++checked)
      ASSERT_EQ(all[t].data<uint8_t>()[i], byte(t, i)) << t << ", " << i;
  }
  EXPECT_GT(checked, size_t{36} << 20);
}

TEST(TensorMemory, MlxComputesWithThemAsWithOthers) {
  TensorMemory memory;
  memory.take({7}, mx::float16);
  for (const mx::Shape& shape :
       {mx::Shape{6, 5}, mx::Shape{1, 30}, mx::Shape{30, 1}, mx::Shape{30}}) {
    auto x = memory.take(shape, mx::float32);
    auto own = own_memory(shape, mx::float32);
    for (auto* one : {&x, &own})
      std::iota(one->data<float>(), one->data<float>() + 30, 0.5f);
    EXPECT_EQ(x.flags().col_contiguous, own.flags().col_contiguous);
    for (const auto& make : std::vector<mx::array (*)(const mx::array&)>{
             [](const mx::array& a) { return mx::add(a, a); },
             [](const mx::array& a) {
               return mx::matmul(mx::reshape(a, {5, 6}), mx::ones({6, 2}));
             },
             [](const mx::array& a) { return mx::view(a, mx::uint16); },
             [](const mx::array& a) {
               return mx::contiguous(mx::transpose(mx::reshape(a, {5, 6})));
             },
             [](const mx::array& a) { return mx::take(a, 0, 0); }})
      EXPECT_TRUE(mx::array_equal(make(x), make(own)).item<bool>());
  }
}

TEST(TensorMemory, APieceIsGivenBackWithTheLastOfItsTensors) {
  const size_t before = mx::get_active_memory();
  {
    TensorMemory memory;
    std::vector<mx::array> all;
    for (int i = 0; i < 100; ++i)
      all.push_back(memory.take({1 << 18}, mx::float32));
    EXPECT_GE(mx::get_active_memory() - before, size_t{100} << 20);
    // Pieces are filled, but for the last and for a page each.
    EXPECT_LE(mx::get_active_memory() - before, size_t{100 + 32 + 12} << 20);
    const auto last = all.back();
    all.clear();
    EXPECT_LE(mx::get_active_memory() - before, size_t{36} << 20);
  }
  EXPECT_EQ(mx::get_active_memory(), before);
}

}  // namespace
}  // namespace mlxterp
