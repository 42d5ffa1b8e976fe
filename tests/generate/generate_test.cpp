// Text that is generated: the same however it runs.

#include "mlxterp/generate/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;

namespace mlxterp::test {
namespace {

constexpr int new_tokens = 12;

mx::array vector_of(int d, uint64_t seed) {
  return mx::random::normal(
      {d}, mx::float32, 0.0f, 1.0f, mx::random::key(seed));
}

struct Case {
  std::string name;
  std::vector<Edit> edits;
};

// Eight kinds of edit, each at a site that suits it.
std::vector<Case> kinds(const InterpretableModel& model, When when) {
  const int d = model.decoder().config().d_model;
  const int middle = model.decoder().config().n_layers / 2;
  const auto at = [&](const char* site) {
    return fmt::format("layers.{}.{}", middle, site);
  };
  const auto timed = [&](Intervention edit) {
    return during(when, std::move(edit));
  };
  return {
      {"zero_out", {{at("mlp_out"), timed(zero_out())}}},
      {"scale", {{at("attn_out"), timed(scale(-0.5f))}}},
      {"add_vector", {{at("resid_post"), timed(add_vector(vector_of(d, 1)))}}},
      {"replace_with", {{at("mlp_out"), timed(replace_with(0.3f))}}},
      {"clamp", {{at("resid_pre"), timed(clamp(-0.4f, 0.6f))}}},
      {"noise", {{at("resid_post"), timed(noise(0.5f, 7))}}},
      {"on_neurons",
       {{at("resid_post"), timed(on_neurons({0, 3}, replace_with(2.0f)))}}},
      {"compose",
       {{at("resid_post"),
         timed(compose({scale(0.5f), add_vector(vector_of(d, 2))}))},
        {"layers.*.mlp_out", timed(scale(1.1f))}}}};
}

const std::vector<std::pair<std::string, When>> whens = {
    {"prompt", When::prompt()},
    {"generated", When::generated()},
    {"all", When::all()},
    {"step 3", When::step(3)},
    {"steps 2 to 5", {2, 5}}};

// What was generated, and the logits of every position.
struct Outcome {
  std::vector<std::vector<int>> ids;
  std::vector<mx::array> logits;  // of each prompt, [1, pos, vocab]
};

Outcome run(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    GenerateOptions options) {
  options.max_tokens = new_tokens;
  options.ends = false;
  options.save = {"logits"};
  const auto made = generate(model, prompts, options);
  Outcome out;
  const auto all = made.saved["logits"];
  for (size_t i = 0; i < prompts.size(); ++i) {
    out.ids.push_back(made.texts[i].ids());
    const int row = static_cast<int>(i);
    out.logits.push_back(mx::slice(
        all, {row, 0, 0}, {row + 1, made.saved.lengths()[i], all.shape(2)}));
  }
  return out;
}

struct Largest {
  float difference = 0;
  size_t compared = 0;
};

void expect_same(
    const Outcome& got,
    const Outcome& wanted,
    const std::string& what,
    Largest& largest) {
  ASSERT_EQ(got.ids, wanted.ids) << what;
  for (size_t i = 0; i < got.ids.size(); ++i) {
    ASSERT_EQ(got.logits[i].shape(), wanted.logits[i].shape()) << what;
    const auto scale = mx::max(mx::abs(wanted.logits[i])).item<float>();
    const auto off =
        mx::max(mx::abs(mx::subtract(got.logits[i], wanted.logits[i])))
            .item<float>();
    ASSERT_TRUE(off <= 1e-4f * std::max(1.0f, scale))
        << what << ", prompt " << i << ": " << off << " of " << scale;
    largest.difference = std::max(largest.difference, off / scale);
    largest.compared += got.logits[i].size();
  }
}

Inputs::Rows prompts_of(int vocab) {
  Inputs::Rows all;
  for (const int n : {9, 3, 6, 1}) {
    auto& row = all.emplace_back();
    for (int i = 0; i < n; ++i)
      row.push_back((7 * i + 3 * n + 5) % vocab);
  }
  return all;
}

// Prompt 0 alone without a cache is what everything else is compared with.
void every_way(const InterpretableModel& model, Largest& largest) {
  const auto prompts = prompts_of(model.decoder().config().vocab);
  for (const auto& [moment, when] : whens)
    for (const auto& [kind, edits] : kinds(model, when)) {
      Outcome alone;
      for (const auto& prompt : prompts) {
        const auto one = run(model, {prompt}, {.edits = edits, .cache = false});
        alone.ids.push_back(one.ids[0]);
        alone.logits.push_back(one.logits[0]);
      }
      const auto what = [&](const char* way) {
        return fmt::format("{}, {}, {}", kind, moment, way);
      };
      expect_same(
          run(model, prompts, {.edits = edits}), alone, what("batch"), largest);
      expect_same(
          run(model.with(edits), prompts, {}), alone, what("handle"), largest);
      for (const int chunk : {1, 7, 64})
        expect_same(
            run(model, prompts, {.edits = edits, .chunk = chunk}),
            alone,
            what("chunks"),
            largest);
    }
}

TEST(Generate, EveryEditAtEveryTimeHoweverItRuns) {
  Largest largest;
  every_way(tiny_model(), largest);
  EXPECT_EQ(
      largest.compared, 5u * 8u * 5u * (19u + 4u * (new_tokens - 1)) * 97u);
  RecordProperty("largest", std::to_string(largest.difference));
}

TEST(Generate, WindowsThatForget) {
  auto config = tiny_config();
  config.windows = {4, 0, 3};
  Largest largest;
  every_way(tiny_model(config), largest);
  EXPECT_EQ(
      largest.compared, 5u * 8u * 5u * (19u + 4u * (new_tokens - 1)) * 97u);
}

TEST(Generate, SharedPrefix) {
  const auto model = tiny_model();
  Inputs::Rows prompts;
  for (const auto& tail :
       std::vector<std::vector<int>>{{1}, {2, 3}, {2, 4, 5}, {}}) {
    std::vector<int> ids = {11, 12, 13, 14, 15, 16, 17, 18};
    ids.insert(ids.end(), tail.begin(), tail.end());
    prompts.push_back(ids);
  }
  Largest largest;
  for (const auto& [moment, when] : whens)
    for (const auto& [kind, edits] : kinds(model, when)) {
      Outcome alone;
      for (const auto& prompt : prompts) {
        const auto one = run(model, {prompt}, {.edits = edits, .cache = false});
        alone.ids.push_back(one.ids[0]);
        alone.logits.push_back(one.logits[0]);
      }
      expect_same(
          run(model, prompts, {.edits = edits, .shared_prefix = 1}),
          alone,
          kind + ", " + moment,
          largest);
    }
  EXPECT_GT(largest.compared, 0u);
}

// Edits that know no positions, and none, leave a beginning to be shared.
TEST(Generate, SharedPrefixOfEditsOfValues) {
  const auto model = tiny_model();
  Inputs::Rows prompts;
  for (const auto& tail : std::vector<std::vector<int>>{
           {1, 9, 9}, {2, 3}, {2, 4, 5}, {2, 4, 6, 7}, {}}) {
    std::vector<int> ids = {11, 12, 13, 14, 15, 16, 17, 18};
    ids.insert(ids.end(), tail.begin(), tail.end());
    prompts.push_back(ids);
  }
  const std::vector<Case> cases = {
      {"none", {}},
      {"scale", {{"layers.1.attn_out", scale(-0.5f)}}},
      {"add_vector", {{"layers.0.resid_post", add_vector(vector_of(24, 1))}}},
      {"zero_out", {{"layers.2.mlp_out", zero_out()}}}};
  Largest largest;
  for (const auto& [kind, edits] : cases) {
    Outcome alone;
    for (const auto& prompt : prompts) {
      const auto one = run(model, {prompt}, {.edits = edits, .cache = false});
      alone.ids.push_back(one.ids[0]);
      alone.logits.push_back(one.logits[0]);
    }
    for (const int chunk : {1, 3, 512})
      expect_same(
          run(model,
              prompts,
              {.edits = edits, .chunk = chunk, .shared_prefix = 1}),
          alone,
          kind,
          largest);
  }
  EXPECT_EQ(
      largest.compared,
      cases.size() * 3 * (5 * 8 + 3 + 2 + 3 + 4 + 5 * (new_tokens - 1)) * 97);
}

TEST(Generate, AnEditNeverLeaksThroughAReusedBeginning) {
  const auto model = tiny_model();
  const std::vector<int> prompt = {5, 6, 7, 8, 9, 10, 11, 12};
  auto next_turn = prompt;
  next_turn.insert(next_turn.end(), {1, 2, 3});
  const Edit edit{"layers.1.mlp_out", scale(-1.0f)};
  const Edit same{"layers.1.mlp_out", scale(-1.0f)};
  const std::vector<std::vector<Edit>> all = {
      {},
      {edit},
      {same},
      {edit, edit},
      {{"layers.0.mlp_out", edit.apply}},
      {{"layers.1.mlp_out", at_positions({-1}, zero_out())}}};
  const auto ids = [&](const std::vector<int>& of,
                       const std::vector<Edit>& edits,
                       std::optional<PromptCache> reuse) {
    GenerateOptions options;
    options.max_tokens = 4;
    options.ends = false;
    options.edits = edits;
    options.cache = reuse.has_value();
    options.reuse = std::move(reuse);
    return generate(model, of, options).texts[0];
  };
  PromptCache cache(16);
  size_t reused = 0;
  for (int round = 0; round < 2; ++round)
    for (const auto& edits : all)
      for (const auto& of : {prompt, next_turn}) {
        const auto got = ids(of, edits, cache), wanted = ids(of, edits, {});
        EXPECT_EQ(got.ids(), wanted.ids());
        for (size_t i = 0; i < got.tokens.size(); ++i)
          EXPECT_NEAR(got.tokens[i].log_prob, wanted.tokens[i].log_prob, 1e-5);
        reused += static_cast<size_t>(got.reused > 0);
        if (&edits == &all.back()) {
          EXPECT_EQ(got.reused, 0);
        }
      }
  // In the first round the second prompt goes on from the first.
  EXPECT_EQ(reused, 5u + 10u);
  EXPECT_EQ(cache.size(), 10u);
}

// Of all that is generated, an edit at step k changes what plain passes say
// that are edited at that position.
TEST(Generate, StepsArePositionsOfTheText) {
  const auto model = tiny_model();
  const auto push = add_vector(mx::multiply(vector_of(24, 5), mx::array(3.0f)));
  const std::vector<int> prompt = {5, 6, 7, 8};
  const int length = static_cast<int>(prompt.size());
  const auto edited = [&](int first, int last) {
    std::vector<int> positions;
    for (int i = first; i <= last; ++i)
      positions.push_back(i);
    return Edit{"layers.1.resid_post", at_positions(positions, push)};
  };
  struct Time {
    When when;
    int first, last;  // positions of the text
  };
  const std::vector<Time> times = {
      {When::prompt(), 0, length - 1},
      {When::generated(), length, length + new_tokens - 2},
      {When::step(1), length, length},
      {When::step(3), length + 2, length + 2},
      {{2, 5}, length + 1, length + 4},
      {{0, 2}, 0, length + 1},
      {{6, When::always}, length + 5, length + new_tokens - 2}};
  Largest largest;
  for (const auto& [when, first, last] : times) {
    const auto made =
        run(model,
            {prompt},
            {.edits = {{"layers.1.resid_post", during(when, push)}}});
    auto ids = prompt;
    ids.insert(ids.end(), made.ids[0].begin(), made.ids[0].end() - 1);
    const auto wanted = model.run(
        ids, {.save = {"logits"}, .edits = {edited(first, last)}})["logits"];
    expect_same(
        made,
        {made.ids, {wanted}},
        fmt::format("steps {} to {}", when.first, when.last),
        largest);
    // It does something, so that the comparison tells.
    const auto plain = model.run(ids, {.save = {"logits"}})["logits"];
    EXPECT_GT(
        mx::max(mx::abs(mx::subtract(plain, wanted))).item<float>(), 0.1f);
  }
  EXPECT_EQ(largest.compared, times.size() * (4 + new_tokens - 1) * 97);
}

// Each step draws anew, by its own number.
TEST(Generate, EveryStepDrawsByItsNumber) {
  const auto model = tiny_model();
  GenerateOptions options;
  options.sampling = {.temperature = 1.5f, .seed = 11};
  const Inputs::Rows prompts = {{5, 6, 7}, {9}};
  options.seeds = {11, 12};
  const auto made = run(model, prompts, options);
  for (size_t i = 0; i < prompts.size(); ++i)
    for (int k = 0; k < new_tokens; ++k) {
      const int at = static_cast<int>(prompts[i].size()) - 1 + k;
      const auto logits = mx::squeeze(
          mx::slice(made.logits[i], {0, at, 0}, {1, at + 1, 97}), 0);
      auto drawn = sample(logits, {}, options.sampling, {options.seeds[i]}, k);
      EXPECT_EQ(drawn.item<int>(), made.ids[i][static_cast<size_t>(k)])
          << i << ", step " << k;
    }
  // Of equal logits each step draws another token.
  std::set<int> seen;
  const auto flat = mx::zeros({1, 97});
  for (int k = 0; k < 20; ++k) {
    auto drawn = sample(flat, {}, options.sampling, {11}, k);
    seen.insert(drawn.item<int>());
  }
  EXPECT_GT(seen.size(), 10u);
}

TEST(Generate, EveryFamily) {
  size_t tried = 0;
  Largest largest;
  for (const auto& variant : supported_variants()) {
    const auto model = load_variant(variant, mx::float32);
    const int vocab = model.decoder().config().vocab;
    const Inputs::Rows prompts = {
        {5 % vocab, 9 % vocab, 11 % vocab, 2 % vocab, 7 % vocab},
        {3 % vocab, 8 % vocab}};
    const std::vector<Edit> edits = {
        {"layers.1.resid_post",
         during(
             When{1, 3},
             add_vector(vector_of(model.decoder().config().d_model, 3)))},
        {"layers.0.resid_post", at_positions({-1}, scale(0.5f))}};
    Outcome alone;
    for (const auto& prompt : prompts) {
      const auto one = run(model, {prompt}, {.edits = edits, .cache = false});
      alone.ids.push_back(one.ids[0]);
      alone.logits.push_back(one.logits[0]);
    }
    expect_same(run(model, prompts, {.edits = edits}), alone, variant, largest);
    expect_same(
        run(model, prompts, {.edits = edits, .chunk = 2}),
        alone,
        variant + ", chunks",
        largest);
    ++tried;
  }
  EXPECT_EQ(tried, supported_variants().size());
  EXPECT_GT(tried, 140u);
  RecordProperty("largest", std::to_string(largest.difference));
}

// Rows of a batch share a cache while they run, and leave it one by one; what
// each leaves is its own.
TEST(Generate, RowsThatEndApart) {
  size_t reused = 0, compared = 0;
  float largest = 0;
  for (const auto& variant : first_variants()) {
    const auto model = load_variant(variant, mx::float32);
    const auto prompts = prompts_of(model.decoder().config().vocab);
    std::vector<GeneratedText> alone;
    GenerateOptions options{.max_tokens = 14, .ends = false, .cache = false};
    for (const auto& prompt : prompts)
      alone.push_back(generate(model, {prompt}, options).texts[0]);

    PromptCache cache(16);
    GenerateOptions apart{.ends = false, .reuse = cache};
    const std::vector<size_t> lengths = {3, 9, 6, 9};
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto ids = alone[i].ids();
      apart.forced.emplace_back(
          ids.begin(), ids.begin() + static_cast<long>(lengths[i]));
    }
    const auto expect_row = [&](const GeneratedText& text,
                                size_t i,
                                size_t from) {
      for (size_t k = 0; k < text.tokens.size(); ++k) {
        const auto& wanted = alone[i].tokens[from + k];
        EXPECT_EQ(text.tokens[k].id, wanted.id) << variant << ", row " << i;
        const float off = std::abs(text.tokens[k].log_prob - wanted.log_prob);
        EXPECT_TRUE(off <= 1e-4f * std::max(1.0f, std::abs(wanted.log_prob)))
            << variant << ", row " << i << ", token " << from + k;
        largest = std::max(largest, off);
        ++compared;
      }
    };
    const auto made = generate(model, prompts, apart);
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(made.texts[i].tokens.size(), lengths[i]) << variant;
      expect_row(made.texts[i], i, 0);
    }
    for (size_t i = 0; i < prompts.size(); ++i) {
      auto longer = prompts[i];
      longer.insert(
          longer.end(), apart.forced[i].begin(), apart.forced[i].end());
      const auto on = generate(
          model,
          {longer},
          {.max_tokens = static_cast<int>(14 - lengths[i]),
           .ends = false,
           .reuse = cache});
      reused += on.texts[0].reused > 0;
      expect_row(on.texts[0], i, lengths[i]);
    }
  }
  EXPECT_EQ(compared, first_variants().size() * 4 * 14);
  EXPECT_GT(reused, first_variants().size() * 3);
  RecordProperty("largest", std::to_string(largest));
}

}  // namespace
}  // namespace mlxterp::test
