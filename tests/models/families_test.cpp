// Every family against transformers: tests/parity/families/ holds a tiny random
// checkpoint for each variant and what transformers computes of it
// (tests/parity/make_families.py).

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using test::config_text;
using test::expected;
using test::integers;
using test::load_variant;
using test::model_type;
using test::refused_variant;
using test::supported;
using test::supported_variants;
using test::variants;

constexpr double logits_tolerance = 1e-5;  // absolute
constexpr double site_tolerance = 1e-4;    // of the site's largest magnitude

// The fixture's name of what a module gives.
std::string recorded_as(const SiteCatalog& sites, const std::string& module) {
  const auto canonical = [&](const std::string& name) {
    return sites[sites.find(name)].name;
  };
  const auto dot = module.rfind('.');
  if (dot == module.npos) return canonical(module);
  const auto above = module.substr(0, dot), part = module.substr(dot + 1);
  if (part == "ln_ple_post") return canonical(above + ".ple_out");
  if (above.ends_with(".attn") &&
      (part == "q_proj" || part == "k_proj" || part == "v_proj" ||
       part == "q_b_proj" || part == "v_b_proj"))
    return canonical(above + "." + part[0]);
  if (part == "gate_proj" && above.ends_with(".attn"))
    return canonical(above + ".gate");
  if (part == "z_proj") return canonical(above + ".z");
  if (part == "o_proj" || part == "out_proj" || part == "down_proj" ||
      module.ends_with("moe.experts"))
    return canonical(above);
  if (part == "act_fn") return canonical(above + ".post");
  if (module == "embed.ln") return canonical(above);
  if (part == "router") return canonical(above + ".router_logits");
  return canonical(module);
}

// Every site that transformers has a value for, and its name in the fixture:
// what each module gives, and the sites that are no module's.
std::map<std::string, std::string> shared_sites(
    const InterpretableModel& model) {
  std::map<std::string, std::string> shared;
  const auto add = [&](const std::string& name) { shared.emplace(name, name); };
  const auto& decoder = model.decoder();
  const auto& config = decoder.config();
  for (const auto& [path, module] : decoder.named_modules())
    if (!path.empty())
      shared.emplace(path + ".output", recorded_as(model.sites(), path));
  if (config.clip_qkv > 0)
    for (auto& [site, name] : shared)
      if (site.ends_with("v_proj.output")) name = site;
  if (config.embed_factor != 1 || config.embed_norm) add("embed.raw");
  if (config.logit_scale != 1 || config.logit_softcap != 0) add("unembed.raw");
  for (size_t i = 0; i < decoder.layers.size(); ++i) {
    const auto layer = fmt::format("layers.{}.", i);
    const auto& own = *decoder.layers[i];
    for (const auto* name : {"resid_pre", "attn_out"})
      add(layer + name);
    if (own.feeds_forward()) add(layer + "mlp_out");
    if (const auto* attn = own.attention()) {
      for (const auto* name : {"attn.q", "attn.z", "attn.pattern"})
        add(layer + name);
      if (attn->config().own_kv)
        for (const auto* name : {"attn.k", "attn.v"})
          add(layer + name);
      if (config.latent) add(layer + "attn.k_pe");
      if (config.attention_sinks) add(layer + "attn.sink_share");
      if (!config.alibi.slopes.empty()) add(layer + "attn.position_bias");
      if (config.rope.dims > 0) add(layer + "attn.rot_q");
      if (config.rope.dims > 0 && attn->config().own_kv)
        add(layer + "attn.rot_k");
      if (attn->config().q_scale) add(layer + "attn.q_scale");
      if (config.attention_gate) add(layer + "attn.mix");
    } else if (decoder.layers[i]->mixer->name() == "conv") {
      for (const auto* name : {"B", "C", "x", "conv.input", "out_proj.input"})
        add(layer + "conv." + name);
    } else if (decoder.layers[i]->mixer->name() == "ssm") {
      for (const auto* name :
           {"x", "B", "C", "dt", "state", "out", "out_proj.input"})
        add(layer + "ssm." + name);
    } else {
      for (const auto* name :
           {"q", "k", "v", "g", "beta", "state", "out", "out_proj.input"})
        add(layer + "delta." + name);
      // There it gates its result, too: that is out_proj.input.
      shared.erase(layer + "delta.norm.output");
    }
    if (own.ple)
      for (const auto* name : {"ple.embedding", "ple.post"})
        add(layer + name);
    if (own.layer_scalar) add(layer + "layer_scalar");
    if (own.mlp) add(layer + "mlp.post");
    if (own.moe)
      for (const auto* name :
           {"router_logits", "expert_indices", "expert_weights"})
        add(fmt::format("{}{}.{}", layer, own.moe_name(), name));
  }
  return shared;
}

