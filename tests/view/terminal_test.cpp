#include "mlxterp/view/terminal.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

namespace mlxterp::view {
namespace {

TEST(Escape, LeavesTextAlone) {
  EXPECT_EQ(escape(" Paris"), " Paris");
  EXPECT_EQ(escape("日本 é 😀"), "日本 é 😀");
  EXPECT_EQ(escape(""), "");
}

TEST(Escape, ShowsWhatWouldAct) {
  EXPECT_EQ(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
  EXPECT_EQ(
      escape("\x1b[31mred\x1b]0;title\x07"), "\\x1b[31mred\\x1b]0;title\\x07");
  EXPECT_EQ(escape(std::string("\0", 1)), "\\x00");
  EXPECT_EQ(
      escape("\xC2\x9B"
             "31m"),
      "\\u009b31m");  // C1 CSI
  EXPECT_EQ(
      escape("\xE2\x80\xAE"
             "evil"),
      "\\u202eevil");  // RLO
  EXPECT_EQ(escape("\xE2\x81\xA6x\xE2\x81\xA9"), "\\u2066x\\u2069");
  EXPECT_EQ(escape("a\xE2\x80\xA8z"), "a\\u2028z");
  EXPECT_EQ(escape("\xEF\xBB\xBF"), "\\ufeff");
  EXPECT_EQ(escape("\xF3\xA0\x81\x81"), "\\ue0041");  // a tag
}

TEST(Escape, MakesUtf8OfAnything) {
  EXPECT_EQ(escape("\xff\xc3("), "\\xff\\xc3(");
  EXPECT_EQ(escape("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
}

TEST(DisplayWidth, CountsColumns) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("日本"), 4u);
  EXPECT_EQ(display_width("e\xCC\x81"), 1u);
  EXPECT_EQ(display_width("😀"), 2u);
}

TEST(Fit, CutsAndPads) {
  EXPECT_EQ(fit("abc", 5), "abc  ");
  EXPECT_EQ(fit("abc", 5, Align::right), "  abc");
  EXPECT_EQ(fit("abcdef", 4), "abc…");
  EXPECT_EQ(fit("日本語", 4), "日… ");
  EXPECT_EQ(fit("abc", 0), "");
}

TEST(TableText, StaysWithinTheWidth) {
  Table table({{"site"}, {"also"}});
  table.add({"layers.0.attn_out", fmt::format("{:x>30} {:y>50}", "", "")});
  table.add({"\x1b[2J", "z"});
  const auto text = table.text({.width = 60});
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  for (size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    EXPECT_LE(display_width(text.substr(at, end - at)), 60u);
    at = end + 1;
  }
}

TEST(Wrapped, BreaksOnlyLinesThatAreTooWide) {
  const Terminal narrow{.width = 10};
  EXPECT_EQ(
      wrapped("a b\n\nlonger than ten\n", narrow), "a b\n\nlonger\nthan ten\n");
  const std::string coloured = "\x1b[1mlonger than ten\x1b[0m";
  EXPECT_EQ(wrapped(coloured, narrow), coloured);
  EXPECT_EQ(wrapped("", narrow), "");
}

TEST(Paragraph, StaysWithinTheWidth) {
  const std::string text =
      "Normalised effect in percent: 0 is the run unchanged";
  const auto lines = paragraph(text, {.width = 20});
  EXPECT_EQ(lines, "Normalised effect in\npercent: 0 is the\nrun unchanged");
  EXPECT_EQ(paragraph(text, {.width = 80}), text);
  EXPECT_EQ(paragraph("a\nb", {.width = 80}), "a\\nb");
}

TEST(Toned, OnlyWhereColourIsWelcome) {
  EXPECT_EQ(toned("a", Tone::strong, {.width = 80, .color = false}), "a");
  EXPECT_NE(toned("a", Tone::strong, {.width = 80, .color = true}), "a");
}

TEST(Sparkline, HasABarForEach) {
  EXPECT_EQ(sparkline({0, 0.5f, 1, NAN}), "▁▅█?");
}

TEST(Percent, ReadsWell) {
  EXPECT_EQ(percent(0.62f), "62%");
  EXPECT_EQ(percent(0.0231f), "2.3%");
  EXPECT_EQ(percent(1e-6f), "<0.1%");
  EXPECT_EQ(percent(1.0f), "100%");
  EXPECT_EQ(percent(NAN), "NaN");
}

}  // namespace
}  // namespace mlxterp::view
