#include "mlxterp/analysis/steering.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "analysis/fingerprint.h"
#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/steer_sweep.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/spec/model.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;
using nlohmann::json;

namespace mlxterp {
namespace {

using test::message_of;
using testing::TempFolder;

const std::filesystem::path fixtures =
    MLXTERP_SOURCE_DIR "/tests/analysis/fixtures";

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

mx::array random(const mx::Shape& shape, uint64_t seed) {
  auto x = mx::random::normal(shape, mx::random::key(seed));
  x.eval();
  return x;
}

// A direction of each of these layers, and norms of 5 and more.
SteeringVector some_vector(const std::vector<int>& layers, int width) {
  SteeringVector out;
  for (const int layer : layers)
    out.layers.push_back(
        {layer,
         random({width}, 100 + static_cast<uint64_t>(layer)),
         5.0f + static_cast<float>(layer)});
  return out;
}

SiteView site() {
  return {.name = "layers.0.resid_post", .site = 1};
}

double along(const mx::array& x, const mx::array& direction, int row) {
  const auto unit = mx::divide(direction, mx::linalg::norm(direction));
  return mx::sum(mx::multiply(mx::take(x, row, 0), unit)).item<float>();
}

TEST(ProjectOut, LeavesNothingAlongItAndAllElse) {
  const auto x = random({4, 24}, 1);
  const auto directions = random({2, 24}, 2);
  const auto y = project_out(directions)(x, site());
  for (int row = 0; row < 4; ++row)
    for (int i = 0; i < 2; ++i)
      EXPECT_NEAR(along(y, mx::take(directions, i, 0), row), 0, 1e-5);
  // What is left is what is nearest to x: x - y lies in their space.
  const auto once_more = project_out(directions)(y, site());
  test::expect_close(once_more, y, 1e-5, 96, "projected twice");
  const auto other = random({24}, 3);
  const auto apart = project_out(directions)(mx::expand_dims(other, 0), site());
  const auto kept =
      project_out(directions)(mx::add(x, mx::expand_dims(other, 0)), site());
  test::expect_close(kept, mx::add(y, apart), 1e-5, 96, "linear");
  EXPECT_EQ(
      project_out(directions)(mx::astype(x, mx::float16), site()).dtype(),
      mx::float16);
}

TEST(ClampAlong, SetsTheCoordinateAndNothingElse) {
  const auto x = random({4, 24}, 1), direction = random({24}, 2);
  const auto y = clamp_along(direction, -2.5f)(x, site());
  for (int row = 0; row < 4; ++row)
    EXPECT_NEAR(along(y, direction, row), -2.5, 1e-5);
  test::expect_close(
      project_out(direction)(y, site()),
      project_out(direction)(x, site()),
      1e-5,
      96,
      "the rest");
}

TEST(Directions, WrongOnesAreRefused) {
  const auto direction = random({24}, 2);
  const std::pair<mx::array, const char*> wrong[] = {
      {mx::zeros({24}), "direction 0 is zero"},
      {mx::full({24}, NAN), "NaN"},
      {mx::array(1.0f), "shape ()"},
      {mx::stack(std::vector<mx::array>{
           direction, mx::multiply(direction, mx::array(-2.0f))}),
       "direction 1 lies in the space"}};
  for (const auto& [directions, says] : wrong)
    EXPECT_TRUE(has(message_of([&] { project_out(directions); }), says))
        << says;
  message_of([&] { clamp_along(direction, INFINITY); });
  const auto x = random({4, 25}, 1);
  const auto message = message_of([&] { project_out(direction)(x, site()); });
  EXPECT_TRUE(has(message, "24")) << message;
  EXPECT_TRUE(has(message, "25")) << message;
}

// Against transformers' hidden states, numpy's SVD and scikit-learn's logistic
// regression (tests/parity/make_steering.py).
TEST(SteerTrain, IsWhatOthersCompute) {
  std::ifstream file(fixtures / "steering.json");
  const auto told = json::parse(file);
  const auto model =
      test::load_variant(told["family"].get<std::string>(), mx::float32);
  const auto tensors = Safetensors::open(fixtures / "steering.safetensors");
  std::map<std::string, mx::array> expected;
  for (const auto& tensor : tensors.tensors())
    expected.emplace(tensor.name, tensors.read(tensor));
  SteerTrainOptions options{
      .positive = told["positive"].get<Inputs::Rows>(),
      .negative = told["negative"].get<Inputs::Rows>()};
  size_t compared = 0;
  for (const auto& [name, positions] :
       {std::pair{"last", std::vector<int>{-1}},
        std::pair{"two", std::vector<int>{-2, -1}}})
    for (const auto method :
         {SteeringMethod::mean_difference,
          SteeringMethod::pca,
          SteeringMethod::logistic}) {
      options.method = method;
      options.positions = positions;
      const auto training = steer_train(model, options);
      ASSERT_EQ(training.layers.size(), training.vector.layers.size());
      for (size_t i = 0; i < training.layers.size(); ++i) {
        const auto key =
            fmt::format("{}.{}.{}", name, mlxterp::name(method), i);
        SCOPED_TRACE(key);
        const auto& own = training.vector.layers[i];
        const auto& wanted = expected.at(key);
        EXPECT_EQ(own.layer, static_cast<int>(i));
        test::expect_close(
            own.direction,
            wanted,
            2e-4 * test::max_magnitude(wanted),
            wanted.size(),
            key);
        const auto& quality = told["qualities"][key];
        const auto& found = training.layers[i];
        EXPECT_EQ(own.residual_norm, found.residual_norm);
        const std::pair<const char*, float> all[] = {
            {"norm", found.norm},
            {"residual_norm", found.residual_norm},
            {"cosine", found.cosine},
            {"auc", found.auc},
            {"d_prime", found.d_prime}};
        for (const auto& [field, value] : all) {
          const double other = quality[field];
          EXPECT_NEAR(value, other, 1e-3 * std::max(std::abs(other), 0.1))
              << field;
          ++compared;
        }
      }
    }
  EXPECT_EQ(compared, expected.size() * 5);
  EXPECT_GE(compared, 60u);
}

TEST(SteerTrain, SaysWhatIsWrong) {
  const auto model = test::tiny_model();
  SteerTrainOptions options{
      .positive = Inputs::Rows{{1, 2, 3}, {4, 5}},
      .negative = Inputs::Rows{{1, 2, 4}, {4, 6}}};
  EXPECT_EQ(steer_train(model, options).vector.layers.size(), 3u);
  const auto message = [&](auto change, ErrorKind kind = ErrorKind::usage) {
    auto changed = options;
    change(changed);
    return message_of([&] { steer_train(model, changed); }, kind);
  };
  EXPECT_TRUE(
      has(message([](auto& o) { o.negative = Inputs::Rows{{1}}; }),
          "2 positive and 1 negative"));
  EXPECT_TRUE(
      has(message([](auto& o) { o.positive = o.negative = Inputs::Rows{{1}}; }),
          "one pair"));
  EXPECT_TRUE(
      has(message([](auto& o) { o.positive = o.negative; }), "the same"));
  EXPECT_TRUE(
      has(message([](auto& o) { o.positions = {-3}; }, ErrorKind::out_of_range),
          "positive prompt 1, which has 2 tokens"));
  message([](auto& o) { o.positions.clear(); });
  EXPECT_TRUE(
      has(message([](auto& o) { o.layers = {3}; }, ErrorKind::out_of_range),
          "layer 3"));
}

TEST(SteerTrain, PairsTurnedRoundHaveAnAxisButNoMean) {
  const auto model = test::tiny_model();
  SteerTrainOptions options{
      .positive = Inputs::Rows{{1, 2, 3}, {1, 2, 4}},
      .negative = Inputs::Rows{{1, 2, 4}, {1, 2, 3}}};
  EXPECT_TRUE(
      has(message_of([&] { steer_train(model, options); }), "are the same"));
  options.method = SteeringMethod::logistic;
  EXPECT_TRUE(
      has(message_of([&] { steer_train(model, options); }), "turned round"));
  options.method = SteeringMethod::pca;
  for (const auto& it : steer_train(model, options).layers) {
    EXPECT_NEAR(it.norm, 1, 1e-5);
    EXPECT_NEAR(it.cosine, 0, 1e-5);
  }
}

TEST(SteeringPairs, AreReadLineByLine) {
  const TempFolder folder;
  const auto good = folder.write(
      "a.jsonl",
      "{\"positive\": \"a\", \"negative\": \"b\"}\n\n"
      "{\"negative\": \"d\", \"positive\": \"c\", \"more\": 1}\r\n");
  const auto pairs = read_steering_pairs(good);
  EXPECT_EQ(pairs.positive, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(pairs.negative, (std::vector<std::string>{"b", "d"}));
  EXPECT_TRUE(
      has(message_of([&] { read_steering_pairs(folder.write("e", "\n \n")); }),
          "holds no pairs"));
  for (const auto* bad :
       {"x",
        "[]",
        "{\"positive\": \"a\"}",
        "{\"positive\": 1, \"negative\": "
        "\"b\"}"})
    EXPECT_TRUE(
        has(message_of(
                [&] {
                  read_steering_pairs(folder.write(
                      "b",
                      "{\"positive\": \"a\", \"negative\": \"b\"}\n" +
                          std::string(bad) + "\n"));
                },
                ErrorKind::bad_data),
            "line 2"))
        << bad;
}

void expect_same(const SteeringVector& a, const SteeringVector& b) {
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    EXPECT_EQ(a.layers[i].layer, b.layers[i].layer);
    EXPECT_EQ(a.layers[i].residual_norm, b.layers[i].residual_norm);
    EXPECT_TRUE(mx::array_equal(a.layers[i].direction, b.layers[i].direction)
                    .item<bool>());
  }
  EXPECT_EQ(a.operation, b.operation);
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.model_type, b.model_type);
  EXPECT_EQ(a.model_layers, b.model_layers);
  EXPECT_EQ(a.tokenizer, b.tokenizer);
  EXPECT_EQ(a.pairs, b.pairs);
}

SteeringVector told_vector() {
  auto vector = some_vector({1, 2}, 24);
  vector.operation = SteeringOperation::clamp;
  vector.method = "logistic";
  vector.model = "demo";
  vector.model_type = "llama";
  vector.model_layers = 3;
  vector.tokenizer = "0123456789abcdef";
  vector.pairs = 7;
  vector.positions = {-2, -1};
  return vector;
}

TEST(SteeringVector, ComesBackFromBothFiles) {
  const TempFolder folder;
  const auto vector = told_vector();
  vector.save(folder / "v.safetensors");
  const auto back = SteeringVector::load(folder / "v.safetensors");
  expect_same(back, vector);
  EXPECT_EQ(back.positions, vector.positions);
  message_of([&] { vector.save(folder / "v.safetensors"); });
  vector.save_gguf(folder / "v.gguf");
  expect_same(SteeringVector::load_gguf(folder / "v.gguf"), vector);
  message_of([&] { vector.save_gguf(folder / "v.gguf"); });
  EXPECT_EQ(folder.files(), 2u);
}

// Of layer i + j / 4 at place j.
mx::array quarters(int layer) {
  return mx::add(
      mx::array(static_cast<float>(layer)),
      mx::multiply(mx::arange(6.0f), mx::array(0.25f)));
}

// The gguf package's files (tests/parity/make_steering.py).
TEST(SteeringVector, ReadsWhatOthersWrite) {
  const auto repeng = SteeringVector::load_gguf(fixtures / "repeng.gguf");
  const auto late = SteeringVector::load_gguf(
      fixtures / "cvector_generator.gguf", GgufLayers::cvector_generator);
  ASSERT_EQ(repeng.layers.size(), 2u);
  ASSERT_EQ(late.layers.size(), 2u);
  EXPECT_EQ(repeng.model_type, "llama");
  for (int i = 0; i < 2; ++i) {
    const auto& it = repeng.layers[static_cast<size_t>(i)];
    EXPECT_EQ(it.layer, i + 1);
    EXPECT_TRUE(std::isnan(it.residual_norm));
    EXPECT_TRUE(mx::array_equal(it.direction, quarters(i + 1)).item<bool>());
    // What was measured behind layer i is called direction.(i + 1) there.
    EXPECT_EQ(late.layers[static_cast<size_t>(i)].layer, i);
  }
  const auto early =
      SteeringVector::load_gguf(fixtures / "cvector_generator.gguf");
  EXPECT_EQ(early.layers[0].layer, 1);
}

TEST(SteeringVector, WritesTheBytesThatTheGgufPackageDoes) {
  const TempFolder folder;
  SteeringVector vector;
  vector.layers = {
      {0, quarters(5)}, {1, quarters(1), 2.5f}, {2, quarters(2), 4}};
  vector.method = "pca";
  vector.model_type = "llama";
  vector.model_layers = 3;
  vector.pairs = 64;
  std::vector<std::string> warnings;
  vector.save_gguf(folder / "v.gguf", [&](std::string_view sentence) {
    warnings.emplace_back(sentence);
  });
  EXPECT_EQ(
      testing::read_file(folder / "v.gguf"),
      testing::read_file(fixtures / "steering.gguf"));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(has(warnings[0], "layer 0")) << warnings[0];
  EXPECT_TRUE(has(
      message_of([&] { vector.of_layers({0}).save_gguf(folder / "w.gguf"); }),
      "nothing is left"));
  vector.model_type.clear();
  EXPECT_TRUE(
      has(message_of([&] { vector.save_gguf(folder / "w.gguf"); }), "type"));
}

// Its own control vectors, with a direction of one layer at a time
// (tests/parity/make_steering.py): direction.N acts on layers.N.resid_post.
TEST(SteeringVector, MovesLogitsAsInLlamaCpp) {
  const TempFolder folder;
  const auto file = Safetensors::open(fixtures / "llama_cpp.safetensors");
  std::map<std::string, mx::array> expected;
  for (const auto& tensor : file.tensors())
    expected.emplace(tensor.name, file.read(tensor));
  size_t layers = 0;
  for (const auto& [name, ids] : expected) {
    if (!name.ends_with(".ids")) continue;
    const auto variant = name.substr(0, name.size() - 4);
    SCOPED_TRACE(variant);
    const auto model = InterpretableModel::load(
        MLXTERP_SOURCE_DIR "/tests/parity/gguf/" + variant + ".gguf");
    const auto& directions = expected.at(variant + ".directions");
    const auto& logits = expected.at(variant + ".logits");
    SteeringVector vector;
    vector.model_type = model.decoder().config().model_type;
    for (int i = 0; i < directions.shape(0); ++i)
      vector.layers.push_back({i + 1, mx::take(directions, i, 0)});
    const auto path = folder / (variant + ".gguf");
    vector.save_gguf(path);
    const auto read = SteeringVector::load_gguf(path);
    ASSERT_EQ(read.layers.size() + 1, static_cast<size_t>(logits.shape(0)));
    const auto last = [&](const std::vector<Edit>& edits) {
      const auto run =
          model.run(test::integers(ids), {.save = {"logits"}, .edits = edits});
      const auto all = mx::squeeze(run["logits"], 0);
      return mx::take(all, all.shape(0) - 1, 0);
    };
    const auto plain = last({});
    for (const auto& it : read.layers) {
      const auto moved = mx::subtract(
          last(
              {{fmt::format("layers.{}.resid_post", it.layer),
                add_vector(it.direction)}}),
          plain);
      const auto wanted =
          mx::subtract(mx::take(logits, it.layer, 0), mx::take(logits, 0, 0));
      EXPECT_GT(test::max_magnitude(wanted), 1e-3);
      test::expect_close(
          moved,
          wanted,
          1e-3 * test::max_magnitude(wanted),
          wanted.size(),
          fmt::format("{}, layer {}", variant, it.layer));
      ++layers;
    }
  }
  EXPECT_EQ(layers, 13u);
}

// Each byte of a good file, and each place where it could end.
TEST(SteeringVector, BrokenFilesAreRefused) {
  const TempFolder folder;
  const auto good = testing::read_file(fixtures / "steering.gguf");
  size_t refused = 0, read = 0;
  const auto attempt = [&](const std::string& bytes) {
    const auto path = folder.write("bad.gguf", bytes);
    try {
      const auto vector = SteeringVector::load_gguf(path);
      vector.check();
      ++read;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      ++refused;
    }
  };
  for (size_t i = 0; i + 48 < good.size(); i += 3) {
    auto bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x15);
    attempt(bytes);
    attempt(good.substr(0, i));
  }
  EXPECT_GT(refused, 200u);
  const auto swapped = [&](const std::string& from, const std::string& to) {
    auto bytes = good;
    for (size_t at; (at = bytes.find(from)) != std::string::npos;)
      bytes.replace(at, from.size(), to);
    return message_of(
        [&] { SteeringVector::load_gguf(folder.write("bad.gguf", bytes)); },
        ErrorKind::bad_data);
  };
  EXPECT_TRUE(has(swapped("direction.1", "direction.0"), "direction.0"));
  EXPECT_TRUE(
      has(swapped("controlvector\x18", "controlvectur\x18"), "controlvectur"));
  EXPECT_TRUE(has(swapped("model_hint", "model_hunt"), "model_hint"));
  EXPECT_TRUE(
      has(message_of(
              [&] { SteeringVector::load(fixtures / "steering.safetensors"); },
              ErrorKind::bad_data),
          "is it a steering vector"));
}

