// Files of torch.save: what torch wrote, and what nobody honest would.

#include "io/torch_pickle.h"

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

using testing::expect_refused;
using testing::TempFolder;

const std::string fixtures = MLXTERP_SOURCE_DIR "/tests/io/fixtures/";

mx::array read(const TorchFile& file, const std::string& name) {
  const auto* found = file.value().find(name);
  if (!found) throw std::runtime_error("no " + name);
  return file.read(found->tensor, name);
}

class TorchSaved : public ::testing::TestWithParam<const char*> {};

TEST_P(TorchSaved, ComesBackAsItWas) {
  const auto file = TorchFile::open(fixtures + GetParam());
  const auto count = mx::reshape(mx::arange(6.0f, mx::float32), {2, 3});
  const std::vector<std::pair<std::string, mx::Dtype>> dtypes = {
      {"float32", mx::float32},
      {"float64", mx::float32},
      {"float16", mx::float16},
      {"bfloat16", mx::bfloat16},
      {"int64", mx::int64},
      {"int32", mx::int32},
      {"int16", mx::int16},
      {"int8", mx::int8},
      {"uint8", mx::uint8},
      {"bool", mx::bool_}};
  for (const auto& [name, dtype] : dtypes) {
    const auto got = read(file, name);
    EXPECT_EQ(got.dtype(), dtype) << name;
    EXPECT_TRUE(mx::array_equal(got, mx::astype(count, dtype)).item<bool>())
        << name;
  }
  test::expect_identical(read(file, "turned"), mx::transpose(count), "turned");
  test::expect_identical(
      read(file, "every_other"),
      mx::array({1.0f, 3.0f, 5.0f, 7.0f, 9.0f}),
      "every_other");
  test::expect_identical(
      read(file, "head"), mx::array({0.0f, 1.0f, 2.0f, 3.0f}), "head");
  test::expect_identical(
      read(file, "cube"),
      mx::transpose(
          mx::reshape(mx::arange(24.0f, mx::float32), {2, 3, 4}), {2, 0, 1}),
      "cube");
  EXPECT_EQ(read(file, "scalar").item<float>(), 2.5f);
  EXPECT_EQ(read(file, "empty").shape(), (mx::Shape{0, 3}));
  test::expect_identical(
      read(file, "parameter"), mx::array({1.0f, -1.0f}), "parameter");

  const auto& nested = *file.value().find("nested");
  using Kind = TorchValue::Kind;
  EXPECT_EQ(nested.find("none")->kind, Kind::none);
  EXPECT_TRUE(nested.find("yes")->boolean);
  EXPECT_FALSE(nested.find("no")->boolean);
  EXPECT_EQ(nested.find("no")->kind, Kind::boolean);
  EXPECT_EQ(nested.find("small")->integer, 7);
  EXPECT_EQ(nested.find("large")->integer, -(int64_t{1} << 40));
  EXPECT_EQ(nested.find("real")->real, 0.25);
  EXPECT_EQ(nested.find("text")->text, "h\xc3\xa9llo");
  EXPECT_EQ(nested.find("list")->items[1].text, "two");
  EXPECT_EQ(nested.find("list")->items[2].items[0].real, 3.0);
  EXPECT_EQ(nested.find("tuple")->items.size(), 4u);
  EXPECT_EQ(nested.find("size")->items[1].integer, 9);
  EXPECT_EQ(nested.find("dtype")->kind, Kind::other);
  EXPECT_EQ(nested.find("device")->kind, Kind::other);
  EXPECT_EQ(nested.find("3")->text, "a key that is no text");
  EXPECT_EQ(nested.members.size(), 14u);
  test::expect_identical(
      file.read(nested.find("inner")->find("tensor")->tensor, "tensor"),
      mx::arange(10.0f, mx::float32),
      "inner");
}

INSTANTIATE_TEST_SUITE_P(
    Torch, TorchSaved, ::testing::Values("values.pt", "legacy.pt"));