// [pos, k] values in the order of the experts they belong to: which of its
// experts a token names first is nobody's business.
mx::array by_expert(const mx::array& values, const mx::array& experts) {
  return mx::take_along_axis(
      values, mx::argsort(mx::astype(experts, mx::int32), -1), -1);
}

TEST(Families, EveryVariantIsThereAndIsKnownOrRefused) {
  const auto names = variants();
  EXPECT_EQ(names.size(), test::n_variants);
  std::set<std::string> types, refused;
  for (const auto& variant : names) {
    const auto type = model_type(variant);
    types.insert(type);
    EXPECT_TRUE(variant.starts_with(type.substr(0, type.find('_'))))
        << variant << " is of " << type;
    if (supported(type)) {
      EXPECT_EQ(family_of(config_text(variant)).model_type, type);
      continue;
    }
    refused.insert(type);
    try {
      load_decoder(Checkpoint::open(test::families_root / variant));
      ADD_FAILURE() << variant << " was loaded";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data);
      EXPECT_NE(
          std::string(error.what()).find("'" + type + "' is not supported"),
          std::string::npos)
          << error.what();
    }
  }
  const std::set<std::string> all = {
      "apertus",
      "arcee",
      "bloom",
      "codegen",
      "cohere",
      "cohere2",
      "deepseek_v2",
      "deepseek_v3",
      "dots1",
      "ernie4_5",
      "ernie4_5_moe",
      "exaone4",
      "falcon",
      "gemma",
      "gemma2",
      "gemma3_text",
      "gemma4_text",
      "glm",
      "glm4",
      "glm4_moe",
      "glm4_moe_lite",
      "gpt2",
      "gpt_bigcode",
      "gpt_neo",
      "gpt_neox",
      "gpt_oss",
      "gptj",
      "granite",
      "granitemoehybrid",
      "hunyuan_v1_dense",
      "internlm2",
      "lfm2",
      "llama",
      "llama4_text",
      "mamba2",
      "qwen3_5_moe_text",
      "qwen3_5_text",
      "qwen3_next",
      "minicpm",
      "ministral3",
      "mistral",
      "mixtral",
      "mpt",
      "nemotron",
      "olmo",
      "olmo2",
      "olmo3",
      "olmoe",
      "opt",
      "phi",
      "phi3",
      "qwen2",
      "qwen2_moe",
      "qwen3",
      "qwen3_moe",
      "seed_oss",
      "smollm3",
      "stablelm",
      "starcoder2",
      "youtu"};
  EXPECT_EQ(types, all);
  std::printf(
      "%zu variants of %zu families; %zu families not supported yet\n",
      names.size(),
      types.size(),
      refused.size());
}

TEST(Families, AShapeThatIsNotSupportedIsRefused) {
  try {
    load_variant(refused_variant, mx::float32);
    ADD_FAILURE() << refused_variant << " was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data);
    EXPECT_NE(std::string(error.what()).find("opt-350m"), std::string::npos)
        << error.what();
  }
}

class FamilyParity : public testing::TestWithParam<std::string> {};

TEST_P(FamilyParity, LogitsAndEverySharedSite) {
  const auto& variant = GetParam();
  const auto reference = expected(variant);
  const auto model = load_variant(variant, mx::float32);

  // Nothing that could be compared is left out, on either side.
  const auto shared = shared_sites(model);
  std::set<std::string> recorded, asked;
  for (const auto& [name, value] : reference)
    if (name != "ids" && !name.starts_with("half.")) recorded.insert(name);
  std::vector<std::string> sites;
  for (const auto& [site, name] : shared) {
    sites.push_back(site);
    asked.insert(name);
  }
  EXPECT_EQ(asked, recorded);

  const auto run = model.run(integers(reference.at("ids")), {.save = sites});

  size_t compared = 0, values = 0;
  double logits_error = INFINITY, worst = 0;
  std::string worst_site = "none";
  for (const auto& [site, name] : shared) {
    auto wanted = reference.at(name);
    ASSERT_EQ(run[site].size(), wanted.size()) << variant << " " << site;
    auto got = mx::reshape(run[site], wanted.shape());
    if (const auto at = site.find("expert_");
        site.ends_with("expert_indices") || site.ends_with("expert_weights")) {
      const auto indices = site.substr(0, at) + "expert_indices";
      got = by_expert(got, mx::reshape(run[indices], wanted.shape()));
      wanted = by_expert(wanted, reference.at(indices));
    }
    const double error = test::max_difference(got, wanted);
    ++compared;
    values += wanted.size();
    if (name == "logits") {
      logits_error = error;
      EXPECT_LE(error, logits_tolerance) << variant << " " << site;
      continue;
    }
    const double relative = error / test::max_magnitude(wanted);
    EXPECT_LE(relative, site_tolerance) << variant << " " << site;
    if (!(relative <= worst)) {
      worst = relative;
      worst_site = site;
    }
  }
  EXPECT_EQ(compared, shared.size());
  std::printf(
      "%-34s %3zu sites, %5zu values: logits within %.1e, the rest within "
      "%.1e (%s)\n",
      variant.c_str(),
      compared,
      values,
      logits_error,
      worst,
      worst_site.c_str());
}

