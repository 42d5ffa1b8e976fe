// What a store refuses, and where its text comes from.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "analysis/store/manifest.h"
#include "analysis/store/text_files.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/activation_store.h"
#include "tests/analysis/documents.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using test::documents;
using test::expect_error;
using test::jsonl;
using test::small;
using test::worded;
using testing::TempFolder;

TEST(ActivationStore, TextFilesAreCutAtLinesAndReadFromAnyPlace) {
  const TempFolder place;
  std::string text;
  for (int i = 0; text.size() < 3 * TextFiles::piece + 1000; ++i)
    text += fmt::format("line {} of it \xC3\xA9\n", i);
  std::string unbroken;
  while (unbroken.size() < TextFiles::piece + 10)
    unbroken += "\xE4\xBD\xA0";
  place.write("f/a.txt", text);
  place.write("f/b/c.jsonl", jsonl({"one", "two"}));
  place.write("f/d.txt", unbroken);
  place.write("f/notes.md", "not read");
  std::vector<std::string> warned;
  TextFiles files(place / "f", [&](std::string_view sentence) {
    warned.emplace_back(sentence);
  });
  ASSERT_EQ(warned.size(), 1u);
  EXPECT_EQ(files.files(), 3u);
  std::vector<std::pair<TextPlace, std::string>> found;
  TextPlace at;
  for (auto from = at; const auto next = files.next(at); from = at)
    found.emplace_back(from, *next);
  ASSERT_EQ(found.size(), 4u + 2u + 2u);
  std::string whole;
  for (int i = 0; i < 4; ++i) {
    EXPECT_LE(found[static_cast<size_t>(i)].second.size(), TextFiles::piece);
    EXPECT_EQ(found[static_cast<size_t>(i)].second.back(), '\n');
    whole += found[static_cast<size_t>(i)].second;
  }
  EXPECT_EQ(whole, text);
  EXPECT_EQ(found[4].second, "one");
  EXPECT_EQ(found[6].second.size() % 3, 0u);  // whole characters
  EXPECT_EQ(found[6].second + found[7].second, unbroken);
  for (const auto& [from, expected] : found) {
    auto again = from;
    EXPECT_EQ(*files.next(again), expected);
  }
  EXPECT_EQ(files.share(at), 1);
  Digest digest(Digest::Kind::sha256);
  digest.update(text);
  EXPECT_EQ(TextFiles(place / "f/a.txt", {}).digest({}), digest.hex());
}

TEST(ActivationStore, OtherSettingsAreNamed) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(20)));
  const auto& model = worded();
  const auto folder = place / "s";
  store_text_activations(model, file, {"embed"}, folder, small());
  const auto again = [&](const std::function<void(StoreOptions&)>& change,
                         const fs::path& text = {},
                         const std::vector<std::string>& sites = {"embed"}) {
    auto options = small();
    options.resume = true;
    change(options);
    store_text_activations(
        model, text.empty() ? file : text, sites, folder, options);
  };
  EXPECT_NO_THROW(again([](auto& it) { it.model = "another name"; }));
  EXPECT_NO_THROW(again([](auto& it) { it.shard_rows = 0; }));
  using enum ErrorKind;
  expect_error(
      [&] { again([](auto& it) { it.resume = false; }); },
      usage,
      {"holds a store", "resume"});
  expect_error(
      [&] { again([](auto& it) { it.length = 8; }); },
      usage,
      {"length 16, asked for 8"});
  expect_error(
      [&] {
        again([](auto& it) {
          it.batch_size = 4;
          it.tokens = 5;
        });
      },
      usage,
      {"batch_size 3, asked for 4; tokens 0, asked for 5"});
  expect_error(
      [&] { again([](auto& it) { it.shard_rows = 38; }); },
      usage,
      {"shard_rows 37, asked for 38"});
  expect_error(
      [&] { again([](auto& it) { it.dtype = mx::float16; }); },
      usage,
      {"dtype null, asked for \"float16\""});
  expect_error(
      [&] { again([](auto& it) { it.edits = {"embed=scale(2)"}; }); },
      usage,
      {"edits"});
  expect_error(
      [&] { again([](auto&) {}, {}, {"layers.0.resid_post"}); },
      usage,
      {"sites", "layers.0.resid_post"});
  const auto other = place.write("other.jsonl", jsonl(documents(21)));
  expect_error(
      [&] { again([](auto&) {}, other); },
      usage,
      {"text.sha256", "text.bytes"});
  // Another checkpoint of the same shape.
  const TempFolder elsewhere;
  testing::TinyCheckpoint tiny;
  tiny.config["vocab_size"] = 530;
  tiny.put("model.embed_tokens.weight", {530, 24});
  tiny.put("lm_head.weight", {530, 24});
  tiny.tensors.at("model.norm.weight").values[3] += 0.5f;
  tiny.tokenizer = testing::read_file(
      MLXTERP_SOURCE_DIR "/tests/text/fixtures/llama3.tokenizer.json");
  const auto changed = InterpretableModel::load(tiny.write(elsewhere).string());
  auto options = small();
  options.resume = true;
  expect_error(
      [&] {
        store_text_activations(changed, file, {"embed"}, folder, options);
      },
      usage,
      {"weights_sha256"});
}

