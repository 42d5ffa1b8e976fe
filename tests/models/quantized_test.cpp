// Folders as mlx-lm quantises them, against what mlx-lm computes of them
// (make_quantized.py), and what is refused.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/report/info.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using nlohmann::json;

using Tensors = std::map<std::string, mx::array>;

const fs::path root = MLXTERP_SOURCE_DIR "/tests/parity/quantized";
const fs::path packed_gguf =
    MLXTERP_SOURCE_DIR "/tests/models/fixtures/packed.gguf";
const std::string gate = "model.layers.0.mlp.gate_proj";

Tensors read_all(const fs::path& path) {
  const auto file = Safetensors::open(path);
  Tensors tensors;
  for (const auto& tensor : file.tensors())
    tensors.emplace(tensor.name, file.read(tensor));
  return tensors;
}

json read_json(const fs::path& path) {
  return json::parse(std::ifstream(path));
}

TEST(Quantized, LogitsAreThoseOfMlxLm) {
  int variants = 0;
  double largest = 0;
  for (const auto& entry : fs::directory_iterator(root)) {
    ++variants;
    const auto name = entry.path().filename().string();
    const auto expected = read_all(entry.path() / "expected.safetensors");
    const auto& ids = expected.at("ids");
    const InterpretableModel model(
        load_decoder(Checkpoint::open(entry.path()), {.dtype = mx::float32}));
    const std::vector<int> prompt(
        ids.data<int>(), ids.data<int>() + ids.size());
    auto logits = model(prompt);
    logits = mx::reshape(logits, expected.at("logits").shape());
    const auto off = test::max_difference(logits, expected.at("logits"));
    largest = std::max(largest, static_cast<double>(off));
    EXPECT_LE(off, 1e-4) << name;
  }
  EXPECT_EQ(variants, 17);
  std::printf("largest difference of a logit: %.2g\n", largest);
}

// Every packing, against MLX's own unpacking.
TEST(Quantized, MatricesAreThoseOfMlx) {
  int matrices = 0;
  for (const auto& entry : fs::directory_iterator(root)) {
    const auto raw = read_all(entry.path() / "model.safetensors");
    const auto config = read_json(entry.path() / "config.json");
    if (!config.contains("quantization")) continue;  // transformers' own
    const auto& settings = config["quantization"];
    const auto checkpoint = Checkpoint::open(entry.path());
    for (const auto& tensor : checkpoint.tensors()) {
      EXPECT_FALSE(tensor.name.ends_with(".scales")) << tensor.name;
      EXPECT_FALSE(tensor.name.ends_with(".biases")) << tensor.name;
      if (!tensor.type.starts_with("MLX")) continue;
      ++matrices;
      const auto module = tensor.name.substr(0, tensor.name.rfind('.'));
      const auto own = settings.value(module, settings);
      const std::string mode = own.value("mode", "affine");
      const bool affine = mode == "affine";
      auto scales = raw.at(module + ".scales");
      const auto dtype = affine ? scales.dtype() : mx::bfloat16;
      std::optional<mx::array> biases;
      if (affine) {
        scales = mx::astype(scales, mx::float32);
        biases = mx::astype(raw.at(module + ".biases"), mx::float32);
      }
      auto expected = mx::dequantize(
          raw.at(tensor.name),
          scales,
          biases,
          own.at("group_size").get<int>(),
          own.at("bits").get<int>(),
          mode,
          std::nullopt,
          mx::float32);
      if (const auto by = raw.find(module + ".global_scale"); by != raw.end())
        expected = mx::multiply(
            expected,
            mx::expand_dims(
                mx::divide(by->second, mx::array(2688.0f)), {-1, -2}));
      expected.eval();
      const auto matrix = checkpoint.read(tensor, mx::float32);
      EXPECT_EQ(matrix.shape(), expected.shape());
      EXPECT_LE(test::max_difference(matrix, expected), 1e-6)
          << entry.path() << " " << tensor.name;
      EXPECT_EQ(checkpoint.read(tensor).dtype(), dtype);
      const auto half = checkpoint.read(tensor, mx::bfloat16);
      EXPECT_TRUE(
          mx::array_equal(half, mx::astype(matrix, mx::bfloat16)).item<bool>());
    }
  }
  EXPECT_GT(matrices, 60);
}

