// Probes against scikit-learn (make_probes.py), and what is made of them.

#include "mlxterp/analysis/probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "analysis/probe/fit.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/spec/edit.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using testing::TempFolder;

std::map<std::string, mx::array> fixture() {
  const auto file = Safetensors::open(
      MLXTERP_SOURCE_DIR "/tests/analysis/fixtures/probes.safetensors");
  std::map<std::string, mx::array> out;
  for (const auto& tensor : file.tensors())
    out.insert_or_assign(tensor.name, file.read(tensor));
  return out;
}

std::vector<double> numbers(const mx::array& x) {
  auto plain = mx::contiguous(mx::astype(x, mx::float32));
  plain.eval();
  return {plain.data<float>(), plain.data<float>() + plain.size()};
}

void expect_error(
    const std::function<void()>& misuse,
    ErrorKind kind,
    const std::string& part) {
  try {
    misuse();
    ADD_FAILURE() << "it was accepted: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
        << error.what();
  }
}

ProbeOptions plain(ProbeKind kind) {
  ProbeOptions options;
  options.kind = kind;
  options.folds = 0;
  return options;
}

TEST(Probe, FitsAsScikitLearnDoes) {
  const auto arrays = fixture();
  size_t compared = 0;
  for (const std::string name : {"tall", "wide"})
    for (const auto kind : {ProbeKind::logistic, ProbeKind::ridge}) {
      const bool logistic = kind == ProbeKind::logistic;
      const auto& x = arrays.at(name + ".x");
      const auto labels = numbers(arrays.at(name + (logistic ? ".y" : ".t")));
      for (const auto* l2 : {"0.01", "1", "30"})
        for (const bool scaled : {true, false}) {
          const auto key = fmt::format(
              "{}.{}.{}.{}",
              name,
              logistic ? "logistic" : "ridge",
              l2,
              scaled ? "scaled" : "raw");
          auto options = plain(kind);
          options.l2 = std::stod(l2);
          options.standardize = scaled;
          const auto found = train_probe(x, labels, {}, options).probe;
          const auto expected = numbers(arrays.at(key));
          ASSERT_EQ(found.weight.size() + 1, expected.size()) << key;
          double size = 0, worst = 0;
          for (const double it : expected)
            size = std::max(size, std::abs(it));
          for (size_t i = 0; i < found.weight.size(); ++i) {
            const double error =
                std::abs(static_cast<double>(found.weight[i]) - expected[i]);
            ASSERT_TRUE(std::isfinite(error)) << key;
            worst = std::max(worst, error);
          }
          worst = std::max(
              worst,
              std::abs(static_cast<double>(found.bias) - expected.back()));
          EXPECT_LE(worst, 2e-5 * size) << key;
          compared += expected.size();
        }
    }
  EXPECT_EQ(compared, 2u * 2 * 3 * (13 + 91));
}

TEST(Probe, TheSparseOnesTakeTheMostTellingCoordinates) {
  const auto arrays = fixture();
  for (const std::string name : {"tall", "wide"})
    for (const auto kind : {ProbeKind::logistic, ProbeKind::ridge}) {
      const bool logistic = kind == ProbeKind::logistic;
      const auto labels = numbers(arrays.at(name + (logistic ? ".y" : ".t")));
      const auto order = numbers(
          arrays.at(name + (logistic ? ".order.logistic" : ".order.ridge")));
      for (const int k : {1, 4, 9}) {
        auto options = plain(kind);
        options.k = k;
        const auto found =
            train_probe(arrays.at(name + ".x"), labels, {}, options).probe;
        std::vector<int> expected(order.begin(), order.begin() + k);
        std::ranges::sort(expected);
        EXPECT_EQ(found.coordinates, expected) << name << k;
        for (size_t i = 0; i < found.weight.size(); ++i)
          EXPECT_EQ(
              found.weight[i] != 0,
              std::ranges::count(expected, static_cast<int>(i)) > 0);
      }
    }
}