TEST(TorchSaved, UnsignedOfToday) {
  const auto file = TorchFile::open(fixtures + "values.pt");
  EXPECT_EQ(read(file, "uint16").dtype(), mx::uint16);
  EXPECT_EQ(read(file, "uint32").dtype(), mx::uint32);
  EXPECT_EQ(read(file, "uint64").dtype(), mx::uint64);
  EXPECT_EQ(mx::sum(read(file, "uint64")).item<uint64_t>(), 15u);
}

// ---- by hand ----

std::string little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i, value >>= 8)
    out += static_cast<char>(value & 0xff);
  return out;
}

struct Entry {
  std::string name, bytes;
  int method = 0;
};

// A zip of stored entries; nobody looks at checksums.
std::string zip(const std::vector<Entry>& entries) {
  std::string out, directory;
  for (const auto& [name, bytes, method] : entries) {
    const auto sizes = little(bytes.size(), 4) + little(bytes.size(), 4);
    directory += "PK\x01\x02" + little(0, 6) + little(method, 2) +
                 little(0, 8) + sizes + little(name.size(), 2) + little(0, 12) +
                 little(out.size(), 4) + name;
    out += "PK\x03\x04" + little(0, 4) + little(method, 2) + little(0, 8) +
           sizes + little(name.size(), 2) + little(0, 2) + name + bytes;
  }
  const auto n = little(entries.size(), 2);
  return out + directory + "PK\x05\x06" + little(0, 4) + n + n +
         little(directory.size(), 4) + little(out.size(), 4) + little(0, 2);
}

std::string text(const std::string& words) {
  return "X" + little(words.size(), 4) + words;
}

// The pickle of a file whose only storage, '0', has 4 floats.
std::string file_of(const std::string& pickle) {
  return zip(
      {{"a/data.pkl", "\x80\x02" + pickle},
       {"a/data/0", std::string(16, '\0')}});
}

std::string storage(
    const std::string& type = "FloatStorage",
    const std::string& key = "0",
    int numbers = 4) {
  return "(" + text("storage") + "ctorch\n" + type + "\n" + text(key) +
         text("cpu") + "J" + little(static_cast<uint64_t>(numbers), 4) + "tQ";
}

std::string tensor(
    int first, const std::string& shape, const std::string& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + "J" +
         little(static_cast<uint64_t>(first), 4) + shape + strides + "\x89" +
         "ccollections\nOrderedDict\n)R" + "tR";
}

std::string tuple(const std::vector<int>& numbers) {
  std::string out = "(";
  for (const int n : numbers)
    out += "J" + little(static_cast<uint64_t>(n), 4);
  return out + "t";
}

struct Bad {
  std::string name, bytes;
  std::vector<std::string> says;
};

TEST(TorchPickle, WhatIsMadeByHandIsRead) {
  const TempFolder folder;
  const auto path = folder.write(
      "x.pt", file_of(tensor(0, tuple({2, 2}), tuple({2, 1})) + "."));
  const auto file = TorchFile::open(path);
  EXPECT_EQ(file.value().tensor.shape, (std::vector<int64_t>{2, 2}));
}

TEST(TorchPickle, NothingOfItRuns) {
  const TempFolder folder;
  const auto made = (folder / "made").string();
  const auto call = text("touch " + made) + "\x85R.";
  std::vector<Bad> files = {
      {"os", "cos\nsystem\n" + call, {"os.system"}},
      {"posix", "cposix\nsystem\n" + call, {"posix.system"}},
      {"eval", "c__builtin__\neval\n" + call, {"__builtin__.eval"}},
      {"stack", text("os") + text("system") + "\x93" + call, {"os.system"}},
      {"getattr", "cbuiltins\ngetattr\n" + call, {"builtins.getattr"}},
      {"torch", "ctorch\nload\n" + call, {"torch.load"}},
      {"numpy", "cnumpy.core.multiarray\n_reconstruct\n" + call, {"numpy"}},
      {"inst", "(ios\nsystem\n" + call, {"0x69"}},
      {"newobj", "ccollections\nOrderedDict\n)\x81.", {"0x81"}},
      {"ext", "\x82\x01.", {"0x82"}}};
  for (const auto& [name, pickle, says] : files) {
    SCOPED_TRACE(name);
    const auto path = folder.write(name + ".pt", file_of(pickle));
    expect_refused(
        [&] {
          (void)TorchFile::open(path);
          return "";
        },
        ErrorKind::bad_data,
        says);
  }
  EXPECT_FALSE(std::filesystem::exists(made));
}