// transformers' blocks are MLX's words.
TEST(Quantized, BlocksAreThoseOfMlx) {
  const auto folder = root / "gpt_oss-blocks";
  const auto raw = read_all(folder / "model.safetensors");
  const auto checkpoint = Checkpoint::open(folder);
  int matrices = 0;
  for (const auto& tensor : checkpoint.tensors()) {
    EXPECT_FALSE(tensor.name.ends_with("_blocks")) << tensor.name;
    EXPECT_FALSE(tensor.name.ends_with("_scales")) << tensor.name;
    if (tensor.type != "MXFP4") continue;
    ++matrices;
    const auto stem = tensor.name.substr(0, tensor.name.rfind('.'));
    const auto& blocks = raw.at(stem + "_blocks");
    const auto& scales = raw.at(stem + "_scales");
    EXPECT_EQ(tensor.bytes, blocks.size() + scales.size());
    auto shape = scales.shape();
    shape.back() *= 4;
    const auto expected = mx::astype(
        mx::dequantize(
            mx::reshape(mx::view(blocks, mx::uint32), shape),
            scales,
            std::nullopt,
            32,
            4,
            "mxfp4"),
        mx::float32);
    const auto matrix = checkpoint.read(tensor, mx::float32);
    EXPECT_EQ(matrix.shape(), expected.shape());
    EXPECT_LE(test::max_difference(matrix, expected), 1e-6) << tensor.name;
    EXPECT_EQ(checkpoint.read(tensor).dtype(), mx::bfloat16);
  }
  EXPECT_EQ(matrices, 4);
}

TEST(Quantized, TensorsSayHowTheyArePacked) {
  const auto checkpoint = Checkpoint::open(root / "mixed");
  const auto type = [&](const std::string& module) {
    return checkpoint.find("model." + module + ".weight")->type;
  };
  EXPECT_EQ(type("embed_tokens"), "MLX 3-bit group 128");
  EXPECT_EQ(type("layers.0.mlp.down_proj"), "MLX 6-bit group 32");
  EXPECT_EQ(type("layers.0.mlp.up_proj"), "MLX mxfp4");
  EXPECT_EQ(type("layers.0.mlp.gate_proj"), "F32");
  const auto* embed = checkpoint.find("model.embed_tokens.weight");
  EXPECT_EQ(embed->shape, (std::vector<int64_t>{96, 128}));
  EXPECT_EQ(embed->bytes, 96u * (12 * 4 + 4 + 4));
}

// ---- Packed in memory -------------------------------------------------------

double size_of(const mx::array& x) {
  return mx::max(mx::abs(mx::astype(x, mx::float32))).item<float>();
}

struct Both {
  InterpretableModel packed, unpacked;
};

Both load_both(const fs::path& folder) {
  const auto load = [&](bool packed) {
    return InterpretableModel(
        load_decoder(
            Checkpoint::open(folder), {.dtype = mx::float32, .packed = packed}),
        std::nullopt,
        family_of(Checkpoint::open(folder).config()).renames);
  };
  return {load(true), load(false)};
}

std::vector<fs::path> folders() {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(root))
    all.push_back(entry.path());
  all.push_back(packed_gguf);
  return all;
}

