#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <thread>

#include "mlxterp/io/safetensors.h"
#include "tests/bad_input.h"
#include "tests/cli/program.h"
#include "tests/temp_folder.h"
#include "tests/tiny_checkpoint.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using Cli = test::Program;

const std::string eiffel = "The Eiffel Tower is located in the city of";
const std::string ioi =
    "When Mary and John went to the store, John gave a drink to";

TEST_F(Cli, HelpAndVersion) {
  const auto bare = run({});
  EXPECT_EQ(bare.code, 2);
  EXPECT_EQ(bare.out, "");
  EXPECT_NE(bare.err.find("lens"), std::string::npos);
  EXPECT_EQ(run({"--version"}).out.find("mlxterp 0.2."), 0u);
  for (const auto* verb :
       {"info",
        "sites",
        "trace",
        "lens",
        "tuned-lens",
        "jlens",
        "collect",
        "probe",
        "heads",
        "tasks",
        "verify"}) {
    const auto help = run({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_NE(help.out.find("Example:"), std::string::npos) << verb;
    EXPECT_EQ(help.err, "") << verb;
  }
}

TEST_F(Cli, UsageErrorsExitWith2) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--nonsense"},
      {"frobnicate"},
      {"lens"},
      {"lens", "demo"},
      {"lens", "demo", "a", "--ids", "1"},
      {"lens", "demo", "a", "--bogus"},
      {"lens", "demo", "a", "--top"},
      {"lens", "demo", "a", "--top", "NaN"},
      {"lens", "demo", "a", "--top", "0"},
      {"lens", "demo", "a", "--top", "99999999"},
      {"lens", "demo", "a", "--top", "1", "--top", "2"},
      {"lens", "demo", "a", "--layers", "NaN"},
      {"lens", "demo", "a", "--layers", "30"},
      {"lens", "demo", "a", "--layers", "7..3"},
      {"lens", "demo", "a", "--layers", "0..2000000000"},
      {"lens", "demo", "a", "--layers", "1e999"},
      {"lens", "demo", "a", "--positions", "1"},
      {"lens", "demo", ""},
      {"lens", "demo", "a", "--track", " Paris Paris"},
      {"lens", "demo", "a", "--track", "id:49152"},
      {"lens", "demo", "a", "--dtype", "int4"},
      {"lens", "demo", "--ids", "49152"},
      {"lens", "demo", "--ids", "-1"},
      {"lens", "demo", "--ids", "1,x"},
      {"lens", "demo", "--ids", ""},
      {"trace", "demo", "a", "--save", "layers.99.attn_out"},
      {"trace", "demo", "a", "-o", "x.safetensors"},
      {"trace", "demo", "a", "--metric", "logit_diff( Mary)"},
      {"trace", "demo", "a", "--metric", "entropy"},
      {"trace", "demo", "a", "--edit", "layers.4.mlp_out=scale(1e999)"},
      {"trace", "demo", "a", "--edit", "layers.4.mlp_out=scale(0x1p3)"},
      {"trace", "demo", "a", "--edit", "tokens=replace_with(99999999)"},
      {"trace", "demo", "a", "--edit", "tokens=replace_with(49152)"},
      {"trace", "demo", "a", "--edit", "tokens=scale(-1)"},
      {"trace", "demo", "a", "--edit", "tokens=noise(1)"},
      {"trace", "demo", "a", "--edit", "embed.input=scale(100000)"},
      {"sites", "demo", "layers.{3"},
      {"lens", "demo", "a", "--site", "attn.z"},
      {"tuned-lens"},
      {"tuned-lens", "train", "demo", "-o", "x"},
      {"jlens"},
      {"jlens", "fit", "demo", "-o", "x"},
      {"jlens", "fit", "demo", "-o", "x", "--text", "a", "--ids-file", "b"},
      {"jlens", "fit", "demo", "-o", "x", "--text", "a", "--rule", "half"},
      {"jlens", "merge", "x", "-o", "y"},
      {"jlens", "directions", "demo", "-o", "x", "--text", "a"},
      {"jlens", "local", "demo", "a"},
      {"jlens", "space", "demo", "a"},
      {"jlens", "space", "demo", "a", "--jacobian", "x", "--method", "omp"},
      {"collect", "demo", "--text", "x", "--save", "embed"},
      {"probe"},
      {"probe",
       "train",
       "demo",
       "--data",
       "x",
       "--site",
       "embed",
       "--kind",
       "svm"},
      {"collect",
       "demo",
       "--text",
       "x",
       "--save",
       "a",
       "-o",
       "x",
       "--batch",
       "-1"},
      {"collect",
       "demo",
       "--text",
       "x",
       "--save",
       "a",
       "-o",
       "x",
       "--store-dtype",
       "int8"},
      {"tasks", "demo", "ioy"},
      {"tasks", "demo", "ioi", "--n", "0"},
      {"patch", "demo", "--task", "ioy"},
      {"patch", "demo", "--task", "ioi", "--clean", "a"},
      {"heads", "demo", "--kind", "copying"},
      {"heads", "demo", "--period", "1"},
      {"heads", "demo", "--period", "5000"},
      {"heads", "demo", "--measure", "x"},
      {"heads", "demo", "a", "--ablate", "5"},
      {"heads", "demo", "--ablate", "271"},
  };
  for (const auto& arguments : wrong) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(outcome.out, "") << ::testing::PrintToString(arguments);
    EXPECT_EQ(outcome.err.find("mlxterp: "), 0u) << outcome.err;
    EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
  }
}

