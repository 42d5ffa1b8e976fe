// An evaluation that looks up from its work computes what MLX's own does.

#include "core/evaluate.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "mlx/device.h"
#include "mlx/memory.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {
namespace {

constexpr int rows = 1 << 20, columns = 16;

// On a GPU there are no pieces.
class Evaluate : public ::testing::Test {
 protected:
  void SetUp() override { mx::set_default_device(mx::Device::cpu); }
  void TearDown() override { mx::set_default_device(before_); }

 private:
  mx::Device before_ = mx::default_device();
};

// A long chain of large values: as much work as several pieces.
mx::array chain(int steps) {
  auto x = mx::ones({rows, columns});
  for (int i = 0; i < steps; ++i)
    x = mx::add(mx::multiply(x, mx::array(0.5f)), mx::array(1.0f));
  return x;
}

TEST_F(Evaluate, LooksUpAndComputesTheSame) {
  const auto value = chain(6);
  const auto other = mx::multiply(value, mx::array(3.0f));
  const auto unasked = mx::sin(value);
  int looks = 0;
  evaluate({value, mx::array(1), other}, [&] { ++looks; });
  EXPECT_GE(looks, 6);
  EXPECT_LE(looks, 6 * 4 + 4);  // at most one a node
  EXPECT_TRUE(value.is_available() && other.is_available());
  EXPECT_FALSE(unasked.is_available());
  float right = 1;
  for (int i = 0; i < 6; ++i)
    right = right * 0.5f + 1.0f;
  EXPECT_FLOAT_EQ(mx::max(value).item<float>(), right);
  EXPECT_FLOAT_EQ(mx::min(other).item<float>(), 3 * right);
  looks = 0;
  evaluate({value, other}, [&] { ++looks; });  // is there already
  EXPECT_EQ(looks, 0);
}

TEST_F(Evaluate, EndsByWhatIsThrown) {
  const auto value = chain(6);
  int looks = 0;
  const auto third = [&] {
    if (++looks == 3) throw std::runtime_error("enough");
  };
  EXPECT_THROW(evaluate({value}, third), std::runtime_error);
  EXPECT_EQ(looks, 3);
  EXPECT_FALSE(value.is_available());
  evaluate({value}, {});  // nothing is spoilt
  EXPECT_TRUE(value.is_available());
}

TEST_F(Evaluate, HoldsNoMoreThanMlxDoes) {
  const auto peak = [](const std::function<void()>& between) {
    const auto value = mx::sum(chain(12));
    mx::clear_cache();
    mx::reset_peak_memory();
    const auto before = mx::get_active_memory();
    evaluate({value}, between);
    return mx::get_peak_memory() - before;
  };
  // One value more may be in use when MLX begins anew.
  EXPECT_LE(peak([] {}), peak({}) + size_t{4} * rows * columns + (1 << 20));
}

}  // namespace
}  // namespace mlxterp