// Its own safetensors with something else in one place.
TEST(SteeringVector, BrokenSafetensorsAreRefused) {
  const TempFolder folder;
  told_vector().save(folder / "good.safetensors");
  const auto file = Safetensors::open(folder / "good.safetensors");
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (const auto& tensor : file.tensors())
    tensors.emplace_back(tensor.name, file.read(tensor));
  const std::pair<const char*, const char*> wrong[] = {
      {"mlxterp_kind", "x"},
      {"site", "resid_pre"},
      {"operation", "multiply"},
      {"model_layers", "-1"},
      {"model_layers", "1e3"},
      {"pairs", "many"},
      {"positions", "{}"},
      {"positions", "[0.5]"},
      {"residual_norms", "[]"},
      {"residual_norms", "{\"1\": -3}"},
      {"residual_norms", "{\"1\": 1e39}"},
      {"residual_norms", "{\"1\": 1e-60}"},
      {"residual_norms", "{\"1\": \"x\"}"}};
  size_t tried = 0;
  const auto refused = [&](const auto& some, const auto& metadata) {
    const auto path = folder / fmt::format("{}.safetensors", tried++);
    save_safetensors(path, some, metadata);
    message_of([&] { SteeringVector::load(path); }, ErrorKind::bad_data);
  };
  for (const auto& [key, value] : wrong) {
    auto metadata = file.metadata();
    metadata[key] = value;
    refused(tensors, metadata);
  }
  for (const auto& [name, array] :
       {std::pair{"layers.01", quarters(1)},
        std::pair{"layers.x", quarters(1)},
        std::pair{"layers.5", quarters(1)},  // of another width
        std::pair{"layers.5", mx::zeros({24})},
        std::pair{"layers.5", mx::full({24}, NAN)},
        std::pair{"layers.5", mx::zeros({24, 1})},
        std::pair{"layers.5", mx::ones({24}, mx::int32)}}) {
    auto more = tensors;
    more.emplace_back(name, array);
    refused(more, file.metadata());
  }
  EXPECT_EQ(tried, 20u);
}