TEST(ActivationStore, AnotherComputationIsNotMixedIn) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(40)));
  const std::string site = "layers.1.resid_post";
  const auto pushed = [&](float by) {
    return worded().with({Edit{"layers.0.mlp_out", [by](const mx::array& x) {
                                 return mx::add(x, mx::array(by, x.dtype()));
                               }}});
  };
  auto options = small();
  options.edits = {"layers.0.mlp_out=add_vector(d.npy)"};
  const auto go = [&](const fs::path& folder, float by, bool resume = true) {
    options.resume = resume;
    return store_text_activations(pushed(by), file, {site}, folder, options);
  };
  // Complete, stopped inside a block, and stopped at the end of one.
  const auto whole = place / "whole";
  const auto rows = go(whole, 0.5f, false).rows;
  for (const int64_t shard_rows : {37, 1}) {
    options.shard_rows = shard_rows;
    const auto folder = place / fmt::format("part{}", shard_rows);
    options.stop = [] { return true; };
    EXPECT_FALSE(go(folder, 0.5f, false).complete);
    options.stop = {};
    expect_error(
        [&] { go(folder, 0.7f); },
        ErrorKind::usage,
        {"made otherwise", "the rows of document ", site, "collect anew"});
    EXPECT_EQ(go(folder, 0.5f).rows, rows);
  }
  options.shard_rows = 37;
  expect_error(
      [&] { go(whole, 0.7f); },
      ErrorKind::usage,
      {"made otherwise", "document ", "whole"});
  EXPECT_EQ(go(whole, 0.5f).kept, rows);
  options.saes = {"layers.1.resid_post=sae (replace)"};
  expect_error([&] { go(whole, 0.5f); }, ErrorKind::usage, {"saes null"});
  // In half precision too.
  options.saes = {};
  options.dtype = mx::bfloat16;
  const auto half = place / "half";
  go(half, 0.5f, false);
  EXPECT_EQ(go(half, 0.5f).kept, rows);
  expect_error([&] { go(half, 0.9f); }, ErrorKind::usage, {"made otherwise"});
}

TEST(ActivationStore, DamagedOnesAreNotComplete) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(20)));
  auto options = small();
  const auto folder = place / "s";
  const auto manifest = folder / "manifest.json";
  const auto go = [&](bool resume = true) {
    options.resume = resume;
    return store_text_activations(worded(), file, {"embed"}, folder, options);
  };
  const auto told = go(false);
  ASSERT_GT(told.shards, 3);
  const auto said = testing::read_file(manifest);
  const auto shard = [&](int64_t n) { return folder / store::shard_name(n); };
  using enum ErrorKind;
  for (const auto& [text, part] :
       {std::pair{std::string("{}"), "format"},
        {said.substr(0, said.size() / 2), "manifest.json"},
        {std::string(), "manifest.json"}}) {
    place.write("s/manifest.json", text);
    expect_error([&] { go(); }, bad_data, {part});
  }
  auto other = nlohmann::json::parse(said);
  other["rows"] = told.rows - 1;
  place.write("s/manifest.json", other.dump());
  expect_error([&] { go(); }, bad_data, {"rows", "collect anew"});
  place.write("s/manifest.json", said);
  // The last files are made again, with or without the manifest.
  const auto last = testing::read_file(shard(told.shards - 1));
  fs::remove(shard(told.shards - 1));
  fs::remove(shard(told.shards - 2));
  const auto again = go();
  EXPECT_TRUE(again.complete);
  EXPECT_EQ(again.rows, told.rows);
  EXPECT_EQ(again.kept, (told.shards - 2) * told.shard_rows);
  EXPECT_EQ(testing::read_file(shard(told.shards - 1)), last);
  EXPECT_EQ(testing::read_file(manifest), said);
  fs::remove(manifest);
  EXPECT_EQ(go().kept, told.rows);
  EXPECT_EQ(testing::read_file(manifest), said);
  // Cut off, or of another store.
  for (const int64_t n : {int64_t{1}, told.shards - 1}) {
    const auto whole = testing::read_file(shard(n));
    fs::resize_file(shard(n), whole.size() - 50);
    expect_error([&] { go(); }, bad_data, {store::shard_name(n)});
    place.write("s/" + store::shard_name(n), whole);
  }
  fs::copy_file(
      shard(told.shards - 1), shard(1), fs::copy_options::overwrite_existing);
  expect_error([&] { go(); }, bad_data, {store::shard_name(1), "[37"});
}

