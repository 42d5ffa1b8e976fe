#include "mlxterp/io/safetensors.h"

#include <gtest/gtest.h>

#include <limits>

#include "io/half.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/io/compare.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using testing::TempFolder;

const std::filesystem::path fixtures = MLXTERP_SOURCE_DIR "/tests/io/fixtures";

const TensorInfo& find(const Safetensors& file, const std::string& name) {
  for (const auto& tensor : file.tensors())
    if (tensor.name == name) return tensor;
  throw std::runtime_error("no tensor " + name);
}

template <typename T>
void expect_integers(const Safetensors& file, const std::string& name) {
  using Limits = std::numeric_limits<T>;
  const T want[] = {
      Limits::min(), Limits::max(), 0, 1, 2, static_cast<T>(Limits::max() / 3)};
  const auto got = file.read(find(file, name));
  ASSERT_EQ(got.shape(), (mx::Shape{2, 3})) << name;
  ASSERT_EQ(got.dtype(), mx::Dtype(mx::TypeToDtype<T>())) << name;
  for (size_t i = 0; i < 6; ++i)
    EXPECT_EQ(got.data<T>()[i], want[i]) << name;
}

TEST(Safetensors, ReadsEveryDtypeOfTheReferencePackage) {
  const auto file = Safetensors::open(fixtures / "dtypes.safetensors");
  EXPECT_EQ(file.metadata().at("made by"), "test");
  expect_integers<int8_t>(file, "torch.int8");
  expect_integers<int16_t>(file, "torch.int16");
  expect_integers<int32_t>(file, "torch.int32");
  expect_integers<int64_t>(file, "torch.int64");
  expect_integers<uint8_t>(file, "torch.uint8");
  expect_integers<uint16_t>(file, "torch.uint16");
  expect_integers<uint32_t>(file, "torch.uint32");
  expect_integers<uint64_t>(file, "torch.uint64");
  const auto truth = file.read(find(file, "torch.bool"));
  ASSERT_EQ(truth.dtype(), mx::bool_);
  const bool want[] = {true, false, false, true};
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(truth.data<bool>()[i], want[i]);
  const auto scalar = file.read(find(file, "scalar"));
  EXPECT_EQ(scalar.ndim(), 0u);
  EXPECT_EQ(scalar.data<float>()[0], 2.5f);
  EXPECT_EQ(file.read(find(file, "empty")).shape(), (mx::Shape{0, 4}));
}

TEST(Safetensors, ReadsTheNarrowFloats) {
  const auto file = Safetensors::open(fixtures / "dtypes.safetensors");
  size_t compared = 0;
  for (const std::string name : {"torch.float16", "torch.bfloat16"}) {
    const auto got = file.read(find(file, name));
    const auto want = file.read(find(file, name + ".as_f32"));
    ASSERT_EQ(got.shape(), want.shape());
    for (size_t i = 0; i < got.size(); ++i, ++compared) {
      const uint16_t bits = got.data<uint16_t>()[i];
      const float value =
          name == "torch.float16" ? from_half(bits) : from_bfloat(bits);
      ASSERT_EQ(value, want.data<float>()[i]) << name;
    }
  }
  EXPECT_EQ(compared, 2u * 5 * 67);
}

TEST(Safetensors, RoundsAsTheReferencePackageDoes) {
  const auto file = Safetensors::open(fixtures / "dtypes.safetensors");
  const auto odd = file.read(find(file, "odd"));
  const auto half = file.read(find(file, "odd.f16"));
  const auto bfloat = file.read(find(file, "odd.bf16"));
  ASSERT_GT(odd.size(), 2000u);
  for (size_t i = 0; i < odd.size(); ++i) {
    const float value = odd.data<float>()[i];
    ASSERT_EQ(to_half(value), half.data<uint16_t>()[i]) << value;
    ASSERT_EQ(to_bfloat(value), bfloat.data<uint16_t>()[i]) << value;
  }
}