TEST(Packed, EveryValueIsThatOfTheUnpackedModel) {
  size_t compared = 0;
  double largest = 0;
  for (const auto& folder : folders()) {
    const auto [packed, unpacked] = load_both(folder);
    std::vector<std::string> names;
    for (size_t i = 0; i < packed.sites().size(); ++i) {
      const auto& site = packed.sites()[static_cast<SiteId>(i)];
      if (!site.name.empty() && !site.name.ends_with("expert_indices") &&
          site.name != "tokens")
        names.push_back(site.name);
    }
    const std::vector<int> ids{3, 14, 15, 92, 65, 35, 89, 7};
    const auto one = packed.run(ids, {.save = names});
    const auto other = unpacked.run(ids, {.save = names});
    for (const auto& name : names) {
      auto a = one[name], b = other[name];
      ASSERT_EQ(a.shape(), b.shape()) << name;
      ASSERT_EQ(a.dtype(), b.dtype()) << name;
      if (name.ends_with("scores")) {  // masked ones are -inf
        a = mx::maximum(a, mx::array(-1e4f));
        b = mx::maximum(b, mx::array(-1e4f));
      }
      const auto off = test::max_difference(a, b) / size_of(b);
      largest = std::max(largest, static_cast<double>(off));
      EXPECT_LE(off, 1e-4) << folder << " " << name;
      ++compared;
    }
  }
  EXPECT_GT(compared, 500u);
  std::printf("largest difference, of its size: %.2g\n", largest);
}

TEST(Packed, TakesNoMoreMemoryThanTheFile) {
  for (const auto& path : folders()) {
    const auto checkpoint = Checkpoint::open(path);
    double file = 0, kept = 0;
    size_t tensors = 0, matrices = 0;
    for (const auto& tensor : checkpoint.tensors()) {
      if (!checkpoint.is_packed(tensor)) continue;
      file += static_cast<double>(tensor.bytes);
      ++tensors;
    }
    const auto [packed, unpacked] = load_both(path);
    for (const auto& [name, matrix] : packed.module().matrices()) {
      for (const auto& [part, array] : matrix->parts())
        kept += static_cast<double>(array->nbytes());
      matrices += matrix->is_packed();
    }
    for (const auto& [name, matrix] : unpacked.module().matrices())
      EXPECT_FALSE(matrix->is_packed()) << name;
    EXPECT_GT(tensors, 0u);
    EXPECT_GE(matrices, tensors) << path;  // some are fused in the file
    // A bias beside the scale that a GGUF type makes do with.
    if (path == packed_gguf)
      EXPECT_LE(kept, 1.12 * file);
    else
      EXPECT_EQ(kept, file) << path;
    std::printf(
        "%-16s %.3f times the file\n", path.filename().c_str(), kept / file);
  }
}

// Who asks for it of a model that has nothing to keep hears so.
TEST(Packed, IsNotToBeHadOfPlainWeights) {
  const auto ask = [](const fs::path& folder) {
    std::vector<std::string> warnings;
    const auto checkpoint = Checkpoint::open(folder);
    load_decoder(
        checkpoint, {.packed = true, .warn = [&](std::string_view sentence) {
                       warnings.emplace_back(sentence);
                     }});
    const auto info = report::model_info(checkpoint, "it", {.packed = true});
    return std::pair(warnings, info.weights.packed);
  };
  const auto [said, plain] =
      ask(MLXTERP_SOURCE_DIR "/tests/parity/families/llama-gqa");
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("can stay packed"), std::string::npos) << said[0];
  EXPECT_FALSE(plain);
  const auto [nothing, packed] = ask(root / "mxfp4");
  EXPECT_TRUE(nothing.empty());
  EXPECT_TRUE(packed);
}

// Each type of GGUF that is kept packed holds the numbers of the file.
TEST(Packed, GgufKeepsEveryNumber) {
  const auto checkpoint = Checkpoint::open(packed_gguf);
  std::set<std::string> types, left;
  for (const auto& tensor : checkpoint.tensors()) {
    const auto packed = checkpoint.read_packed(tensor);
    EXPECT_EQ(packed.has_value(), checkpoint.is_packed(tensor));
    if (!packed) {
      if (tensor.type != "F32") left.insert(tensor.type);
      continue;
    }
    types.insert(tensor.type);
    const auto whole = checkpoint.read(tensor, mx::float32);
    const auto numbers = nn::Matrix(*packed, mx::float32).numbers();
    ASSERT_EQ(numbers.shape(), whole.shape());
    EXPECT_LE(test::max_difference(numbers, whole), 1e-6 * size_of(whole))
        << tensor.name << " " << tensor.type;
  }
  const std::set<std::string> all{
      "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"};
  EXPECT_EQ(types, all);
  EXPECT_EQ(left, std::set<std::string>{"Q6_K"});
}