TEST(SteeringVector, WritesNothingThatItWouldNotRead) {
  const TempFolder folder;
  const auto message = [&](auto change) {
    auto vector = told_vector();
    change(vector);
    return message_of([&] { vector.save(folder / "v.safetensors"); });
  };
  for (const float norm : {0.0f, -1.0f, INFINITY})
    EXPECT_TRUE(
        has(message([&](auto& it) { it.layers[0].residual_norm = norm; }),
            "layer 1"));
  EXPECT_TRUE(
      has(message([](auto& it) { it.layers[1].layer = 10'000'000; }),
          "layer 10000000"));
  EXPECT_TRUE(
      has(message([](auto& it) { it.layers[0].layer = -1; }),
          "for layer -1; layers are 0 to"));
  message([](auto& it) { it.model_layers = -1; });
  message([](auto& it) { it.pairs = size_t{1} << 40; });
  EXPECT_EQ(folder.files(), 0u);
  auto unknown = told_vector();
  unknown.layers[0].residual_norm = NAN;
  unknown.save(folder / "v.safetensors");
  EXPECT_TRUE(std::isnan(
      SteeringVector::load(folder / "v.safetensors").layers[0].residual_norm));
}

TEST(Steer, DirectionsOfAnyLengthAreAsLong) {
  const auto model = test::tiny_model();
  const std::vector<int> prompt = {1, 2, 3};
  const auto run = [&](float scale, SteeringOperation operation) {
    auto vector = some_vector({1}, 24);
    vector.operation = operation;
    for (auto& it : vector.layers)
      it.direction = mx::multiply(it.direction, mx::array(scale));
    auto options = SteerOptions{.operation = operation, .strength = 0.5f};
    const auto steering = steer(model, vector, options);
    RunOptions how{.save = {"logits"}};
    how.edits = steering.edits;
    return model.run(prompt, how)["logits"];
  };
  using enum SteeringOperation;
  for (const auto operation : {add, clamp, project_out, ablate}) {
    const auto plain = run(1, operation);
    for (const float scale : {1e18f, 1e25f, 1e-30f})
      EXPECT_LE(test::max_difference(run(scale, operation), plain), 1e-4)
          << name(operation) << scale;
  }
  auto vector = some_vector({1}, 24);
  vector.layers[0].direction =
      mx::multiply(vector.layers[0].direction, mx::array(1e25f));
  const auto scaled = vector.of_strength(2).layers[0].direction;
  EXPECT_NEAR(mx::linalg::norm(scaled).item<float>(), 12, 1e-3);
  vector.layers[0].direction = mx::zeros({24});
  EXPECT_TRUE(has(message_of([&] { vector.of_strength(2); }), "nowhere"));
}