TEST(SaveSafetensors, WhatIsWrittenIsRead) {
  const TempFolder folder;
  const auto path = folder / "out.safetensors";
  const auto x = mx::arange(0.0, 12.0, mx::float32);
  const std::vector<std::pair<std::string, mx::array>> tensors{
      {"bytes", mx::astype(mx::arange(0, 3), mx::uint8)},
      {"transposed", mx::transpose(mx::reshape(x, {3, 4}))},
      {"broadcast", mx::broadcast_to(mx::array(7.0f), {2, 2})},
      {"half", mx::astype(x, mx::float16)},
      {"bfloat", mx::astype(x, mx::bfloat16)},
      {"truth", mx::greater(x, mx::array(5.0f))},
      {"lazy \"quoted\" \n ünï", mx::add(x, x)},
      {"empty", mx::zeros({0, 3})},
      {"scalar", mx::array(int64_t{-5})},
      {"slice", mx::slice(x, {2}, {8}, {2})},
  };
  save_safetensors(path, tensors, {{"by", "mlxterp"}, {"note", "ü"}});
  const auto file = Safetensors::open(path);
  EXPECT_EQ(file.metadata().at("by"), "mlxterp");
  EXPECT_EQ(file.metadata().at("note"), "ü");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, array] : tensors) {
    const TensorInfo& info = find(file, name);
    const auto got = file.read(info);
    ASSERT_EQ(got.shape(), array.shape()) << name;
    ASSERT_EQ(got.dtype(), array.dtype()) << name;
    EXPECT_EQ(info.offset % array.itemsize(), 0u) << name;
    EXPECT_TRUE(mx::array_equal(got, array).item<bool>()) << name;
  }
  EXPECT_EQ(folder.files(), 1u);
}

TEST(SaveSafetensors, NothingAtAllIsAFileToo) {
  const TempFolder folder;
  save_safetensors(folder / "none.safetensors", {});
  EXPECT_TRUE(Safetensors::open(folder / "none.safetensors").tensors().empty());
}

TEST(SaveSafetensors, RefusesWhatItCannotName) {
  const TempFolder folder;
  const auto path = folder / "out.safetensors";
  const auto one = mx::array(1.0f);
  const auto refused = [&](const std::string& name, const mx::array& array) {
    try {
      save_safetensors(path, {{"a", one}, {name, array}});
    } catch (const Error& error) {
      return error.kind() == ErrorKind::usage;
    }
    return false;
  };
  EXPECT_TRUE(refused("a", one));
  EXPECT_TRUE(refused("__metadata__", one));
  EXPECT_TRUE(refused(std::string("nul\0", 4), one));
  EXPECT_TRUE(refused("bad utf-8 \xff", one));
  EXPECT_TRUE(refused(std::string(1025, 'x'), one));
  EXPECT_FALSE(refused(std::string(1024, 'x'), one));
  std::filesystem::remove(path);
  EXPECT_TRUE(refused("complex", mx::zeros({2}, mx::complex64)));
  EXPECT_EQ(folder.files(), 0u);
}

TEST(SaveSafetensors, ReplacesAFileOnlyWhereAskedTo) {
  const TempFolder folder;
  const auto path = folder.write("out.safetensors", "mine");
  EXPECT_THROW(save_safetensors(path, {{"a", mx::array(1.0f)}}), Error);
  EXPECT_EQ(testing::read_file(path), "mine");
  save_safetensors(path, {{"a", mx::array(1.0f)}}, {}, true);
  EXPECT_EQ(Safetensors::open(path).tensors().size(), 1u);
}

// A model may be saved over the file it was read from.
TEST(SaveSafetensors, OverTheFileThatIsOpen) {
  const TempFolder folder;
  const auto path = folder / "x.safetensors";
  save_safetensors(path, {{"a", mx::arange(0.0, 1e5, mx::float32)}});
  const auto file = Safetensors::open(path);
  const auto a = file.read(file.tensors()[0]);
  save_safetensors(path, {{"a", mx::negative(a)}}, {}, true);
  const auto again = file.read(file.tensors()[0]);
  EXPECT_TRUE(mx::array_equal(a, again).item<bool>());
}

}  // namespace
}  // namespace mlxterp
