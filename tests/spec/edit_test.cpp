#include "mlxterp/spec/edit.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <locale>

#include "mlx/ops.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/npz.h"
#include "mlxterp/io/safetensors.h"
#include "tests/spec/model.h"
#include "tests/temp_folder.h"

namespace mx = mlx::core;

namespace mlxterp::spec {
namespace {

using test::message_of;
using testing::TempFolder;

// 0, 1, 2, ... of shape [1, pos, head, d_head].
mx::array values() {
  return mx::reshape(mx::arange(24.0f), {1, 3, 2, 4});
}

mx::array apply(const Intervention& edit) {
  const std::vector<int> lengths = {3};
  const SiteView at{
      .name = "layers.0.attn.z",
      .site = 3,
      .layout = Layout::heads,
      .lengths = lengths};
  return edit(values(), at);
}

// Each text does what the functions of the same names do.
TEST(ParseIntervention, IsWhatItSays) {
  const TempFolder folder;
  const auto file = folder / "v.safetensors";
  save_safetensors(
      file,
      {{"v", mx::array({1.0f, 2.0f, 3.0f, 4.0f})},
       {"all", mx::add(values(), mx::array(1.0f))}},
      {});
  const auto single = (folder / "single.safetensors").string();
  save_safetensors(single, {{"w", mx::array({1.0f, 2.0f, 3.0f, 4.0f})}}, {});
  const std::string npy = MLXTERP_SOURCE_DIR "/tests/io/fixtures/vector.npy";
  const auto npz = (folder / "a.npz").string();
  save_npz(npz, {{"w", mx::array({1.0f, 2.0f, 3.0f, 4.0f})}});
  save_safetensors(
      single + "2", {{"w", mx::array({0.0f, 1.0f, 0.0f, 0.0f})}}, {});
  const auto plain = add_vector(mx::array({1.0f, 2.0f, 3.0f, 4.0f}));
  const auto halved = add_vector(mx::array({-0.5f, -1.0f, -1.5f, -2.0f}));
  const auto comma = (folder / "a,b.safetensors").string();
  save_safetensors(comma, {{"w", mx::array({1.0f, 2.0f, 3.0f, 4.0f})}}, {});
  const EditOptions options{.read = read_tensor};
  const auto in = file.string();
  const std::pair<std::string, Intervention> same[] = {
      {"zero_out", zero_out()},
      {"zero_out()", zero_out()},
      {"scale(0.5)", scale(0.5f)},
      {"scale(-1e-3)", scale(-1e-3f)},
      {" scale( 2 ) ", scale(2)},
      {"clamp(-1, 7.5)", clamp(-1.0f, 7.5f)},
      {"replace_with(3)", replace_with(3.0f)},
      {"noise(0.1, 42)", noise(0.1f, 42)},
      {"replace_with(" + in + ":all)",
       replace_with(mx::add(values(), mx::array(1.0f)))},
      {"add_vector(" + in + ":v)",
       add_vector(mx::array({1.0f, 2.0f, 3.0f, 4.0f}))},
      {"add_vector(" + single + ")", plain},
      {"add_vector( " + single + " , -0.5 )", halved},
      {"add_vector(" + in + ":v, -0.5)", halved},
      {"add_vector(" + npy + ")", plain},
      {"add_vector(" + npy + ", -.5)", halved},
      {"add_vector(" + npz + ":w)", plain},
      {"add_vector(" + npz + ",1)", plain},
      {"add_vector(" + comma + ")", plain},
      {"add_vector(" + comma + ":w, -0.5)", halved},
      {"at_positions(-1, add_vector(" + single + ", -0.5))",
       at_positions({-1}, halved)},
      {"project_out(" + in + ":v)",
       project_out(mx::array({1.0f, 2.0f, 3.0f, 4.0f}))},
      {"project_out(" + in + ":v, " + single + "2)",
       project_out(mx::array(
           {1.0f, 2.0f, 3.0f, 4.0f, 0.0f, 1.0f, 0.0f, 0.0f}, {2, 4}))},
      {"clamp_along(" + in + ":v, 3)",
       clamp_along(mx::array({1.0f, 2.0f, 3.0f, 4.0f}), 3)},
      {"compose(scale(2), clamp(3, 9))",
       compose({scale(2), clamp(3.0f, 9.0f)})},
      {"at_positions(-1, zero_out)", at_positions({-1}, zero_out())},
      {"at_positions([0, 1..2], scale(3))", at_positions({0, 1, 2}, scale(3))},
      {"on_heads(1, scale(3))", on_heads({1}, scale(3))},
      {"on_neurons([0,3], scale(3))", on_neurons({0, 3}, scale(3))},
      {"on_heads([0], at_positions(1, compose(scale(2), zero_out)))",
       on_heads({0}, at_positions({1}, zero_out()))},
  };
  for (const auto& [text, edit] : same) {
    const auto got = apply(parse_intervention(text, options));
    EXPECT_TRUE(mx::array_equal(got, apply(edit)).item<bool>()) << text;
    EXPECT_EQ(mx::array_equal(got, values()).item<bool>(), text.empty())
        << text;
  }
}

TEST(ParseEdit, TakesTheSiteAsItIs) {
  EXPECT_EQ(parse_edit("layers.4.mlp_out=scale(0)").site, "layers.4.mlp_out");
  EXPECT_EQ(parse_edit("layers.{1,4}.* = zero_out").site, "layers.{1,4}.*");
  const auto edits = parse_edits({"a=zero_out", "b=scale(2)"});
  ASSERT_EQ(edits.size(), 2u);
  EXPECT_EQ(edits[1].site, "b");
}

TEST(ParseEdit, ShowsTheColumnOfWhatIsWrong) {
  const std::pair<const char*, const char*> wrong[] = {
      {"layers.4.mlp_out", "column 17"},
      {"=scale(0)", "column 1:"},
      {"embed=", "column 7"},
      {"embed=scal(0)", "column 7"},
      {"embed=scale", "column 12"},
      {"embed=scale()", "column 13"},
      {"embed=scale(x)", "column 13"},
      {"embed=scale(1e999)", "column 13"},
      {"embed=scale(0x1p3)", "column 13"},
      {"embed=scale(nan)", "column 13"},
      {"embed=scale(1,5)", "column 14"},
      {"embed=scale(0))", "column 15"},
      {"embed=clamp(1,-1)", "column 7"},
      {"embed=noise(-1)", "column 13"},
      {"embed=noise(0.1,-3)", "column 17"},
      {"embed=at_positions([1,scale(0))", "column 23"},
      {"embed=at_positions(1)", "column 21"},
      {"embed=at_positions(3..1,zero_out)", "column 20"},
      {"embed=compose()", "column 15"},
      {"embed=add_vector(file)", "column 18"},
      {"embed=add_vector()", "column 18"},
      {"embed=add_vector(file, x)", "column 23"},
      {"embed=add_vector(file, 1e999)", "column 23"},
      {"embed=add_vector(file, nan)", "column 23"},
      {"embed=clamp_along(file)", "column 23"},
      {"embed=clamp_along(file, x)", "column 24"},
      {"embed=project_out(file)", "column 19"},
  };
  for (const auto& [text, column] : wrong) {
    const auto message =
        message_of([&] { parse_edit(text, {.name = "--edit"}); });
    EXPECT_EQ(message.find("--edit '"), 0u) << message;
    EXPECT_NE(message.find(column), std::string::npos) << message;
  }
}

TEST(ParseEdit, OpensFilesOnlyThroughTheReader) {
  const auto* text = "embed=add_vector(secret.safetensors:v)";
  EXPECT_NE(
      message_of([&] { parse_edit(text); }).find("may not name files"),
      std::string::npos);
  std::string asked;
  parse_edit(text, {.read = [&](const auto& path, const auto& name) {
               asked = path + "|" + name;
               return mx::array(1.0f);
             }});
  EXPECT_EQ(asked, "secret.safetensors|v");
}

TEST(ReadTensor, NamesTheTensorsThatThereAre) {
  const TempFolder folder;
  const auto file = folder / "v.safetensors";
  save_safetensors(file, {{"v", mx::array({1.0f})}}, {});
  EXPECT_NE(
      message_of(
          [&] { read_tensor(file.string(), "w"); }, ErrorKind::unknown_name)
          .find("has no tensor 'w'; it has v"),
      std::string::npos);
  message_of(
      [&] { read_tensor((folder / "none").string(), "v"); },
      ErrorKind::environment);
}

TEST(ReadTensor, AFileOfSeveralListsThem) {
  const TempFolder folder;
  const auto file = (folder / "v.safetensors").string();
  const auto one = mx::array({1.0f});
  save_safetensors(file, {{"v", one}, {"w", one}}, {});
  const auto npz = (folder / "v.npz").string();
  save_npz(npz, {{"v", one}, {"w", one}});
  for (const auto& path : {file, npz}) {
    const auto message =
        message_of([&] { read_tensor(path, ""); }, ErrorKind::unknown_name);
    EXPECT_NE(message.find("has 2 tensors: v, w; name one"), std::string::npos)
        << message;
  }
  message_of([&] {
    read_tensor(MLXTERP_SOURCE_DIR "/tests/io/fixtures/vector.npy", "v");
  });
}

// A single number would broadcast; of a file it is a vector of another model.
TEST(ParseIntervention, AVectorOfAnotherWidthIsRefused) {
  const TempFolder folder;
  const auto file = (folder / "v.safetensors").string();
  save_safetensors(
      file, {{"one", mx::array({1.0f})}, {"five", mx::arange(5.0f)}}, {});
  const EditOptions options{.read = read_tensor};
  for (const auto& [name, width] :
       {std::pair{"one", "1 numbers"}, std::pair{"five", "5 numbers"}})
    for (const auto* text :
         {"add_vector({}:{})",
          "add_vector({}:{}, 2)",
          "project_out({}:{})",
          "clamp_along({}:{}, 2)"}) {
      const auto edit = parse_intervention(
          fmt::format(fmt::runtime(text), file, name), options);
      EXPECT_EQ(edit.reach(), Intervention::Reach::value);
      const auto message = message_of([&] { apply(edit); });
      EXPECT_NE(message.find(width), std::string::npos) << message;
      EXPECT_NE(message.find("layers.0.attn.z' 4"), std::string::npos)
          << message;
    }
}

// Few bytes shall make neither many numbers nor a deep stack.
TEST(ParseEdit, IsBounded) {
  std::string deep = "zero_out";
  for (int i = 0; i < 10'000; ++i)
    deep = "compose(" + deep + ")";
  EXPECT_NE(
      message_of([&] { parse_intervention(deep); }).find("too deeply"),
      std::string::npos);
  std::string wide = "on_heads([0..1000000";
  for (int i = 0; i < 2000; ++i)
    wide += ",0..1000000";
  EXPECT_NE(
      message_of([&] {
        parse_intervention(wide + "],zero_out)");
      }).find("more than"),
      std::string::npos);
  std::string lists = "compose(on_heads(0..1000000,zero_out)";
  for (int i = 0; i < 20; ++i)
    lists += ",on_heads(0..1000000,zero_out)";
  message_of([&] { parse_intervention(lists + ")"); });
  std::string many = "compose(zero_out";
  for (size_t i = 0; i < limits::spec_edits; ++i)
    many += ",zero_out";
  message_of([&] { parse_intervention(many + ")"); });
  message_of(
      [] { parse_intervention(std::string(limits::spec_bytes + 1, ' ')); });
  message_of(
      [] { parse_intervention("scale(" + std::string(1000, '1') + ")"); });
}

// A locale with a decimal comma, which no machine has to have installed.
struct DecimalComma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
};

TEST(ParseEdit, ReadsNumbersInAnyLocale) {
  const auto before =
      std::locale::global(std::locale(std::locale(), new DecimalComma));
  const auto got = apply(parse_intervention("scale(0.5)"));
  std::locale::global(before);
  EXPECT_TRUE(mx::array_equal(got, mx::multiply(values(), mx::array(0.5f)))
                  .item<bool>());
}

}  // namespace
}  // namespace mlxterp::spec
