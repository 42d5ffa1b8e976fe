#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <optional>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "io/digest.h"
#include "io/gzip.h"
#include "io/input_file.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/report/dashboard.h"
#include "report/json.h"

namespace fs = std::filesystem;

namespace mlxterp::report {

namespace {

// Of the user that Neuronpedia's database is set up with.
constexpr std::string_view first_user = "clkht01d40000jv08hvalcvly";
constexpr size_t features_per_batch = 128;

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// The last part of a path or a hub id, as Neuronpedia writes ids.
std::string plain(std::string_view name) {
  while (name.ends_with('/'))
    name.remove_suffix(1);
  name = name.substr(name.find_last_of('/') + 1);
  std::string out;
  for (const char c : name)
    out += is_plain(c) ? (c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c)
                       : '-';
  return out;
}

void check_name(std::string_view what, const std::string& name) {
  constexpr size_t longest = 128;
  if (!name.empty() && name.size() <= longest &&
      std::ranges::all_of(name, is_plain))
    return;
  fail(
      ErrorKind::usage,
      "[neuronpedia] '{}' is no {}; ids there have 1 to {} letters, digits, "
      "dashes and underscores",
      printable(name),
      what,
      longest);
}

// "res", "mlp", "att", "tc": as source sets there are called.
std::string_view kind_of(const FeatureDashboards& result) {
  if (result.sites.reads != result.sites.writes) return "transcoder";
  const std::string_view site = result.sites.writes;
  if (site.find("mlp") != site.npos) return "mlp";
  if (site.find("attn") != site.npos) return "att";
  return "res";
}

std::string now() {
  const auto time =
      std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  const auto n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return std::string(text, n) + ".000Z";
}

// TransformerLens' name of a site, where steering acts there.
Json hook_name(const std::string& site, int layer) {
  const auto part = site.substr(site.find_last_of('.') + 1);
  if (layer < 0) return {};
  return fmt::format("blocks.{}.hook_{}", layer, part);
}

// A group of examples with the interval they stand for.
struct Group {
  double least, most, share;
  const std::vector<FeatureExample>& examples;
};

std::vector<Group> groups_of(const FeatureDashboard& it, int64_t positions) {
  // SAEDashboard marks the top examples by -1.
  std::vector<Group> out = {{-1, std::abs(it.largest), -1, it.top}};
  for (const auto& interval : it.intervals)
    out.push_back(
        {interval.from,
         interval.to,
         static_cast<double>(interval.positions) /
             static_cast<double>(positions),
         interval.examples});
  return out;
}

Json middles(const FeatureHistogram& it) {
  auto out = Json::array();
  for (size_t i = 0; i < it.counts.size(); ++i)
    out.push_back(number(it.from + (static_cast<double>(i) + 0.5) * it.width));
  return out;
}

class Writer {
 public:
  Writer(
      const InterpretableModel& model,
      const DashboardReport& report,
      const fs::path& folder,
      NeuronpediaNames names,
      bool overwrite)
      : model_(model),
        report_(report),
        names_(std::move(names)),
        overwrite_(overwrite),
        created_(now()) {
    const auto& result = report.result;
    layer_ = model.sites()[model.sites().find(result.sites.writes)].layer;
    if (names_.model.empty()) names_.model = plain(report.model);
    if (names_.source_set.empty())
      names_.source_set =
          fmt::format("mlxterp-{}-{}", kind_of(result), result.d_sae);
    if (names_.release.empty()) names_.release = names_.source_set;
    if (names_.creator.empty()) names_.creator = "mlxterp";
    if (names_.creator_id.empty()) names_.creator_id = first_user;
    check_name("model id", names_.model);
    check_name("source set", names_.source_set);
    check_name("release", names_.release);
    check_name("creator id", names_.creator_id);
    source_ = fmt::format("{}-{}", std::max(layer_, 0), names_.source_set);
    folder_ = folder / names_.model / source_;
    std::error_code error;
    if (!overwrite_ && fs::exists(folder_, error))
      fail(
          ErrorKind::usage,
          "[neuronpedia] {} exists; name another folder, or say that it may be "
          "replaced",
          quoted(folder_));
  }

  const fs::path& folder() const { return folder_; }

  fs::path write() {
    for (const auto* part : {"features", "activations", "saedashboard"})
      make(folder_ / part);
    const auto& all = report_.result.features;
    for (size_t from = 0, n = 0; from < all.size();
         from += features_per_batch, ++n)
      write_batch(n, from, std::min(all.size(), from + features_per_batch));
    write_line("release.jsonl", release());
    write_line("model.jsonl", model());
    write_line("sourceset.jsonl", source_set());
    write_line("source.jsonl", source());
    return folder_;
  }

 private:
  static void make(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error)
      fail(
          ErrorKind::environment,
          "[neuronpedia] cannot make {}: {}",
          quoted(folder),
          error.message());
  }