// Attention opened up, step by step, is the same attention.
TEST_P(FamilyParity, ExplicitAttention) {
  const auto& variant = GetParam();
  const auto reference = expected(variant);
  const auto& wanted = reference.at("logits");
  const auto model = load_variant(variant, mx::float32);
  std::vector<Edit> edits;  // none, where no layer attends
  for (size_t i = 0; i < model.decoder().layers.size(); ++i)
    if (model.decoder().layers[i]->attention())
      for (const auto* site : {"scores", "pattern"})
        edits.push_back({fmt::format("layers.{}.attn.{}", i, site), scale(1)});
  EXPECT_EQ(edits.empty(), model_type(variant) == "mamba2");
  const auto run = model.run(
      integers(reference.at("ids")), {.save = {"logits"}, .edits = edits});
  ASSERT_EQ(run["logits"].size(), wanted.size());
  EXPECT_LE(
      test::max_difference(mx::reshape(run["logits"], wanted.shape()), wanted),
      logits_tolerance)
      << variant;
}

// Gemma 4's as mlx-lm and Google keep them: experts under other names, and keys
// and values, too, of layers that read another's.
void as_others_keep_them(
    std::vector<std::pair<std::string, mx::array>>& tensors,
    const std::string& variant) {
  std::vector<std::pair<std::string, mx::array>> out;
  for (const auto& [name, value] : tensors) {
    const auto experts = name.find("experts.");
    const auto glu = experts == name.npos
                         ? ""
                         : name.substr(0, experts) + "experts.switch_glu.";
    if (name.ends_with("experts.gate_up_proj")) {
      const auto both = mx::split(value, 2, 1);
      out.emplace_back(glu + "gate_proj.weight", mx::contiguous(both[0]));
      out.emplace_back(glu + "up_proj.weight", mx::contiguous(both[1]));
    } else if (name.ends_with("experts.down_proj")) {
      out.emplace_back(glu + "down_proj.weight", value);
    } else {
      out.emplace_back(name, value);
    }
  }
  if (variant == "gemma4")
    for (const int layer : {3, 4})
      for (const auto* part : {"k_proj", "v_proj", "k_norm"})
        out.emplace_back(
            fmt::format("model.layers.{}.self_attn.{}.weight", layer, part),
            mx::ones({3}));
  tensors = std::move(out);
}

// The weights under the names, and with the buffers, that the files of older
// releases have.
std::vector<std::pair<std::string, mx::array>> older_tensors(
    const std::string& variant) {
  const auto type = model_type(variant);
  const auto file =
      Safetensors::open(test::families_root / variant / "model.safetensors");
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (const auto& tensor : file.tensors()) {
    auto name = tensor.name;
    if (const std::string prefix = "transformer.";
        type == "gpt2" && name.starts_with(prefix))
      name.erase(0, prefix.size());
    tensors.emplace_back(name, file.read(tensor));
  }
  if (type == "gemma4_text") as_others_keep_them(tensors, variant);
  const auto mask = mx::tril(mx::ones({1, 1, 64, 64}));
  for (const auto* layer : {"0", "1"}) {
    const auto add = [&](const std::string& list,
                         const std::string& name,
                         const mx::array& value) {
      tensors.emplace_back(list + layer + name, value);
    };
    if (type == "gpt2") {
      add("h.", ".attn.bias", mask);
    } else if (type == "gptj") {
      add("transformer.h.", ".attn.bias", mx::astype(mask, mx::bool_));
      add("transformer.h.", ".attn.masked_bias", mx::array(-1e9f));
    } else if (type == "codegen") {
      add("transformer.h.", ".attn.causal_mask", mx::astype(mask, mx::bool_));
    } else if (type == "gpt_neox") {
      const std::string list = "gpt_neox.layers.";
      add(list, ".attention.bias", mx::astype(mask, mx::bool_));
      add(list, ".attention.masked_bias", mx::array(-1e9f));
      add(list, ".attention.rotary_emb.inv_freq", mx::ones({2}));
    } else if (type == "llama" || type == "mistral") {
      add("model.layers.", ".self_attn.rotary_emb.inv_freq", mx::ones({4}));
    }
  }
  return tensors;
}