class QuantizedRefusal : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("mlxterp-quantized-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    use("bits4-group64");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void use(const char* variant) {
    config_ = read_json(root / variant / "config.json");
    tensors_ = read_all(root / variant / "model.safetensors");
  }

  json& settings() { return config_["quantization"]; }

  void replace(const std::string& name, const mx::array& value) {
    tensors_.insert_or_assign(name, value);
  }

  // What opening or loading says when it refuses; all is put back after.
  void expect_refusal(
      const std::function<void()>& spoil,
      std::initializer_list<const char*> parts) {
    const auto config = config_;
    const auto tensors = tensors_;
    spoil();
    std::ofstream(folder_ / "config.json") << config_.dump();
    save_safetensors(
        folder_ / "model.safetensors",
        {tensors_.begin(), tensors_.end()},
        {},
        /*overwrite=*/true);
    std::string message = "loaded";
    try {
      load_decoder(Checkpoint::open(folder_));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      message = error.what();
    }
    for (const char* part : parts)
      EXPECT_NE(message.find(part), std::string::npos)
          << "'" << part << "' is not in: " << message;
    config_ = config;
    tensors_ = tensors;
  }

  fs::path folder_;
  json config_;
  Tensors tensors_;
};

TEST_F(QuantizedRefusal, Nothing) {
  expect_refusal([] {}, {"loaded"});
  expect_refusal([&] { settings().erase("mode"); }, {"loaded"});
}

TEST_F(QuantizedRefusal, Settings) {
  const auto set = [&](const char* key, const json& value) {
    return [this, key, value] { settings()[key] = value; };
  };
  expect_refusal(
      set("bits", 7), {"'quantization.bits' is 7", "2, 3, 4, 5, 6, 8"});
  expect_refusal(set("bits", "4"), {"'quantization.bits' is \"4\""});
  expect_refusal(set("bits", 4.0), {"'quantization.bits' is 4.0"});
  expect_refusal(
      set("bits", 18446744073709551615u), {"is 18446744073709551615"});
  expect_refusal(
      set("group_size", 0), {"'quantization.group_size' is 0", "32, 64, 128"});
  expect_refusal(
      set("mode", "nf4"), {"'quantization.mode' is \"nf4\"", "mxfp4"});
  expect_refusal(set("mode", 1), {"'quantization.mode' is 1"});
  expect_refusal(
      set("mode", "mxfp4"), {"'quantization.group_size' is 64", "32 (mxfp4)"});
  expect_refusal(
      [&] { settings().erase("bits"); }, {"has no 'quantization.bits'"});
  expect_refusal(
      [&] { settings() = 4; }, {"'quantization' is 4", "a JSON object"});
  expect_refusal(
      set("model.layers.9.mlp.up_proj", {{"bits", 4}}),
      {"model.layers.9.mlp.up_proj", "there is no tensor"});
  expect_refusal(
      set(gate.c_str(), 4),
      {"'quantization.model.layers.0.mlp.gate_proj' is 4"});
  expect_refusal(set(gate.c_str(), {{"bits", 9}}), {"gate_proj.bits' is 9"});
  expect_refusal(
      set(gate.c_str(), {{"quantize_input", true}}),
      {"gate_proj.quantize_input' is true"});
  expect_refusal(
      set(gate.c_str(), false),
      {gate.c_str(), "config.json says that it is not"});
}