TEST(SteeringVector, OfAnotherModelIsRefused) {
  const auto model = test::tiny_model();
  auto vector = some_vector({0, 1, 2}, 24);
  vector.model_type = "llama";
  vector.model_layers = 3;
  vector.check_fits(model);
  const auto narrow = message_of(
      [&] { some_vector({1}, 23).check_fits(model, /*any_model=*/true); });
  EXPECT_TRUE(has(narrow, "23")) << narrow;
  EXPECT_TRUE(has(narrow, "24")) << narrow;
  message_of(
      [&] { some_vector({3}, 24).check_fits(model, true); },
      ErrorKind::out_of_range);
  const auto refused = [&](auto change, const char* says) {
    auto other = vector;
    change(other);
    const auto message = message_of([&] { other.check_fits(model); });
    EXPECT_TRUE(has(message, says)) << message;
    other.check_fits(model, /*any_model=*/true);
  };
  refused([](auto& v) { v.model_layers = 30; }, "30");
  refused([](auto& v) { v.model_type = "gemma2"; }, "'gemma2'");
  vector.model_type = "qwen2";
  EXPECT_TRUE(has(message_of([&] { vector.check_fits(model); }), "'llama'"));
}

TEST(SteeringVector, OfAnotherTokenizerIsRefused) {
  const auto model = test::demo_without_weights();
  const auto digest = tokenizer_digest(model);
  EXPECT_EQ(digest.size(), 64u);
  EXPECT_EQ(tokenizer_digest(test::tiny_model()), "");
  auto vector = some_vector({4}, 576);
  vector.tokenizer = digest;
  vector.check_fits(model);
  vector.tokenizer[0] = vector.tokenizer[0] == 'a' ? 'b' : 'a';
  EXPECT_TRUE(has(message_of([&] { vector.check_fits(model); }), "tokenizer"));
}