TEST(TorchPickle, RefusesHostileOnes) {
  std::string laughs =
      "]q" + std::string(1, '\0');  // each holds ten of the last
  for (int i = 0; i < 12; ++i) {
    std::string ten = "](";
    for (int j = 0; j < 10; ++j)
      ten += "h" + little(static_cast<uint64_t>(i), 1);
    laughs += ten + "eq" + little(static_cast<uint64_t>(i + 1), 1);
  }
  std::string copies = "ccollections\nOrderedDict\nq\x01(";
  for (int i = 0; i < 5000; ++i)
    copies += text("k") + "N\x86";
  copies += "lq\x02";
  for (int i = 0; i < 5000; ++i)
    copies += "h\x01h\x02\x85R";
  const std::string large(1 << 20, 'x');
  std::string texts = text(large) + "q" + std::string(1, '\0') + "(";
  for (int i = 0; i < 1000; ++i)
    texts += "h" + std::string(1, '\0');
  const auto t =
      [](int first, std::vector<int> shape, std::vector<int> strides) {
        return tensor(first, tuple(shape), tuple(strides)) + ".";
      };
  const std::vector<Bad> files = {
      {"deep",
       std::string(100'000, ']') + std::string(99'999, 'a') + ".",
       {"nested"}},
      {"itself",
       "]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a.",
       {"hold themselves"}},
      {"laughs", laughs + ".", {"when written out"}},
      {"texts", texts + "t.", {"texts are more than"}},
      {"copies", copies + ".", {"copies more than"}},
      {"many", std::string(1 << 20, 'N') + ".", {"more than"}},
      {"memo",
       [] {
         std::string out = "N";
         for (uint64_t i = 0; i < 1 << 19; ++i)
           out += "r" + little(i, 4);
         return out + ".";
       }(),
       {"remembers more than"}},
      {"recall", "j\xff\xff\xff\xff.", {"did not keep"}},
      {"long text", "X\xff\xff\xff\xff.", {"breaks off"}},
      {"longer text",
       "\x8d" + little(uint64_t{1} << 62, 8) + ".",
       {"breaks off"}},
      {"long integer", "\x8a\xc8" + std::string(200, '\1') + ".", {"64 bits"}},
      {"no end", "NNN", {"breaks off"}},
      {"nothing", ".", {"not there"}},
      {"a name", "ctorch", {"breaks off"}},
      {"popped", "0.", {"not there"}},
      {"three of none", "N\x87.", {"not there"}},
      {"beyond the mark", "N(0.", {"not there"}},
      {"no mark", "Nt.", {"did not begin"}},
      {"append to none", "NNa.", {"no list"}},
      {"a key alone", "}(Nu.", {"key alone"}},
      {"member of none", "NNNs.", {"no dict"}},
      {"build", "]}b.", {"no dict"}},
      {"call", "K\x01)R.", {"no function"}},
      {"protocol", "\x80\x09.", {"protocol 9"}},
      {"not a storage", "N\x85Q.", {"no storage"}},
      {"other storage", storage("FloatStorage", "7") + ".", {}},
      {"lacking",
       "ctorch._utils\n_rebuild_tensor\n(" + storage("FloatStorage", "7") +
           "K" + std::string(1, '\0') + tuple({4}) + tuple({1}) + "tR.",
       {"lacks the storage '7'"}},
      {"long storage",
       "ctorch._utils\n_rebuild_tensor\n(" + storage("FloatStorage", "0", 5) +
           "K" + std::string(1, '\0') + tuple({4}) + tuple({1}) + "tR.",
       {"has 16 bytes"}},
      {"negative storage", storage("FloatStorage", "0", -1) + ".", {"-1"}},
      {"too large", t(0, {5}, {1}), {"does not hold it"}},
      {"too far", t(1, {4}, {1}), {"does not hold it"}},
      {"strided out", t(0, {2}, {4}), {"does not hold it"}},
      {"negative", t(0, {-1}, {1}), {"shape"}},
      {"negative stride", t(3, {2}, {-1}), {"strides"}},
      {"expanded", t(0, {1'000'000}, {0}), {"does not hold it"}},
      {"overflowing",
       t(0, {2'000'000'000, 2'000'000'000, 2'000'000'000}, {0, 0, 0}),
       {"a tensor is ["}},
      {"few strides", t(0, {2, 2}, {1}), {"strides"}},
      {"nine dims",
       t(0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}),
       {"at most 8"}}};
  const TempFolder folder;
  for (const auto& [name, pickle, says] : files) {
    SCOPED_TRACE(name);
    const auto path = folder.write("x.pt", file_of(pickle));
    const auto work = [&] {
      (void)TorchFile::open(path);
      return std::string();
    };
    if (says.empty())
      testing::expect_accepted(work);  // a storage of no tensor
    else
      expect_refused(work, ErrorKind::bad_data, says);
  }
}

