// Patterns over dotted names, and how much work one may ask for.

#include "core/glob.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ctime>
#include <random>
#include <regex>

#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {
namespace {

bool matches_by_regex(const std::string& pattern, const std::string& name) {
  std::string text;
  for (const char c : pattern)
    text += c == '*' ? "[^.]*" : c == '.' ? "\\." : std::string(1, c);
  return std::regex_match(name, std::regex(text));
}

TEST(Glob, StarsAreAnyRunWithoutDots) {
  EXPECT_TRUE(glob_matches("layers.*.attn.z", "layers.12.attn.z"));
  EXPECT_TRUE(glob_matches("*", ""));
  EXPECT_TRUE(glob_matches("a*", "a"));
  EXPECT_FALSE(glob_matches("*", "a.b"));
  EXPECT_FALSE(glob_matches("a*.b", "a.b.b"));
  EXPECT_FALSE(glob_matches("", "a"));
  EXPECT_FALSE(glob_matches("a", ""));
}

// Against the standard library's regular expressions, over short texts of few
// letters, where everything that can go wrong does.
TEST(Glob, AgreesWithRegularExpressions) {
  std::mt19937 random(5);
  const auto text = [&](std::string_view letters) {
    std::string out;
    for (auto n = random() % 8; n > 0; --n)
      out += letters[random() % letters.size()];
    return out;
  };
  int matched = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto pattern = text("ab.**"), name = text("ab.");
    const bool right = matches_by_regex(pattern, name);
    ASSERT_EQ(glob_matches(pattern, name), right) << pattern << " " << name;
    matched += right;
  }
  EXPECT_GT(matched, 500);
}

TEST(Glob, ManyStarsTakeNoLonger) {
  std::string pattern, name;
  for (int i = 0; i < 1000; ++i)
    pattern += "*a";
  for (int i = 0; i < 2000; ++i)
    name += 'a';
  const auto begin = std::clock();
  EXPECT_FALSE(glob_matches(pattern + "b", name));
  EXPECT_TRUE(glob_matches(pattern, name));
  EXPECT_TRUE(glob_matches(std::string(4096, '*'), name));
  EXPECT_LT(std::clock() - begin, CLOCKS_PER_SEC);
}

TEST(Glob, BracesAreSpeltOut) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(expand_braces("a.{1..3}.b"), (Names{"a.1.b", "a.2.b", "a.3.b"}));
  EXPECT_EQ(expand_braces("{a,b}{0,1}"), (Names{"a0", "a1", "b0", "b1"}));
  EXPECT_EQ(expand_braces("*"), Names{"*"});
}

TEST(Glob, PatternsThatAskForTooMuch) {
  const std::pair<std::string, const char*> patterns[] = {
      {std::string(limits::pattern_bytes + 1, 'a'), "bytes, at most"},
      {"{0..99}{0..99}{0..99}", "more than 10000 names"},
      {"{0..9999}{0..9999}" + std::string(4000, 'x'), "more than 10000 names"},
      {"{0..10000}", "a range is two numbers"},
      {"{0..2147483647}", "a range is two numbers"},
      {"{0..9999}.*", "10000 patterns with a star"},
      {"{a", "without its '}'"},
      {"a}", "without its '{'"},
      {"{a{b}}", "inside another"},
      {"{}", "nothing between"},
      {"{3..1}", "the smaller first"}};
  for (const auto& [pattern, says] : patterns) {
    try {
      expand_braces(pattern);
      ADD_FAILURE() << pattern.substr(0, 60);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos)
          << error.what();
    }
  }
  // The most that is allowed.
  EXPECT_EQ(expand_braces("{0..9999}").size(), limits::pattern_names);
  EXPECT_EQ(
      expand_braces("{0..9999}" + std::string(4000, 'x')).size(),
      limits::pattern_names);
  EXPECT_EQ(expand_braces("{0..1023}.*").size(), limits::pattern_searches);
}

}  // namespace
}  // namespace mlxterp