TEST(Steer, DoesWhatItSays) {
  const auto model = test::tiny_model();
  auto vector = some_vector({0, 2}, 24);
  const std::vector<int> ids = {5, 17, 3, 96};
  const auto site_of = [](int layer) {
    return fmt::format("layers.{}.resid_post", layer);
  };
  const auto plain = model.run(ids, {.save = {site_of(2)}})[site_of(2)];
  const auto after = [&](SteeringOperation operation, float strength) {
    vector.operation = operation;
    SteerOptions options;
    options.operation = operation;
    options.strength = strength;
    options.layers = {-1};
    const auto made = steer(model, vector, options);
    EXPECT_EQ(made.edits.size(), 1u);
    EXPECT_EQ(made.told.size(), 1u);
    EXPECT_TRUE(has(made.told[0], site_of(2))) << made.told[0];
    return model.with(made.edits).run(ids, {.save = {site_of(2)}})[site_of(2)];
  };
  const auto& direction = vector.at(2).direction;
  const auto added = after(SteeringOperation::add, 0.5f);
  const auto clamped = after(SteeringOperation::clamp, -0.25f);
  const auto projected = after(SteeringOperation::project_out, 0);
  for (int p = 0; p < 4; ++p) {
    const auto at = [&](const mx::array& x) {
      return along(mx::squeeze(x, 0), direction, p);
    };
    EXPECT_NEAR(at(added), at(plain) + 0.5 * 7, 1e-4);  // norms are 5 + layer
    EXPECT_NEAR(at(clamped), -0.25 * 7, 1e-4);
    EXPECT_NEAR(at(projected), 0, 1e-4);
  }
  // Taken out wherever something is written to the stream.
  vector.operation = SteeringOperation::ablate;
  const auto ablated =
      steer(model, vector, {.operation = SteeringOperation::project_out});
  EXPECT_EQ(ablated.edits.size(), 2u);
  const auto all = steer(model, vector, {.operation = vector.operation});
  EXPECT_EQ(all.edits.size(), 1u + 2 * 3);
  EXPECT_EQ(all.layers.size(), 2u);
  EXPECT_TRUE(has(all.told.at(0), "2 directions, layers 0, 2")) << all.told[0];
  const auto streams = model.with(all.edits).run(
      ids,
      {.save = {
           "layers.0.resid_pre", "layers.*.resid_mid", "layers.*.resid_post"}});
  size_t looked_at = 0;
  for (const auto& [name, value] : streams)
    for (const auto& layer : vector.layers)
      for (int p = 0; p < 4; ++p, ++looked_at)
        EXPECT_NEAR(along(mx::squeeze(value, 0), layer.direction, p), 0, 1e-4)
            << name;
  EXPECT_EQ(looked_at, 7u * 2 * 4);
  // Layers that say the same make one direction.
  auto same = vector;
  same.layers[1].direction =
      mx::multiply(same.layers[0].direction, mx::array(-2.0f));
  EXPECT_EQ(steer(model, same, {.operation = same.operation}).edits.size(), 7u);
  vector.operation = SteeringOperation::project_out;
  const auto message =
      message_of([&] { steer(model, vector, {.strength = 1}); });
  EXPECT_TRUE(has(message, "'project_out', not for 'add'")) << message;
  vector.operation = SteeringOperation::add;
  message_of([&] { steer(model, vector, {.strength = NAN}); });
  message_of(
      [&] { steer(model, vector, {.strength = 1, .layers = {1}}); },
      ErrorKind::out_of_range);
  vector.layers[0].residual_norm = NAN;
  EXPECT_TRUE(has(
      message_of([&] { steer(model, vector, {.strength = 1}); }), "not known"));
  const auto measured = with_norms(vector, model, ids);
  const auto rest = mx::slice(plain, {0, 1, 0}, {1, 4, 24});
  EXPECT_NEAR(
      measured.layers[1].residual_norm,
      mx::mean(mx::linalg::norm(rest, std::vector<int>{-1})).item<float>(),
      1e-4);
  const auto scaled = measured.of_strength(-2);
  EXPECT_NEAR(
      along(
          mx::expand_dims(scaled.layers[0].direction, 0),
          vector.layers[0].direction,
          0),
      -2 * measured.layers[0].residual_norm,
      1e-3);
}

