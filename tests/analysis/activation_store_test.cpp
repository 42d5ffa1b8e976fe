#include "mlxterp/analysis/activation_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "tests/analysis/documents.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using test::documents;
using test::jsonl;
using test::small;
using test::worded;
using testing::TempFolder;

// All files of a store by name, but for the lock.
std::map<std::string, std::string> bytes_of(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != ".lock")
      out[entry.path().filename().string()] = testing::read_file(entry.path());
  return out;
}

TEST(ActivationStore, EqualsTracesOfTheSameDocuments) {
  const TempFolder place;
  const auto texts = documents(40);
  const auto file = place.write("texts.jsonl", jsonl(texts));
  const auto& model = worded();
  const std::vector<std::string> sites = {
      "layers.1.resid_post", "layers.0.attn.z", "embed"};
  for (const bool last : {false, true}) {
    auto options = small();
    if (last) options.positions = CollectOptions::Positions::last;
    const auto folder = place / (last ? "last" : "all");
    const auto told =
        store_text_activations(model, file, sites, folder, options);
    EXPECT_TRUE(told.complete);
    const auto store = ActivationStore::open(folder);
    EXPECT_EQ(store.rows(), told.rows);
    EXPECT_EQ(told.shards, (told.rows + 36) / 37);
    EXPECT_EQ(told.documents, 39);  // the empty one is none

    int64_t row = 0, read = 0;
    int document = 0;
    const auto column = [&](const char* name, int64_t n) {
      auto values = store.read(name, row, row + n);
      return std::vector<int>(values.data<int>(), values.data<int>() + n);
    };
    for (const auto& text : texts) {
      if (text.empty()) continue;
      const auto ids = model.tokenizer().encode(text);
      ASSERT_NE(
          ids.front(),
          model.tokenizer().encode(text, {.add_special = false}).front());
      for (size_t at = 0; at < ids.size();) {
        std::vector<int> window;
        if (at > 0) window.push_back(ids.front());  // each begins with BOS
        while (window.size() < 16 && at < ids.size())
          window.push_back(ids[at++]);
        const auto n = static_cast<int>(window.size());
        const int from = last ? n - 1 : 0, kept = n - from;
        const auto run = model.run(window, {.save = sites});
        for (const auto& [name, value] : run) {
          const auto rows = mx::squeeze(value, 0);
          auto begin = mx::Shape(rows.shape().size(), 0);
          begin[0] = from;
          EXPECT_LE(
              test::max_difference(
                  store.read(name, row, row + kept),
                  mx::slice(rows, begin, rows.shape())),
              1e-5)
              << name << " at row " << row;
        }
        const auto tokens = column("tokens", kept);
        EXPECT_TRUE(
            std::equal(tokens.begin(), tokens.end(), window.begin() + from));
        for (int i = 0; i < kept; ++i) {
          EXPECT_EQ(
              column("positions", kept)[static_cast<size_t>(i)], from + i);
          EXPECT_EQ(
              column("documents", kept)[static_cast<size_t>(i)], document);
        }
        row += kept;
        read += n;
      }
      ++document;
    }
    EXPECT_EQ(row, store.rows());
    EXPECT_EQ(read, told.tokens);
    EXPECT_GT(row, last ? 60 : 600);
  }
}

// What products make may differ in its last bits from run to run: bytes are
// compared where none stands before, and values elsewhere.
TEST(ActivationStore, GoesOnAsIfNeverInterrupted) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(60)));
  const auto& model = worded();
  const std::vector<std::string> exact = {"embed", "layers.0.ln1.scale"},
                                 products = {"layers.2.resid_post"};
  const auto whole = place / "whole", whole_products = place / "products";
  auto options = small();
  const auto told = store_text_activations(model, file, exact, whole, options);
  store_text_activations(model, file, products, whole_products, options);
  const auto expected = bytes_of(whole);
  EXPECT_EQ(expected.size(), static_cast<size_t>(told.shards) + 1);

  options.resume = true;
  for (const auto& sites : {exact, products}) {
    // Stopped after each block, thrown out of in the middle of one.
    for (const bool thrown : {false, true}) {
      const auto folder = place / fmt::format("{}{}", sites[0], thrown);
      SCOPED_TRACE(folder.filename());
      int runs = 0;
      for (bool complete = false; !complete; ++runs) {
        ASSERT_LT(runs, 500);
        // Further each time: without a whole file a run begins again.
        int left = 1 + runs / 3;
        if (thrown)
          options.progress = [&](std::string_view what, double) {
            if (what.starts_with("Collecting") && --left < 0) throw 7;
          };
        else
          options.stop = [&] { return --left <= 0; };
        try {
          complete = store_text_activations(model, file, sites, folder, options)
                         .complete;
        } catch (int) {
        }
        EXPECT_EQ(complete, fs::exists(folder / "manifest.json"));
      }
      options.progress = {};
      options.stop = {};
      EXPECT_GT(runs, 5);
      if (sites == exact) {
        EXPECT_EQ(bytes_of(folder), expected);
      } else {
        const auto a = ActivationStore::open(folder),
                   b = ActivationStore::open(whole_products);
        ASSERT_EQ(a.rows(), b.rows());
        EXPECT_EQ(a.manifest(), b.manifest());
        test::expect_repeated(
            a.read(products[0], 0, a.rows()),
            b.read(products[0], 0, b.rows()),
            products[0]);
      }
      // Again: nothing is left to do.
      const auto again =
          store_text_activations(model, file, sites, folder, options);
      EXPECT_TRUE(again.complete);
      EXPECT_EQ(again.kept, told.rows);
      EXPECT_EQ(again.tokens, told.tokens);
    }
  }
}