// Groups that are the folds: each is held out alone, in whatever order.
TEST(Probe, CrossValidationIsScikitLearns) {
  const auto arrays = fixture();
  size_t compared = 0;
  for (const std::string name : {"tall", "wide"})
    for (const auto kind : {ProbeKind::logistic, ProbeKind::ridge}) {
      const bool logistic = kind == ProbeKind::logistic;
      const auto labels = numbers(arrays.at(name + (logistic ? ".y" : ".t")));
      std::vector<int> groups;
      for (size_t i = 0; i < labels.size(); ++i)
        groups.push_back(static_cast<int>(i % 3) * 10);
      ProbeOptions options;
      options.kind = kind;
      options.folds = 3;
      const auto found =
          train_probe(arrays.at(name + ".x"), labels, groups, options);
      EXPECT_EQ(found.groups, 3);
      ASSERT_TRUE(found.held_out && found.shuffled_labels);
      auto folds = found.held_out->folds;
      auto expected =
          numbers(arrays.at(name + (logistic ? ".accuracy" : ".r2")));
      std::ranges::sort(folds);
      std::ranges::sort(expected);
      ASSERT_EQ(folds.size(), 3u);
      for (size_t i = 0; i < 3; ++i, ++compared)
        EXPECT_NEAR(folds[i], expected[i], 1e-5) << name;
      EXPECT_NEAR(
          found.held_out->mean, (folds[0] + folds[1] + folds[2]) / 3, 1e-12);
      if (logistic) {
        EXPECT_NEAR(
            found.held_out->auc, numbers(arrays.at(name + ".auc"))[0], 1e-5);
      }
    }
  EXPECT_EQ(compared, 12u);
}

// Labels that belong to the group, and rows that say only which group it is:
// nothing is to be learnt for another group.
TEST(Probe, GroupsAreHeldOutWhole) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  constexpr int groups = 20, each = 10, d = 60;
  std::vector<float> values, centre(groups * d);
  for (auto& it : centre)
    it = 3 * normal(random);
  std::vector<double> labels;
  std::vector<int> of;
  for (int g = 0; g < groups; ++g)
    for (int i = 0; i < each; ++i) {
      for (int j = 0; j < d; ++j)
        values.push_back(
            centre[static_cast<size_t>(g * d + j)] + normal(random) / 10);
      labels.push_back(g % 2);
      of.push_back(g);
    }
  const mx::array x(values.data(), {groups * each, d}, mx::float32);
  ProbeOptions options;
  const auto grouped = train_probe(x, labels, of, options);
  const auto apart = train_probe(x, labels, {}, options);
  EXPECT_EQ(grouped.groups, groups);
  EXPECT_EQ(apart.groups, groups * each);
  EXPECT_DOUBLE_EQ(grouped.baseline, 0.5);
  EXPECT_GT(apart.held_out->mean, 0.99);  // it knows the groups
  EXPECT_LT(grouped.held_out->mean, 0.8);
  // The same seed is the same, and another draws other folds.
  EXPECT_EQ(
      train_probe(x, labels, of, options).held_out->folds,
      grouped.held_out->folds);
  options.seed = 1;
  EXPECT_NE(
      train_probe(x, labels, of, options).held_out->folds,
      grouped.held_out->folds);
}

TEST(Probe, ControlsAreBelowWhatIsThere) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  constexpr int n = 400, d = 64;
  std::vector<float> values;
  std::vector<double> labels;
  for (int i = 0; i < n; ++i) {
    labels.push_back(i % 2);
    for (int j = 0; j < d; ++j)
      values.push_back(normal(random) + (j == 17 && i % 2 ? 3.0f : 0.0f));
  }
  const mx::array x(values.data(), {n, d}, mx::float32);
  ProbeOptions options;
  options.k = 1;
  const auto found = train_probe(x, labels, {}, options);
  EXPECT_EQ(found.probe.coordinates, (std::vector<int>{17}));
  EXPECT_EQ(found.random_k, 1);
  EXPECT_GT(found.held_out->mean, 0.85);
  EXPECT_GT(found.held_out->auc, 0.9);
  EXPECT_LT(found.shuffled_labels->mean, 0.65);
  EXPECT_LT(found.random_coordinates->mean, 0.7);
  options.controls = false;
  const auto bare = train_probe(x, labels, {}, options);
  EXPECT_EQ(bare.held_out->folds, found.held_out->folds);
  EXPECT_FALSE(bare.shuffled_labels || bare.random_coordinates);
}

