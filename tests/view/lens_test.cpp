#include "mlxterp/view/lens.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "mlxterp/view/html.h"
#include "tests/view/hostile.h"

namespace mlxterp::view {
namespace {

using test::hostile;
constexpr int tokens = test::n_hostile;

// Every hostile text as prompt, winner, runner-up and tracked token.
Lens hostile_lens(int columns = tokens) {
  Lens lens;
  lens.top_k = 2;
  lens.layers = {std::nullopt, 0, 1};
  lens.sites = {
      "layers.0.resid_pre", "layers.0.resid_post", "layers.1.resid_post"};
  lens.track = 0;
  for (int c = 0; c < columns; ++c) {
    lens.ids.push_back(c % tokens);
    lens.positions.push_back(c);
  }
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < columns; ++c) {
      lens.top_ids.insert(lens.top_ids.end(), {c % tokens, (c + 1) % tokens});
      lens.top_logits.insert(lens.top_logits.end(), {2, 1});
      lens.top_probabilities.insert(lens.top_probabilities.end(), {0.7f, 0.2f});
      lens.track_logits.push_back(2);
      lens.track_probabilities.push_back(0.7f);
      lens.track_ranks.push_back(c % tokens == 0 ? 0 : 3);
    }
  return lens;
}

LensNames names_of(const Lens& lens) {
  LensNames names;
  names.model = hostile[3];
  for (const int id : lens.ids)
    names.prompt.emplace_back(hostile[id]);
  names.token = [](int id) { return std::string(hostile[id]); };
  names.edits = {hostile[0], hostile[1]};
  return names;
}

TEST(Html, EscapesTextAndAttributes) {
  EXPECT_EQ(
      html("<a href=\"x\" b='y'>&"),
      "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;");
  EXPECT_EQ(html("\xE2\x80\xAE"), "\\u202e");
}

TEST(ScriptString, CannotLeaveTheScript) {
  EXPECT_EQ(script_string("</script>"), "\"\\u003c/script\\u003e\"");
  EXPECT_EQ(script_string("a\"\\\n"), "\"a\\\"\\\\\\\\n\"");
  EXPECT_EQ(script_string("\xE2\x80\xA8"), "\"\\\\u2028\"");
  EXPECT_EQ(script_string("<!--"), "\"\\u003c!--\"");
}

TEST(LensPage, HostileTokensAreInert) {
  // A real parser looks for elements and attributes that are not ours.
  const auto lens = hostile_lens();
  const auto folder = std::filesystem::temp_directory_path() /
                      ("mlxterp-page-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const auto file = folder / "page.html";
  std::ofstream(file) << lens_page(lens, names_of(lens));
  const auto command = "python3 '" MLXTERP_SOURCE_DIR
                       "/tests/view/check_page.py' '" +
                       file.string() + "' lens";
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::filesystem::remove_all(folder);
}

TEST(LensPage, IsCappedWithANotice) {
  const auto lens = hostile_lens(12'000);
  const auto page = lens_page(lens, names_of(lens));
  EXPECT_NE(page.find("6666 of 12000 positions"), std::string::npos);
  EXPECT_LT(page.size(), 20u << 20);
}

TEST(LensText, HostileTokensAreInertAndFit) {
  const auto lens = hostile_lens();
  for (const size_t width : {20u, 80u, 200u}) {
    const auto text = lens_text(lens, names_of(lens), {.width = width});
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_EQ(text.find("\xE2\x80\xAE"), std::string::npos);
    const auto table = text.substr(0, text.find("position"));
    for (size_t at = 0; at < table.size();) {
      const auto end = table.find('\n', at);
      EXPECT_LE(display_width(table.substr(at, end - at)), width);
      if (end == std::string::npos) break;
      at = end + 1;
    }
  }
}

TEST(LensText, SaysWhatItLeavesOut) {
  const auto lens = hostile_lens();
  const auto text = lens_text(lens, names_of(lens), {.width = 80});
  EXPECT_NE(text.find("--positions"), std::string::npos);
  const auto wide = lens_text(lens, names_of(lens), {.width = 400});
  EXPECT_EQ(wide.find("--positions"), std::string::npos);
}

TEST(LensText, ShowsNaN) {
  auto lens = hostile_lens(1);
  lens.top_ids.assign(lens.top_ids.size(), -1);
  lens.top_probabilities.assign(lens.top_probabilities.size(), NAN);
  lens.track_probabilities.assign(lens.track_probabilities.size(), NAN);
  lens.track_ranks.assign(lens.track_ranks.size(), -1);
  const auto names = names_of(lens);
  EXPECT_NE(lens_text(lens, names, {}).find("NaN"), std::string::npos);
  EXPECT_NE(lens_page(lens, names).find("NaN"), std::string::npos);
}

}  // namespace
}  // namespace mlxterp::view
