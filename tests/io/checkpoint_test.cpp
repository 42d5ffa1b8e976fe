#include "mlxterp/io/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "io/half.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/gguf.h"
#include "tests/bad_input.h"
#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using nlohmann::json;
using testing::floats;
using testing::raw;
using testing::safetensors_bytes;
using testing::TempFolder;
using testing::gguf::Llama;

constexpr const char* config = "{\"model_type\": \"llama\"}";

// A safetensors file of float32 tensors of four numbers.
std::string weights(const std::vector<std::string>& names, float value = 1) {
  std::string header = "{";
  for (size_t i = 0; i < names.size(); ++i)
    header += (i ? ",\"" : "\"") + names[i] +
              "\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[" +
              std::to_string(16 * i) + "," + std::to_string(16 * i + 16) + "]}";
  return safetensors_bytes(header + "}", floats(4 * names.size(), value));
}

std::string index(const std::map<std::string, std::string>& map) {
  return json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump();
}

constexpr const char* one = "model-00001-of-00002.safetensors";
constexpr const char* two = "model-00002-of-00002.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

void write_shards(const TempFolder& folder) {
  folder.write("m/config.json", config);
  folder.write(std::string("m/") + one, weights({"a", "b"}, 1));
  folder.write(std::string("m/") + two, weights({"c"}, 2));
  folder.write(
      std::string("m/") + index_name,
      index({{"a", one}, {"b", one}, {"c", two}}));
}

std::string open_and_read(const fs::path& path) {
  const auto checkpoint = Checkpoint::open(path);
  for (const auto& tensor : checkpoint.tensors())
    checkpoint.read(tensor);
  return checkpoint.config();
}

void expect_refused(
    const fs::path& path,
    const std::vector<std::string>& says,
    ErrorKind kind = ErrorKind::bad_data) {
  testing::expect_refused([&] { return open_and_read(path); }, kind, says);
}

TEST(Checkpoint, AFolderWithOneFile) {
  const TempFolder folder;
  folder.write("config.json", config);
  folder.write("model.safetensors", weights({"b", "a"}, 3));
  folder.write("tokenizer.json", "{}");
  folder.write("pytorch_model.bin", "never read");
  const auto checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.path(), folder.path());
  EXPECT_EQ(checkpoint.config(), config);
  EXPECT_EQ(checkpoint.gguf(), nullptr);
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensors()[0].name, "b");  // the file's order
  EXPECT_EQ(checkpoint.find("missing"), nullptr);
  ASSERT_NE(checkpoint.find("a"), nullptr);
  const auto a = checkpoint.read(*checkpoint.find("a"));
  EXPECT_EQ(a.shape(), (mx::Shape{2, 2}));
  EXPECT_EQ(a.data<float>()[3], 3.0f);
  TensorInfo other;
  other.name = "other";
  try {
    checkpoint.read(other);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unknown_name);
  }
}

TEST(Checkpoint, AFolderWithShards) {
  const TempFolder folder;
  write_shards(folder);
  const auto checkpoint = Checkpoint::open(folder / "m");
  ASSERT_EQ(checkpoint.tensors().size(), 3u);
  const auto first = [&](const char* name) {
    return checkpoint.read(*checkpoint.find(name)).data<float>()[0];
  };
  EXPECT_EQ(first("b"), 1.0f);
  EXPECT_EQ(first("c"), 2.0f);
}

TEST(Checkpoint, ReadsAsTheDtypeAskedFor) {
  const TempFolder folder;
  std::string data;
  for (const float value : {1.0f, -0.3f, 65504.0f, 1e-7f})
    data += raw(to_bfloat(value));
  data += raw(int32_t{-7});
  folder.write("config.json", config);
  folder.write(
      "model.safetensors",
      safetensors_bytes(
          "{\"w\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"
          "\"i\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
          data));
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto& w = *checkpoint.find("w");
  EXPECT_EQ(checkpoint.read(w).dtype(), mx::bfloat16);
  const auto wide = checkpoint.read(w, mx::float32);
  ASSERT_EQ(wide.dtype(), mx::float32);
  const auto& i = *checkpoint.find("i");
  EXPECT_EQ(checkpoint.read(i, mx::float16).dtype(), mx::int32);
  EXPECT_EQ(checkpoint.read(i).data<int32_t>()[0], -7);
  for (size_t k = 0; k < 4; ++k) {
    uint16_t bits;
    std::memcpy(&bits, data.data() + 2 * k, 2);
    EXPECT_EQ(wide.data<float>()[k], from_bfloat(bits));
  }
  EXPECT_THROW(checkpoint.read(w, mx::int8), Error);
  // 65504 is 65536 as a bfloat16, and that no float16.
  try {
    checkpoint.read(w, mx::float16);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data);
    EXPECT_NE(std::string(error.what()).find("65504"), std::string::npos);
  }
}

