// What a GGUF file does to a checkpoint's tensors, undone where logits do not
// show it: packed, damaged, left out.

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "tests/compare.h"
#include "tests/io/gguf_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nlohmann::json;
using testing::raw;
using testing::TempFolder;
using testing::gguf::Model;

TEST(GgufChanges, NumbersOfBlocksInTheMetadata) {
  Model model("apertus");
  const TempFolder folder;
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", model.bytes()));
  const auto* beta = checkpoint.find("model.layers.1.mlp.act_fn.beta");
  ASSERT_TRUE(beta);
  EXPECT_EQ(beta->shape, std::vector<int64_t>{1});
  EXPECT_EQ(checkpoint.read(*beta).item<float>(), 0.5f);
  model.set_list("xielu.beta", testing::gguf::float32, 1, raw(0.5f), "xielu.");
  model.refused({"1 numbers in xielu.beta", "2 blocks"});
  model.metadata.erase("xielu.beta");
  model.refused({"0 numbers in xielu.beta"});
}

// Blocks that predict further tokens are no layers.
TEST(GgufChanges, BlocksThatDraftAreLeftOut) {
  Model model("qwen35");
  model.add_what_is_its_own(3);
  model.set("nextn_predict_layers", 1);
  model.vectors["blk.1.attn_norm.weight"] = std::vector<float>(12, 1.0f);
  model.vectors["blk.2.attn_norm.weight"] = std::vector<float>(12, 1.0f);
  model.vectors["blk.2.nextn.enorm.weight"] = std::vector<float>(12, 1.0f);
  const TempFolder folder;
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", model.bytes()));
  const auto config = json::parse(checkpoint.config());
  EXPECT_EQ(config["num_hidden_layers"], 2);
  EXPECT_EQ(config["layer_types"].size(), 2u);
  EXPECT_TRUE(checkpoint.find("model.layers.1.input_layernorm.weight"));
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  ASSERT_EQ(checkpoint.left_out().size(), 1u);
  EXPECT_EQ(checkpoint.left_out()[0].part, "draft");
  EXPECT_EQ(checkpoint.left_out()[0].tensors, 2u);
  EXPECT_EQ(checkpoint.left_out()[0].bytes, 96u);
  model.set("nextn_predict_layers", 3);
  model.refused({"qwen35.nextn_predict_layers", "not from 0 to 2"});
}

// Of rows of 32 numbers each Q8_0 block, whose scale is 1/4.
std::string q8_0(size_t blocks) {
  std::string bytes;
  int value = 0;
  for (size_t i = 0; i < blocks; ++i) {
    bytes += raw(uint16_t{0x3400});
    for (int j = 0; j < 32; ++j)
      bytes += raw(static_cast<int8_t>(value++ % 101 - 50));
  }
  return bytes;
}