  void put(const fs::path& file, std::string_view bytes) const {
    write_file_atomically(folder_ / file, bytes, overwrite_);
  }

  void write_line(const char* file, const Json& json) const {
    put(file, text_of(json, -1) + "\n");
  }

  void write_batch(size_t n, size_t from, size_t to) const {
    std::string features, activations;
    auto dashboards = Json::array();
    for (size_t i = from; i < to; ++i) {
      const auto& it = report_.result.features[i];
      auto rows = Json::array();
      size_t number_of_example = 0;
      float most = 0;
      for (const auto& group : groups_of(it, report_.result.tokens))
        for (const auto& example : group.examples) {
          const auto tokens = labels(model_, example.ids);
          activations +=
              text_of(
                  activation(it, group, example, tokens, number_of_example++),
                  -1) +
              "\n";
          rows.push_back(
              {{"bin_min", number(group.least)},
               {"bin_max", number(group.most)},
               {"bin_contains", number(group.share)},
               {"tokens", tokens},
               {"values", numbers(example.acts)},
               {"qualifying_token_index", example.at}});
          most = std::max(most, largest(example));
        }
      auto shown = statistics(it);
      features += text_of(feature(it, most, shown), -1) + "\n";
      shown["feature_index"] = it.feature;
      shown["n_prompts_total"] = report_.result.windows;
      shown["n_tokens_in_prompt"] = report_.result.length;
      shown["dataset"] = report_.text;
      shown["activations"] = std::move(rows);
      shown["vector"] = Json::array();
      dashboards.push_back(std::move(shown));
    }
    const auto name = fmt::format("batch-{}", n);
    put(fs::path("features") / (name + ".jsonl.gz"), gzip(features));
    put(fs::path("activations") / (name + ".jsonl.gz"), gzip(activations));
    Json batch;
    batch["model_id"] = names_.model;
    batch["layer"] = std::max(layer_, 0);
    batch["sae_set"] = names_.source_set;
    batch["sae_id_suffix"] = nullptr;
    batch["features"] = std::move(dashboards);
    put(fs::path("saedashboard") / (name + ".json"), text_of(batch, -1));
  }

  static float largest(const FeatureExample& it) {
    return *std::ranges::max_element(it.acts);
  }

  // What SAEDashboard's files and Neuronpedia's call the same.
  Json statistics(const FeatureDashboard& it) const {
    Json out;
    for (const auto* none :
         {"neuron_alignment_indices",
          "neuron_alignment_values",
          "neuron_alignment_l1",
          "correlated_neurons_indices",
          "correlated_neurons_pearson",
          "correlated_neurons_l1",
          "correlated_features_indices",
          "correlated_features_pearson",
          "correlated_features_l1",
          "neg_str",
          "neg_values",
          "pos_str",
          "pos_values",
          "decoder_weights_dist"})
      out[none] = Json::array();
    for (const auto& other : it.correlated) {
      out["correlated_features_indices"].push_back(other.feature);
      out["correlated_features_pearson"].push_back(number(other.pearson));
      // SAEDashboard's converter puts cosines there.
      out["correlated_features_l1"].push_back(number(other.cosine));
    }
    for (const auto& [id, logit] : it.suppressed) {
      out["neg_str"].push_back(label(model_, id));
      out["neg_values"].push_back(number(logit));
    }
    for (const auto& [id, logit] : it.promoted) {
      out["pos_str"].push_back(label(model_, id));
      out["pos_values"].push_back(number(logit));
    }
    out["frac_nonzero"] = number(
        static_cast<double>(it.active) /
        static_cast<double>(report_.result.tokens));
    out["freq_hist_data_bar_heights"] = it.activations.counts;
    out["freq_hist_data_bar_values"] = middles(it.activations);
    out["logits_hist_data_bar_heights"] = it.logits.counts;
    out["logits_hist_data_bar_values"] = middles(it.logits);
    return out;
  }

  Json feature(
      const FeatureDashboard& it, float most, const Json& statistics) const {
    Json out;
    out["modelId"] = names_.model;
    out["layer"] = source_;
    out["index"] = std::to_string(it.feature);
    out["sourceSetName"] = names_.source_set;
    out["creatorId"] = names_.creator_id;
    out["createdAt"] = created_;
    out["maxActApprox"] = number(most);
    out["hasVector"] = false;
    out["vector"] = Json::array();
    out["vectorLabel"] = nullptr;
    out["vectorDefaultSteerStrength"] = number(most);
    out["hookName"] = hook_name(report_.result.sites.writes, layer_);
    out["topkCosSimIndices"] = Json::array();
    out["topkCosSimValues"] = Json::array();
    for (const auto& [feature, cosine] : it.similar) {
      out["topkCosSimIndices"].push_back(feature);
      out["topkCosSimValues"].push_back(number(cosine));
    }
    out.update(statistics);
    return out;
  }