TEST(ActivationStore, ShardsAreCountedNotSpelled) {
  std::set<std::string> names = {"manifest.json", ".lock"};
  constexpr int64_t many = 100'003;
  for (int64_t n = 0; n < many; ++n)
    names.insert(store::shard_name(n));
  EXPECT_EQ(store::shards_of("s", names), many);
  names.erase(store::shard_name(99'999));
  expect_error(
      [&] { store::shards_of("s", names); },
      ErrorKind::bad_data,
      {"shard-99999.safetensors' is missing", "shard-10000"});
}

TEST(ActivationStore, Misuse) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(10)));
  const auto& model = worded();
  using enum ErrorKind;
  int made = 0;
  const auto store = [&](const fs::path& text,
                         const std::vector<std::string>& sites = {"embed"},
                         const StoreOptions& options = small()) {
    return store_text_activations(
        model, text, sites, place / fmt::format("s{}", made++), options);
  };
  const auto with = [](const std::function<void(StoreOptions&)>& change) {
    auto options = small();
    change(options);
    return options;
  };
  expect_error([&] { store(place / "none.txt"); }, environment, {"none.txt"});
  expect_error([&] { store(file, {}); }, usage, {"no site"});
  expect_error(
      [&] { store(file, {"layers.9.z"}); }, unknown_name, {"layers.9.z"});
  expect_error(
      [&] { store(file, {"layers.0.attn.pattern"}); }, usage, {"pattern"});
  for (const auto& [text, part] :
       {std::pair{"{\"text\": 7}\n", "with a \"text\" that is none"},
        {"{\"text\": \"a\"}\n{\"texts\": \"b\"}\n", "the line at byte 14"},
        {"[1]\n", "no object"},
        {"{\"text\": \"a\"\n", "the line at byte 0"}})
    expect_error(
        [&] { store(place.write("bad.jsonl", text)); }, bad_data, {part});
  expect_error(
      [&] { store(place.write("bad.txt", std::string_view("ab\0cd", 5))); },
      bad_data,
      {"byte 2 is zero"});
  expect_error([&] { store(place.write("e.txt", "")); }, usage, {"is empty"});
  expect_error(
      [&] { store(place.write("e.jsonl", "\n\n")); }, usage, {"no tokens"});
  place.write("folder/x.md", "text");
  expect_error([&] { store(place / "folder"); }, usage, {".txt or .jsonl"});
  expect_error(
      [&] { store(file, {"embed"}, with([](auto& it) { it.length = 65; })); },
      usage,
      {"65 tokens", "64"});
  expect_error(
      [&] { store(file, {"embed"}, with([](auto& it) { it.length = 1; })); },
      usage,
      {"1 tokens; give 2 to 64"});
  expect_error(
      [&] {
        store(file, {"embed"}, with([](auto& it) { it.batch_size = 0; }));
      },
      usage,
      {"batch_size 0"});
  expect_error(
      [&] {
        store(file, {"embed"}, with([](auto& it) { it.dtype = mx::int8; }));
      },
      usage,
      {"float16"});
  // What float16 does not hold, and what is nothing at all.
  const auto scaled = [&](float by) {
    return model.with({Edit{"layers.1.mlp_out", [by](const mx::array& x) {
                              return mx::multiply(x, mx::array(by));
                            }}});
  };
  expect_error(
      [&] {
        store_text_activations(
            scaled(1e12f),
            file,
            {"layers.1.resid_post"},
            place / "big",
            with([](auto& it) { it.dtype = mx::float16; }));
      },
      bad_data,
      {"layers.1.resid_post", "bfloat16"});
  place.write("other/file.txt", "something else");
  expect_error(
      [&] {
        store_text_activations(
            model, file, {"embed"}, place / "other", small());
      },
      usage,
      {"other files"});
  // A folder that lost a file, and stores that are none.
  const auto folder = place / fmt::format("s{}", made);
  store(file);
  const auto good = ActivationStore::open(folder);
  expect_error([&] { good.read("z", 0, 1); }, unknown_name, {"'z'", "embed"});
  expect_error(
      [&] { good.read("embed", 0, good.rows() + 1); },
      out_of_range,
      {fmt::format("{}", good.rows())});
  fs::remove(folder / "manifest.json");
  expect_error([&] { ActivationStore::open(folder); }, usage, {"resume"});
  fs::remove(folder / "shard-00001.safetensors");
  expect_error(
      [&] {
        auto options = small();
        options.resume = true;
        store_text_activations(model, file, {"embed"}, folder, options);
      },
      bad_data,
      {"shard-00001.safetensors", "missing"});
  expect_error(
      [&] { ActivationStore::open(place / "nothing"); },
      environment,
      {"manifest.json"});
  place.write("odd/manifest.json", "{\"format\": 3}");
  expect_error(
      [&] { ActivationStore::open(place / "odd"); }, bad_data, {"format"});
}

}  // namespace
}  // namespace mlxterp
