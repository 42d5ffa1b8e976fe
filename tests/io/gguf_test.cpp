#include "mlxterp/io/gguf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "io/half.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "tests/io/compare.h"
#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using testing::TempFolder;

const std::filesystem::path fixtures = MLXTERP_SOURCE_DIR "/tests/io/fixtures";

mx::array by_name(const Safetensors& file, const std::string& name) {
  for (const auto& tensor : file.tensors())
    if (tensor.name == name) return file.read(tensor);
  throw std::runtime_error("no tensor " + name);
}

TEST(Gguf, UnpacksEveryFormatAsTheReferencePackageDoes) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  const auto want = Safetensors::open(fixtures / "quants_f32.safetensors");
  ASSERT_EQ(file.tensors().size(), 16u);
  size_t quantised = 0;
  for (const auto& tensor : file.tensors()) {
    EXPECT_EQ(tensor.name, tensor.type);
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 512}));
    if (tensor.name == "F16" || tensor.name == "BF16") continue;
    quantised += tensor.name != "F32";
    testing::expect_close(
        file.read(tensor, mx::float32),
        by_name(want, tensor.name),
        1e-6,
        tensor.name);
  }
  EXPECT_EQ(quantised, 13u);
}

// ---- Files that were split --------------------------------------------------

fs::path part(int number) {
  return fixtures / fmt::format("split-{:05}-of-00003.gguf", number);
}

TEST(SplitGguf, IsTheWholeFileFromAnyPart) {
  const auto whole = Gguf::open(fixtures / "quants.gguf");
  size_t compared = 0;
  for (const int first : {1, 2, 3}) {
    const auto split = Gguf::open(part(first));
    EXPECT_EQ(split.metadata().at("n.string"), whole.metadata().at("n.string"));
    ASSERT_EQ(split.tensors().size(), whole.tensors().size());
    for (size_t i = 0; i < whole.tensors().size(); ++i, ++compared) {
      EXPECT_EQ(split.tensors()[i].name, whole.tensors()[i].name);
      EXPECT_TRUE(mx::array_equal(
                      split.read(split.tensors()[i], mx::float32),
                      whole.read(whole.tensors()[i], mx::float32))
                      .item<bool>())
          << whole.tensors()[i].name;
    }
  }
  EXPECT_EQ(compared, 3u * 16);
}

TEST(SplitGguf, PartsThatDoNotFitAreRefused) {
  const auto refused = [](const std::map<std::string, int>& parts,
                          const std::vector<std::string>& says) {
    const testing::TempFolder folder;
    for (const auto& [name, number] : parts)
      fs::copy_file(part(number), folder / name);
    try {
      Gguf::open(folder / parts.begin()->first);
      ADD_FAILURE() << "it was read";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data);
      for (const auto& said : says)
        EXPECT_NE(std::string(error.what()).find(said), std::string::npos)
            << "'" << said << "' is not in: " << error.what();
    }
  };
  const std::string one = "a-00001-of-00003.gguf",
                    two = "a-00002-of-00003.gguf",
                    three = "a-00003-of-00003.gguf";
  refused({{one, 1}, {three, 3}}, {"one of 3 parts", two});
  refused({{"model.gguf", 1}}, {"one of 3 parts", "NAME-00001-of-00003.gguf"});
  refused({{"a-00001-of-00002.gguf", 1}}, {"one of 3 parts"});
  refused(
      {{one, 1}, {two, 3}, {three, 2}},
      {"part 3 of 3", "its name says 2 of 3"});
  refused({{one, 1}, {two, 1}, {three, 3}}, {"part 1 of 3"});
}

TEST(Gguf, WhatIsNotQuantisedKeepsItsDtype) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  const auto want = Safetensors::open(fixtures / "quants_f32.safetensors");
  size_t compared = 0;
  for (const auto& tensor : file.tensors()) {
    if (tensor.name != "F16" && tensor.name != "BF16") continue;
    const auto got = file.read(tensor, mx::float32);
    EXPECT_EQ(got.dtype(), tensor.name == "F16" ? mx::float16 : mx::bfloat16);
    const auto wide = by_name(want, tensor.name);
    for (size_t i = 0; i < got.size(); ++i, ++compared) {
      const uint16_t bits = got.data<uint16_t>()[i];
      const float value =
          tensor.name == "F16" ? from_half(bits) : from_bfloat(bits);
      ASSERT_EQ(value, wide.data<float>()[i]);
    }
  }
  EXPECT_EQ(compared, 2u * 3 * 512);
}