TEST(Checkpoint, NanAndInfinityAreCountedAndNamed) {
  const TempFolder folder;
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const size_t n = 300'000;  // enough for two threads
  std::string data = floats(n);
  const auto put = [&](size_t at, float value) {
    std::memcpy(data.data() + 4 * at, &value, 4);
  };
  put(0, nan);
  put(100'000, infinity);
  put(n - 1, -infinity);
  folder.write("config.json", config);
  const auto bytes = std::to_string(4 * n);
  folder.write(
      "model.safetensors",
      safetensors_bytes(
          "{\"layer.w\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(n) +
              "],\"data_offsets\":[0," + bytes + "]}}",
          data));
  expect_refused(folder.path(), {"layer.w", "3 values of 300000"});
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto& w = *checkpoint.find("layer.w");
  for (const auto dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    EXPECT_THROW(checkpoint.read(w, dtype), Error);
    EXPECT_EQ(checkpoint.read(w, dtype, true).size(), n);
  }
}

TEST(Checkpoint, TheHubsCacheIsFollowed) {
  const TempFolder folder;
  folder.write("models--a--b/blobs/11", config);
  folder.write("models--a--b/blobs/22", weights({"a"}));
  const auto snapshot = folder / "models--a--b/snapshots/rev";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/11", snapshot / "config.json");
  fs::create_symlink("../../blobs/22", snapshot / "model.safetensors");
  EXPECT_EQ(Checkpoint::open(snapshot).tensors().size(), 1u);
  fs::create_directory_symlink(snapshot, folder / "link");
  EXPECT_EQ(Checkpoint::open(folder / "link").tensors().size(), 1u);
}

TEST(Checkpoint, LinksOutOfTheFolderAreRefused) {
  const TempFolder folder;
  folder.write("outside.safetensors", weights({"a"}));
  folder.write("blobs/11", weights({"a"}));
  folder.write("m/config.json", config);
  for (const char* target :
       {"../outside.safetensors", "../blobs/11", "/etc/passwd"}) {
    fs::remove(folder / "m/model.safetensors");
    fs::create_symlink(target, folder / "m/model.safetensors");
    expect_refused(folder / "m", {"model.safetensors", "outside its folder"});
  }
  fs::remove(folder / "m/model.safetensors");
  fs::create_symlink("nowhere", folder / "m/model.safetensors");
  expect_refused(
      folder / "m", {"model.safetensors", "No such"}, ErrorKind::environment);
  // From shards too.
  fs::remove(folder / "m/model.safetensors");
  write_shards(folder);
  fs::remove(folder / "m" / two);
  fs::create_symlink("../outside.safetensors", folder / "m" / two);
  expect_refused(folder / "m", {two, "outside its folder"});
}

TEST(Checkpoint, IndicesThatLie) {
  using Map = std::map<std::string, std::string>;
  const auto refused = [](const Map& map, const std::string& says) {
    SCOPED_TRACE(says);
    const TempFolder folder;
    write_shards(folder);
    folder.write(std::string("m/") + index_name, index(map));
    folder.write("secret.safetensors", weights({"a"}));
    expect_refused(folder / "m", {says});
  };
  const Map good{{"a", one}, {"b", one}, {"c", two}};
  const auto with = [&](const std::string& tensor, const std::string& shard) {
    Map map = good;
    map[tensor] = shard;
    return map;
  };
  refused(with("a", "../secret.safetensors"), "../secret.safetensors");
  refused(with("a", "../../etc/passwd"), "../../etc/passwd");
  refused(with("a", "/etc/passwd"), "/etc/passwd");
  refused(with("a", ".."), "\"..\"");
  refused(with("a", ""), "\"\"");
  refused(with("a", std::string("x\0.safetensors", 14)), "x\\x00");
  refused(with("a", "model.bin"), "model.bin");
  refused(with("d", "model-9.safetensors"), "model-9.safetensors");
  refused(with("d", two), "d is in");
  refused(with("b", two), "holds b");
  refused({{"a", one}, {"c", two}}, "holds b");
  refused({{"a", one}, {"b", one}}, two);  // a stray shard
  refused({}, "0 tensors");
}

TEST(Checkpoint, IndicesThatAreNone) {
  const TempFolder folder;
  write_shards(folder);
  const auto refused = [&](const std::string& text, const std::string& says) {
    SCOPED_TRACE(text);
    folder.write(std::string("m/") + index_name, text);
    expect_refused(folder / "m", {"index.json", says});
  };
  refused("", "0 bytes");
  refused("[]", "weight_map");
  refused("{}", "weight_map");
  refused("{\"weight_map\":[]}", "weight_map");
  refused("{\"weight_map\":{\"a\":5}}", "plain name");
  refused("{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}", "twice");
  refused("<html>", "HTML");
}

TEST(Checkpoint, AnotherTotalSizeIsAWarning) {
  const TempFolder folder;
  write_shards(folder);
  const auto told = Checkpoint::open(folder / "m").warnings();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("1 bytes, they have 48"), std::string::npos);
  json right = json::parse(testing::read_file(folder / "m" / index_name));
  for (const auto& says : {json(48), json("48"), json(-1), json()}) {
    right["metadata"]["total_size"] = says;
    folder.write(std::string("m/") + index_name, right.dump());
    EXPECT_TRUE(Checkpoint::open(folder / "m").warnings().empty());
  }
  right["metadata"] = 5;
  folder.write(std::string("m/") + index_name, right.dump());
  EXPECT_TRUE(Checkpoint::open(folder / "m").warnings().empty());
}