// A coordinate a thousand times the others, one that is the double of another,
// classes that are told apart: at the minimum there is no slope.
TEST(Probe, HardCasesConverge) {
  using namespace probing;  // NOLINT(google-build-using-namespace)
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (const auto& [n, d] : {std::pair{300, 40}, {60, 300}}) {
    Matrix x;
    x.n = n;
    x.d = d;
    std::vector<double> labels;
    for (int i = 0; i < n; ++i) {
      labels.push_back(i % 2);
      for (int j = 0; j < d; ++j)
        x.values.push_back(
            j == 0   ? 1000 * normal(random)
            : j == 1 ? x.row(i)[0] * 2
                     : normal(random) + 4 * static_cast<float>(i % 2));
    }
    for (const bool scaled : {true, false}) {
      auto z = x;
      Scaling::of(x, scaled).apply(z);
      for (const auto kind : {ProbeKind::logistic, ProbeKind::ridge})
        for (const double l2 : {1e-4, 1.0, 1e4}) {
          const auto found = fit(z, labels, kind, l2);
          std::vector<double> slope(found.weight), size(found.weight);
          double bias = 0;
          for (size_t j = 0; j < slope.size(); ++j) {
            slope[j] *= l2;
            size[j] = std::abs(slope[j]);
          }
          for (int i = 0; i < n; ++i) {
            const double said = found.of(z.row(i));
            const double p =
                kind == ProbeKind::ridge ? said : 1 / (1 + std::exp(-said));
            const double r = p - labels[static_cast<size_t>(i)];
            bias += r;
            for (size_t j = 0; j < slope.size(); ++j) {
              slope[j] += r * static_cast<double>(z.row(i)[j]);
              size[j] += std::abs(r * static_cast<double>(z.row(i)[j]));
            }
          }
          EXPECT_NEAR(bias, 0, 1e-5 * n) << n << " " << l2;
          for (size_t j = 0; j < slope.size(); ++j)
            ASSERT_NEAR(slope[j], 0, 1e-4 * size[j] + 1e-6)
                << n << " x " << d << ", l2 " << l2 << ", coordinate " << j
                << (scaled ? ", scaled" : "");
        }
    }
  }
}

TEST(Probe, ItsFileSteersAndComesBack) {
  const TempFolder place;
  const auto arrays = fixture();
  auto options = plain(ProbeKind::logistic);
  const auto& x = arrays.at("tall.x");
  auto probe = train_probe(x, numbers(arrays.at("tall.y")), {}, options).probe;
  probe.site = "layers.1.resid_post";
  probe.classes = {"no", "yes"};
  probe.facts["model"] = "\"tiny\"";
  const auto path = place / "p.safetensors";
  probe.save(path);
  expect_error([&] { probe.save(path); }, ErrorKind::usage, "exists");
  const auto back = Probe::load(path);
  EXPECT_EQ(back.weight, probe.weight);
  EXPECT_EQ(back.bias, probe.bias);
  EXPECT_EQ(back.spread, probe.spread);
  EXPECT_EQ(back.site, probe.site);
  EXPECT_EQ(back.classes, probe.classes);
  EXPECT_EQ(back.facts, probe.facts);
  EXPECT_EQ(back.kind, probe.kind);

  // Along the weight; one standard deviation of the rows in that direction.
  const auto direction = numbers(probe.direction());
  double length = 0, along = 0, norm = 0;
  for (size_t i = 0; i < direction.size(); ++i) {
    const auto w = static_cast<double>(probe.weight[i]);
    length += direction[i] * direction[i];
    along += direction[i] * w;
    norm += w * w;
  }
  EXPECT_NEAR(along, std::sqrt(length * norm), 1e-5 * along);
  const auto said = numbers(probe(x));
  double mean = 0, squares = 0;
  for (const double it : said)
    mean += it / static_cast<double>(said.size());
  for (const double it : said)
    squares += (it - mean) * (it - mean) / static_cast<double>(said.size());
  EXPECT_NEAR(along, std::sqrt(squares), 1e-4 * along);
  // So that adding it moves what the probe says by one such deviation.
  const auto moved = numbers(probe(mx::add(x, probe.direction())));
  for (size_t i = 0; i < said.size(); ++i)
    EXPECT_NEAR(moved[i] - said[i], along, 1e-4 * along);
}