SteerSweepOptions sweep_options() {
  SteerSweepOptions options{.prompts = Inputs::Rows{{5, 17, 3, 9}, {4, 8, 2}}};
  options.metric = logit_diff(7, 11);
  options.strengths = {-0.5f, 0, 0.25f, 1};
  options.neutral = Inputs::Rows{{1, 2, 3, 4, 5, 6}, {9, 8, 7}};
  options.random = 2;
  options.resamples = 100;
  return options;
}

void expect_near(
    const std::vector<float>& a,
    const std::vector<float>& b,
    size_t count,
    const char* what) {
  ASSERT_EQ(a.size(), count) << what;
  ASSERT_EQ(b.size(), count) << what;
  for (size_t i = 0; i < count; ++i)
    EXPECT_NEAR(a[i], b[i], 2e-3 * std::max(1.0f, std::abs(b[i])))
        << what << " " << i;
}

void expect_same_sweep(const SteeringSweep& a, const SteeringSweep& b) {
  const size_t layers = b.layers.size();
  expect_near(a.metric, b.metric, layers * 4 * 2, "metric");
  expect_near(a.unsteered, b.unsteered, 2, "unsteered");
  expect_near(a.slopes, b.slopes, layers * 2, "slopes");
  expect_near(a.random_slopes, b.random_slopes, layers * 2, "random");
  expect_near(a.perplexity, b.perplexity, layers * 4, "perplexity");
  expect_near(a.kl, b.kl, layers * 4, "KL");
}

