// Models from a hub: a small one on this machine, which cuts, lies and refuses.

#include "mlxterp/io/hub.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "io/digest.h"
#include "io/http.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/safetensors.h"
#include "tests/io/hub_server.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using namespace std::chrono_literals;
using nlohmann::json;
using testing::TempFolder;
using Server = testing::HubServer;

const std::string commit(40, 'a');

class Hub : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(server_.hub, 0) << "hub_server.py does not run";
    for (const char* name :
         {"HF_HUB_CACHE",
          "HUGGINGFACE_HUB_CACHE",
          "HF_HUB_OFFLINE",
          "TRANSFORMERS_OFFLINE",
          "HF_TOKEN",
          "HUGGING_FACE_HUB_TOKEN",
          "HF_TOKEN_PATH",
          "HF_HUB_DISABLE_IMPLICIT_TOKEN",
          "HF_HUB_DOWNLOAD_TIMEOUT"})
      ::unsetenv(name);
    set("HF_HOME", (folder_ / "home").string());
    set("HF_ENDPOINT", "http://127.0.0.1:" + std::to_string(server_.hub));
    set("no_proxy", "*");
  }

  static void set(const char* name, const std::string& value) {
    ::setenv(name, value.c_str(), 1);
  }

  void put(const std::string& name, const std::string& bytes) const {
    folder_.write("repos/org/name/" + name, bytes);
  }
  void plan(const json& plan) const { folder_.write("plan.json", plan.dump()); }
  void rule(json rule) const { plan({{"rules", {std::move(rule)}}}); }

  /** A model in one file, with much beside it that nobody asked for. */
  void put_model() const {
    put("config.json", R"({"model_type": "llama"})");
    put("tokenizer.json", R"({"version": "1.0"})");
    put("tokenizer_config.json", R"({"bos_token": "<s>"})");
    put("model.safetensors", weights_);
    for (const char* name :
         {"README.md",
          "pytorch_model.bin",
          "onnx/model.onnx",
          "training_args.json",
          "a.gguf"})
      put(name, "not asked for");
  }

  void put_shards() const {
    put("config.json", "{}");
    json map;
    for (int i = 1; i <= 5; ++i) {
      const auto name = "model-0000" + std::to_string(i) + ".safetensors";
      put(name, weights_ + name);
      map["t" + std::to_string(i)] = name;
    }
    put("model-other.safetensors", "not asked for");
    put("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  }

  static fs::path get(
      const std::string& id = "org/name", const HubOptions& options = {}) {
    auto quick = options;
    quick.pause = 5ms;
    return hub_snapshot(id, quick);
  }

  /** Expects an Error of that kind that says all this and no secret. */
  static void refused(
      ErrorKind kind,
      const std::vector<std::string>& says,
      const std::string& id = "org/name",
      const HubOptions& options = {}) {
    try {
      const auto path = get(id, options);
      FAIL() << "no error, but " << path;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.kind(), kind) << text;
      EXPECT_TRUE(text.starts_with("[hub_snapshot] ")) << text;
      EXPECT_NE(text.find("; "), text.npos) << "no advice: " << text;
      EXPECT_EQ(text.find("s3cret"), text.npos) << text;
      for (const auto& part : says)
        EXPECT_NE(text.find(part), text.npos) << part << " is not in: " << text;
    }
  }

  /** The requests so far. */
  std::vector<json> log() const {
    std::vector<json> lines;
    std::ifstream file(folder_ / "log.jsonl");
    for (std::string line; std::getline(file, line);)
      lines.push_back(json::parse(line));
    return lines;
  }
  size_t asked(const std::string& method, const std::string& path) const {
    size_t count = 0;
    for (const auto& line : log())
      count += line["method"] == method &&
               line["path"].get<std::string>().find(path) != std::string::npos;
    return count;
  }
  void forget_log() const { fs::remove(folder_ / "log.jsonl"); }

  fs::path repo() const { return folder_ / "home/hub/models--org--name"; }
  fs::path snapshot() const { return repo() / "snapshots" / commit; }
  fs::path blob(const std::string& bytes) const {
    Digest sha(Digest::Kind::sha256);
    sha.update(bytes);
    return repo() / "blobs" / sha.hex();
  }
  fs::path incomplete(const std::string& bytes) const {
    return blob(bytes).string() + ".incomplete";
  }
  static size_t count(const fs::path& folder) {
    return static_cast<size_t>(std::distance(
        fs::directory_iterator(folder), fs::directory_iterator()));
  }
  void expect_model() const {
    EXPECT_EQ(testing::read_file(snapshot() / "model.safetensors"), weights_);
    EXPECT_FALSE(fs::exists(incomplete(weights_)));
  }

  /** Where nothing listens. */
  static std::string nowhere() { return "http://127.0.0.1:1"; }

  static std::string random_bytes(size_t size) {
    std::string bytes(size, '\0');
    uint32_t state = 1;
    for (char& byte : bytes)
      byte = static_cast<char>((state = state * 1664525u + 1013904223u) >> 24);
    return bytes;
  }

  TempFolder folder_;
  Server server_{folder_.path()};
  std::string weights_ = random_bytes(300'000);
};

TEST(Digest, KnownDigests) {
  const auto of = [](Digest::Kind kind, std::vector<std::string> pieces) {
    Digest digest(kind);
    for (const auto& piece : pieces)
      digest.update(piece);
    return digest.hex();
  };
  EXPECT_EQ(
      of(Digest::Kind::sha256, {}),
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(
      of(Digest::Kind::sha256, {"ab", "c"}),
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      of(Digest::Kind::sha1, {}), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(
      of(Digest::Kind::sha1, {"ab", "c"}),
      "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(Http, Origins) {
  EXPECT_EQ(origin_of("https://a.b/c?d"), "https://a.b:443");
  EXPECT_EQ(origin_of("HTTP://me:pw@A.B:8080/"), "http://a.b:8080");
  for (const char* bad : {"", "file:///etc/passwd", "a b", "ftp://a", "/x"})
    EXPECT_EQ(origin_of(bad), "") << bad;
  EXPECT_EQ(url_escape("refs/pr/1 %"), "refs%2Fpr%2F1%20%25");
}

TEST_F(Hub, FreshDownloadInTheSharedLayout) {
  put_model();
  double told = 0;
  std::string what;
  const auto path =
      get("org/name", {.progress = [&](std::string_view text, double done) {
            what = text;
            told = done;
          }});
  EXPECT_EQ(path, snapshot());
  EXPECT_EQ(told, 1.0);
  EXPECT_EQ(what, "Downloading org/name, 0.3 of 0.3 MB");
  expect_model();
  EXPECT_EQ(testing::read_file(repo() / "refs/main"), commit);
  EXPECT_EQ(
      fs::read_symlink(snapshot() / "model.safetensors"),
      fs::path("../../blobs") / blob(weights_).filename());
  // Git's own name, of a small file.
  EXPECT_EQ(
      fs::read_symlink(snapshot() / "config.json").filename().string().size(),
      40u);
  // Only what is needed, and nothing left over.
  EXPECT_EQ(count(snapshot()), 4u);
  EXPECT_EQ(count(repo() / "blobs"), 4u);
  EXPECT_EQ(count(repo()), 3u);
  EXPECT_EQ(asked("GET", "README"), 0u);
}

TEST_F(Hub, WhatLoadingReadsComesAlong) {
  put_model();
  for (const std::string name :
       {"chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "additional_chat_templates/tool_use.jinja",
        "additional_chat_templates/rag.jinja"})
    put(name, "the text of " + name);
  put("additional_chat_templates/notes.txt", "not asked for");
  put("additional_chat_templates/more/x.jinja", "not asked for");
  get();
  size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(snapshot())) {
    if (entry.is_directory()) continue;
    ++files;
    const auto name = entry.path().lexically_relative(snapshot()).string();
    const auto text = testing::read_file(entry.path());
    EXPECT_NE(text, "not asked for") << name;
    if (text.starts_with("the text of ")) {
      EXPECT_EQ(text, "the text of " + name);
    }
  }
  EXPECT_EQ(files, 4u + 8);
  EXPECT_EQ(
      testing::read_file(
          snapshot() / "additional_chat_templates/tool_use.jinja"),
      "the text of additional_chat_templates/tool_use.jinja");
  EXPECT_EQ(
      fs::read_symlink(snapshot() / "additional_chat_templates/tool_use.jinja")
          .parent_path(),
      fs::path("../../../blobs"));
}

// Whoever has a model from before gets them at the next call.
TEST_F(Hub, WhatWasMissingIsFetchedLater) {
  put_model();
  get();
  put("generation_config.json", R"({"temperature": 0.5})");
  get();
  EXPECT_EQ(
      testing::read_file(snapshot() / "generation_config.json"),
      R"({"temperature": 0.5})");
}

TEST_F(Hub, ASecondCallDownloadsNothing) {
  put_model();
  get();
  forget_log();
  EXPECT_EQ(get(), snapshot());
  EXPECT_EQ(log().size(), 1u) << "the commit of main";
  forget_log();
  EXPECT_EQ(get("org/name", {.revision = commit}), snapshot());
  EXPECT_EQ(log().size(), 0u) << "a commit never changes";
}

TEST_F(Hub, ANewCommitGetsOnlyWhatChanged) {
  put_model();
  get();
  forget_log();
  const std::string next(40, 'b');
  folder_.write("commit", next);
  put("config.json", R"({"model_type": "changed"})");
  EXPECT_EQ(get(), repo() / "snapshots" / next);
  EXPECT_EQ(asked("GET", "resolve"), 1u);
  EXPECT_EQ(testing::read_file(repo() / "refs/main"), next);
  EXPECT_EQ(
      testing::read_file(repo() / "snapshots" / next / "model.safetensors"),
      weights_);
}

TEST_F(Hub, ACheckpointOpensIt) {
  put("config.json", R"({"model_type": "llama"})");
  fs::create_directories(folder_ / "repos/org/name");
  save_safetensors(
      folder_ / "repos/org/name/model.safetensors",
      {{"w", mx::array({1.0f, 2.0f}, {2})}});
  const auto checkpoint = Checkpoint::open(get());
  ASSERT_NE(checkpoint.find("w"), nullptr);
  // A newer cache shares files between models.
  const auto own = fs::canonical(snapshot() / "model.safetensors");
  const auto name = own.filename().string();
  const auto shared = folder_ / "home/hub/blobs" / name.substr(0, 2) / name;
  fs::create_directories(shared.parent_path());
  fs::rename(own, shared);
  fs::create_symlink(fs::path("../../blobs") / name.substr(0, 2) / name, own);
  EXPECT_NE(Checkpoint::open(get()).find("w"), nullptr);
  // And nothing else may lead out.
  fs::rename(shared, folder_ / "outside");
  fs::remove(own);
  fs::create_symlink(folder_ / "outside", own);
  EXPECT_THROW(Checkpoint::open(snapshot()), Error);
}

TEST_F(Hub, Shards) {
  put_shards();
  get();
  EXPECT_EQ(count(snapshot()), 7u);
  EXPECT_FALSE(fs::exists(snapshot() / "model-other.safetensors"));
  // A shard that the index names and the model lacks.
  folder_.write("commit", std::string(40, 'c'));
  fs::remove(folder_ / "repos/org/name/model-00003.safetensors");
  refused(ErrorKind::bad_data, {"model-00003.safetensors"});
  // An index that leads elsewhere.
  folder_.write("commit", std::string(40, 'd'));
  put("model.safetensors.index.json",
      R"({"weight_map": {"t": "../../../x.safetensors"}})");
  refused(ErrorKind::bad_data, {"../../../x.safetensors"});
}

TEST_F(Hub, ShardsArriveSideBySide) {
  put_shards();
  rule({{"path", ".safetensors"}, {"store", true}, {"drip", 0.002}});
  get();
  EXPECT_EQ(count(snapshot()), 7u);
  int most = 0;  // answers under way at once
  for (const auto& line : log())
    if (line["store"]) most = std::max(most, line["active"].get<int>());
  EXPECT_GE(most, 3);
}

TEST_F(Hub, OneGgufFile) {
  put("small.gguf", weights_);
  put("large.gguf", "more");
  put("README.md", "");
  refused(ErrorKind::environment, {"large.gguf, small.gguf", "org/name/FILE"});
  refused(
      ErrorKind::environment,
      {"no file none.gguf", "small.gguf"},
      "org/name/none.gguf");
  EXPECT_EQ(get("org/name/small.gguf"), snapshot() / "small.gguf");
  EXPECT_EQ(testing::read_file(snapshot() / "small.gguf"), weights_);
  EXPECT_EQ(asked("GET", "large.gguf"), 0u);
  server_.stop();
  EXPECT_EQ(get("org/name/small.gguf"), snapshot() / "small.gguf");
}

// Whoever names one part of a split file means all of it.
TEST_F(Hub, ASplitGgufFile) {
  const std::string one = "m-00001-of-00002.gguf",
                    two = "m-00002-of-00002.gguf";
  put(one, weights_);
  refused(ErrorKind::bad_data, {one, "2 parts", two}, "org/name/" + one);
  put(two, "more");
  EXPECT_EQ(get("org/name/" + one), snapshot() / one);
  EXPECT_EQ(testing::read_file(snapshot() / two), "more");
  server_.stop();
  EXPECT_EQ(get("org/name/" + two), snapshot() / two);
}

TEST_F(Hub, NoModelInIt) {
  put("README.md", "");
  refused(ErrorKind::bad_data, {"no config.json"});
  put("config.json", "{}");
  refused(ErrorKind::bad_data, {"no model.safetensors"});
  put("pytorch_model.bin", "x");
  refused(ErrorKind::bad_data, {"pickle"});
}

TEST_F(Hub, IdsAndRevisions) {
  for (const char* id :
       {"",
        "name",
        "org/",
        "/name",
        "org/../name",
        "../name",
        "org/..",
        "org//name",
        "org/na me",
        "org/na\nme",
        "org/.name",
        "org--x/name",
        "org/name/x.bin",
        "org/name/../x.gguf",
        "org/name/x/y.gguf",
        "https://huggingface.co/org/name"})
    refused(ErrorKind::usage, {"org/name"}, id);
  refused(ErrorKind::usage, {"org/name"}, "org/" + std::string(97, 'x'));
  for (const char* revision : {"", "../main", "a/../b", "/main", "a b", "a//b"})
    refused(ErrorKind::usage, {"revision"}, "org/name", {.revision = revision});
  EXPECT_EQ(log().size(), 0u);
}

TEST_F(Hub, APathWinsOverAnId) {
  put_model();
  folder_.write("org/name/config.json", "{}");
  const auto before = fs::current_path();
  fs::current_path(folder_.path());
  EXPECT_EQ(find_model("org/name"), "org/name");
  fs::current_path(before);
  EXPECT_EQ(log().size(), 0u);
  EXPECT_EQ(find_model("org/name"), snapshot());
  // What can only be a path stays one, for its reader to complain about.
  for (const char* path :
       {"/no/such",
        "./no/such",
        "../no/such",
        "model.gguf",
        "a/b.gguf",
        "a/b/c/d"})
    EXPECT_EQ(find_model(path), path);
  EXPECT_THROW(find_model("org/na me"), Error);
  for (const char* name : {"dmeo", ""})
    try {
      find_model(name);
      ADD_FAILURE() << "found " << name;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::environment);
      for (const auto* part : {"'demo'", "file or folder", "org/name"})
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
}

TEST_F(Hub, AnUnknownModel) {
  refused(
      ErrorKind::environment, {"no/such", "404", "check the id"}, "no/such");
  put_model();
  refused(
      ErrorKind::environment,
      {"org/name", "404", "'v2'"},
      "org/name",
      {.revision = "v2"});
}

TEST_F(Hub, GatedAndPrivate) {
  put_model();
  plan({{"private", "hf_s3cret"}});
  refused(ErrorKind::environment, {"org/name", "401", "gated", "set HF_TOKEN"});
  set("HF_TOKEN", "hf_wrong_s3cret");
  refused(ErrorKind::environment, {"gated", "HF_TOKEN"});
  set("HF_TOKEN", " hf_s3cret\n");
  EXPECT_EQ(get(), snapshot());
  rule({{"status", 403}, {"path", "/config.json"}});
  fs::remove_all(repo());
  refused(ErrorKind::environment, {"config.json", "403", "gated", "HF_TOKEN"});
}

TEST_F(Hub, TheTokenGoesToTheHubAlone) {
  put_model();
  plan({{"private", "hf_s3cret"}});
  set("HF_TOKEN", "hf_s3cret");
  get();
  size_t hub = 0, store = 0;
  for (const auto& line : log()) {
    const bool elsewhere = line["store"];
    elsewhere ? ++store : ++hub;
    EXPECT_EQ(line["token"], elsewhere ? "" : "Bearer hf_s3cret") << line;
    EXPECT_TRUE(line["host"].get<std::string>().starts_with(
        elsewhere ? "localhost:" : "127.0.0.1:"))
        << line;
  }
  EXPECT_GT(hub, 0u);
  EXPECT_EQ(store, 2u) << "the large files";
}

TEST_F(Hub, TheSameHostAtAnotherPortIsElsewhereToo) {
  put_model();
  set("HF_TOKEN", "hf_s3cret");
  rule(
      {{"path", "/resolve/" + commit + "/model.safetensors"},
       {"method", "GET"},
       {"store", false},
       {"redirect",
        "http://127.0.0.1:" + std::to_string(server_.store) +
            "/org/name/resolve/" + commit + "/model.safetensors"}});
  get();
  for (const auto& line : log())
    if (line["store"]) {
      EXPECT_EQ(line["token"], "") << line;
    }
  expect_model();
}

TEST_F(Hub, CertificatesAreThoseOfThisSystem) {
  ::unsetenv("CURL_CA_BUNDLE");
  ::unsetenv("SSL_CERT_FILE");
  const TempFolder folder;
  folder.write("roots.pem", "");
  const auto there = (folder.path() / "roots.pem").string();
  EXPECT_EQ(certificates(there), there);
  EXPECT_EQ(certificates(""), "");
  // libcurl was built where they lie elsewhere.
  const auto here = certificates("/nowhere/roots.pem");
  EXPECT_TRUE(here == "/nowhere/roots.pem" || fs::exists(here)) << here;
  const std::string debians = "/etc/ssl/certs/ca-certificates.crt";
  if (fs::exists(debians)) {
    EXPECT_EQ(here, debians);
  }
  ::setenv("SSL_CERT_FILE", "/mine.pem", 1);
  EXPECT_EQ(certificates(there), "/mine.pem");
  ::setenv("CURL_CA_BUNDLE", "/curls.pem", 1);
  EXPECT_EQ(certificates(there), "/curls.pem");
}

TEST_F(Hub, RedirectsThatAreNotFollowed) {
  put_model();
  for (const char* target : {"file:///etc/passwd", "ftp://127.0.0.1/x"}) {
    rule(
        {{"path", "model.safetensors"},
         {"method", "GET"},
         {"redirect", target}});
    refused(ErrorKind::environment, {"redirects"});
  }
  fs::remove_all(repo());
  rule({{"path", "config.json"}, {"redirect", "/again/config.json"}});
  refused(ErrorKind::environment, {"redirects 6 times"});
}

TEST_F(Hub, WhereTheTokenComesFrom) {
  put_model();
  plan({{"private", "from-file"}});
  folder_.write("home/token", "from-file\n");
  EXPECT_EQ(get(), snapshot());
  fs::remove_all(repo());
  set("HF_TOKEN_PATH", (folder_ / "elsewhere").string());
  refused(ErrorKind::environment, {"401"});
  folder_.write("elsewhere", "from-file");
  EXPECT_EQ(get(), snapshot());
  set("HF_TOKEN", "s3cret\r\nHost: other");
  refused(ErrorKind::environment, {"HF_TOKEN"});
  set("HF_TOKEN", std::string(limits::hub_token_bytes + 1, 'x'));
  refused(ErrorKind::environment, {"HF_TOKEN"});
}

TEST_F(Hub, WhereTheCacheIs) {
  put_model();
  set("HF_HUB_CACHE", (folder_ / "one").string());
  EXPECT_EQ(get().parent_path().parent_path().parent_path(), folder_ / "one");
  ::unsetenv("HF_HUB_CACHE");
  EXPECT_EQ(get(), snapshot());
  ::unsetenv("HF_HOME");
  set("XDG_CACHE_HOME", (folder_ / "xdg").string());
  EXPECT_TRUE(get().string().starts_with(
      (folder_ / "xdg/huggingface/hub/models--org--name").string()));
  ::unsetenv("XDG_CACHE_HOME");
  set("HOME", (folder_ / "me").string());
  EXPECT_TRUE(get().string().starts_with(
      (folder_ / "me/.cache/huggingface/hub").string()));
  set("HF_HOME", "~/other");
  EXPECT_TRUE(get().string().starts_with((folder_ / "me/other/hub").string()));
}

TEST_F(Hub, CutsAreResumed) {
  put_model();
  rule(
      {{"path", "model.safetensors"},
       {"store", true},
       {"times", 3},
       {"cut", 70'000}});
  get();
  expect_model();
  std::vector<std::string> ranges;
  for (const auto& line : log())
    if (line["store"] &&
        line["path"].get<std::string>().find("model.s") != std::string::npos)
      ranges.push_back(line["range"]);
  EXPECT_EQ(
      ranges,
      (std::vector<std::string>{
          "", "bytes=70000-", "bytes=140000-", "bytes=210000-"}));
}

TEST_F(Hub, EndlessCutsEnd) {
  put_model();
  rule({{"path", "model.safetensors"}, {"store", true}, {"cut", 100}});
  refused(ErrorKind::environment, {"model.safetensors", "try again"});
  EXPECT_EQ(asked("GET", "model.safetensors?"), 6u);
  EXPECT_EQ(fs::file_size(incomplete(weights_)), 600u);
  EXPECT_FALSE(fs::exists(repo() / "refs/main"));
  // The next call goes on there.
  plan(json::object());
  forget_log();
  get();
  expect_model();
  EXPECT_EQ(log().back()["range"], "bytes=600-");
}

TEST_F(Hub, SilenceEndsToo) {
  put_model();
  set("HF_HUB_DOWNLOAD_TIMEOUT", "1");
  rule(
      {{"path", "model.safetensors"},
       {"store", true},
       {"times", 1},
       {"cut", 5000},
       {"stall", 60}});
  const auto start = std::chrono::steady_clock::now();
  get();
  expect_model();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST_F(Hub, RangesThatAreIgnoredOrWrong) {
  put_model();
  for (const char* how : {"no_range", "bad_range"}) {
    fs::remove_all(repo());
    plan(
        {{"rules",
          {{{"path", "model.safetensors"},
            {"store", true},
            {"times", 1},
            {"note", how},
            {"cut", 5000}},
           {{"path", "model.safetensors"},
            {"store", true},
            {"times", 1},
            {how, true}}}}});
    get();
    expect_model();
  }
}

TEST_F(Hub, LeftoversThatDoNotFit) {
  put_model();
  const auto leave = [&](const std::string& bytes) {
    fs::remove_all(repo());
    fs::create_directories(repo() / "blobs");
    std::ofstream(incomplete(weights_), std::ios::binary) << bytes;
  };
  leave("another file's beginning");  // seen by its SHA-256
  get();
  expect_model();
  leave(weights_ + "and more");
  get();
  expect_model();
  leave(weights_);
  forget_log();
  get();
  expect_model();
  EXPECT_EQ(asked("GET", "model.safetensors"), 0u) << "it was all there";
  // A link in its place would have us write somewhere else.
  fs::remove_all(repo());
  fs::create_directories(repo() / "blobs");
  fs::create_symlink(folder_ / "victim", incomplete(weights_));
  refused(ErrorKind::environment, {"cannot write"});
  EXPECT_FALSE(fs::exists(folder_ / "victim"));
}

TEST_F(Hub, DamagedCaches) {
  put_model();
  get();
  // A blob that was cut short, a link to nothing.
  fs::resize_file(blob(weights_), 10);
  fs::remove(snapshot() / "model.safetensors");
  get();
  expect_model();
  fs::remove(blob(weights_));
  get();
  expect_model();
  folder_.write("home/hub/models--org--name/refs/main", "../../../etc");
  EXPECT_EQ(get(), snapshot());
  EXPECT_EQ(testing::read_file(repo() / "refs/main"), commit);
}

TEST_F(Hub, ABranchOfTheCacheThatIsNoFile) {
  put_model();
  get();
  const auto branch = repo() / "refs/main";
  fs::remove(branch);
  ASSERT_EQ(::mkfifo(branch.c_str(), 0600), 0);
  for (const char* offline : {"0", "1"}) {
    set("HF_HUB_OFFLINE", offline);
    refused(ErrorKind::environment, {"refs/main", "a pipe"});
  }
  fs::remove(branch);
  fs::create_symlink("main", branch);
  refused(ErrorKind::environment, {"refs/main"});
}

TEST_F(Hub, WrongSizes) {
  put_model();
  for (const int size : {1000, 299'999, 300'001, 1'000'000}) {
    rule({{"path", "model.safetensors"}, {"store", false}, {"size", size}});
    refused(
        ErrorKind::bad_data,
        {"model.safetensors", "300000 bytes", std::to_string(size)});
  }
  // Without its length it ends early, or goes on.
  for (const int size : {1000, 300'001}) {
    plan(
        {{"rules",
          {{{"path", "model.safetensors"}, {"store", false}, {"size", size}},
           {{"path", "model.safetensors"},
            {"store", true},
            {"cut", 300'000},
            {"headers",
             {{"Content-Length", nullptr}, {"Connection", "close"}}}}}}});
    refused(
        size == 1000 ? ErrorKind::bad_data : ErrorKind::environment,
        {"model.safetensors"});
  }
  rule(
      {{"path", "model.safetensors"},
       {"store", false},
       {"headers", {{"X-Linked-Size", "18446744073709551615"}}}});
  refused(ErrorKind::bad_data, {"model.safetensors"});
  EXPECT_FALSE(fs::exists(blob(weights_)));
  EXPECT_FALSE(fs::exists(repo() / "refs/main"));
}

TEST_F(Hub, WrongBytes) {
  put_model();
  const std::string etag(64, '0');
  rule({{"path", "model.safetensors"}, {"etag", etag}});
  refused(ErrorKind::bad_data, {"model.safetensors", "SHA-256", etag});
  EXPECT_FALSE(fs::exists(repo() / "blobs" / etag));
  EXPECT_FALSE(fs::exists(repo() / "blobs" / (etag + ".incomplete")));
  EXPECT_FALSE(fs::exists(snapshot() / "model.safetensors"));
}

// Small files are known by the name that Git has for their bytes.
TEST_F(Hub, WrongBytesOfASmallFile) {
  put_model();
  const std::string etag(40, '0');
  rule({{"path", "/config.json"}, {"etag", etag}});
  refused(ErrorKind::bad_data, {"config.json", "Git's SHA-1", etag});
  EXPECT_FALSE(fs::exists(repo() / "blobs" / etag));
  EXPECT_FALSE(fs::exists(repo() / "blobs" / (etag + ".incomplete")));
  EXPECT_FALSE(fs::exists(snapshot() / "config.json"));
}

TEST_F(Hub, HostileEtags) {
  put_model();
  for (const char* etag : {"../../../x", "", ".hidden", "a/b", "a b"}) {
    rule({{"path", "config.json"}, {"etag", etag}});
    refused(ErrorKind::bad_data, {"config.json"});
  }
  rule(
      {{"path", "config.json"},
       {"headers", {{"X-Repo-Commit", std::string(40, 'e')}}}});
  refused(ErrorKind::bad_data, {"config.json", "eeee"});
}

TEST_F(Hub, HostileNames) {
  put_model();
  for (const char* name : {"../x", "/etc/passwd", "a/../../x", "..", ""}) {
    plan({{"siblings", {"config.json", "model.safetensors", name}}});
    refused(ErrorKind::bad_data, {"outside"});
  }
  EXPECT_FALSE(fs::exists(folder_ / "home/hub"));
}

TEST_F(Hub, HostileAnswers) {
  put_model();
  const auto answers = [&](const std::string& body) {
    rule({{"path", "/api/"}, {"body", body}});
  };
  for (const char* body :
       {"",
        "<html>",
        "[]",
        "{}",
        "null",
        R"({"sha": 1, "siblings": []})",
        R"({"sha": "../../x", "siblings": []})",
        R"({"sha": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})"}) {
    answers(body);
    refused(ErrorKind::bad_data, {"org/name"});
  }
  for (const char* files : {"{}", "[1]", "[{}]", R"([{"rfilename": 1}])"}) {
    answers(R"({"sha": ")" + commit + R"(", "siblings": )" + files + "}");
    refused(ErrorKind::bad_data, {"lists no files"});
  }
  answers(std::string(100'000, '['));
  refused(ErrorKind::bad_data, {"nested"});
  answers(std::string(limits::hub_answer_bytes + 1, ' '));
  refused(ErrorKind::bad_data, {"bytes"});
}

TEST_F(Hub, AListingOfManyFiles) {
  put_model();
  std::string files = R"([{"rfilename":"config.json"})";
  for (int i = 1; i < 199'000; ++i)
    files += fmt::format(R"(,{{"rfilename":"folder/file {}"}})", i);
  const auto answer = [&](const std::string& all) {
    rule(
        {{"path", "/api/"},
         {"body",
          R"({"sha": ")" + commit + R"(", "siblings": )" + all + "]}"}});
  };
  answer(files);
  const auto begin = std::clock();
  refused(ErrorKind::bad_data, {"model.safetensors"});
  answer(files + files.substr(files.find(",")));
  refused(ErrorKind::bad_data, {"lists no files"});
  EXPECT_LT(std::clock() - begin, 10 * CLOCKS_PER_SEC);
}

TEST_F(Hub, BusyServers) {
  put_model();
  const json wait = {{"Retry-After", "1"}};
  plan(
      {{"rules",
        {{{"path", "/api/"}, {"times", 1}, {"status", 429}, {"headers", wait}},
         {{"path", "model.safetensors"},
          {"method", "HEAD"},
          {"times", 2},
          {"status", 503}},
         {{"path", "model.safetensors"},
          {"store", true},
          {"times", 2},
          {"status", 500}}}}});
  const auto start = std::chrono::steady_clock::now();
  get();
  expect_model();
  EXPECT_GE(std::chrono::steady_clock::now() - start, 900ms);
}

TEST_F(Hub, ServersThatStayBusy) {
  put_model();
  const auto start = std::chrono::steady_clock::now();
  rule({{"path", "/api/"}, {"status", 429}});
  refused(ErrorKind::environment, {"429"});
  EXPECT_EQ(log().size(), 6u);
  rule(
      {{"path", "/api/"},
       {"status", 429},
       {"headers", {{"Retry-After", "99999"}}}});
  refused(ErrorKind::environment, {"429", "99999 s"});
  EXPECT_EQ(log().size(), 7u) << "too long to wait for";
  rule({{"path", "model.safetensors"}, {"store", true}, {"status", 500}});
  refused(ErrorKind::environment, {"500", "model.safetensors"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, 120s);
}

TEST_F(Hub, Offline) {
  put_model();
  set("HF_HUB_OFFLINE", "1");
  refused(ErrorKind::environment, {"org/name", "HF_HUB_OFFLINE"});
  set("HF_HUB_OFFLINE", "0");
  get();
  forget_log();
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}) {
    set(name, "true");
    EXPECT_EQ(get(), snapshot());
    EXPECT_EQ(get("org/name", {.revision = commit}), snapshot());
    fs::rename(blob(weights_), folder_ / "aside");
    refused(ErrorKind::environment, {"lacks model.safetensors"});
    fs::rename(folder_ / "aside", blob(weights_));
    ::unsetenv(name);
  }
  EXPECT_EQ(log().size(), 0u);
}

TEST_F(Hub, OfflineShards) {
  put_shards();
  get();
  set("HF_HUB_OFFLINE", "1");
  EXPECT_EQ(get(), snapshot());
  fs::remove(snapshot() / "model-00004.safetensors");
  refused(ErrorKind::environment, {"lacks model-00004.safetensors"});
}

TEST_F(Hub, NoNetwork) {
  put_model();
  const auto endpoint = std::string(::getenv("HF_ENDPOINT"));
  set("HF_ENDPOINT", nowhere());
  refused(ErrorKind::environment, {"cannot reach", "127.0.0.1:1", "network"});
  set("HF_ENDPOINT", endpoint);
  get();
  set("HF_ENDPOINT", nowhere());
  EXPECT_EQ(get(), snapshot());
  for (const char* bad : {"huggingface.co", "file:///x", "ftp://x"}) {
    set("HF_ENDPOINT", bad);
    refused(ErrorKind::environment, {"HF_ENDPOINT"});
  }
  // Nor where the hub has nothing sensible to say.
  set("HF_ENDPOINT", endpoint);
  for (const int status : {401, 404, 429, 500}) {
    rule({{"path", "/api/"}, {"status", status}});
    EXPECT_EQ(get(), snapshot());
  }
  rule({{"path", "/api/"}, {"body", "<html>please log in"}});
  EXPECT_EQ(get(), snapshot());
}

TEST_F(Hub, ProgressCanEndIt) {
  put_model();
  rule({{"path", "model.safetensors"}, {"store", true}, {"drip", 0.05}});
  struct Enough {};
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(
      get("org/name",
          {.progress =
               [](std::string_view, double done) {
                 if (done > 0) throw Enough();
               }}),
      Enough);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 40s);
  plan(json::object());
  get();
  expect_model();
}

// Also while nothing has arrived yet: a user wants to give up on a hub that
// does not answer.
TEST_F(Hub, ProgressCanEndTheListing) {
  put_model();
  rule({{"path", "/api/"}, {"stall", 60}});
  struct Enough {};
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(
      get("org/name",
          {.progress =
               [](std::string_view what, double) {
                 EXPECT_NE(what.find("about org/name"), what.npos) << what;
                 throw Enough();
               }}),
      Enough);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 40s);
}

TEST_F(Hub, FoldersThatCannotBeWritten) {
  put_model();
  folder_.write("file", "");
  set("HF_HUB_CACHE", (folder_ / "file/hub").string());
  refused(ErrorKind::environment, {"cannot write", "HF_HUB_CACHE"});
}

/** A process that downloads. */
pid_t download_apart(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  int code = 1;
  try {
    work();
    code = 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  ::_exit(code);
}

int end_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(Hub, SeveralProcessesAndThreadsDownloadOnce) {
  put_model();
  rule({{"path", "model.safetensors"}, {"store", true}, {"drip", 0.002}});
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i)
    children.push_back(download_apart([] { get(); }));
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([] { EXPECT_NO_THROW(get()); });
  for (auto& thread : threads)
    thread.join();
  for (const pid_t child : children)
    EXPECT_EQ(end_of(child), 0);
  expect_model();
  size_t bodies = 0;
  for (const auto& line : log())
    bodies += line["store"] && line["path"].get<std::string>().find(
                                   "model.s") != std::string::npos;
  EXPECT_EQ(bodies, 1u);
  EXPECT_EQ(count(snapshot()), 4u);
}

TEST_F(Hub, KilledAndRunAgain) {
  put_model();
  rule(
      {{"path", "model.safetensors"},
       {"store", true},
       {"times", 1},
       {"drip", 0.02}});
  const pid_t child = download_apart([] { get(); });
  std::error_code error;
  for (int i = 0; i < 500; ++i) {
    const auto size = fs::file_size(incomplete(weights_), error);
    if (!error && size > 20'000) break;
    std::this_thread::sleep_for(20ms);
  }
  ::kill(child, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(end_of(child)));
  const auto size = fs::file_size(incomplete(weights_));
  EXPECT_GT(size, 20'000u);
  EXPECT_FALSE(fs::exists(repo() / "refs/main"));
  set("HF_HUB_OFFLINE", "1");
  refused(ErrorKind::environment, {"org/name"});
  set("HF_HUB_OFFLINE", "0");
  get();
  expect_model();
  EXPECT_EQ(log().back()["range"], "bytes=" + std::to_string(size) + "-");
}

}  // namespace
}  // namespace mlxterp