// Qwen 3.5's heads of values stand in turn by the key heads that they belong
// to. Packed or not, they are put back.
TEST(GgufChanges, TiledHeadsPackedAndNot) {
  Model model("qwen35");
  model.set("ssm.inner_size", 128);
  model.set("ssm.time_step_rank", 4);
  model.set("ssm.group_count", 2);
  model.set("ssm.state_size", 4);
  constexpr uint32_t type = 8;  // Q8_0
  model.tensors["blk.0.ssm_out.weight"] = {{128, 3}, type, q8_0(4 * 3)};
  model.tensors["blk.0.attn_gate.weight"] = {{32, 128}, type, q8_0(128)};
  model.tensors["blk.0.attn_qkv.weight"] = {{32, 144}, type, q8_0(144)};
  const TempFolder folder;
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", model.bytes()));
  size_t compared = 0;
  for (const std::string part : {"out_proj", "in_proj_z", "in_proj_qkv"}) {
    SCOPED_TRACE(part);
    const auto* tensor =
        checkpoint.find("model.layers.0.linear_attn." + part + ".weight");
    ASSERT_TRUE(tensor);
    EXPECT_TRUE(checkpoint.is_packed(*tensor));
    const auto values = checkpoint.read(*tensor, mx::float32);
    const auto packed = checkpoint.read_packed(*tensor);
    ASSERT_TRUE(packed);
    const auto unpacked = mx::dequantize(
        packed->words,
        mx::astype(packed->scales, mx::float32),
        mx::astype(*packed->biases, mx::float32),
        packed->group,
        packed->bits);
    EXPECT_EQ(unpacked.shape(), values.shape());
    EXPECT_LE(test::max_difference(unpacked, values), 1e-6);
    compared += values.size();
  }
  EXPECT_EQ(compared, 3 * 128 + 32 * 128 + 32 * 144u);
  // Of four heads 0 1 2 3 the file has 0 2 1 3: number n of the file counts
  // up, row by row.
  const auto number = [](int n) {
    return static_cast<float>(n % 101 - 50) / 4;
  };
  const auto out = checkpoint.read(
      *checkpoint.find("model.layers.0.linear_attn.out_proj.weight"),
      mx::float32);
  const auto rows = checkpoint.read(
      *checkpoint.find("model.layers.0.linear_attn.in_proj_qkv.weight"),
      mx::float32);
  const auto at = [](const mx::array& x, int row, int column) {
    return mx::slice(x, {row, column}, {row + 1, column + 1}).item<float>();
  };
  EXPECT_EQ(at(out, 1, 0), number(128));
  EXPECT_EQ(at(out, 1, 32), number(128 + 64));
  EXPECT_EQ(at(out, 1, 64), number(128 + 32));
  EXPECT_EQ(at(out, 1, 97), number(128 + 97));
  // The first 16 rows are of queries and keys.
  EXPECT_EQ(at(rows, 15, 1), number(15 * 32 + 1));
  EXPECT_EQ(at(rows, 16 + 32, 1), number((16 + 64) * 32 + 1));
  EXPECT_EQ(at(rows, 16 + 64, 1), number((16 + 32) * 32 + 1));
  // Heads of less than a block would have to be taken apart.
  model.set("ssm.time_step_rank", 8);
  const auto narrow = Checkpoint::open(folder.write("n.gguf", model.bytes()));
  EXPECT_FALSE(narrow.is_packed(
      *narrow.find("model.layers.0.linear_attn.out_proj.weight")));
  model.set("ssm.inner_size", 96);
  model.set("ssm.time_step_rank", 3);
  model.refused({"3 heads of values for 2 key heads"});
  model.set("ssm.time_step_rank", 6);
  model.refused({"blk.0.attn_gate.weight", "[128, 32]", "6 heads"});
}

TEST(GgufChanges, WhatIsNotNegativeHasNoLogarithm) {
  Model model("qwen35");
  model.vectors["blk.0.ssm_a"] = {-1, -std::exp(2.0f)};
  const TempFolder folder;
  const auto good = Checkpoint::open(folder.write("m.gguf", model.bytes()));
  const std::string name = "model.layers.0.linear_attn.A_log";
  const auto values = good.read(*good.find(name));
  EXPECT_NEAR(values.data<float>()[0], 0, 1e-6);
  EXPECT_NEAR(values.data<float>()[1], 2, 1e-6);
  for (const float wrong : {0.0f, 1.0f}) {
    model.vectors["blk.0.ssm_a"][1] = wrong;
    const auto bad = Checkpoint::open(folder.write("b.gguf", model.bytes()));
    try {
      bad.read(*bad.find(name));
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data);
      const std::string what = error.what();
      EXPECT_NE(what.find(name + " is not negative throughout"), what.npos)
          << what;
    }
  }
}

TEST(GgufChanges, QueriesKeysAndValuesInOneTensor) {
  Model model("bloom");
  model.set_real("attention.layer_norm_epsilon", 1e-5f);
  std::vector<float> bias(36);
  for (size_t i = 0; i < bias.size(); ++i)
    bias[i] = static_cast<float>(i);
  model.vectors["blk.0.attn_qkv.bias"] = bias;
  const TempFolder folder;
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", model.bytes()));
  float first = 0;
  for (const std::string part : {"q", "k", "v"}) {
    const auto* found = checkpoint.find(
        "transformer.h.0.self_attention." + part + "_proj.bias");
    ASSERT_TRUE(found) << part;
    EXPECT_EQ(found->shape, std::vector<int64_t>{12});
    EXPECT_EQ(checkpoint.read(*found).data<float>()[0], first);
    first += 12;
  }
  model.vectors["blk.0.attn_qkv.bias"].pop_back();
  model.refused({"blk.0.attn_qkv.bias", "[35]"});
}

}  // namespace
}  // namespace mlxterp