// Every family's, with what travels beside its stream.
class SteerSweepOfFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(SteerSweepOfFamily, EqualsPlainEditedPasses) {
  const auto model = test::load_variant(GetParam(), mx::float32);
  const auto& config = model.decoder().config();
  std::vector<int> layers;
  for (int i = 0; i < config.n_layers; ++i)
    layers.push_back(i);
  const auto vector = some_vector(layers, config.d_model);
  auto options = sweep_options();
  const auto together = steer_sweep(model, vector, options);
  options.one_pass_per_cell = true;
  const auto plain = steer_sweep(model, vector, options);
  expect_same_sweep(together, plain);
  EXPECT_LT(together.rows, plain.rows);
  options.positions = {-1, 0};
  const auto plain_there = steer_sweep(model, vector, options);
  options.one_pass_per_cell = false;
  expect_same_sweep(steer_sweep(model, vector, options), plain_there);
}

INSTANTIATE_TEST_SUITE_P(
    Each,
    SteerSweepOfFamily,
    ::testing::Values(
        "llama-gqa",
        "gemma4",
        "gpt2",
        "deepseek_v3",
        "lfm2",
        "granitemoehybrid",
        "qwen3_next",
        "gpt_oss",
        "bloom"),
    [](const auto& each) { return test::test_name(each.param); });