TEST(Probe, OnAModel) {
  const TempFolder place, elsewhere;
  const auto model =
      InterpretableModel::load(test::worded_checkpoint(elsewhere).string());
  // The last word decides; the model's random weights keep what it was.
  std::string lines;
  for (int i = 0; i < 60; ++i)
    lines +=
        nlohmann::json{
            {"text",
             fmt::format("word {} {}", i * 37 % 11, i % 2 ? "yes" : "no")},
            {"label", i % 2 ? "pos" : "neg"},
            {"group", i / 2}}
            .dump() +
        "\n";
  const auto data =
      read_labelled_texts(place.write("d.jsonl", lines), ProbeKind::logistic);
  EXPECT_EQ(data.classes, (std::vector<std::string>{"neg", "pos"}));
  EXPECT_EQ(data.groups[59], 29);
  const std::vector<std::string> sites = {"embed", "layers.2.resid_post"};
  const auto found = train_probes(model, data, sites);
  ASSERT_EQ(found.size(), 2u);
  for (const auto& it : found) {
    EXPECT_EQ(it.rows, 60);
    EXPECT_EQ(it.groups, 30);
    EXPECT_GT(it.held_out->mean, 0.95) << it.probe.site;
    const auto ids = model.tokenizer().encode("word 3 yes");
    const auto said = apply_probe(model, it.probe, ids);
    EXPECT_EQ(said.shape(), (mx::Shape{static_cast<int>(ids.size())}));
    EXPECT_GT(said.data<float>()[ids.size() - 1], 0);
    const auto other =
        apply_probe(model, it.probe, model.tokenizer().encode("word 3 no"));
    EXPECT_LT(other.data<float>()[other.size() - 1], 0);
  }
  EXPECT_EQ(found[1].probe.site, "layers.2.resid_post");
  // Every position of a text has its label.
  ProbeRows all;
  all.positions = CollectOptions::Positions::all;
  const auto many = train_probes(model, data, {"embed"}, all);
  EXPECT_GT(many[0].rows, 200);
  EXPECT_EQ(many[0].groups, 30);
  std::vector<std::string> told;
  const auto warn = [&](std::string_view it) { told.emplace_back(it); };
  apply_probe(model, found[0].probe, {3, 4}, warn);
  EXPECT_TRUE(told.empty());
  auto foreign = found[0].probe;
  foreign.facts["weights_sha256"] = "\"0\"";
  apply_probe(model, foreign, {3, 4}, warn);
  EXPECT_EQ(told.size(), 1u);
  expect_error(
      [&] { train_probes(model, data, {"layers.0.attn.z"}); },
      ErrorKind::usage,
      "has heads");
  auto wrong = found[0].probe;
  wrong.weight.pop_back();
  expect_error(
      [&] {
        apply_probe(model, wrong, {3, 4});
      },
      ErrorKind::usage,
      "23");
}

TEST(Probe, SaysItOfEachGeneratedToken) {
  const auto model = test::tiny_model();
  Probe probe;
  for (int i = 0; i < 24; ++i)
    probe.weight.push_back(static_cast<float>(i % 5) - 2.0f);
  probe.bias = 0.25f;
  probe.site = "layers.1.resid_post";
  probe.check_fits(model);
  const Inputs::Rows prompts = {{5, 6, 7, 8}, {9, 3}};
  GenerateOptions options;
  options.max_tokens = 6;
  options.ends = false;
  options.save = {"layers.*.resid_post"};
  Generator generator(model, prompts, options);
  EXPECT_EQ(probe_values(generator, probe)[1].size(), 0u);
  while (generator.step()) {
  }
  const auto said = probe_values(generator, probe);
  ASSERT_EQ(said.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(said[i].size(), 5u);
    auto whole = prompts[i];
    for (const int id : generator.texts()[i].ids())
      whole.push_back(id);
    const auto wanted = apply_probe(model, probe, whole);
    for (size_t k = 0; k < 5; ++k)
      EXPECT_NEAR(
          said[i][k], wanted.data<float>()[prompts[i].size() + k], 1e-4);
  }
  expect_error(
      [&] {
        probe.site = "layers.1.attn_out";
        probe_values(generator, probe);
      },
      ErrorKind::unknown_name,
      "attn_out");
  probe.weight.pop_back();
  expect_error(
      [&] { probe.check_fits(model); }, ErrorKind::usage, "model has 24");
  probe.site = {};
  expect_error([&] { probe.check_fits(model); }, ErrorKind::usage, "site");
}

TEST(Probe, WhatFloat32DoesNotHoldIsRefused) {
  const auto x = mx::reshape(mx::arange(0.0, 24.0, 1.0, mx::float32), {8, 3});
  ProbeOptions options;
  options.kind = ProbeKind::ridge;
  options.folds = 0;
  std::vector<double> labels;
  for (int i = 0; i < 8; ++i)
    labels.push_back(i * 1e40);
  expect_error(
      [&] { train_probe(x, labels, {}, options); },
      ErrorKind::usage,
      "largest label is 7e+40");
}