TEST(Checkpoint, AShardInTwoPlaces) {
  const TempFolder folder;
  write_shards(folder);
  folder.write(std::string("m/") + two, weights({"c", "a"}));
  expect_refused(folder / "m", {"holds a", one});
}

TEST(Checkpoint, StrayShards) {
  const TempFolder folder;
  write_shards(folder);
  folder.write("m/model-00003-of-00002.safetensors", weights({"x"}));
  expect_refused(folder / "m", {"model-00003-of-00002.safetensors"});

  const TempFolder single;
  single.write("config.json", config);
  single.write("model.safetensors", weights({"a"}));
  single.write(one, weights({"a"}));
  expect_refused(single.path(), {one, "no index"});
  fs::remove(single / one);
  single.write("adapter_model.safetensors", weights({"a"}));  // not a shard
  testing::expect_accepted([&] { return open_and_read(single.path()); });

  write_shards(folder);
  fs::remove(folder / "m/model-00003-of-00002.safetensors");
  folder.write("m/model.safetensors", weights({"a"}));
  expect_refused(folder / "m", {"model.safetensors", "does not name"});
}

TEST(Checkpoint, ShardsThatAreNone) {
  const TempFolder folder;
  write_shards(folder);
  const std::string lfs = "version https://git-lfs.github.com/spec/v1\n";
  folder.write(std::string("m/") + two, lfs);
  expect_refused(folder / "m", {two, "git-LFS"});
  folder.write(std::string("m/") + two, "<!doctype html>");
  expect_refused(folder / "m", {two, "HTML"});
  folder.write(std::string("m/") + two, "");
  expect_refused(folder / "m", {two, "0 bytes"});
}

TEST(Checkpoint, FoldersWithoutWhatIsNeeded) {
  const TempFolder folder;
  fs::create_directory(folder / "m");
  expect_refused(folder / "m", {"no config.json"});
  folder.write("m/x.gguf", "");
  expect_refused(folder / "m", {"no config.json", "x.gguf"});
  folder.write("m/config.json", config);
  expect_refused(folder / "m", {"no weights"});
  folder.write("m/pytorch_model.bin", "PK");
  expect_refused(folder / "m", {"pytorch_model.bin", "convert to safetensors"});
  expect_refused(folder / "m/pytorch_model.bin", {"convert to safetensors"});
  folder.write("m/other.safetensors", weights({"a"}));
  expect_refused(folder / "m", {"other.safetensors"});
  expect_refused(folder / "m/other.safetensors", {"config.json"});
  expect_refused(folder / "none", {"No such file"}, ErrorKind::environment);
  expect_refused("", {"No such file"}, ErrorKind::environment);
  expect_refused("/dev/zero", {"a device"}, ErrorKind::environment);
}