  // The same for the same example, so that importing twice adds nothing.
  std::string id_of(
      const FeatureDashboard& it,
      const FeatureExample& example,
      size_t number_of_example) const {
    Digest digest(Digest::Kind::sha256);
    digest.update(fmt::format(
        "{}/{}/{}/{}/{}/{}/{}/{}",
        names_.model,
        source_,
        report_.text,
        it.feature,
        number_of_example,
        example.window,
        example.position,
        example.value));
    return "c" + digest.hex().substr(0, 24);
  }

  Json activation(
      const FeatureDashboard& it,
      const Group& group,
      const FeatureExample& example,
      const std::vector<std::string>& tokens,
      size_t number_of_example) const {
    const auto most = std::ranges::max_element(example.acts);
    Json out;
    out["id"] = id_of(it, example, number_of_example);
    out["tokens"] = tokens;
    out["index"] = std::to_string(it.feature);
    out["layer"] = source_;
    out["modelId"] = names_.model;
    out["maxValue"] = number(*most);
    out["maxValueTokenIndex"] = most - example.acts.begin();
    out["minValue"] = number(*std::ranges::min_element(example.acts));
    out["values"] = numbers(example.acts);
    out["creatorId"] = names_.creator_id;
    out["dataSource"] = nullptr;
    out["dataIndex"] = nullptr;
    out["dfaValues"] = Json::array();
    out["dfaTargetIndex"] = nullptr;
    out["dfaMaxValue"] = nullptr;
    out["createdAt"] = created_;
    out["lossValues"] = Json::array();
    out["logitContributions"] = nullptr;
    out["binMin"] = number(group.least);
    out["binMax"] = number(group.most);
    out["binContains"] = number(group.share);
    out["qualifyingTokenIndex"] = example.at;
    return out;
  }

  Json release() const {
    Json out;
    out["name"] = names_.release;
    out["description"] = names_.release;
    out["descriptionShort"] = names_.release;
    out["creatorName"] = names_.creator;
    out["creatorNameShort"] = names_.creator;
    out["creatorId"] = names_.creator_id;
    out["visibility"] = "PUBLIC";
    out["isNewUi"] = false;
    out["featured"] = false;
    out["urls"] = Json::array();
    out["createdAt"] = created_;
    return out;
  }

  Json model() const {
    Json out;
    out["id"] = names_.model;
    out["instruct"] = false;
    out["creatorId"] = names_.creator_id;
    out["displayNameShort"] = names_.model;
    out["displayName"] = names_.model;
    out["visibility"] = "PUBLIC";
    out["inferenceEnabled"] = false;
    out["dimension"] = residual_width(model_);
    out["layers"] = layer_count(model_);
    out["neuronsPerLayer"] = 0;
    out["owner"] = "";
    out["createdAt"] = created_;
    out["updatedAt"] = created_;
    return out;
  }

  Json source_set() const {
    Json out;
    out["modelId"] = names_.model;
    out["name"] = names_.source_set;
    out["creatorId"] = names_.creator_id;
    out["hasDashboards"] = true;
    out["visibility"] = "PUBLIC";
    out["description"] = fmt::format(
        "{} features of {}", report_.result.d_sae, report_.result.sites.writes);
    out["type"] = "";
    out["creatorName"] = names_.creator;
    out["urls"] = Json::array();
    out["releaseName"] = names_.release;
    out["createdAt"] = created_;
    return out;
  }

  Json source() const {
    Json out;
    out["id"] = source_;
    out["modelId"] = names_.model;
    out["setName"] = names_.source_set;
    out["creatorId"] = names_.creator_id;
    out["hasDashboards"] = true;
    out["inferenceEnabled"] = false;
    out["visibility"] = "PUBLIC";
    out["num_prompts"] = report_.result.windows;
    out["num_tokens_in_prompt"] = report_.result.length;
    out["dataset"] = report_.text;
    out["createdAt"] = created_;
    return out;
  }

  const InterpretableModel& model_;
  const DashboardReport& report_;
  NeuronpediaNames names_;
  bool overwrite_;
  int layer_ = -1;
  std::string source_, created_;
  fs::path folder_;
};

}  // namespace

fs::path write_neuronpedia(
    const InterpretableModel& model,
    const DashboardReport& report,
    const fs::path& folder,
    NeuronpediaNames names,
    bool overwrite) {
  return Writer(model, report, folder, std::move(names), overwrite).write();
}

fs::path neuronpedia_folder(
    const InterpretableModel& model,
    const DashboardReport& report,
    const fs::path& folder,
    NeuronpediaNames names,
    bool overwrite) {
  return Writer(model, report, folder, std::move(names), overwrite).folder();
}

}  // namespace mlxterp::report