TEST_F(QuantizedRefusal, OtherMakers) {
  for (const char* maker : {"gptq", "awq", "bitsandbytes", "fp8"})
    expect_refusal(
        [&] {
          config_.erase("quantization");
          config_["quantization_config"] = {
              {"quant_method", maker}, {"bits", 4}};
        },
        {"is quantised by", maker, "quant_method"});
  expect_refusal(
      [&] {
        config_.erase("quantization");
        config_.erase("quantization_config");
      },
      {"is packed, but config.json has no 'quantization'"});
}

TEST_F(QuantizedRefusal, Parts) {
  const auto drop = [&](const std::string& name) {
    return [this, name] { tensors_.erase(name); };
  };
  const auto set = [&](const std::string& name, const mx::array& value) {
    return [this, name, value] { replace(name, value); };
  };
  const auto scales = gate + ".scales", biases = gate + ".biases";
  const auto weight = gate + ".weight";
  expect_refusal(drop(scales), {weight.c_str(), "has no", scales.c_str()});
  expect_refusal(drop(biases), {weight.c_str(), "has no", biases.c_str()});
  expect_refusal(drop(weight), {scales.c_str(), "without the packed weight"});
  expect_refusal(
      set(scales, mx::ones({128, 3})),
      {scales.c_str(), "F32 [128, 3]", "U32 [128, 16]", "F32 [128, 2]"});
  expect_refusal(
      set(scales, mx::ones({128, 2}, mx::uint8)), {scales.c_str(), "is U8"});
  expect_refusal(
      set(biases, mx::ones({128, 2}, mx::float16)), {biases.c_str(), "F16"});
  expect_refusal(
      set(weight, mx::ones({128, 15}, mx::uint32)),
      {weight.c_str(), "U32 [128, 15]", "whole number of groups of 64"});
  expect_refusal(
      set(weight, mx::ones({128, 16})), {weight.c_str(), "F32 [128, 16]"});
  expect_refusal(
      set(weight, mx::ones({16}, mx::uint32)), {weight.c_str(), "U32 [16]"});
  // Fits itself, but not the model.
  expect_refusal(
      [&] {
        replace(weight, mx::ones({128, 8}, mx::uint32));
        replace(scales, mx::ones({128, 1}));
        replace(biases, mx::ones({128, 1}));
      },
      {weight.c_str(), "has shape (128, 64)", "(128, 128)"});
  expect_refusal(
      [&] { settings()["bits"] = 8; }, {"8 bits in groups of 64 need"});
  expect_refusal(
      set(scales, mx::full({128, 2}, std::numeric_limits<float>::quiet_NaN())),
      {weight.c_str(), "holds 16384 values of 16384"});
  use("mxfp4");
  expect_refusal([] {}, {"loaded"});
  expect_refusal(
      set(biases, mx::ones({128, 4}, mx::uint8)),
      {biases.c_str(), "mxfp4 has no biases"});
  expect_refusal(
      set(scales, mx::ones({128, 4})), {scales.c_str(), "mxfp4 scales are U8"});
  expect_refusal(
      set(scales, mx::full({128, 4}, 255, mx::uint8)), {"values of 16384"});
}

TEST_F(QuantizedRefusal, GlobalScales) {
  use("nvfp4-experts");
  expect_refusal([] {}, {"loaded"});
  const std::string scale =
      "model.layers.0.mlp.switch_mlp.up_proj.global_scale";
  expect_refusal(
      [&] { replace(scale, mx::ones({3})); },
      {scale.c_str(), "F32 [3]", "needs F32 [4]"});
  expect_refusal(
      [&] { replace(scale, mx::ones({4}, mx::float16)); },
      {scale.c_str(), "F16 [4]"});
  expect_refusal(
      [&] { replace(scale, mx::full({4}, INFINITY)); }, {"values of"});
  expect_refusal(
      [&] {
        replace(
            "model.layers.0.mlp.switch_mlp.up_proj.scales",
            mx::full({4, 64, 4}, 127, mx::uint8));
      },
      {"values of"});
  use("mxfp8");
  expect_refusal(
      [&] { replace(gate + ".global_scale", mx::array(1.0f)); },
      {gate.c_str(), "mxfp8 has none"});
  expect_refusal(
      [&] {
        replace(gate + ".weight", mx::full({128, 32}, -1, mx::uint32));
      },
      {"values of 16384"});
}