TEST(Checkpoint, ConfigsThatAreNone) {
  const TempFolder folder;
  folder.write("model.safetensors", weights({"a"}));
  const auto refused = [&](const std::string& text, const std::string& says) {
    SCOPED_TRACE(text.substr(0, 100));
    folder.write("config.json", text);
    expect_refused(folder.path(), {"config.json", says});
  };
  refused("", "0 bytes");
  refused("[]", "array");
  refused("5", "number");
  refused("{", "JSON");
  refused("{} {}", "JSON");
  refused("{\"a\":1,\"a\":2}", "twice");
  refused("{\"a\":1e309}", "JSON");
  refused("{\"\xff\":1}", "\\xff");
  refused("version https://git-lfs.github.com/spec/v1", "git-LFS");
  refused("<html></html>", "HTML");
  refused(std::string((1 << 20) + 1, ' '), "1048577");
  refused("{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", "64");
  refused("{\"a\":" + std::string(200'000, '['), "64");
  folder.write(
      "config.json",
      "{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}");
  testing::expect_accepted([&] { return open_and_read(folder.path()); });
  folder.write("config.json", "{}" + std::string((1 << 20) - 2, ' '));
  testing::expect_accepted([&] { return open_and_read(folder.path()); });
  // Code that a config names is never looked at.
  folder.write("config.json", "{\"auto_map\":{\"AutoModel\":\"evil.Model\"}}");
  folder.write("evil.py", "raise SystemExit");
  testing::expect_accepted([&] { return open_and_read(folder.path()); });
}

TEST(Checkpoint, AnIndexLargerThanIsRead) {
  const TempFolder folder;
  folder.write("config.json", config);
  std::string map;
  for (size_t i = 0; i <= limits::tensors; ++i)
    map += fmt::format("{}\"{}\":\"\"", i ? "," : "", i);
  const auto index = folder.write(
      "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  expect_refused(folder.path(), {"index.json", "200001", "200000"});
  fs::resize_file(index, limits::index_bytes + 1);
  expect_refused(folder.path(), {"index.json", "67108865", "67108864"});
}

TEST(Checkpoint, AFolderOfManyOpensFromSeveralThreads) {
  const TempFolder folder;
  write_shards(folder);
  const auto checkpoint = Checkpoint::open(folder / "m");
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (const auto& tensor : checkpoint.tensors())
        good += checkpoint.read(tensor).size() == 4;
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(good, 12);
}

TEST(LlamaGguf, SpeaksHuggingFace) {
  const TempFolder folder;
  const auto path = folder.write("m.gguf", Llama{}.bytes());
  const auto checkpoint = Checkpoint::open(path);
  ASSERT_NE(checkpoint.gguf(), nullptr);
  const json want = {
      {"model_type", "llama"},
      {"num_hidden_layers", 1},
      {"hidden_size", 8},
      {"intermediate_size", 16},
      {"num_attention_heads", 2},
      {"num_key_value_heads", 1},
      {"head_dim", 4},
      {"max_position_embeddings", 32},
      {"rope_theta", 10000.0},
      {"vocab_size", 6},
      {"rms_norm_eps", 1e-5},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"tie_word_embeddings", true}};
  EXPECT_EQ(json::parse(checkpoint.config()), want);
  for (const char* name :
       {"model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight"})
    EXPECT_NE(checkpoint.find(name), nullptr) << name;
  EXPECT_EQ(checkpoint.tensors().size(), 11u);
}

TEST(LlamaGguf, QueryAndKeyRowsAreInHuggingFaceOrder) {
  const TempFolder folder;
  Llama llama;
  llama.tensors["blk.0.attn_q.bias"] = {8};
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", llama.bytes()));
  const std::string attention = "model.layers.0.self_attn.";
  const auto rows = [&](const std::string& name) {
    const auto x = checkpoint.read(*checkpoint.find(attention + name));
    std::vector<int> result;
    const auto columns = x.ndim() == 2 ? 8u : 1u;
    for (size_t i = 0; i < x.size(); i += columns) {
      result.push_back(static_cast<int>(x.data<float>()[i]) / (int)columns);
      for (size_t j = 0; j < columns; ++j)  // rows move whole
        EXPECT_EQ(x.data<float>()[i + j] - x.data<float>()[i], j);
    }
    return result;
  };
  const std::vector<int> two_heads{0, 2, 1, 3, 4, 6, 5, 7};
  EXPECT_EQ(rows("q_proj.weight"), two_heads);
  EXPECT_EQ(rows("q_proj.bias"), two_heads);
  EXPECT_EQ(rows("k_proj.weight"), (std::vector<int>{0, 2, 1, 3}));
  EXPECT_EQ(rows("v_proj.weight"), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(rows("o_proj.weight"), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(LlamaGguf, WhatElseTheMetadataSaysIsPassedOn) {
  using namespace testing::gguf;
  const TempFolder folder;
  Llama llama;
  auto& metadata = llama.metadata;
  metadata["a"] = real("llama.rope.freq_base", 500000);
  metadata["b"] = word("llama.rope.scaling.type", "yarn");
  metadata["c"] = real("llama.rope.scaling.factor", 4);
  metadata["d"] = number("llama.rope.scaling.original_context_length", 8);
  metadata["e"] = number("llama.rope.dimension_count", 2);
  metadata["f"] = number("tokenizer.ggml.bos_token_id", 1);
  metadata["g"] = number("tokenizer.ggml.eos_token_id", 2);
  llama.tensors["output.weight"] = {8, 6};
  llama.tensors["other.weight"] = {2};
  llama.tensors["blk.x.attn_q.weight"] = {8, 8};
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", llama.bytes()));
  const json got = json::parse(checkpoint.config());
  EXPECT_EQ(got["rope_theta"], 500000.0);
  EXPECT_EQ(
      got["rope_scaling"],
      (json{
          {"rope_type", "yarn"},
          {"factor", 4.0},
          {"original_max_position_embeddings", 8}}));
  EXPECT_EQ(got["partial_rotary_factor"], 0.5);
  EXPECT_EQ(got["bos_token_id"], 1);
  EXPECT_EQ(got["eos_token_id"], 2);
  EXPECT_EQ(got["tie_word_embeddings"], false);
  EXPECT_NE(checkpoint.find("lm_head.weight"), nullptr);
  EXPECT_NE(checkpoint.find("other.weight"), nullptr);
  EXPECT_NE(checkpoint.find("blk.x.attn_q.weight"), nullptr);
}

TEST(LlamaGguf, MetadataThatIsMissingOrWrong) {
  using namespace testing::gguf;
  const auto refused = [](const std::string& key,
                          const std::string& bytes,
                          const std::vector<std::string>& says) {
    SCOPED_TRACE(key);
    const TempFolder folder;
    Llama llama;
    llama.metadata[key] = bytes;
    expect_refused(folder.write("m.gguf", llama.bytes()), says);
  };
  refused("general.architecture", "", {"general.architecture"});
  for (const char* arch : {"", "../x", "gpt99"})
    refused(
        "general.architecture",
        word("general.architecture", arch),
        {arch, "llama"});
  for (const char* key :
       {"block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length"}) {
    const std::string full = std::string("llama.") + key;
    refused(key, "", {full});
    refused(key, number(full, 0), {full, "is 0"});
    refused(key, number(full, 4'000'000'000), {full, "4000000000"});
    refused(key, entry(full, int32, raw(-1)), {full, "is -1"});
    refused(key, real(full, 1), {full, "not an integer"});
    refused(key, word(full, "1"), {full, "not an integer"});
    refused(key, words(full, {"1"}), {full, "not an integer"});
  }
  refused("block_count", number("llama.block_count", 513), {"513", "512"});
  const std::string heads = "llama.attention.head_count";
  refused("head_count", "", {heads});
  refused("head_count", number(heads, 3), {"3 heads", "8"});
  refused("head_count_kv", number(heads + "_kv", 0), {"head_count_kv", "0"});
  refused("head_count_kv", number(heads + "_kv", 3), {"3 key heads", "2"});
  const std::string eps = "llama.attention.layer_norm_rms_epsilon";
  refused("eps", "", {eps});
  refused("eps", real(eps, 0), {eps});
  refused("eps", real(eps, std::nanf("")), {eps, "nan"});
  refused("x", real("llama.rope.freq_base", -1), {"freq_base", "-1"});
  refused("x", number("llama.vocab_size", 7), {"7", "6 rows"});
  refused("x", number("llama.expert_count", 8), {"expert_count", "8"});
  refused("x", number("llama.attention.value_length", 2), {"4", "2"});
  refused("x", number("split.count", 3), {"one of 3 parts", "-of-00003.gguf"});
  refused("x", number("tokenizer.ggml.bos_token_id", 6), {"bos_token_id", "6"});
  const std::string tokens = "tokenizer.ggml.tokens";
  refused("tokens", words(tokens, {"a"}), {tokens, "1 entries", "6"});
  refused("tokens", word(tokens, "a"), {tokens, "list of strings"});
  refused("x", words("tokenizer.ggml.scores", {"a"}), {"scores"});
  refused("x", words("tokenizer.ggml.token_type", {"a"}), {"token_type"});
}

TEST(LlamaGguf, TensorsThatContradictTheMetadata) {
  const auto refused = [](const std::string& name,
                          const std::vector<uint64_t>& dims,
                          const std::vector<std::string>& says) {
    SCOPED_TRACE(name);
    const TempFolder folder;
    Llama llama;
    if (dims.empty()) llama.tensors.erase(name);
    if (!dims.empty()) llama.tensors[name] = dims;
    expect_refused(folder.write("m.gguf", llama.bytes()), says);
  };
  refused("token_embd.weight", {}, {"token_embd.weight"});
  refused("token_embd.weight", {48}, {"token_embd.weight"});
  refused("blk.0.attn_q.weight", {8, 6}, {"attn_q.weight", "[6, 8]", "2"});
  refused("blk.0.attn_k.weight", {8, 3}, {"attn_k.weight", "[3, 8]"});
  refused("model.norm.weight", {8}, {"model.norm.weight twice", "output_norm"});
}

TEST(LlamaGguf, ANanScaleIsFound) {
  using namespace testing::gguf;
  const TempFolder folder;
  File file;
  const Llama llama;
  for (const auto& [name, bytes] : llama.metadata)
    if (name != "tokens") file.entries.push_back(bytes);
  file.tensors = {tensor("token_embd.weight", {32, 2}, 8, 0)};  // Q8_0
  file.data = raw(to_half(1)) + std::string(32, '\1') + raw(uint16_t{0x7E00}) +
              std::string(32, '\1');
  expect_refused(
      folder.write("m.gguf", file.bytes()),
      {"model.embed_tokens.weight", "32 values of 64"});
}

// 700 MB of nothing on the disk, 8 GB in memory. Under a sanitizer there is no
// limit to hit.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__APPLE__)
TEST(LlamaGguf, NoMemoryIsAnError) {
  using namespace testing::gguf;
  const TempFolder folder;
  File file;
  for (const auto& [name, bytes] : Llama{}.metadata)
    if (name != "tokens") file.entries.push_back(bytes);
  file.tensors = {tensor("token_embd.weight", {32768, 65536}, 10, 0)};
  const auto path = folder.write("m.gguf", file.bytes());
  const uint64_t numbers = uint64_t{32768} * 65536;
  fs::resize_file(path, fs::file_size(path) + numbers / 256 * 84);
  testing::expect_refused(
      [&] {
        const auto checkpoint = Checkpoint::open(path);
        checkpoint.read(checkpoint.tensors()[0], mx::float32);
        return "read";
      },
      ErrorKind::environment,
      {"no memory", "8589934592", "model.embed_tokens.weight"});
}
#endif

/** The demo model, or an explanation of how to get it. */
Checkpoint open_demo() {
  const auto path = demo_model_path();
  if (!fs::exists(path))
    throw std::runtime_error(path.string() + " is missing; run `make demo`");
  return Checkpoint::open(path);
}

TEST(Demo, ItsConfigAndNames) {
  const auto demo = open_demo();
  const json got = json::parse(demo.config());
  EXPECT_EQ(got["model_type"], "llama");
  EXPECT_EQ(got["num_hidden_layers"], 30);
  EXPECT_EQ(got["hidden_size"], 576);
  EXPECT_EQ(got["num_attention_heads"], 9);
  EXPECT_EQ(got["num_key_value_heads"], 3);
  EXPECT_EQ(got["head_dim"], 64);
  EXPECT_EQ(got["intermediate_size"], 1536);
  EXPECT_EQ(got["vocab_size"], 49152);
  EXPECT_EQ(got["rope_theta"], 1e5);
  EXPECT_EQ(got["rms_norm_eps"], 1e-5);
  EXPECT_EQ(got["max_position_embeddings"], 8192);
  EXPECT_EQ(got["tie_word_embeddings"], true);
  EXPECT_EQ(got["eos_token_id"], 2);
  EXPECT_FALSE(got.contains("rope_scaling"));
  EXPECT_EQ(demo.tensors().size(), 272u);
  size_t known = 0;
  for (const auto& tensor : demo.tensors())
    known += tensor.name.starts_with("model.");
  EXPECT_EQ(known, 272u);
  const auto* embedding = demo.find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->type, "Q8_0");
  EXPECT_EQ(embedding->shape, (std::vector<int64_t>{49152, 576}));
}

struct Row {
  char which;
  int row;
  float values[8];  // the first ones
};

// From `make_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf`, layer 3.
constexpr Row demo_rows[] = {
    {'q',
     0,
     {0.077911377f,
      0.152801514f,
      -0.109313965f,
      -0.0344238281f,
      0.00302124023f,
      0.190246582f,
      -0.184204102f,
      0.00302124023f}},
    {'q',
     1,
     {-0.011138916f,
      -0.165405273f,
      -0.165405273f,
      0.0917053223f,
      0.0402832031f,
      0.0402832031f,
      0.0402832031f,
      -0.011138916f}},
    {'q',
     31,
     {0.15637207f,
      0.0817871094f,
      0.00720214844f,
      0.454711914f,
      -0.291137695f,
      -0.291137695f,
      0.305541992f,
      -0.440307617f}},
    {'q',
     32,
     {0.0446777344f,
      -0.0036315918f,
      0.0446777344f,
      0.0929870605f,
      -0.100250244f,
      0.0446777344f,
      0.0446777344f,
      0.0446777344f}},
    {'q',
     33,
     {-0.0546569824f,
      0.224945068f,
      0.085144043f,
      -0.101257324f,
      -0.00805664062f,
      0.0385437012f,
      0.085144043f,
      -0.00805664062f}},
    {'q',
     63,
     {-0.0600585938f,
      1.06274414f,
      0.0646972656f,
      0.438964844f,
      -0.80859375f,
      -0.434326172f,
      0.0646972656f,
      0.563720703f}},
    {'q',
     64,
     {0.198608398f,
      -0.0212402344f,
      -0.186126709f,
      -0.0762023926f,
      -0.0212402344f,
      0.14364624f,
      -0.0762023926f,
      0.14364624f}},
    {'q',
     575,
     {0.0226135254f,
      -0.31640625f,
      0.0710449219f,
      0.0226135254f,
      -0.219543457f,
      -0.0258178711f,
      -0.171112061f,
      -0.0258178711f}},
    {'k',
     1,
     {0.0559692383f,
      -0.123779297f,
      -0.0159301758f,
      -0.159729004f,
      0.27166748f,
      -0.0878295898f,
      -0.0159301758f,
      -0.195678711f}},
    {'k',
     32,
     {-0.165405273f,
      0.0389404297f,
      -0.165405273f,
      0.107055664f,
      0.175170898f,
      -0.199462891f,
      -0.131347656f,
      -0.0972900391f}},
    {'k',
     65,
     {0.0635986328f,
      0.137145996f,
      0.431335449f,
      0.284240723f,
      0.357788086f,
      -0.0834960938f,
      -0.23059082f,
      -0.598327637f}},
    {'k',
     191,
     {0.0339355469f,
      -0.340332031f,
      0.0339355469f,
      -0.153198242f,
      -0.0908203125f,
      -0.215576172f,
      0.0963134766f,
      0.221069336f}},
};

TEST(Demo, QueryAndKeyRowsAsTransformersHasThem) {
  const auto demo = open_demo();
  size_t compared = 0;
  float largest = 0;
  for (const auto& [which, row, values] : demo_rows) {
    const auto name =
        std::string("model.layers.3.self_attn.") + which + "_proj.weight";
    const auto weight = demo.read(*demo.find(name), mx::float32);
    for (int i = 0; i < 8; ++i, ++compared) {
      const float got = weight.data<float>()[row * 576 + i];
      largest = std::max(largest, std::abs(got - values[i]));
      EXPECT_NEAR(got, values[i], 1e-7) << name << " " << row << " " << i;
    }
  }
  EXPECT_EQ(compared, 96u);
  std::printf("%zu numbers, largest error %g\n", compared, largest);
}

}  // namespace
}  // namespace mlxterp
