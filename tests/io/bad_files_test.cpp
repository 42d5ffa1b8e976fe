// Hostile and damaged safetensors and GGUF files: each is opened and read in a
// process of its own and has to end in an Error that names what is wrong.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "io/half.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/io/safetensors.h"
#include "tests/bad_input.h"
#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using testing::expect_accepted;
using testing::expect_refused;
using testing::floats;
using testing::raw;
using testing::safetensors_bytes;
using testing::TempFolder;

std::string read_safetensors(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  for (const auto& tensor : file.tensors())
    file.read(tensor);
  return std::to_string(file.tensors().size());
}

std::string read_gguf(const std::filesystem::path& path) {
  const auto file = Gguf::open(path);
  for (const auto& tensor : file.tensors())
    file.read(tensor, mx::float32);
  return std::to_string(file.tensors().size());
}

struct BadFile {
  std::string what;
  std::string bytes;
  std::vector<std::string> says;
};

using Reader = std::string (*)(const std::filesystem::path&);

void expect_all_refused(const std::vector<BadFile>& files, Reader read) {
  const TempFolder folder;
  for (const auto& file : files) {
    SCOPED_TRACE(file.what);
    const auto path = folder.write("bad-file", file.bytes);
    auto says = file.says;
    says.push_back("bad-file");
    expect_refused(
        [&] { return read(path); },
        ErrorKind::bad_data,
        says,
        file.bytes.size());
  }
}

// One tensor "w", its entry's fields as given.
std::string with_entry(const std::string& fields, size_t bytes = 16) {
  return safetensors_bytes(
      "{\"w\":{" + fields + "}}", std::string(bytes, '\0'));
}

std::string with_shape(const std::string& shape, uint64_t bytes = 16) {
  return with_entry(
      "\"dtype\":\"F32\",\"shape\":" + shape + ",\"data_offsets\":[0," +
          std::to_string(bytes) + "]",
      bytes);
}