// By hand: one prompt, one layer, the values of passes.
TEST(SteerSweep, IsWhatPassesSay) {
  const auto model = test::tiny_model();
  const auto vector = some_vector({1}, 24);
  auto options = sweep_options();
  options.strengths = {-1, 2, 0};
  const auto sweep = steer_sweep(model, vector, options);
  const auto unit = mx::divide(
      vector.layers[0].direction, mx::linalg::norm(vector.layers[0].direction));
  const std::vector<std::vector<int>> prompts = {{5, 17, 3, 9}, {4, 8, 2}};
  for (size_t p = 0; p < 2; ++p) {
    const auto value = [&](float strength) {
      const auto logits = model.run(
          prompts[p],
          {.save = {"logits"},
           .edits = {
               {"layers.1.resid_post",
                add_vector(mx::multiply(unit, mx::array(strength * 6)))}}});
      return static_cast<double>(
          measure(model, options.metric, logits["logits"]));
    };
    const double a = value(-1), b = value(2), c = value(0);
    EXPECT_NEAR(sweep.metric[p], a, 1e-3);
    EXPECT_NEAR(sweep.metric[2 + p], b, 1e-3);
    EXPECT_NEAR(sweep.unsteered[p], c, 1e-3);
    // Of the line through (-1, a), (2, b), (0, c).
    const double mean = 1.0 / 3;
    EXPECT_NEAR(
        sweep.slopes[p],
        ((-1 - mean) * a + (2 - mean) * b + (0 - mean) * c) /
            (std::pow(-1 - mean, 2) + std::pow(2 - mean, 2) + mean * mean),
        1e-3);
  }
  const auto& layer = sweep.layers.at(0);
  EXPECT_EQ(layer.layer, 1);
  EXPECT_FLOAT_EQ(layer.residual_norm, 6);
  EXPECT_NEAR(layer.slope, (sweep.slopes[0] + sweep.slopes[1]) / 2, 1e-5);
  // A mean of two resampled prompts is one of three values.
  EXPECT_FLOAT_EQ(layer.low, std::min(sweep.slopes[0], sweep.slopes[1]));
  EXPECT_FLOAT_EQ(layer.high, std::max(sweep.slopes[0], sweep.slopes[1]));
  int below = 0;
  for (const float slope : sweep.slopes)
    below += slope < 0;
  EXPECT_FLOAT_EQ(layer.contrary, static_cast<float>(below) / 2);
  EXPECT_FLOAT_EQ(
      layer.random,
      std::max(
          std::abs(sweep.random_slopes[0]), std::abs(sweep.random_slopes[1])));
  EXPECT_EQ(sweep.neutral_tokens, 9u);
  EXPECT_NEAR(sweep.kl[2], 0, 1e-6);  // of strength 0
  EXPECT_FLOAT_EQ(sweep.perplexity[2], sweep.neutral_perplexity);
  EXPECT_GT(sweep.kl[0], 0);
  EXPECT_GT(sweep.kl[1], sweep.kl[0] / 100);
  EXPECT_NEAR(
      sweep.change()[0],
      (sweep.metric[0] - sweep.unsteered[0] + sweep.metric[1] -
       sweep.unsteered[1]) /
          2,
      1e-5);
}

TEST(SteerSweep, OtherMetricsAndStandingEdits) {
  const auto model = test::tiny_model().with(
      {{"layers.0.mlp_out", scale(0.5f)},
       {"layers.1.resid_post", at_positions({-1}, scale(1.5f))}});
  const auto vector = some_vector({0, 1, 2}, 24);
  for (const auto& metric :
       {log_probability(7), kl_divergence(), rank(3), loss()}) {
    auto options = sweep_options();
    options.metric = metric;
    options.neutral = {};
    const auto together = steer_sweep(model, vector, options);
    options.one_pass_per_cell = true;
    const auto plain = steer_sweep(model, vector, options);
    expect_near(together.metric, plain.metric, 24, metric.name.c_str());
    EXPECT_EQ(together.kl.size(), 0u);
  }
}

TEST(SteerSweep, SeedsAndErrors) {
  const auto model = test::tiny_model();
  auto vector = some_vector({0, 1}, 24);
  auto options = sweep_options();
  const auto first = steer_sweep(model, vector, options);
  options.seed = 1;
  const auto second = steer_sweep(model, vector, options);
  std::set<float> all(first.random_slopes.begin(), first.random_slopes.end());
  all.insert(second.random_slopes.begin(), second.random_slopes.end());
  EXPECT_EQ(all.size(), 8u);
  const auto wrong = [&](auto change, ErrorKind kind = ErrorKind::usage) {
    auto changed = sweep_options();
    change(changed);
    return message_of([&] { steer_sweep(model, vector, changed); }, kind);
  };
  wrong([](auto& o) { o.strengths = {1}; });
  wrong([](auto& o) { o.strengths = {1, 1}; });
  wrong([](auto& o) { o.strengths = {0, NAN}; });
  wrong([](auto& o) { o.prompts = Inputs::Rows{}; });
  wrong([](auto& o) { o.resamples = 1; });
  wrong([](auto& o) { o.random = -1; });
  wrong([](auto& o) { o.metric = {}; });
  wrong([](auto& o) { o.neutral = Inputs::Rows{{3}}; });
  wrong([](auto& o) { o.positions = {3}; }, ErrorKind::out_of_range);
  wrong([](auto& o) { o.layers = {2}; }, ErrorKind::out_of_range);
  EXPECT_TRUE(
      has(wrong([](auto& o) {
            o.metric = custom("nan", [](const mx::array& logits) {
              return mx::full({logits.shape(0)}, NAN);
            });
          }),
          "nan is nan at layer 0"));
  vector.operation = SteeringOperation::project_out;
  EXPECT_TRUE(has(wrong([](auto&) {}), "'project_out'"));
}

}  // namespace
}  // namespace mlxterp