// config.older.json says the same as releases before transformers 5 wrote it:
// RoPE's parameters in fields of their own, defaults left out.
TEST_P(FamilyParity, OlderFiles) {
  const auto& variant = GetParam();
  const auto folder =
      fs::temp_directory_path() /
      fmt::format("mlxterp-families-{}-{}", ::getpid(), variant);
  fs::create_directories(folder);
  fs::copy_file(
      test::families_root / variant / "config.older.json",
      folder / "config.json",
      fs::copy_options::overwrite_existing);
  save_safetensors(
      folder / "model.safetensors",
      older_tensors(variant),
      {},
      /*overwrite=*/true);
  const auto reference = expected(variant);
  const auto& wanted = reference.at("logits");
  const auto run =
      load_variant(folder, mx::float32)
          .run(integers(reference.at("ids")), {.save = {"logits"}});
  fs::remove_all(folder);
  ASSERT_EQ(run["logits"].size(), wanted.size());
  EXPECT_LE(
      test::max_difference(mx::reshape(run["logits"], wanted.shape()), wanted),
      logits_tolerance)
      << variant;
}

class HalfParity : public testing::TestWithParam<std::string> {};

// Half precision may lose no more than twice what transformers loses in it.
TEST_P(HalfParity, LosesLittle) {
  const auto& variant = GetParam();
  const auto reference = expected(variant);
  const auto& exact = reference.at("half.logits");
  const auto& ids = reference.at("half.ids");
  for (const auto& [name, dtype] :
       {std::pair{"bfloat16", mx::bfloat16},
        std::pair{"float16", mx::float16}}) {
    const double theirs = test::max_difference(
        mx::astype(reference.at(fmt::format("half.{}", name)), mx::float32),
        exact);
    const auto model = load_variant(variant, dtype);
    const auto logits = model.run(ids, {.save = {"logits"}})["logits"];
    EXPECT_EQ(logits.dtype(), dtype);
    const double ours =
        test::max_difference(mx::astype(logits, mx::float32), exact);
    std::printf(
        "%-34s %s: within %.1e, transformers within %.1e\n",
        variant.c_str(),
        name,
        ours,
        theirs);
    EXPECT_GT(theirs, 0) << name;
    EXPECT_LE(ours, 2 * theirs) << variant << " " << name;
  }
}

// Matrices that stay in half precision are the same numbers as widened ones.
TEST_P(HalfParity, StayingInMemoryChangesNothing) {
  const auto& variant = GetParam();
  const auto source = test::families_root / variant;
  const auto ids = integers(expected(variant).at("ids"));
  for (const auto dtype : {mx::float16, mx::bfloat16}) {
    const auto folder = fs::temp_directory_path() /
                        fmt::format("mlxterp-half-{}-{}", ::getpid(), variant);
    fs::create_directories(folder);
    fs::copy_file(
        source / "config.json",
        folder / "config.json",
        fs::copy_options::overwrite_existing);
    const auto checkpoint = Checkpoint::open(source);
    std::vector<std::pair<std::string, mx::array>> tensors;
    for (const auto& tensor : checkpoint.tensors()) {
      auto value = checkpoint.read(tensor);
      if (mx::issubdtype(value.dtype(), mx::floating))
        value = mx::astype(value, dtype);
      tensors.emplace_back(tensor.name, value);
    }
    save_safetensors(
        folder / "model.safetensors", tensors, {}, /*overwrite=*/true);
    const auto load = [&](bool half) {
      return InterpretableModel::load(
          folder.string(), {.dtype = mx::float32, .half = half});
    };
    const auto kept = load(true), widened = load(false);
    fs::remove_all(folder);
    size_t in_half = 0;
    for (const auto& [name, matrix] : kept.decoder().matrices()) {
      EXPECT_EQ(matrix->dtype(), mx::float32) << name;
      in_half += matrix->dense().dtype() == dtype;
    }
    EXPECT_EQ(in_half, kept.decoder().matrices().size());
    for (const auto& [name, value] : widened.decoder().parameters())
      EXPECT_NE(value->dtype(), dtype) << name;
    // One row, few, and more than are read as they lie.
    for (const size_t copies : {1, 20}) {
      const Inputs rows(Inputs::Rows(copies, ids));
      const auto a = kept.run(rows, {.save = {"logits"}})["logits"];
      const auto b = widened.run(rows, {.save = {"logits"}})["logits"];
      ASSERT_EQ(a.shape(), b.shape());
      EXPECT_LE(test::max_difference(a, b), 1e-5 * test::max_magnitude(b))
          << variant << " " << copies;
    }
  }
}

std::string named(const testing::TestParamInfo<std::string>& variant) {
  return test::test_name(variant.param);
}

INSTANTIATE_TEST_SUITE_P(
    All, FamilyParity, testing::ValuesIn(supported_variants()), named);
INSTANTIATE_TEST_SUITE_P(
    All, HalfParity, testing::ValuesIn(supported_variants()), named);

}  // namespace
}  // namespace mlxterp
