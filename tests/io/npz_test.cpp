#include "mlxterp/io/npz.h"

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "tests/bad_input.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"

namespace mx = mlx::core;

namespace mlxterp {
namespace {

using testing::TempFolder;

std::vector<std::pair<std::string, mx::array>> some() {
  return {
      {"a", mx::reshape(mx::arange(6.0f, mx::float32), {2, 3})},
      {"empty", mx::zeros({0, 4})},
      {"scalar", mx::array(2.5f)},
      {"ints", mx::arange(5, mx::int32)},
      {"half", mx::astype(mx::arange(3.0f, mx::float32), mx::float16)},
      {"brain", mx::astype(mx::arange(3.0f, mx::float32), mx::bfloat16)}};
}

TEST(Npz, ComesBackAsItWas) {
  const TempFolder folder;
  const auto path = folder / "x.npz";
  const auto arrays = some();
  save_npz(path, arrays);
  const auto back = load_npz(path);
  ASSERT_EQ(back.size(), arrays.size());
  for (size_t i = 0; i < back.size(); ++i) {
    const auto& [name, array] = arrays[i];
    EXPECT_EQ(back[i].first, name);
    EXPECT_EQ(back[i].second.dtype(), array.dtype());
    EXPECT_EQ(back[i].second.shape(), array.shape());
    EXPECT_TRUE(mx::array_equal(back[i].second, array).item<bool>());
  }
  EXPECT_THROW(save_npz(path, arrays), Error);
  const auto once = testing::read_file(path);
  save_npz(path, arrays, /*overwrite=*/true);
  EXPECT_EQ(testing::read_file(path), once);
  EXPECT_EQ(folder.files(), 1u);
}

// Written by numpy 2.4: savez_compressed(w=<f8 [2, 2], b=<f4 [3]).
TEST(Npz, ReadsWhatNumpyWrites) {
  const auto arrays =
      load_npz(MLXTERP_SOURCE_DIR "/tests/io/fixtures/numpy.npz");
  ASSERT_EQ(arrays.size(), 2u);
  EXPECT_EQ(arrays[0].first, "w");
  test::expect_close(
      arrays[0].second,
      mx::array({0.5f, -1.0f, 2.0f, 3.0f}, {2, 2}),
      0,
      4,
      "w");
  EXPECT_EQ(arrays[1].second.shape(), (mx::Shape{3}));
}

// Written by numpy 2.4: save(np.array([1, 2, 3, 4], np.float64)).
TEST(Npy, ReadsWhatNumpyWrites) {
  const auto path = MLXTERP_SOURCE_DIR "/tests/io/fixtures/vector.npy";
  test::expect_close(
      load_npy(path), mx::array({1.0f, 2.0f, 3.0f, 4.0f}), 0, 4, "vector");
  EXPECT_EQ(load_npy(path).dtype(), mx::float32);
}

// Cut anywhere, or with any byte changed, it is refused or another array.
TEST(Npy, RefusesBrokenFiles) {
  const TempFolder folder;
  const auto good =
      testing::read_file(MLXTERP_SOURCE_DIR "/tests/io/fixtures/vector.npy");
  size_t refused = 0;
  const auto attempt = [&](const std::string& bytes) {
    const auto path = folder.write("bad.npy", bytes);
    try {
      load_npy(path).eval();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      ++refused;
    }
  };
  for (size_t n = 0; n < good.size(); ++n)
    attempt(good.substr(0, n));
  EXPECT_EQ(refused, good.size());
  attempt(good + "x");
  EXPECT_EQ(refused, good.size() + 1);
  for (size_t i = 0; i < good.size(); ++i) {
    auto bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x11);
    attempt(bytes);
  }
  EXPECT_THROW(load_npy(folder / "none.npy"), Error);
}

TEST(Npz, RefusesBrokenFiles) {
  const TempFolder folder;
  save_npz(folder / "good.npz", {{"a", mx::arange(64.0f, mx::float32)}});
  const auto good = testing::read_file(folder / "good.npz");
  int tried = 0;
  const auto refused = [&](const std::string& bytes,
                           const std::vector<std::string>& says) {
    SCOPED_TRACE(tried++);
    const auto path = folder.write("bad.npz", bytes);
    testing::expect_refused(
        [&] {
          load_npz(path);
          return std::string();
        },
        ErrorKind::bad_data,
        says);
  };
  const auto with = [&](std::string_view from, std::string_view to) {
    auto bytes = good;
    for (size_t at = 0; (at = bytes.find(from, at)) != std::string::npos;
         at += to.size())
      bytes.replace(at, from.size(), to);
    return bytes;
  };
  refused("", {});
  refused("<html>", {"bad.npz"});
  for (size_t n = 1; n < good.size(); n += 7)
    refused(good.substr(0, n), {"bad.npz"});
  refused(with("<f4", ">f4"), {"'a'"});
  refused(with("a.npy", "a.txt"), {});
  refused(with("NUMPY", "NUMPX"), {"'a'"});
  refused(with("(64,)", "(65,)"), {"'a'"});
  auto flipped = good;
  flipped[good.find("}") + 100] ^= 1;
  refused(flipped, {"'a'"});
}

// A little-endian number.
template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/** A zip of entries that lie: each says that its few bytes unpack to `size`. */
std::string bomb(uint32_t size, int entries) {
  std::string locals, directory;
  const std::string packed("\x03\0", 2);  // deflate of nothing
  for (int i = 0; i < entries; ++i) {
    const auto name = std::to_string(i) + ".npy";
    const auto head =
        raw<uint16_t>(20) + raw<uint16_t>(0) + raw<uint16_t>(8) +
        raw<uint32_t>(1 << 21 | 1 << 16) + raw<uint32_t>(0) + raw<uint32_t>(2) +
        raw(size) + raw(static_cast<uint16_t>(name.size())) + raw<uint16_t>(0);
    directory += "PK\1\2" + raw<uint16_t>(20) + head + raw<uint16_t>(0) +
                 raw<uint16_t>(0) + raw<uint16_t>(0) + raw<uint32_t>(0) +
                 raw(static_cast<uint32_t>(locals.size())) + name;
    locals += "PK\3\4" + head + name + packed;
  }
  return locals + directory + "PK\5\6" + raw<uint32_t>(0) +
         raw(static_cast<uint16_t>(entries)) +
         raw(static_cast<uint16_t>(entries)) +
         raw(static_cast<uint32_t>(directory.size())) +
         raw(static_cast<uint32_t>(locals.size())) + raw<uint16_t>(0);
}

TEST(Npz, RefusesWhatUnpacksToFarMore) {
  const TempFolder folder;
  for (const auto& [size, entries] :
       {std::pair{4'000'000'000u, 1},
        std::pair{600'000'000u, 1},
        std::pair{100'000'000u, 30},
        std::pair{20'000u, 60'000}}) {
    SCOPED_TRACE(size);
    const auto bytes = bomb(size, entries);
    const auto path = folder.write("bomb.npz", bytes);
    testing::expect_refused(
        [&] {
          load_npz(path);
          return std::string();
        },
        ErrorKind::bad_data,
        {"bomb.npz"},
        bytes.size());
  }
}

}  // namespace
}  // namespace mlxterp