// What is kept packed is looked through as what is unpacked.
TEST_F(QuantizedRefusal, NaNWhereItStaysPacked) {
  const auto refused = [&](const char* variant,
                           const std::string& name,
                           const mx::array& value) {
    use(variant);
    replace(name, value);
    std::ofstream(folder_ / "config.json") << config_.dump();
    save_safetensors(
        folder_ / "model.safetensors",
        {tensors_.begin(), tensors_.end()},
        {},
        /*overwrite=*/true);
    const auto checkpoint = Checkpoint::open(folder_);
    EXPECT_THROW(load_decoder(checkpoint, {.packed = true}), Error) << variant;
    load_decoder(checkpoint, {.packed = true, .allow_not_finite = true});
  };
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  refused("bits4-group64", gate + ".scales", mx::full({128, 2}, nan));
  refused("bits4-group64", gate + ".biases", mx::full({128, 2}, nan));
  refused("mxfp4", gate + ".scales", mx::full({128, 4}, 255, mx::uint8));
  refused("mxfp8", gate + ".scales", mx::full({128, 4}, 255, mx::uint8));
  refused("mxfp8", gate + ".weight", mx::full({128, 32}, -1, mx::uint32));
  refused("nvfp4", gate + ".scales", mx::full({128, 8}, 255, mx::uint8));
  refused(
      "nvfp4-experts",
      "model.layers.0.mlp.switch_mlp.up_proj.global_scale",
      mx::full({4}, nan));
}

TEST_F(QuantizedRefusal, Blocks) {
  use("gpt_oss-blocks");
  expect_refusal([] {}, {"loaded"});
  const std::string stem = "model.layers.1.mlp.experts.down_proj";
  const auto blocks = stem + "_blocks", scales = stem + "_scales";
  expect_refusal(
      [&] { tensors_.erase(scales); },
      {blocks.c_str(), "its _scales are missing"});
  expect_refusal(
      [&] { tensors_.erase(blocks); },
      {scales.c_str(), "its _blocks are missing"});
  expect_refusal(
      [&] {
        tensors_.erase(blocks);
        tensors_.erase(scales);
      },
      {"lacks 1 tensor(s)", stem.c_str()});
  expect_refusal(
      [&] {
        replace(blocks, mx::ones({4, 64, 1, 15}, mx::uint8));
      },
      {blocks.c_str(), "U8 [4, 64, 1, 15]", "[..., row, group, 16]"});
  expect_refusal(
      [&] {
        replace(blocks, mx::ones({4, 64, 1, 16}));
      },
      {blocks.c_str(), "F32 [4, 64, 1, 16]"});
  expect_refusal(
      [&] {
        replace(scales, mx::ones({4, 64, 2}, mx::uint8));
      },
      {scales.c_str(), "U8 [4, 64, 2]", "need U8 [4, 64, 1]"});
  expect_refusal(
      [&] {
        replace(scales, mx::full({4, 64, 1}, 255, mx::uint8));
      },
      {stem.c_str(), "values of 8192"});
  // Fits itself, but not the model.
  expect_refusal(
      [&] {
        replace(blocks, mx::ones({4, 64, 2, 16}, mx::uint8));
        replace(scales, mx::ones({4, 64, 2}, mx::uint8));
      },
      {stem.c_str(), "has shape (4, 64, 64)", "(4, 64, 32)"});
  expect_refusal(
      [&] { config_.erase("quantization_config"); },
      {"down_proj_blocks", "packed in MXFP4", "no 'quantization_config'"});
}

}  // namespace
}  // namespace mlxterp
