#include "core/glob.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "mlxterp/core/error.h"

namespace mlxterp {
namespace {

using Names = std::vector<std::string>;

TEST(ExpandBraces, SpellsOutEveryChoice) {
  const std::vector<std::pair<std::string, Names>> cases = {
      {"", {""}},
      {"layers.3.attn.z", {"layers.3.attn.z"}},
      {"layers.*.attn.z", {"layers.*.attn.z"}},
      {"layers.{1,4}.mlp_out", {"layers.1.mlp_out", "layers.4.mlp_out"}},
      {"{3..5}", {"3", "4", "5"}},
      {"{7..7}", {"7"}},
      {"{0..1}.{q,k}", {"0.q", "0.k", "1.q", "1.k"}},
      {"{a}", {"a"}},
      {"a{,b}", {"a", "ab"}},
      {"a{b,*}c", {"abc", "a*c"}}};
  for (const auto& [pattern, names] : cases)
    EXPECT_EQ(expand_braces(pattern), names) << pattern;
  EXPECT_EQ(expand_braces("{0..9999}").size(), 10'000u);
}

TEST(ExpandBraces, RefusesWhatHasNoMeaning) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a{b", "a '{' without its '}'"},
      {"a}b", "a '}' without its '{'"},
      {"{a}}", "a '}' without its '{'"},
      {"{a{b}}", "a '{' inside another"},
      {"{}", "nothing between"},
      {"{5..3}", "the smaller first"},
      {"{..3}", "a range is two numbers"},
      {"{1..}", "a range is two numbers"},
      {"{1..2..3}", "a range is two numbers"},
      {"{-1..3}", "a range is two numbers"},
      {"{a..c}", "a range is two numbers"},
      {"{1..99999999999999999999}", "a range is two numbers"},
      {"{0..10000}", "a range is two numbers"},
      {"{0..100}{0..100}", "more than 10000 names"},
      {"{0..99}{0..99}{0..99}{0..99}{0..99}", "more than 10000 names"}};
  for (const auto& [pattern, part] : cases)
    try {
      expand_braces(pattern);
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << pattern;
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << error.what();
    }
}

TEST(GlobMatches, AStarIsAnythingBetweenDots) {
  const auto yes = [](const char* pattern, const char* name) {
    EXPECT_TRUE(glob_matches(pattern, name)) << pattern << " " << name;
  };
  const auto no = [](const char* pattern, const char* name) {
    EXPECT_FALSE(glob_matches(pattern, name)) << pattern << " " << name;
  };
  yes("layers.3.attn.z", "layers.3.attn.z");
  no("layers.3.attn.z", "layers.3.attn");
  no("layers.3.attn", "layers.3.attn.z");
  yes("layers.*.attn.z", "layers.17.attn.z");
  no("layers.*", "layers.1.attn");
  no("*", "a.b");
  yes("*.*", "a.b");
  yes("*", "");
  yes("", "");
  no("", "a");
  yes("*_out", "mlp_out");
  no("*_out", "mlp_out_");
  yes("*o*o*", "foo");
  no("*o*o*o*", "foo");
  yes("a*b*c", "abbbc");
  yes("a**c", "ac");
  no("a*c", "ab");
  yes("*ab", "aab");  // one that has to go back
  yes("*aab*", "aaaaab");
  no("?", "a");  // only stars are special
  yes("[a]", "[a]");
}

// One star more must not make it many times slower.
TEST(GlobMatches, ManyStarsTakeNoLonger) {
  std::string pattern;
  for (int i = 0; i < 200; ++i)
    pattern += "*a";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(glob_matches(pattern + "b", std::string(2000, 'a')));
  EXPECT_TRUE(glob_matches(pattern, std::string(2000, 'a')));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// Against the definition, on all patterns and names of a few letters.
TEST(GlobMatches, FollowsItsDefinition) {
  const std::function<bool(std::string_view, std::string_view)> defined =
      [&](std::string_view p, std::string_view t) -> bool {
    if (p.empty()) return t.empty();
    if (p[0] != '*')
      return !t.empty() && t[0] == p[0] && defined(p.substr(1), t.substr(1));
    return defined(p.substr(1), t) ||
           (!t.empty() && t[0] != '.' && defined(p, t.substr(1)));
  };
  const auto words = [](std::string_view letters, size_t longest) {
    std::vector<std::string> all = {""};
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].size() < longest)
        for (const char c : letters)
          all.push_back(all[i] + c);
    return all;
  };
  size_t compared = 0;
  for (const auto& pattern : words("a*.", 4))
    for (const auto& name : words("ab.", 4)) {
      EXPECT_EQ(glob_matches(pattern, name), defined(pattern, name))
          << pattern << " " << name;
      ++compared;
    }
  EXPECT_EQ(compared, 121u * 121u);
}

}  // namespace
}  // namespace mlxterp