std::string with_offsets(const std::string& offsets) {
  return with_entry(
      "\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":" + offsets);
}

std::string with_dtype(const std::string& dtype, const std::string& shape) {
  return with_entry(
      "\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
      ",\"data_offsets\":[0,16]");
}

std::string entry(const std::string& name, size_t begin, size_t end) {
  return "\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" +
         std::to_string(end - begin) + "],\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string with_entries(const std::string& entries, size_t bytes) {
  return safetensors_bytes("{" + entries + "}", std::string(bytes, '\1'));
}

TEST(BadSafetensors, HeadsThatAreNone) {
  const std::string deep(200'000, '[');
  expect_all_refused(
      {
          {"empty", "", {"0 bytes"}},
          {"four bytes", "abcd", {"4 bytes"}},
          {"length 2^63",
           safetensors_bytes("{}", "", uint64_t{1} << 63),
           {"9223372036854775808", "33554432"}},
          {"length one above the limit",
           safetensors_bytes("{}", "", limits::safetensors_header_bytes + 1),
           {"33554433"}},
          {"length at the limit, file shorter",
           safetensors_bytes("{}", "", limits::safetensors_header_bytes),
           {"33554432", "incomplete"}},
          {"length beyond the file",
           safetensors_bytes("{}", "", 100),
           {"incomplete"}},
          {"length 0", safetensors_bytes("", "  "), {"start with '{'"}},
          {"length 1", safetensors_bytes("{", "  "), {"JSON"}},
          {"not JSON", safetensors_bytes("{nonsense}", ""), {"JSON"}},
          {"blank before", safetensors_bytes(" {}", ""), {"start with '{'"}},
          {"rest after", safetensors_bytes("{}{}", ""), {"JSON"}},
          {"git-LFS",
           "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
           {"git-LFS", "git lfs pull"}},
          {"HTML", "<!DOCTYPE html><html></html>", {"HTML"}},
          {"GGUF", "GGUF\3\0\0\0 and so on", {"GGUF"}},
          {"array", safetensors_bytes("[1]", ""), {"start with '{'"}},
          {"200k brackets", safetensors_bytes("{\"a\":" + deep, ""), {"64"}},
          {"not UTF-8",
           safetensors_bytes("{\"\xff\xfe\":1}", ""),
           {"UTF-8", "\\xff"}},
      },
      read_safetensors);
}

TEST(BadSafetensors, EntriesThatLie) {
  expect_all_refused(
      {
          {"key twice",
           with_entries(entry("w", 0, 4) + "," + entry("w", 4, 8), 8),
           {"\"w\"", "twice"}},
          {"field twice",
           with_offsets("[0,16],\"shape\":[2]"),
           {"\"shape\"", "twice"}},
          {"F4", with_dtype("F4", "[32]"), {"\"w\"", "F4", "BF16"}},
          {"F64", with_dtype("F64", "[2]"), {"\"w\"", "F64", "F32"}},
          {"FP8", with_dtype("F8_E4M3", "[16]"), {"F8_E4M3", "BF16"}},
          {"GGUF's own", with_dtype("Q8_0", "[16]"), {"Q8_0", "BF16"}},
          {"dtype 5", with_entry("\"dtype\":5"), {"dtype", "number"}},
          {"no dtype", with_entry("\"shape\":[4]"), {"\"w\"", "no dtype"}},
          {"no shape",
           with_entry("\"dtype\":\"F32\",\"data_offsets\":[0,16]"),
           {"no shape"}},
          {"no offsets",
           with_entry("\"dtype\":\"F32\",\"shape\":[4]"),
           {"no data_offsets"}},
          {"entry 1", safetensors_bytes("{\"w\":1}", ""), {"\"w\"", "number"}},
          {"negative", with_shape("[-1,-1]", 4), {"-1"}},
          {"minus zero", with_shape("[-0]", 0), {"shape"}},
          {"2^32 + 4", with_shape("[4294967300]"), {"4294967300"}},
          {"2^31", with_shape("[2147483648]"), {"2147483648"}},
          {"2^31 - 1, no such bytes", with_shape("[2147483647]"), {"need"}},
          {"wraps to 0",
           with_shape("[65536,65536,65536,65536]", 0),
           {"[65536, 65536, 65536, 65536]", "2^64"}},
          {"9 dimensions", with_shape("[1,1,1,1,1,1,1,1,4]"), {"8"}},
          {"fraction", with_shape("[2.9,2]"), {"2.9"}},
          {"float", with_shape("[4.0]"), {"4.0"}},
          {"string", with_shape("[\"4\"]"), {"\"4\""}},
          {"null", with_shape("null"), {"null"}},
          {"1e309", with_shape("[1e309]"), {"JSON"}},
          {"2^64", with_shape("[18446744073709551616]"), {"1.8"}},
          {"shape too small", with_shape("[3]"), {"16", "12"}},
          {"begin > end", with_offsets("[16,0]"), {"[16, 0]"}},
          {"near 2^64",
           with_offsets("[18446744073709551608,18446744073709551615]"),
           {"18446744073709551615"}},
          {"wraps",
           with_offsets("[18446744073709551608,8]"),
           {"18446744073709551608"}},
          {"past the end", with_offsets("[0,32]"), {"32", "16", "incomplete"}},
          {"one offset", with_offsets("[0]"), {"[0]"}},
          {"float offset", with_offsets("[0,16.0]"), {"16.0"}},
          {"string offset", with_offsets("\"0,16\""), {"0,16"}},
          {"overlap",
           with_entries(entry("a", 0, 6) + "," + entry("b", 4, 8), 8),
           {"\"b\"", "overlaps", "2 bytes"}},
          {"the same twice",
           with_entries(entry("a", 0, 8) + "," + entry("b", 0, 8), 8),
           {"overlaps"}},
          {"hole",
           with_entries(entry("a", 0, 2) + "," + entry("b", 4, 8), 8),
           {"\"b\"", "hole", "2 bytes"}},
          {"hole at the start",
           with_entries(entry("a", 4, 8), 8),
           {"hole", "4 bytes"}},
          {"trailing", with_entries(entry("a", 0, 4), 9), {"5 bytes after"}},
          {"metadata number",
           safetensors_bytes("{\"__metadata__\":{\"x\":5}}", ""),
           {"__metadata__", "\"x\"", "number"}},
          {"metadata list",
           safetensors_bytes("{\"__metadata__\":[]}", ""),
           {"__metadata__"}},
          {"name of 1025",
           with_entries(entry(std::string(1025, 'n'), 0, 4), 4),
           {"1025", "1024"}},
          {"name with NUL",
           with_entries(entry("a\\u0000b", 0, 4), 4),
           {"zero byte", "a\\x00b"}},
      },
      read_safetensors);
}

TEST(BadSafetensors, MoreTensorsThanAreRead) {
  std::string entries;
  for (size_t i = 0; i <= limits::tensors; ++i)
    entries += fmt::format("{}\"{}\":0", i ? "," : "", i);
  expect_all_refused(
      {{"one too many", with_entries(entries, 0), {"200001", "200000"}}},
      read_safetensors);
}

TEST(BadSafetensors, ABooleanOfTwo) {
  const TempFolder folder;
  const auto path = folder.write(
      "x",
      safetensors_bytes(
          "{\"w\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}",
          std::string("\0\1\2", 3)));
  expect_refused(
      [&] { return read_safetensors(path); },
      ErrorKind::bad_data,
      {"w is BOOL", "byte 2", "at 2"});
}

TEST(BadSafetensors, WhatIsOddButRight) {
  const TempFolder folder;
  for (const auto& bytes :
       {safetensors_bytes("{}", ""),
        safetensors_bytes("{}      ", ""),
        with_entries(entry("", 0, 4), 4),
        with_entries(entry(std::string(1024, 'n'), 0, 4), 4),
        with_entries(entry("zero", 0, 0) + "," + entry("a", 0, 4), 4),
        with_entries(entry("b", 4, 8) + "," + entry("a", 0, 4), 8),
        with_shape("[]", 4),
        with_shape("[2,0,2147483647]", 0),
        with_shape("[1,1,1,1,1,1,1,4]"),
        with_entry("\"more\":[],\"dtype\":\"F32\",\"shape\":[4],"
                   "\"data_offsets\":[0,16]")}) {
    SCOPED_TRACE(bytes);
    const auto path = folder.write("x", bytes);
    expect_accepted([&] { return read_safetensors(path); });
  }
}

TEST(BadPaths, OnlyRegularFilesAreOpened) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  for (const Reader read : {read_safetensors, read_gguf}) {
    const auto refused = [&](const std::filesystem::path& path,
                             const std::string& says) {
      expect_refused(
          [&] { return read(path); }, ErrorKind::environment, {says});
    };
    refused(folder.path(), "a directory");
    refused(folder / "pipe", "a pipe");
    refused("/dev/zero", "a device");
    refused(folder / "missing", "No such file");
    refused(folder / "odd \xff\n", "odd \\xff\\x0a");
    refused("", "No such file");
  }
}

TEST(BadPaths, FilesOneMayNotRead) {
  const TempFolder folder;
  const auto path = folder.write("secret", safetensors_bytes("{}", ""));
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  for (const Reader read : {read_safetensors, read_gguf})
    expect_refused(
        [&] {
          // Root may read anything, so be nobody.
          if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(1);
          return read(path);
        },
        ErrorKind::environment,
        {"secret", "Permission denied"});
}

TEST(BadPaths, OddNamesOfGoodFiles) {
  const TempFolder folder;
  std::vector<std::string> names = {"a b", "a\nb", "ünï"};
#if defined(__linux__)
  names.emplace_back("\xff\xfe");  // a Mac's file systems want UTF-8
#endif
  for (const auto& name : names)
    EXPECT_EQ(
        read_safetensors(folder.write(name, safetensors_bytes("{}", ""))), "0");
}

TEST(BadFiles, TruncatedAfterItWasOpened) {
  const TempFolder folder;
  const size_t n = 100'000;
  const auto safetensors =
      folder.write("w.safetensors", with_shape(fmt::format("[{}]", n), 4 * n));
  expect_refused(
      [&] {
        const auto file = Safetensors::open(safetensors);
        std::filesystem::resize_file(safetensors, 200);
        file.read(file.tensors()[0]);
        return "read";
      },
      ErrorKind::bad_data,
      {"changed", "now 200", "w.safetensors"});

  testing::gguf::File made;
  made.tensors = {testing::gguf::tensor("w", {n}, 0, 0)};
  made.data = floats(n);
  const auto gguf = folder.write("w.gguf", made.bytes());
  expect_refused(
      [&] {
        const auto file = Gguf::open(gguf);
        std::filesystem::resize_file(gguf, 0);
        file.read(file.tensors()[0], mx::float32);
        return "read";
      },
      ErrorKind::bad_data,
      {"changed", "now 0", "w.gguf"});
}

// At whatever moment it happens: were the file mapped, touching a page that is
// gone would end the process.
TEST(BadFiles, TruncatedWhileItIsRead) {
  const TempFolder folder;
  const size_t n = 8'000'000;
  std::string head = with_shape(fmt::format("[{}]", n), 0);
  const uint64_t size = head.size() + 4 * n;
  testing::gguf::File made;
  made.tensors = {testing::gguf::tensor("w", {n}, 1, 0)};
  made.data = std::string(2 * n, '\0');
  const auto gguf_bytes = made.bytes();
  for (int i = 0; i < 12; ++i) {
    const bool gguf = i % 2 == 1;
    const auto path =
        folder.write(fmt::format("{}", i), gguf ? gguf_bytes : head);
    if (!gguf) std::filesystem::resize_file(path, size);
    const auto outcome = testing::run_apart([&]() -> std::string {
      std::thread other([&] {
        ::usleep(static_cast<useconds_t>(i) * 1000);
        std::filesystem::resize_file(path, 300);
      });
      std::string what = "read";
      try {
        gguf ? read_gguf(path) : read_safetensors(path);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
        what = error.what();
      }
      other.join();
      return what;
    });
    EXPECT_EQ(outcome.end, testing::Outcome::End::returned) << outcome.text;
  }
}

TEST(BadFiles, WrittenToAfterItWasOpened) {
  const TempFolder folder;
  const auto path = folder.write("w", with_shape("[4]"));
  expect_refused(
      [&] {
        const auto file = Safetensors::open(path);
        ::usleep(20'000);  // two writes within a clock tick look like one
        folder.write("w", with_shape("[4]"));
        file.read(file.tensors()[0]);
        return "read";
      },
      ErrorKind::bad_data,
      {"changed"});
}

using testing::gguf::number;
using testing::gguf::tensor;
using testing::gguf::word;
using GgufFile = testing::gguf::File;

std::string with_metadata(const std::string& bytes) {
  GgufFile file;
  file.entries = {bytes};
  return file.bytes();
}

std::string with_tensor(const std::string& bytes, size_t data = 64) {
  GgufFile file;
  file.tensors = {bytes};
  file.data = std::string(data, '\0');
  return file.bytes();
}

std::string with_two(const std::string& a, const std::string& b) {
  GgufFile file;
  file.tensors = {a, b};
  file.data = std::string(128, '\0');
  return file.bytes();
}

std::string aligned(const std::string& entry_bytes) {
  return with_metadata(entry_bytes);
}

namespace types = testing::gguf;
constexpr uint64_t huge = uint64_t{1} << 40;

TEST(BadGguf, HeadsThatAreNone) {
  GgufFile good;
  expect_all_refused(
      {
          {"empty", "", {"0 bytes"}},
          {"three bytes", "GGU", {"3 bytes"}},
          {"magic alone", "GGUF", {"version"}},
          {"GGML", GgufFile{.magic = "lmgg"}.bytes(), {"GGML"}},
          {"other", GgufFile{.magic = "GGUX"}.bytes(), {"GGUX"}},
          {"git-LFS", "version https://git-lfs.github.com/", {"git-LFS"}},
          {"HTML", "\n <html>", {"HTML"}},
          {"pickle", std::string("PK\3\4\0\0", 6), {"pickle"}},
          {"version 0", GgufFile{.version = 0}.bytes(), {"version"}},
          {"version 1", GgufFile{.version = 1}.bytes(), {"version 1"}},
          {"version 99", GgufFile{.version = 99}.bytes(), {"version 99"}},
          {"big-endian",
           GgufFile{.version = 0x03000000}.bytes(),
           {"big-endian"}},
          {"tensors 2^40",
           GgufFile{.tensor_count = huge}.bytes(),
           {"1099511627776 tensors"}},
          {"tensors -1",
           GgufFile{.tensor_count = ~uint64_t{0}}.bytes(),
           {"tensors", "65536"}},
          {"tensors 65537",
           GgufFile{.tensor_count = 65537}.bytes(),
           {"65537 tensors", "65536"}},
          {"metadata 2^40",
           GgufFile{.entry_count = huge}.bytes(),
           {"1099511627776 metadata"}},
          {"metadata 65537",
           GgufFile{.entry_count = 65537}.bytes(),
           {"65537 metadata"}},
          {"metadata 65536, none there",
           GgufFile{.entry_count = 65536}.bytes(),
           {"empty metadata key"}},
          {"tensors 65536, none there",
           GgufFile{.tensor_count = 65536}.bytes(),
           {"tensor named \"\""}},
      },
      read_gguf);
}

TEST(BadGguf, MetadataThatLies) {
  const auto list = [](uint32_t type, uint64_t count, std::string_view bytes) {
    return with_metadata(types::entry(
        "key.x", types::array, raw(type) + raw(count) + std::string(bytes)));
  };
  expect_all_refused(
      {
          {"key of 2^40", with_metadata(raw(huge) + "x"), {"key", "65535"}},
          {"key of 2^64 - 1",
           with_metadata(raw(~uint64_t{0}) + "x"),
           {"18446744073709551615"}},
          {"key of 65536",
           with_metadata(number(std::string(65536, 'k'), 1)),
           {"key", "65536", "65535"}},
          {"key of 65535, not there",
           with_metadata(raw(uint64_t{65535}) + "x"),
           {"incomplete"}},
          {"empty key", with_metadata(number("", 1)), {"empty"}},
          {"string of 2^64 - 8",
           with_metadata(
               types::entry("key.x", types::string, raw(~uint64_t{7}))),
           {"key.x", "18446744073709551608"}},
          {"string of 16 MiB + 1",
           with_metadata(types::entry(
               "key.x", types::string, raw((uint64_t{16} << 20) + 1))),
           {"key.x", "16777217"}},
          {"string past the end",
           with_metadata(
               types::entry("key.x", types::string, raw(uint64_t{9999}))),
           {"key.x", "9999"}},
          {"2^40 numbers",
           list(types::uint32, huge, ""),
           {"key.x", "elements"}},
          {"2^33 strings",
           list(types::string, uint64_t{1} << 33, ""),
           {"key.x", "8589934592"}},
          {"more than is left",
           list(types::uint64, 100, std::string(50 * 8, '\0')),
           {"key.x", "100 elements"}},
          {"array of arrays",
           list(types::array, 1, raw(uint32_t{4})),
           {"key.x", "array of arrays"}},
          {"array of nothing", list(13, 1, ""), {"key.x", "13"}},
          {"type 13", with_metadata(types::entry("key.x", 13, "")), {"13"}},
          {"type 2^32 - 1",
           with_metadata(types::entry("key.x", ~0u, "")),
           {"4294967295"}},
          {"boolean 2",
           with_metadata(types::entry("key.x", types::boolean, "\2")),
           {"key.x", "2"}},
          {"2^63",
           with_metadata(
               types::entry("key.x", types::uint64, raw(uint64_t{1} << 63))),
           {"key.x", "9223372036854775808"}},
          {"key twice",
           GgufFile{.entries = {number("key.x", 1), number("key.x", 2)}}
               .bytes(),
           {"key.x", "twice"}},
          {"alignment 0", aligned(number("general.alignment", 0)), {"is 0"}},
          {"alignment 3", aligned(number("general.alignment", 3)), {"is 3"}},
          {"alignment 4", aligned(number("general.alignment", 4)), {"is 4"}},
          {"alignment 131072",
           aligned(number("general.alignment", 131072)),
           {"131072"}},
          {"alignment in words",
           aligned(word("general.alignment", "32")),
           {"general.alignment", "UINT32"}},
          {"alignment as int32",
           aligned(types::entry("general.alignment", types::int32, raw(32))),
           {"general.alignment", "UINT32"}},
      },
      read_gguf);
}

// The bytes are there, if only as a hole in the file: the count alone is wrong.
TEST(BadGguf, AnArrayOfTooMany) {
  const TempFolder folder;
  const uint64_t count = limits::gguf_array_elements + 1;
  const auto path = folder.write(
      "bad-file",
      with_metadata(types::entry(
          "key.x", types::array, raw(uint32_t{types::uint8}) + raw(count))));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + count);
  expect_refused(
      [&] { return read_gguf(path); },
      ErrorKind::bad_data,
      {"key.x", "16777217 elements", "bad-file"});
  // Nor in several that are fine alone.
  const uint64_t half = limits::gguf_array_elements / 2 + 1;
  const auto two = folder.write(
      "two-arrays",
      types::File{
          .entries =
              {types::entry(
                   "key.x",
                   types::array,
                   raw(uint32_t{types::uint8}) + raw(half) +
                       std::string(half, '\1')),
               types::entry(
                   "key.y",
                   types::array,
                   raw(uint32_t{types::uint8}) + raw(half) +
                       std::string(half, '\1'))}}
          .bytes());
  expect_refused(
      [&] { return read_gguf(two); },
      ErrorKind::bad_data,
      {"key.y", "8388609 elements", "16777216 in all", "two-arrays"});
}

TEST(BadGguf, TensorsThatLie) {
  const uint64_t wide = uint64_t{1} << 31;
  const auto dims = [](uint32_t count) {
    return types::text("t.x") + raw(count);
  };
  expect_all_refused(
      {
          {"9 dimensions", with_tensor(dims(9)), {"t.x", "9 dimensions"}},
          {"5 dimensions",
           with_tensor(tensor("t.x", {1, 1, 1, 1, 1}, 0, 0)),
           {"t.x", "5 dimensions"}},
          {"10^6 dimensions", with_tensor(dims(1'000'000)), {"1000000"}},
          {"no dimension, quantised",
           with_tensor(tensor("t.x", {}, 2, 0)),
           {"t.x", "Q4_0"}},
          {"type 250",
           with_tensor(tensor("t.x", {32}, 250, 0)),
           {"t.x", "number 250", "Q4_K"}},
          {"IQ3_S",
           with_tensor(tensor("t.x", {256}, 21, 0)),
           {"t.x", "IQ3_S", "Q4_K"}},
          {"NVFP4", with_tensor(tensor("t.x", {256}, 40, 0)), {"NVFP4"}},
          {"Q8_K", with_tensor(tensor("t.x", {256}, 15, 0)), {"Q8_K"}},
          {"F64", with_tensor(tensor("t.x", {8}, 28, 0)), {"F64"}},
          {"I32", with_tensor(tensor("t.x", {8}, 26, 0)), {"I32"}},
          {"offset past the end",
           with_tensor(tensor("t.x", {16}, 0, 64)),
           {"t.x", "64"}},
          {"offset that wraps",
           with_tensor(tensor("t.x", {16}, 0, ~uint64_t{31})),
           {"t.x", "18446744073709551584"}},
          {"offset not aligned",
           with_tensor(tensor("t.x", {8}, 0, 8)),
           {"t.x", "alignment"}},
          {"more bytes than there are",
           with_tensor(tensor("t.x", {17}, 0, 0)),
           {"t.x", "68", "64", "incomplete"}},
          {"2^31 wide",
           with_tensor(tensor("t.x", {wide}, 0, 0)),
           {"2147483648"}},
          {"no data at all",
           with_tensor(tensor("t.x", {16}, 0, 0), 0),
           {"incomplete"}},
          {"product wraps",
           with_tensor(tensor("t.x", {wide - 1, wide - 1, wide - 1, 1}, 0, 0)),
           {"t.x", "too large"}},
          {"bytes wrap",
           with_tensor(tensor("t.x", {wide / 2, wide / 2, 4, 1}, 0, 0)),
           {"t.x", "too large"}},
          {"zero wide", with_tensor(tensor("t.x", {0}, 0, 0)), {"of 0"}},
          {"negative",
           with_tensor(tensor("t.x", {~uint64_t{0}}, 0, 0)),
           {"t.x"}},
          {"half a block",
           with_tensor(tensor("t.x", {16, 2}, 2, 0)),
           {"[2, 16]", "Q4_0"}},
          {"name twice",
           with_two(tensor("t.x", {16}, 0, 0), tensor("t.x", {16}, 0, 64)),
           {"t.x", "twice"}},
          {"overlap",
           with_two(tensor("t.x", {16}, 0, 0), tensor("t.y", {16}, 0, 32)),
           {"t.x", "t.y", "overlap"}},
          {"the same place",
           with_two(tensor("t.x", {16}, 0, 0), tensor("t.y", {16}, 0, 0)),
           {"t.x", "t.y", "overlap"}},
          {"empty name", with_tensor(tensor("", {16}, 0, 0)), {"\"\""}},
          {"name not UTF-8",
           with_tensor(tensor("t\xff", {16}, 0, 0)),
           {"t\\xff"}},
          {"name with an escape",
           with_tensor(tensor("t\x1b[31m", {16}, 0, 0)),
           {"t\\x1b"}},
          {"name of 1025",
           with_tensor(tensor(std::string(1025, 't'), {16}, 0, 0)),
           {"1025"}},
      },
      read_gguf);
}

TEST(BadGguf, WhatIsOddButRight) {
  const TempFolder folder;
  GgufFile large{.entries = {number("general.alignment", 64)}};
  large.tensors = {tensor("t", {16}, 0, 0)};
  large.data = floats(16);
  large.alignment = 64;
  GgufFile late = large;  // a quantised name without .weight, a gap before it
  late.tensors = {tensor("q", {32}, 2, 64)};
  late.data = std::string(64 + 18, '\0');
  for (const auto& bytes :
       {GgufFile{}.bytes(),
        GgufFile{.version = 2}.bytes(),
        with_tensor(tensor("scalar", {}, 0, 0)),
        with_tensor(tensor(std::string(1024, 't'), {16}, 0, 0)),
        with_metadata(types::entry(
            "x", types::array, raw(uint32_t{8}) + raw(uint64_t{0}))),
        large.bytes(),
        with_metadata(number(std::string(65535, 'k'), 1)),
        with_metadata(number("general.alignment", 8)),
        with_metadata(number("general.alignment", 65536)),
        late.bytes()}) {
    const auto path = folder.write("x", bytes);
    expect_accepted([&] { return read_gguf(path); });
  }
}

// Any bit of the first `changed` bytes flipped, or the end cut off anywhere in
// them: accepted or an Error, never a crash.
void expect_no_mutation_crashes(
    const std::string& good, size_t changed, Reader read) {
  const TempFolder folder;
  const auto outcome = testing::run_apart(
      [&] {
        size_t tried = 0, accepted = 0;
        const auto attempt = [&](const std::string& bytes) {
          // A new name each time: cutting an old file waits for the disk.
          const auto path = folder.write(std::to_string(++tried), bytes);
          try {
            read(path);
            ++accepted;
          } catch (const Error&) {
          }
          std::filesystem::remove(path);
        };
        for (size_t i = 0; i < changed; ++i) {
          attempt(good.substr(0, i));
          for (const int change : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
            std::string bad = good;
            bad[i] = static_cast<char>(bad[i] ^ change);
            attempt(bad);
          }
        }
        attempt(good);
        return fmt::format("{} tried, {} accepted", tried, accepted);
      },
      300);
  EXPECT_EQ(outcome.end, testing::Outcome::End::returned) << outcome.text;
  std::printf("%zu bytes: %s\n", changed, outcome.text.c_str());
}

TEST(Mutations, Safetensors) {
  std::string header = "{\"__metadata__\":{\"by\":\"test\"},";
  header += entry("first", 0, 64) + "," + entry("second", 64, 128);
  header +=
      ",\"third\":{\"dtype\":\"BOOL\",\"shape\":[2,8],\"data_offsets\":"
      "[128,144]},\"fourth\":{\"dtype\":\"BF16\",\"shape\":[2,2,2],"
      "\"data_offsets\":[144,160]}}";
  const auto bytes = safetensors_bytes(header, std::string(160, '\1'));
  expect_no_mutation_crashes(bytes, bytes.size(), read_safetensors);
}

TEST(Mutations, Gguf) {
  GgufFile file;
  file.entries = {
      word("general.name", "x"),
      number("general.alignment", 32),
      types::real("f", 0.5f),
      types::words("list", {"a", "bc"})};
  file.tensors = {
      tensor("a.weight", {32, 2}, 2, 0), tensor("b.weight", {256}, 14, 64)};
  file.data = std::string(64 + 224, '\5');
  const auto bytes = file.bytes();
  expect_no_mutation_crashes(bytes, bytes.size(), read_gguf);
}

std::string read_checkpoint(const std::filesystem::path& path) {
  const auto checkpoint = Checkpoint::open(path);
  for (const auto& tensor : checkpoint.tensors())
    checkpoint.read(tensor);
  return checkpoint.config();
}

TEST(Mutations, LlamaGguf) {
  const auto bytes = testing::gguf::Llama{}.bytes();
  expect_no_mutation_crashes(bytes, 1200, read_checkpoint);
}

}  // namespace
}  // namespace mlxterp