TEST(TorchPickle, RefusesWhatIsNoFileOfIt) {
  const TempFolder folder;
  const auto none = zip({{"a/x", "x"}});
  const auto whole = file_of(tensor(0, tuple({4}), tuple({1})) + ".");
  const std::vector<Bad> files = {
      {"empty", "", {"no file of torch.save"}},
      {"html", "<!DOCTYPE html><html>", {"HTML"}},
      {"no pickle", none, {"without data.pkl"}},
      {"script", zip({{"a/code/x.py", "x"}}), {"TorchScript"}},
      {"compressed", zip({{"a/data.pkl", "x", 8}}), {"compressed"}},
      {"twice", zip({{"a/data.pkl", "."}, {"a/data.pkl", "."}}), {"twice"}},
      {"big-endian",
       zip({{"a/data.pkl", "N."}, {"a/byteorder", "big"}}),
       {"little-endian"}},
      {"half", whole.substr(0, whole.size() / 2), {"incomplete"}}};
  for (const auto& [name, bytes, says] : files) {
    SCOPED_TRACE(name);
    const auto path = folder.write("x.pt", bytes);
    expect_refused(
        [&] {
          (void)TorchFile::open(path);
          return "";
        },
        ErrorKind::bad_data,
        says);
  }
}

void read_all(const TorchFile& file, const TorchValue& value) {
  if (value.kind == TorchValue::Kind::tensor)
    (void)file.read(value.tensor, "x", mx::float32);
  for (const auto& item : value.items)
    read_all(file, item);
  for (const auto& [name, member] : value.members)
    read_all(file, member);
}

// Cut anywhere, or with any byte changed, it is refused or other values.
TEST(TorchPickle, BrokenFilesDoNotCrash) {
  const TempFolder folder;
  const testing::ExpectCheap cheap;
  size_t refused = 0, taken = 0;
  const auto attempt = [&](const std::string& bytes) {
    const auto path = folder.write("bad.pt", bytes);
    try {
      const auto file = TorchFile::open(path);
      read_all(file, file.value());
      ++taken;
    } catch (const Error& error) {
      ++refused;
      EXPECT_TRUE(
          error.kind() == ErrorKind::bad_data ||
          error.kind() == ErrorKind::usage)
          << error.what();
    }
  };
  for (const char* name : {"values.pt", "legacy.pt"}) {
    const auto good = testing::read_file(fixtures + name);
    for (size_t n = 0; n < good.size(); n += 1 + n / 40)
      attempt(good.substr(0, n));
    for (size_t at = 0; at < good.size(); at += 7)
      for (const char mask : {'\x01', '\x80', '\x7f'}) {
        auto bytes = good;
        bytes[at] = static_cast<char>(bytes[at] ^ mask);
        attempt(bytes);
      }
  }
  EXPECT_GT(refused, 500u);
  EXPECT_GT(taken, 500u);
}

}  // namespace
}  // namespace mlxterp