TEST_F(Cli, TooLongAPromptNamesBothCounts) {
  const auto outcome = run({"lens", "demo", "--ids", "1..8193"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("8193"), std::string::npos);
  EXPECT_NE(outcome.err.find("8192"), std::string::npos);
}

TEST_F(Cli, UnknownSitesGetASuggestion) {
  const auto outcome =
      run({"trace", "demo", "a", "--save", "layers.3.atn_out"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("layers.3.attn_out"), std::string::npos);
}

TEST_F(Cli, EditErrorsShowTheColumn) {
  const std::pair<const char*, const char*> wrong[] = {
      {"layers.4.mlp_out", "column 17"},
      {"=scale(0)", "column 1:"},
      {"embed=scal(0)", "column 7"},
      {"embed=scale", "column 12"},
      {"embed=scale(x)", "column 13"},
      {"embed=scale(0))", "column 15"},
      {"embed=clamp(1,-1)", "column 7"},
      {"embed=noise(0.1,-3)", "column 17"},
      {"embed=at_positions([1,scale(0))", "column 23"},
      {"embed=at_positions(1)", "column 21"},
      {"embed=compose()", "column 15"},
      {"embed=during(soon, zero_out)", "column 14"},
  };
  for (const auto& [text, column] : wrong) {
    const auto outcome = run({"trace", "demo", "a", "--edit", text});
    EXPECT_EQ(outcome.code, 2) << text;
    EXPECT_NE(outcome.err.find(column), std::string::npos) << outcome.err;
  }
}

TEST_F(Cli, ANameThatIsNoModelIsSaidToBeNone) {
  const auto outcome = run({"info", "dmeo"});
  EXPECT_EQ(outcome.code, 4);
  for (const auto* part : {"'dmeo'", "'demo'", "file or folder", "org/name"})
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
}

// In a terminal that Python makes; a run is one evaluation, which says nothing.
// The prompt grows until it takes a while, on whatever this runs.
TEST_F(Cli, LongWorkIsShownOnATerminal) {
  const testing::TempFolder models;
  testing::TinyCheckpoint tiny;
  tiny.config["max_position_embeddings"] = 1 << 20;
  const auto model = test::quoted(tiny.write(models).string());
  const std::string inside =
      "COLUMNS=80 python3 -c 'import pty, sys; pty.spawn(sys.argv[1:])' " +
      binary();
  for (const std::string verb : {"trace", "lens --layers -1 --positions -1"}) {
    const auto ids = folder / "ids";
    std::string out;
    for (int n = 2048; n <= 1 << 18; n *= 2) {
      std::string list = "0..95";  // a word of a shell is 128 KB at most
      for (int i = 96; i < n; i += 96)
        list += ",0..95";
      std::ofstream(ids) << list;
      const auto outcome = shell(fmt::format(
          "{} {} {} --ids \"$(cat {})\" </dev/null",
          inside,
          verb,
          model,
          test::quoted(ids.string())));
      EXPECT_EQ(outcome.code, 0) << outcome.out;
      out = outcome.out;
      if (out.find("Running the model, ") != std::string::npos) break;
    }
    EXPECT_TRUE(
        std::regex_search(out, std::regex("Running the model, [1-9][0-9]* s")))
        << out;
    EXPECT_EQ(out.find("  0%"), std::string::npos);
  }
}

TEST_F(Cli, BadDataExitsWith3AndTheMachineWith4) {
  const auto file = folder / "bad.gguf";
  std::ofstream(file) << "GGUFnonsense";
  EXPECT_EQ(run({"info", file.string()}).code, 3);
  EXPECT_EQ(run({"lens", file.string(), "a"}).code, 3);
  EXPECT_EQ(run({"info", (folder / "none.gguf").string()}).code, 4);
  const auto home = shell(
      "env -u MLXTERP_CACHE -u XDG_CACHE_HOME -u HOME " + binary() +
      " info demo");
  EXPECT_EQ(home.code, 4);
  EXPECT_NE(home.err.find("MLXTERP_CACHE"), std::string::npos);
}

#if !defined(__APPLE__) && !defined(MLXTERP_ADDRESS_SANITIZER)
TEST_F(Cli, ABlasThatMultipliesWronglyIsAnError) {
  const auto preload =
      "LD_PRELOAD=" +
      test::quoted(MLXTERP_BINARY_DIR "/tests/libopenblas_wrong.so") + " ";
  const auto lens = shell(preload + binary() + " lens demo Hello");
  EXPECT_EQ(lens.code, 4) << lens.out;
  EXPECT_EQ(lens.out, "");
  const auto info = shell(preload + binary() + " info demo");
  EXPECT_EQ(info.code, 4);
  EXPECT_NE(info.out.find("WRONG"), std::string::npos) << info.out;
  const auto numbers = shell(preload + binary() + " info demo --json");
  EXPECT_EQ(numbers.code, 4);
  const auto wrong = nlohmann::json::parse(numbers.out)["blas"]["wrong"];
  for (const auto& said : {lens.err, info.err, wrong.get<std::string>()})
    for (const char* part :
         {"OpenBLAS 0.0.1", "SkylakeX", "libopenblas_wrong", "CORETYPE="})
      EXPECT_NE(said.find(part), std::string::npos) << part << ": " << said;
}
#endif

TEST_F(Cli, InfoKnowsTheModel) {
  const auto outcome = run({"info", "demo", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto info = json::parse(outcome.out);
  EXPECT_EQ(info["family"], "llama");
  EXPECT_EQ(info["layers"], 30);
  EXPECT_EQ(info["d_model"], 576);
  EXPECT_EQ(info["heads"], 9);
  EXPECT_EQ(info["kv_heads"], 3);
  EXPECT_EQ(info["vocab"], 49152);
  EXPECT_EQ(info["parameters"], 134515008);
  EXPECT_EQ(info["file"]["format"], "GGUF");
  EXPECT_GT(info["blas"]["gflops"], 0);
  EXPECT_TRUE(info["blas"]["wrong"].is_null()) << info["blas"]["wrong"];
  EXPECT_EQ(info["matmul_gflops"], info["blas"]["gflops"]);
#ifdef __linux__
  EXPECT_GE(info["blas"]["threads"], 1);
  const auto one =
      shell("OPENBLAS_NUM_THREADS=1 " + binary() + " info demo --json");
  EXPECT_EQ(nlohmann::json::parse(one.out)["blas"]["threads"], 1) << one.out;
#endif
  EXPECT_EQ(info["tokenizer"]["adds"], "nothing");
  EXPECT_FALSE(info["tokenizer"]["adds_space"]);
  EXPECT_EQ(info["windows"], json(std::vector<int>(30, 0)));
  EXPECT_EQ(info["rope"]["theta"], 1e5);
  EXPECT_EQ(info["rope"]["dims"], 64);
  EXPECT_TRUE(info["rope"]["factor"].is_null());
  EXPECT_EQ(info["tokenizer"]["eos"]["id"], 2);
  EXPECT_EQ(info["tokenizer"]["ends"][0], info["tokenizer"]["eos"]);
  EXPECT_GE(info["tokenizer"]["control"].size(), 3u);
  EXPECT_TRUE(info["experts"].is_null());
  EXPECT_GT(info["file"]["quantized"], 0.99);
}

TEST_F(Cli, InfoKnowsWhatIsSpecialAboutAFamily) {
  const auto families =
      std::filesystem::path(MLXTERP_SOURCE_DIR "/tests/parity/families");
  const std::pair<const char*, std::vector<std::string>> wanted[] = {
      {"gemma3",
       {"windows         5 tokens in layers 0..1, 3; none in layers 2",
        "positions       RoPE theta 1e+06; in layers with a window theta "
        "10000"}},
      {"smollm3", {"; none in layers "}},
      {"gpt2", {"positions       learned, 64 of them", "windows         none"}},
      {"gptj", {" dimensions, interleaved"}},
      {"llama-rope-yarn", {", yarn scaling by 4 of 64 tokens"}},
      {"phi3-longrope-long", {", longrope scaling", " of 16 tokens"}},
      {"gemma3-rope-linear", {"theta 100000, linear scaling by 8;"}},
      {"mistral-window", {"5 tokens in every layer"}},
      {"qwen3_moe-dense-layers", {" a token, d_mlp ", "; one MLP in layers "}},
  };
  for (const auto& [variant, lines] : wanted) {
    const auto outcome = run({"info", families / variant});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    for (const auto& line : lines)
      EXPECT_NE(outcome.out.find(line), std::string::npos)
          << line << " is not in\n"
          << outcome.out;
    EXPECT_NE(outcome.out.find("quantised       no"), std::string::npos);
  }
  const auto info =
      json::parse(run({"info", families / "mixtral", "--json"}).out);
  EXPECT_GT(info["experts"]["count"], info["experts"]["top_k"]);
  EXPECT_EQ(info["experts"]["dense_layers"], json::array());
  const auto packed =
      json::parse(run({"info",
                       families.parent_path() / "quantized/bits4-group64",
                       "--json"})
                      .out);
  EXPECT_GT(packed["file"]["quantized"], 0.5);
}

TEST_F(Cli, InfoKnowsWhatATokenizerDoesAtTheStart) {
  const testing::TempFolder place;
  testing::TinyCheckpoint tiny;
  tiny.tokenizer =
      read(MLXTERP_SOURCE_DIR "/tests/text/fixtures/metaspace.tokenizer.json");
  const auto model = tiny.write(place);
  const auto info = json::parse(run({"info", model, "--json"}).out);
  EXPECT_TRUE(info["tokenizer"]["adds_space"]);
  EXPECT_NE(
      run({"info", model}).out.find("a space before the first word"),
      std::string::npos);
}

TEST_F(Cli, SitesAreListed) {
  const auto all = run({"sites", "demo"});
  ASSERT_EQ(all.code, 0) << all.err;
  EXPECT_NE(all.out.find("layers.*.attn.pattern"), std::string::npos);
  const auto outcome =
      run({"sites", "demo", "blocks.{3..5}.attn.hook_z", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto sites = json::parse(outcome.out)["sites"];
  ASSERT_EQ(sites.size(), 3u);
  EXPECT_EQ(sites[0]["name"], "layers.3.attn.z");
  EXPECT_EQ(sites[0]["transformer_lens"], "blocks.3.attn.hook_z");
  EXPECT_EQ(sites[0]["shape"], json({"batch", "pos", "9", "64"}));
}

TEST_F(Cli, LensFindsParis) {
  const auto page = folder / "lens.html";
  const auto outcome = run(
      {"lens",
       "demo",
       eiffel,
       "--track",
       " Paris",
       "--layers",
       "0,27..28,-1",
       "--positions",
       "-1",
       "--html",
       page.string(),
       "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto lens = json::parse(outcome.out);
  EXPECT_EQ(lens["tokens"].size(), 10u);
  EXPECT_EQ(lens["positions"], json({9}));
  ASSERT_EQ(lens["rows"].size(), 4u);
  const auto cell = lens["rows"][3]["cells"][0];
  EXPECT_EQ(lens["rows"][3]["site"], "layers.29.resid_post");
  EXPECT_EQ(cell["top"][0]["text"], " Paris");
  EXPECT_NEAR(cell["top"][0]["logit"].get<double>(), 12.8419, 1e-3);
  EXPECT_EQ(cell["track"]["rank"], 0);
  EXPECT_EQ(lens["track"]["on_top_from"], "layers.27.resid_post");
  EXPECT_NE(read(page).find("Content-Security-Policy"), std::string::npos);

  const auto again = run({"lens", "demo", eiffel, "--html", page.string()});
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("--force"), std::string::npos);
}

TEST_F(Cli, VerifyHoldsTheDemo) {
  const auto outcome = run({"verify", "demo"});
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::printf("%s", outcome.out.c_str());
  std::istringstream lines(outcome.out);
  int n = 0;
  for (std::string line; std::getline(lines, line); ++n)
    EXPECT_LE(line.size(), 80u) << line;
  EXPECT_GE(n, 11);
  EXPECT_EQ(outcome.out.find("FAILED"), std::string::npos);

  const auto answer = run({"verify", "demo", "--ids", "504,414", "--json"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const auto verified = json::parse(answer.out);
  EXPECT_TRUE(verified["passed"]);
  EXPECT_EQ(verified["tokens"].size(), 2u);
  EXPECT_EQ(verified["checks"].size(), 10u);
  for (const auto& check : verified["checks"]) {
    EXPECT_TRUE(check["passed"]) << check;
    EXPECT_LE(check["error"], check["bound"]) << check;
    EXPECT_GT(check["compared"], 0) << check;
  }
}

TEST_F(Cli, VerifyExitsWith3WhereABoundIsBroken) {
  const testing::TempFolder place;
  testing::TinyCheckpoint tiny;
  for (const auto* part : {"v_proj", "o_proj"})  // their product overflows
    tiny.fill(
        std::string("model.layers.1.self_attn.") + part + ".weight", 3e38f);
  const auto model = tiny.write(place);
  const auto outcome = run({"verify", model});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_NE(outcome.out.find("FAILED"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("1 of 1 checks failed"), std::string::npos)
      << outcome.err;
  const auto answer = run({"verify", model, "--json"});
  EXPECT_EQ(answer.code, 3);
  const auto verified = json::parse(answer.out);
  EXPECT_FALSE(verified["passed"]);
  EXPECT_TRUE(verified["checks"][0]["error"].is_null());
  EXPECT_EQ(verified["checks"][0]["where"], "layers.1.resid_post");
  EXPECT_EQ(run({"verify", model, "a", "--ids", "1"}).code, 2);
}

TEST_F(Cli, LensTextFitsAPipe) {
  const auto outcome = run({"lens", "demo", eiffel, "--track", " Paris"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("* Paris"), std::string::npos);
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(Cli, TraceShowsHowAnEditMovesTheAnswer) {
  const auto traced = [&](const std::string& edit) {
    const auto outcome = run(
        {"trace",
         "demo",
         eiffel,
         "--edit",
         edit,
         "--track",
         " Paris",
         "--metric",
         "logit( Paris)",
         "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return json::parse(outcome.out);
  };
  const auto scaled = traced("layers.4.mlp_out=scale(0)");
  const auto zeroed = traced("layers.4.mlp_out=zero_out");
  EXPECT_EQ(scaled["next"], zeroed["next"]);
  EXPECT_EQ(scaled["next_edited"], zeroed["next_edited"]);
  EXPECT_NE(scaled["next"], scaled["next_edited"]);
  EXPECT_NEAR(
      scaled["next"]["metrics"]["logit( Paris)"].get<double>(), 12.8419, 1e-3);
}

TEST_F(Cli, TraceMeasuresTheLogitDifference) {
  const auto outcome = run(
      {"trace", "demo", ioi, "--metric", "logit_diff( Mary, John)", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto trace = json::parse(outcome.out);
  EXPECT_NEAR(
      trace["next"]["metrics"]["logit_diff( Mary, John)"].get<double>(),
      6.1196,
      1e-3);
  EXPECT_TRUE(trace["next_edited"].is_null());
}

TEST_F(Cli, TraceWritesCanonicalNames) {
  const auto file = folder / "out.safetensors";
  const std::vector<std::string> arguments = {
      "trace",
      "demo",
      eiffel,
      "--save",
      "blocks.{2,4}.hook_resid_post,model.layers.3.self_attn",
      "--save",
      "layers.9.attn.pattern",
      "--edit",
      "layers.0.attn.z=on_heads([0,2], at_positions(-1, scale(0.5)))",
      "-o",
      file.string()};
  const auto outcome = run(arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto opened = Safetensors::open(file);
  std::vector<std::string> names;
  for (const auto& tensor : opened.tensors())
    names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(
      names,
      (std::vector<std::string>{
          "layers.2.resid_post",
          "layers.3.attn_out",
          "layers.4.resid_post",
          "layers.9.attn.pattern"}));
  EXPECT_EQ(json::parse(opened.metadata().at("prompt")), eiffel);
  EXPECT_EQ(json::parse(opened.metadata().at("ids")).size(), 10u);
  EXPECT_EQ(json::parse(opened.metadata().at("edits")).size(), 1u);
  for (const auto& tensor : opened.tensors()) {
    if (tensor.name != "layers.9.attn.pattern") continue;
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{1, 9, 10, 10}));
  }

  // Its own file can be put back in.
  const auto steered = run(
      {"trace",
       "demo",
       eiffel,
       "--edit",
       "layers.4.resid_post=replace_with(" + file.string() +
           ":layers.4.resid_post)"});
  EXPECT_EQ(steered.code, 0) << steered.err;

  EXPECT_EQ(run(arguments).code, 2);
  auto forced = arguments;
  forced.emplace_back("--force");
  EXPECT_EQ(run(forced).code, 0);
}

TEST_F(Cli, JsonStaysJsonWhateverThePrompt) {
  for (const auto* prompt : {"a\xc3(", "\"\\\n\x1b[31m</script>", "日本😀"}) {
    const auto outcome =
        run({"lens", "demo", prompt, "--layers", "-1", "--top", "3", "--json"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_FALSE(json::parse(outcome.out)["tokens"].empty());
    const auto text = run({"lens", "demo", prompt, "--layers", "-1"});
    EXPECT_EQ(text.out.find('\x1b'), std::string::npos);
  }
}

TEST_F(Cli, BytesTheVocabularyLacksAreNamed) {
  const auto outcome = run({"lens", "demo", "a\xff"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("offset 1"), std::string::npos);
}

TEST_F(Cli, SpecialTokensUnlessTurnedOff) {
  const auto count = [&](std::vector<std::string> arguments) {
    arguments.insert(
        arguments.begin(),
        {"lens", "demo", "<|im_start|>", "--layers", "-1", "--json"});
    return json::parse(run(arguments).out)["tokens"].size();
  };
  EXPECT_EQ(count({}), 1u);
  EXPECT_EQ(count({"--special"}), 1u);
  EXPECT_GT(count({"--no-special"}), 1u);
}

TEST_F(Cli, NotFiniteIsNullInJson) {
  const auto outcome = run(
      {"trace",
       "demo",
       eiffel,
       "--edit",  // finite by themselves, their sum is not
       "layers.29.{attn_out,mlp_out}=replace_with(3e38)",
       "--track",
       " Paris",
       "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto trace = json::parse(outcome.out);
  EXPECT_FALSE(trace["next_edited"]["finite"].get<bool>());
  EXPECT_TRUE(trace["next_edited"]["track"][0]["probability"].is_null());
}

TEST_F(Cli, WeightsThatAreNaNAreLoadedOnRequest) {
  const testing::TempFolder place;
  testing::TinyCheckpoint tiny;
  tiny.fill("model.layers.1.mlp.up_proj.weight", NAN);
  const auto model = tiny.write(place);
  EXPECT_EQ(run({"trace", model, "--ids", "1"}).code, 3);
  const auto outcome =
      run({"trace", model, "--ids", "1", "--allow-nan", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(json::parse(outcome.out)["next"]["finite"]);
}

TEST_F(Cli, AClosedPipeEndsItQuietly) {
  const auto code = folder / "code";
  // Also where the parent ignores SIGPIPE.
  for (const auto* before : {"", "trap '' PIPE; "}) {
    const auto outcome = shell(
        std::string(before) + "{ sleep 0.5; " + binary() +
        " sites demo; echo $? >" + test::quoted(code.string()) +
        "; } | true; while [ ! -s " + test::quoted(code.string()) +
        " ]; do sleep 0.1; done");
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(read(code), "141\n");  // SIGPIPE
    std::filesystem::remove(code);
  }
}

#if defined(__linux__)
TEST_F(Cli, AFullDiskIsAnError) {
  const auto outcome = shell(binary() + " sites demo >/dev/full");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_NE(outcome.err.find("No space left"), std::string::npos);
}

// Root may write anywhere else.
TEST_F(Cli, AFolderItMayNotWriteToIsNoneOfItsBusiness) {
  const auto from = "cd /proc && " + binary() + " lens demo a --layers -1";
  EXPECT_EQ(shell(from).code, 0);
  EXPECT_EQ(shell(from + " --html page.html").code, 4);
}
#endif

TEST_F(Cli, AFolderThatCannotBeWrittenIsAnErrorAtOnce) {
  const auto page = folder / "none/x.html";
  EXPECT_EQ(run({"lens", "demo", "a", "--html", page}).code, 4);
  EXPECT_EQ(run({"lens", "demo", "a", "--html", folder}).code, 2);
}

TEST_F(Cli, AClosedStdoutIsAnError) {
  const auto outcome = shell(binary() + " sites demo >&-");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_NE(outcome.err.find("cannot write the answer"), std::string::npos);
}

TEST_F(Cli, OddFileNames) {
  const testing::TempFolder place;
  std::vector<std::string> names = {"a b", "a\nb", "-dash", "ünï", "<b>'"};
#if defined(__linux__)
  names.emplace_back("\xff\xfe");  // a Mac's file systems want UTF-8
#endif
  for (const auto& name : names) {
    const auto model = place / name;
    std::filesystem::rename(testing::TinyCheckpoint().write(place), model);
    const auto page = model / "p.html", file = model / "x.safetensors";
    const auto lens =
        run({"lens", model, "--ids", "1,2", "--html", page, "--json"});
    ASSERT_EQ(lens.code, 0) << lens.err;
    EXPECT_TRUE(json::parse(lens.out).is_object());
    EXPECT_GT(std::filesystem::file_size(page), 1000u);
    const auto trace =
        run({"trace", model, "--ids", "1", "--save", "embed", "-o", file});
    ASSERT_EQ(trace.code, 0) << trace.err;
    EXPECT_EQ(Safetensors::open(file).tensors().size(), 1u);
    const auto missing = run({"info", model / "none.gguf"});
    EXPECT_EQ(missing.code, 4);
    EXPECT_EQ(missing.err.find('\n'), missing.err.size() - 1) << missing.err;
  }
}

TEST_F(Cli, TerminalsOfAnyWidth) {
  const testing::TempFolder place;
  const std::string model = testing::TinyCheckpoint().write(place);
  for (const auto* width : {"0", "1", "20", "500", "-5", "1e9", ""})
    for (const auto& rest :
         {"sites " + model, "info " + model, "lens " + model + " --ids 1..9"}) {
      const auto outcome = shell(
          "COLUMNS='" + std::string(width) + "' " + binary() + " " + rest);
      EXPECT_EQ(outcome.code, 0) << width << rest;
      EXPECT_NE(outcome.out, "") << width << rest;
      EXPECT_EQ(outcome.err, "") << width << rest;
    }
}

TEST_F(Cli, WhatIsOddAboutAModelIsAWarning) {
  const testing::TempFolder place;
  testing::TinyCheckpoint tiny;
  tiny.fill("lm_head.weight", 0);
  const auto model = tiny.write(place);
  const std::vector<std::vector<std::string>> all = {
      {"info", model, "--json"},
      {"lens", model, "--ids", "1,2", "--json"},
      {"trace", model, "--ids", "1,2", "--json"}};
  for (const auto& arguments : all) {
    const auto outcome = run(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find("mlxterp: warning: 1 of the 23 matrices"), 0u)
        << outcome.err;
    EXPECT_TRUE(json::parse(outcome.out).is_object());
  }
}

// Ctrl-C at any time: no half a file, nothing of ours beside it.
TEST_F(Cli, CtrlCLeavesNothingBehind) {
  namespace fs = std::filesystem;
  using Clock = std::chrono::steady_clock;
  using std::chrono::milliseconds;
  const auto place = folder / "out";
  fs::create_directory(place);
  const auto file = place / "x.safetensors";
  const std::vector<std::string> arguments = {
      "trace",
      "demo",
      "--ids",
      "1..150",
      "--save",
      "layers.*.attn.pattern",
      "--save",
      "layers.*.mlp.*",
      "-o",
      file};
  // Once while it loads, then as soon as there is something in the folder.
  for (const bool writing : {false, true, true}) {
    const auto child = start(arguments);
    std::this_thread::sleep_for(milliseconds(30));
    const auto end = Clock::now() + std::chrono::seconds(120);
    while (writing && fs::is_empty(place) && Clock::now() < end)
      std::this_thread::sleep_for(milliseconds(1));
    ::kill(child, SIGINT);
    EXPECT_EQ(wait(child), 130) << writing;
    EXPECT_EQ(fs::exists(file), writing);
    EXPECT_LE(
        std::distance(fs::directory_iterator(place), fs::directory_iterator()),
        writing ? 1 : 0);
    if (!writing) continue;
    EXPECT_GT(Safetensors::open(file).tensors().size(), 100u);
    fs::remove(file);
  }
}

// In the middle of a sweep: it says on a terminal when it has begun.
TEST_F(Cli, CtrlCEndsASweepAtOnce) {
  using Clock = std::chrono::steady_clock;
  const auto page = folder / "p.html";
  for (const auto& how : std::vector<std::vector<std::string>>{
           {"--plain"}, {"--site", "mlp.post", "--by", "layer,neuron"}}) {
    std::vector<std::string> arguments = {
        "patch",
        "demo",
        "--clean",
        "When Mary and John went to the store, John gave a drink to",
        "--corrupt",
        "When Mary and John went to the store, Mary gave a drink to",
        "--metric",
        "logit_diff( Mary, John)",
        "--html",
        page};
    arguments.insert(arguments.end(), how.begin(), how.end());
    const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
    ASSERT_GE(terminal, 0);
    ASSERT_EQ(::grantpt(terminal), 0);
    ASSERT_EQ(::unlockpt(terminal), 0);
    const int its_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
    ASSERT_GE(its_end, 0);
    const auto child = start(arguments, its_end);
    ::close(its_end);
    std::string told;
    char some[256];
    while (told.find("Patching [") == std::string::npos) {
      const auto n = ::read(terminal, some, sizeof some);
      if (n <= 0) break;  // it ended
      told.append(some, static_cast<size_t>(n));
    }
    EXPECT_NE(told.find("Patching ["), std::string::npos) << told;
    const auto begin = Clock::now();
    ::kill(child, SIGINT);
    EXPECT_EQ(wait(child), 130) << how[0];
    // The sweep takes minutes; a busy machine may take its time here, too.
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30)) << how[0];
    EXPECT_FALSE(std::filesystem::exists(page));
    ::close(terminal);
  }
}

// A shell's `nohup` and background jobs ignore it; so does the command.
TEST_F(Cli, CtrlCStaysIgnored) {
  const auto outcome = shell(
      "trap '' INT; " + binary() + " lens demo a --layers -1 --html " +
      test::quoted((folder / "p.html").string()) + " & kill -INT $!; wait $!");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

TEST_F(Cli, RunsWithoutHomeLocaleOrFolder) {
  const auto cache = test::quoted(cache_folder().string());
  const auto gone = test::quoted((folder / "gone").string());
  const auto outcome = shell(
      "mkdir " + gone + " && cd " + gone + " && rmdir " + gone +
      " && env -i LC_ALL=C MLXTERP_CACHE=" + cache + " " + binary() +
      " lens demo 'a é' --layers -1");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("layer"), std::string::npos);
}

}  // namespace
}  // namespace mlxterp