TEST(Gguf, NarrowOutputIsTheRoundedWideOne) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  size_t compared = 0;
  for (const auto& tensor : file.tensors()) {
    if (tensor.name[0] != 'Q') continue;
    const auto wide = file.read(tensor, mx::float32);
    const auto half = file.read(tensor, mx::float16);
    const auto bfloat = file.read(tensor, mx::bfloat16);
    ASSERT_EQ(half.dtype(), mx::float16);
    ASSERT_EQ(bfloat.dtype(), mx::bfloat16);
    for (size_t i = 0; i < wide.size(); ++i, ++compared) {
      const float value = wide.data<float>()[i];
      ASSERT_EQ(half.data<uint16_t>()[i], to_half(value)) << tensor.name;
      ASSERT_EQ(bfloat.data<uint16_t>()[i], to_bfloat(value)) << tensor.name;
    }
  }
  EXPECT_EQ(compared, 10u * 3 * 512);
}

TEST(Gguf, ReadsEveryKindOfMetadata) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  const auto& all = file.metadata();
  const auto integer = [&](const char* key) {
    return std::get<int64_t>(all.at(key));
  };
  EXPECT_EQ(integer("n.uint8"), 200);
  EXPECT_EQ(integer("n.int8"), -100);
  EXPECT_EQ(integer("n.uint16"), 60000);
  EXPECT_EQ(integer("n.int16"), -30000);
  EXPECT_EQ(integer("n.uint32"), 4000000000);
  EXPECT_EQ(integer("n.int32"), -2000000000);
  EXPECT_EQ(integer("n.uint64"), int64_t{1} << 62);
  EXPECT_EQ(integer("n.int64"), -(int64_t{1} << 62));
  EXPECT_EQ(std::get<double>(all.at("n.float32")), 0.5);
  EXPECT_EQ(std::get<double>(all.at("n.float64")), 1e300);
  EXPECT_TRUE(std::get<bool>(all.at("n.bool")));
  EXPECT_EQ(std::get<std::string>(all.at("n.string")), "Ünï");
  using Strings = std::vector<std::string>;
  EXPECT_EQ(std::get<Strings>(all.at("a.strings")), (Strings{"a", "", "ccc"}));
  using Ints = std::vector<int64_t>;
  EXPECT_EQ(std::get<Ints>(all.at("a.ints")), (Ints{1, -2, 3}));
  using Doubles = std::vector<double>;
  EXPECT_EQ(std::get<Doubles>(all.at("a.floats")), (Doubles{0.5, -1.5}));
  using Bools = std::vector<bool>;
  EXPECT_EQ(std::get<Bools>(all.at("a.bools")), (Bools{true, false}));
}

// 300 x 1024 numbers are enough work for two threads and many pieces.
TEST(Gguf, LargeTensorsComeOutWhole) {
  const TempFolder folder;
  const size_t blocks = 300 * 1024 / 32;
  testing::gguf::File file;
  file.tensors = {testing::gguf::tensor("x", {1024, 300}, 8, 0)};  // Q8_0
  for (size_t block = 0; block < blocks; ++block) {
    file.data += testing::raw(to_half(1.0f));
    for (size_t i = 0; i < 32; ++i)
      file.data += static_cast<char>((block * 7 + i) % 120);
  }
  const auto gguf = Gguf::open(folder.write("x.gguf", file.bytes()));
  const auto x = gguf.read(gguf.tensors()[0], mx::float32);
  ASSERT_EQ(x.shape(), (mx::Shape{300, 1024}));
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(x.data<float>()[i], (i / 32 * 7 + i % 32) % 120) << i;
}

TEST(Gguf, MayBeReadFromSeveralThreads) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (const auto& tensor : file.tensors())
        good += file.read(tensor, mx::float32).size() == 3 * 512;
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(good, 4 * 16);
}

TEST(Gguf, ATensorMadeByHandIsHeldAgainstTheFile) {
  const auto file = Gguf::open(fixtures / "quants.gguf");
  auto tensor = file.tensors()[0];
  tensor.offset = uint64_t{1} << 40;
  EXPECT_THROW(file.read(tensor, mx::float32), Error);
  tensor = file.tensors()[0];
  tensor.shape = {int64_t{1} << 40, 512};
  EXPECT_THROW(file.read(tensor, mx::float32), Error);
  tensor = file.tensors()[0];
  EXPECT_THROW(file.read(tensor, mx::int32), Error);
}

}  // namespace
}  // namespace mlxterp
