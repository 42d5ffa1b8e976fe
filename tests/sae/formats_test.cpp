// What the peers' own classes wrote, read and compared with what these compute:
// tests/parity/make_saes.py.

#include <gtest/gtest.h>

#include <map>

#include "mlx/transforms.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/sae/load.h"
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

}  // namespace
}  // namespace mlxterp