TEST(ActivationStore, EndsAtTheTokensAskedFor) {
  const TempFolder place;
  const auto file = place.write("texts.jsonl", jsonl(documents(40)));
  const std::vector<std::string> sites = {"embed"};
  store_text_activations(worded(), file, sites, place / "all", small());
  const auto all = ActivationStore::open(place / "all");
  for (const int64_t tokens : {1, 16, 37, 100, 101}) {
    auto options = small();
    options.tokens = tokens;
    const auto folder = place / fmt::format("{}", tokens);
    const auto told =
        store_text_activations(worded(), file, sites, folder, options);
    EXPECT_EQ(told.rows, tokens);
    EXPECT_EQ(told.tokens, tokens);
    const auto store = ActivationStore::open(folder);
    for (const auto* name : {"embed", "tokens", "documents"})
      test::expect_identical(
          store.read(name, 0, tokens), all.read(name, 0, tokens), name);
  }
}

TEST(ActivationStore, PromptsInMemoryAreNotCut) {
  const TempFolder place;
  const auto model = test::tiny_model();
  Inputs::Rows prompts;
  for (int i = 0; i < 23; ++i)
    prompts.emplace_back(static_cast<size_t>(1 + i * 7 % 41), i + 1);
  const std::vector<std::string> sites = {"layers.*.resid_post"};
  StoreOptions options;
  options.batch_size = 4;
  options.dtype = mx::bfloat16;
  store_activations(model, prompts, sites, place / "s", options);
  const auto store = ActivationStore::open(place / "s");
  const auto kept = collect_activations(model, prompts, sites);
  EXPECT_EQ(store.tensors().size(), 3u + 3u);
  size_t compared = 0;
  for (const auto& [name, value] : kept) {
    EXPECT_EQ(store.tensor(name).dtype, mx::bfloat16);
    const auto expected = mx::astype(value, mx::bfloat16);
    EXPECT_LE(
        test::max_difference(store.read(name, 0, store.rows()), expected),
        test::max_magnitude(expected) / 100);  // a product's last bit may round
    compared += value.size();
  }
  EXPECT_EQ(compared, static_cast<size_t>(3 * 24 * store.rows()));
}

TEST(ActivationStore, LayersBehindTheLastSiteAreNotRun) {
  int reached = 0;
  const auto model = test::tiny_model().with(
      {Edit{"layers.2.mlp_out", [&](const mx::array& x) {
              ++reached;
              return x;
            }}});
  const std::vector<int> prompt = {3, 14, 15};
  for (const auto* early :
       {"embed",
        "layers.0.attn.z",
        "layers.1.resid_post",
        "layers.1.ln1.scale",
        "layers.2.resid_pre"}) {
    const auto found = collect_activations(model, prompt, {early});
    const auto run = model.run(prompt, {.save = {early}});
    reached -= 1;  // run() builds all of it
    EXPECT_LE(
        test::max_difference(
            found.entries()[0].second, mx::squeeze(run[early], 0)),
        1e-5)
        << early;
    if (std::string(early) != "layers.2.resid_pre") {
      EXPECT_EQ(reached, 0) << early;
    }
    reached = 0;
  }
  for (const auto* late : {"layers.2.resid_post", "ln_final", "logits"}) {
    reached = 0;
    const auto found = collect_activations(model, prompt, {"embed", late});
    EXPECT_EQ(reached, 1) << late;
    const auto run = model.run(prompt, {.save = {late}});
    EXPECT_LE(
        test::max_difference(found[late], mx::squeeze(run[late], 0)), 1e-5)
        << late;
  }
}

TEST(ActivationStore, ShuffledRowsAreAllRowsOnce) {
  const TempFolder place;
  const auto model = test::tiny_model();
  Inputs::Rows prompts;
  for (int i = 0; i < 97; ++i)
    prompts.emplace_back(static_cast<size_t>(20 + i % 31), i);
  StoreOptions options;
  options.shard_rows = 500;
  store_activations(
      model, prompts, {"layers.0.resid_pre"}, place / "s", options);
  const auto store = ActivationStore::open(place / "s");
  const auto n = store.rows();
  ASSERT_GT(n, 3000);
  const auto all = store.read("layers.0.resid_pre", 0, n);
  const auto tokens = store.read("tokens", 0, n);
  const auto order = [&](uint64_t seed) {
    ShuffledRows rows(
        store,
        {"layers.0.resid_pre", "tokens"},
        {.batch_size = 64, .buffer_rows = 512, .seed = seed});
    std::vector<int64_t> out;
    while (const auto batch = rows.next()) {
      EXPECT_EQ(
          batch->rows.size(),
          std::min<size_t>(64, static_cast<size_t>(n) - out.size()));
      const std::vector<int> which(batch->rows.begin(), batch->rows.end());
      const mx::array at(
          which.data(), {static_cast<int>(which.size())}, mx::int32);
      EXPECT_EQ(batch->values[0].first, "layers.0.resid_pre");
      EXPECT_EQ(
          test::max_difference(batch->values[0].second, mx::take(all, at, 0)),
          0);
      EXPECT_EQ(
          test::max_difference(
              batch->values[1].second, mx::take(tokens, at, 0)),
          0);
      out.insert(out.end(), batch->rows.begin(), batch->rows.end());
    }
    return out;
  };
  const auto first = order(1);
  EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), first.size());
  EXPECT_EQ(static_cast<int64_t>(first.size()), n);
  EXPECT_EQ(order(1), first);
  EXPECT_NE(order(2), first);
  // A random order moves a row by a third of all rows on average.
  double moved = 0;
  for (size_t i = 0; i < first.size(); ++i)
    moved += std::abs(static_cast<double>(first[i]) - static_cast<double>(i));
  EXPECT_GT(moved / static_cast<double>(n * n), 0.2);
}

}  // namespace
}  // namespace mlxterp