TEST(Probe, DamagedFilesAreRefused) {
  const TempFolder place;
  Probe probe;
  probe.kind = ProbeKind::ridge;
  probe.weight = {1, 2};
  probe.bias = 3;
  probe.spread = 1;
  const auto good = place / "good.safetensors";
  probe.save(good);
  const auto file = Safetensors::open(good);
  const auto weight = mx::array({1.0f, 2.0f});
  const auto write =
      [&](const char* name,
          const std::vector<std::pair<std::string, mx::array>>& tensors,
          const char* spread = "1.0") {
        auto metadata = file.metadata();
        metadata["spread"] = spread;
        save_safetensors(place / name, tensors, metadata);
        return place / name;
      };
  const auto refused = [&](const std::filesystem::path& path,
                           const char* part) {
    expect_error([&] { Probe::load(path); }, ErrorKind::bad_data, part);
  };
  const auto bias = mx::array({3.0f});
  EXPECT_EQ(
      Probe::load(write("a", {{"weight", weight}, {"bias", bias}})).bias, 3);
  refused(write("b", {{"weight", weight}}), "no bias");
  refused(
      write("c", {{"weight", weight}, {"bias", mx::zeros({3})}}), "one number");
  for (const auto* spread : {"-1.0", "1e39"})
    refused(
        write(
            fmt::format("d{}", spread).c_str(),
            {{"weight", weight}, {"bias", bias}},
            spread),
        "spread");
}

TEST(Probe, Misuse) {
  using enum ErrorKind;
  const auto x = mx::reshape(mx::arange(0.0, 24.0, 1.0, mx::float32), {8, 3});
  const std::vector<double> labels = {0, 1, 0, 1, 0, 1, 0, 1};
  const auto train = [&](const mx::array& rows,
                         const std::vector<double>& of,
                         const std::vector<int>& groups,
                         const std::function<void(ProbeOptions&)>& change) {
    ProbeOptions options;
    options.folds = 2;
    change(options);
    train_probe(rows, of, groups, options);
  };
  const auto as_is = [](ProbeOptions&) {};
  expect_error(
      [&] { train(x, std::vector<double>(8, 1), {}, as_is); },
      usage,
      "all 8 labels are 1");
  expect_error([&] { train(x, {0, 1}, {}, as_is); }, usage, "8 rows, 2 labels");
  expect_error([&] { train(x, labels, {1, 2}, as_is); }, usage, "2 groups");
  expect_error(
      [&] {
        train(x, {0, 1, 2, 0, 1, 2, 0, 1}, {}, as_is);
      },
      usage,
      "is 2");
  expect_error(
      [&] { train(x, labels, {}, [](auto& it) { it.folds = 9; }); },
      usage,
      "8 groups cannot make 9 folds");
  expect_error(
      [&] { train(x, labels, std::vector<int>(8, 1), as_is); },
      usage,
      "1 groups cannot make 2 folds");
  expect_error(
      [&] {
        train(x, labels, {0, 1, 0, 1, 0, 1, 0, 1}, as_is);
      },
      usage,
      "one class only");
  for (const auto& change : std::vector<std::function<void(ProbeOptions&)>>{
           [](auto& it) { it.l2 = 0; },
           [](auto& it) { it.l2 = NAN; },
           [](auto& it) { it.k = 4; },
           [](auto& it) { it.k = -1; },
           [](auto& it) { it.folds = 1; }})
    expect_error([&] { train(x, labels, {}, change); }, usage, "l2");
  expect_error(
      [&] {
        train(mx::reshape(x, {8, 3, 1}), labels, {}, as_is);
      },
      usage,
      "3 axes");
  expect_error(
      [&] { train(mx::divide(x, mx::zeros_like(x)), labels, {}, as_is); },
      bad_data,
      "NaN");
  Probe probe;
  probe.weight = {0, 0};
  expect_error([&] { probe.direction(); }, usage, "points nowhere");
  expect_error([&] { probe(x); }, usage, "2 numbers");

  const TempFolder place;
  const auto read = [&](std::string_view text,
                        ProbeKind kind = ProbeKind::logistic) {
    read_labelled_texts(place.write("d.jsonl", text), kind);
  };
  expect_error([&] { read("{\"text\": \"a\"}\n"); }, bad_data, "line 1");
  expect_error([&] { read("\n{\"label\": 1}\n"); }, bad_data, "line 2");
  expect_error(
      [&] {
        read("{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":1}");
      },
      bad_data,
      "1 class ('1')");
  expect_error(
      [&] {
        read(
            "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":0,"
            "\"group\":1}");
      },
      bad_data,
      "a line before it has none");
  expect_error(
      [&] { read("{\"text\":\"a\",\"label\":\"x\"}", ProbeKind::ridge); },
      bad_data,
      "no number");
  save_safetensors(
      place / "w.safetensors", {{"weight", mx::ones({3})}}, {{"a", "b"}});
  expect_error(
      [&] { Probe::load(place / "w.safetensors"); }, bad_data, "what probe");
}

}  // namespace
}  // namespace mlxterp
