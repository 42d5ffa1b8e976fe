// What the peers' own classes wrote, read and compared with what these compute:
// tests/parity/make_saes.py.

#include <gtest/gtest.h>

#include <map>
#include <ostream>

#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/set.h"
#include "tests/compare.h"

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace mlxterp {
namespace {

const fs::path fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures";

std::map<std::string, mx::array> tensors(const fs::path& path) {
  const auto file = Safetensors::open(path);
  std::map<std::string, mx::array> out;
  for (const auto& tensor : file.tensors())
    out.emplace(tensor.name, file.read(tensor));
  return out;
}

struct Case {
  std::string name, place, format, site_in, site_out, model;
  SaeKind kind = SaeKind::sae;
};

void PrintTo(const Case& it, std::ostream* out) {
  *out << it.name;
}

class Format : public testing::TestWithParam<Case> {};

TEST_P(Format, GivesWhatItsOwnerComputes) {
  const auto& it = GetParam();
  const auto x = tensors(fixtures / "x.safetensors").at("x");
  const auto expected =
      tensors(fixtures / "expected" / (it.name + ".safetensors"));
  const auto sae = load_sae((fixtures / it.name / it.place).string());
  const auto acts = encode(sae, x);
  const auto& own = expected.at("acts");
  test::expect_close(acts, own, 1e-5, own.size(), it.name + " acts");
  const auto recon = decode(sae, acts, x);
  const auto& theirs = expected.at("recon");
  // Reconstructions of a few dozen summands as large as 5.
  test::expect_close(recon, theirs, 1e-5, theirs.size(), it.name + " recon");
  EXPECT_EQ(sae.source.format, it.format);
  EXPECT_EQ(sae.source.site_in, it.site_in);
  EXPECT_EQ(sae.source.site_out, it.site_out);
  EXPECT_EQ(sae.source.model, it.model);
  EXPECT_EQ(sae.kind, it.kind);
}

const char* const gpt2 = "gpt2-small";
const char* const pythia = "EleutherAI/pythia-70m-deduped";
const char* const llama = "meta-llama/Llama-3.1-8B";

INSTANTIATE_TEST_SUITE_P(
    Saelens,
    Format,
    testing::Values(
        Case{
            "saelens_standard",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_layer_norm",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_constant_norm",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_gated",
            "",
            "saelens",
            "layers.3.mlp_out",
            "layers.3.mlp_out",
            gpt2},
        Case{
            "saelens_jumprelu",
            "",
            "saelens",
            "layers.3.ln2.normalized",
            "layers.3.ln2.normalized",
            gpt2},
        Case{
            "saelens_topk",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_topk_rescaled",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_abstopk",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_hook_z",
            "",
            "saelens",
            "layers.2.attn.z",
            "layers.2.attn.z",
            gpt2},
        Case{
            "saelens_batchtopk",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_scaled",
            "",
            "saelens",
            "layers.5.resid_post",
            "layers.5.resid_post",
            gpt2},
        Case{
            "saelens_old",
            "",
            "saelens",
            "layers.8.resid_pre",
            "layers.8.resid_pre",
            gpt2},
        Case{
            "saelens_transcoder",
            "",
            "saelens",
            "layers.4.resid_mid",
            "layers.4.mlp_out",
            gpt2,
            SaeKind::transcoder},
        Case{
            "saelens_skip_transcoder",
            "",
            "saelens",
            "layers.4.resid_mid",
            "layers.4.mlp_out",
            gpt2,
            SaeKind::transcoder},
        Case{
            "saelens_jumprelu_transcoder",
            "",
            "saelens",
            "layers.4.resid_mid",
            "layers.4.mlp_out",
            gpt2,
            SaeKind::transcoder},
        Case{
            "saelens_jumprelu_skip_transcoder",
            "",
            "saelens",
            "layers.4.resid_mid",
            "layers.4.mlp_out",
            gpt2,
            SaeKind::transcoder}),
    [](const auto& given) { return given.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Others,
    Format,
    testing::Values(
        Case{
            "sparsify_topk",
            "layers.5",
            "sparsify",
            "layers.5.resid_post",
            "layers.5.resid_post",
            ""},
        Case{
            "sparsify_groupmax",
            "layers.3.mlp",
            "sparsify",
            "layers.3.mlp.output",
            "layers.3.mlp.output",
            ""},
        Case{
            "sparsify_transcoder",
            "layers.2.mlp",
            "sparsify",
            "layers.2.mlp.input",
            "layers.2.mlp.output",
            "",
            SaeKind::transcoder},
        Case{
            "dl_standard",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_legacy",
            "trainer_0/ae.pt",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_new",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_gated",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_jumprelu",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_topk",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_batchtopk",
            "trainer_0",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "dl_matryoshka",
            "trainer_0/config.json",
            "dictionary_learning",
            "layers.3.resid_post",
            "layers.3.resid_post",
            pythia},
        Case{
            "gemma_scope",
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            "gemma_scope",
            "layers.20.resid_post",
            "layers.20.resid_post",
            "google/gemma-2-2b"},
        Case{
            "gemma_scope_transcoder",
            "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54",
            "gemma_scope",
            "layers.3.ln2.normalized",
            "layers.3.mlp_out",
            "google/gemma-2-2b",
            SaeKind::transcoder},
        Case{
            "gemma_scope_embedding",
            "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
            "gemma_scope",
            "embed",
            "embed",
            "google/gemma-2-2b"},
        Case{
            "gemma_scope_2",
            "gemma-scope-2-1b-pt/attn_out/layer_12_width_16k_l0_medium",
            "gemma_scope_2",
            "layers.12.attn.z",
            "layers.12.attn.z",
            "google/gemma-3-1b-pt"},
        Case{
            "gemma_scope_2_affine",
            "gemma-scope-2-270m-it/transcoder_all/"
            "layer_7_width_16k_l0_small_affine",
            "gemma_scope_2",
            "layers.7.ln2.output",
            "layers.7.mlp_out",
            "google/gemma-3-270m-it",
            SaeKind::transcoder},
        Case{
            "gemma_scope_2_clt",
            "gemma-scope-2-270m-pt/clt/width_262k_l0_medium/"
            "params_layer_1.safetensors",
            "gemma_scope_2",
            "layers.1.ln2.output",
            "layers.1.mlp_out",
            "google/gemma-3-270m",
            SaeKind::cross_layer}),
    [](const auto& given) { return given.param.name; });

INSTANTIATE_TEST_SUITE_P(
    More,
    Format,
    testing::Values(
        Case{
            "llama_scope",
            "Llama3_1-8B-Base-L15R-8x",
            "llama_scope",
            "layers.15.resid_post",
            "layers.15.resid_post",
            llama},
        Case{
            "llama_scope_r1",
            "L15R",
            "llama_scope",
            "layers.15.resid_post",
            "layers.15.resid_post",
            llama},
        Case{
            "qwen_scope",
            "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5",
            "qwen_scope",
            "layers.7.resid_post",
            "layers.7.resid_post",
            "Qwen/Qwen3-1.7B-Base"},
        Case{
            "goodfire",
            "",
            "goodfire",
            "layers.19.resid_post",
            "layers.19.resid_post",
            "meta-llama/Llama-3.1-8B-Instruct"},
        Case{
            "deepseek",
            "",
            "deepseek",
            "layers.19.resid_post",
            "layers.19.resid_post",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"},
        Case{
            "connor_rob",
            "",
            "connor_rob",
            "layers.5.attn.z",
            "layers.5.attn.z",
            "gpt2"},
        Case{"openai_topk", "", "openai", "", "", ""},
        Case{"openai_relu", "", "openai", "", "", ""}),
    [](const auto& given) { return given.param.name; });

// Each layer of a set, and all of them together.
class Set : public testing::TestWithParam<std::string> {};

TEST_P(Set, GivesWhatItsOwnerComputes) {
  const auto& name = GetParam();
  const auto x = tensors(fixtures / "x.safetensors").at("x");
  const auto expected =
      tensors(fixtures / "expected" / (name + ".safetensors"));
  const auto place = (fixtures / name).string();
  const auto set = SaeSet::open(place);
  ASSERT_TRUE(SaeSet::is_set(place));
  ASSERT_EQ(set.layers(), 3);
  const auto& acts = expected.at("acts");    // [layers, n, d_sae]
  const auto& recon = expected.at("recon");  // [layers, n, d_out]
  for (int i = 0; i < 3; ++i) {
    const auto sae = set.layer(i);
    EXPECT_EQ(sae.source.layer, i);
    const auto own = mx::take(acts, i, 0);
    test::expect_close(
        encode(sae, x), own, 1e-5, own.size(), fmt::format("{} {}", name, i));
  }
  const auto all = set.reconstruct({x, x, x});
  ASSERT_EQ(all.size(), 3u);
  test::expect_close(
      mx::stack(all), recon, 1e-5, recon.size(), name + " recon");
  EXPECT_THROW(set.layer(3), Error);
  EXPECT_THROW(load_sae(place), Error);  // which layer?
  EXPECT_EQ(load_sae(place, {.layer = 2}).source.layer, 2);
}

INSTANTIATE_TEST_SUITE_P(
    CircuitTracer,
    Set,
    testing::Values(
        "circuit_tracer_jump", "circuit_tracer_topk", "circuit_tracer_clt"),
    [](const auto& given) { return given.param; });

TEST(Set, SitesOfItsConfiguration) {
  const auto plt = SaeSet::open((fixtures / "circuit_tracer_jump").string());
  const auto sae = plt.layer(1);
  EXPECT_EQ(sae.source.site_in, "layers.1.mlp.input");
  EXPECT_EQ(sae.source.site_out, "layers.1.mlp.output");
  EXPECT_EQ(sae.source.model, "meta-llama/Llama-3.2-1B");
  EXPECT_EQ(plt.scan(), "test/set");
  const auto clt = SaeSet::open((fixtures / "circuit_tracer_clt").string());
  EXPECT_EQ(clt.kind(), SaeKind::cross_layer);
  EXPECT_EQ(clt.hook_in(), "hook_resid_mid");
  EXPECT_EQ(clt.hook_out(), "hook_mlp_out");
  const auto second = clt.layer(1);
  EXPECT_EQ(second.source.site_in, "layers.1.resid_mid");
  EXPECT_EQ(second.source.site_out, "layers.1.mlp_out");
  EXPECT_EQ(second.targets(), 2);
}

}  // namespace
}  // namespace mlxterp
