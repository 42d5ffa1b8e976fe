#include "mlxterp/trace/site_catalog.h"

#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "core/fail.h"
#include "core/glob.h"
#include "trace/site_suggestions.h"

namespace mlxterp {

namespace {

// TransformerLens' words for ours; its names lose every "hook_" first.
constexpr Rename lens_renames[] = {
    {"blocks", "layers"},
    {"attn_scores", "scores"},
    {"hook_in", "input"},
    {"hook_out", "output"},
};

// Words of Llama's checkpoints that people use for any model.
constexpr Rename common_renames[] = {
    {"self_attn", "attn"},
    {"embed_tokens", "embed"},
    {"lm_head", "unembed"},
};

// nnterp writes layers_output[3] for what is layers.3.output here, or
// layers[3].output.
std::string from_nnterp(const std::string& name) {
  static constexpr struct {
    std::string_view list, below;
  } lists[] = {
      {"layers", ""},
      {"attentions", ".attn"},
      {"mlps", ".mlp"},
      {"attention_probabilities", ".attn.pattern"}};
  const auto open = name.find('['), close = name.find(']');
  if (close != name.npos && open < close) {
    const std::string_view list(name.data(), open);
    for (const auto& [known, below] : lists) {
      if (!list.starts_with(known)) continue;
      auto end = std::string(list.substr(known.size()));
      if (!end.empty() && end != "_input" && end != "_output") continue;
      if (!end.empty()) end[0] = '.';
      return fmt::format(
          "layers.{}{}{}{}",
          name.substr(open + 1, close - open - 1),
          below,
          end,
          name.substr(close + 1));
    }
  }
  return name == "token_embeddings" ? "embed_tokens" : name;
}

// What a checkpoint keeps in one matrix, or apart for each expert or head, and
// where its values are here.
constexpr struct {
  std::string_view part;
  bool apart;  // a number follows
  std::array<std::string_view, 4> sites;
} elsewhere[] = {
    {"attn.qkv_proj", false, {"attn.q", "attn.k", "attn.v"}},
    {"mlp.gate_up_proj", false, {"mlp.pre", "mlp.pre_linear"}},
    {"mlp.experts",
     true,
     {"mlp.router_logits",
      "mlp.expert_indices",
      "mlp.expert_weights",
      "mlp.experts"}},
    {"attn.q_norm", true, {"attn.q_norm"}},
    {"attn.k_norm", true, {"attn.k_norm"}},
};

// The path whose output is asked for.
std::string module_of(std::string path) {
  constexpr std::string_view output = ".output";
  if (path.ends_with(output)) path.resize(path.size() - output.size());
  return path;
}

std::string without_model(std::string_view name) {
  while (name.starts_with("model."))
    name.remove_prefix(6);
  return std::string(name == "model" ? "" : name);
}

std::string join(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
}

}  // namespace

SiteCatalog::SiteCatalog(nn::Module& root, std::span<const Rename> renames)
    : renames_(renames.begin(), renames.end()) {
  // Numbers first (a shared module once), names after, so that a parent's
  // aliases can point at what lies below it.
  std::vector<std::pair<std::string, const nn::Module*>> places;
  std::unordered_map<const nn::Module*, bool> numbered;
  const std::function<void(const std::string&, nn::Module&)> number_sites =
      [&](const std::string& path, nn::Module& module) {
        places.emplace_back(path, &module);
        if (!numbered[&module]) {
          if (module.first_site_ >= 0)
            fail(
                ErrorKind::usage,
                "[SiteCatalog] module '{}' is part of another model already; "
                "build one for each",
                printable(path));
          numbered[&module] = true;
          module.first_site_ = static_cast<SiteId>(sites_.size());
          module.path_ = path;
          for (const auto& [name, layout] : module.sites_)
            sites_.push_back({"", {}, layout});
        }
        for (const auto& [name, child] : module.children())
          number_sites(join(path, name), *child);
      };
  number_sites("", root);

  for (const auto& [path, module] : places) {
    for (size_t i = 0; i < module->sites_.size(); ++i)
      names_.emplace(
          join(path, module->sites_[i].name),
          module->first_site_ + static_cast<SiteId>(i));
  }
  for (const auto& [path, module] : places) {
    for (const auto& [name, below] : module->aliases_) {
      const auto target = names_.find(join(path, below));
      if (target == names_.end())
        fail(
            ErrorKind::usage,
            "[SiteCatalog] '{}' is an alias of '{}', which is no site",
            join(path, name),
            join(path, below));
      const auto site = target->second;
      auto& canonical = sites_[static_cast<size_t>(site)].name;
      if (canonical.empty()) canonical = join(path, name);
      names_.insert_or_assign(join(path, name), site);
    }
  }
  // std::map: aliases come out sorted, whatever the hash does.
  for (const auto& [name, site] :
       std::map<std::string, SiteId>(names_.begin(), names_.end())) {
    auto& entry = sites_[static_cast<size_t>(site)];
    if (entry.name.empty())
      entry.name = name;
    else if (entry.name != name)
      entry.aliases.push_back(name);
  }
}

std::vector<std::string> SiteCatalog::spellings(std::string_view name) const {
  const auto plain = without_model(name);
  std::vector<std::string> all = {std::string(name), plain};
  const auto add = [&](const std::string& asked, auto& words) {
    const auto own = rename(asked, words);
    // Factors and caps that follow are no part of a checkpoint's module.
    if (own != asked) all.push_back(module_of(own) + ".raw");
    all.push_back(own);
  };
  add(plain, renames_);
  add(from_nnterp(plain), common_renames);
  auto lens = rename(plain, lens_renames);
  for (size_t at; (at = lens.find("hook_")) != std::string::npos;)
    lens.erase(at, 5);
  all.push_back(rename(lens, lens_renames));
  // A module's path means its output.
  for (size_t i = 0, n = all.size(); i < n; ++i)
    all.push_back(join(all[i], "output"));
  return all;
}

std::vector<SiteId> SiteCatalog::lookup(std::string_view name) const {
  std::vector<SiteId> all;
  // Nothing is a slip, not the root: `--save a,` shall not save logits.
  if (name.empty()) return all;
  for (const auto& spelling : spellings(name)) {
    if (spelling.find('*') == spelling.npos) {
      const auto found = names_.find(spelling);
      if (found != names_.end()) all.push_back(found->second);
    } else {
      for (const auto& [known, site] : names_)
        if (glob_matches(spelling, known)) all.push_back(site);
    }
    if (!all.empty()) break;
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

bool SiteCatalog::contains(std::string_view name) const {
  return !lookup(name).empty();
}

std::vector<SiteId> SiteCatalog::match(std::string_view pattern) const {
  std::vector<SiteId> all;
  for (const auto& name : expand_braces(pattern)) {
    const auto sites = lookup(name);
    if (sites.empty())
      fail(
          ErrorKind::unknown_name,
          "[sites] no site is called '{}'{}",
          printable(name),
          where(name));
    all.insert(all.end(), sites.begin(), sites.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

SiteId SiteCatalog::find(std::string_view name) const {
  const auto all = match(name);
  if (all.size() > 1)
    fail(
        ErrorKind::usage,
        "[sites] '{}' means {} sites ({}, {}, ...); name one",
        printable(name),
        all.size(),
        (*this)[all[0]].name,
        (*this)[all[1]].name);
  return all.front();
}

std::string SiteCatalog::where(const std::string& name) const {
  const auto own = rename(without_model(name), renames_) + ".";
  for (const auto& [part, apart, sites] : elsewhere) {
    const auto at = own.find(fmt::format(".{}.", part));
    if (at == own.npos) continue;
    const auto end = at + part.size() + 2;
    if (apart && !(own[end] >= '0' && own[end] <= '9')) continue;
    std::string out;
    for (const auto site : sites) {
      if (site.empty()) break;
      const auto place = fmt::format("{}.{}", own.substr(0, at), site);
      if (lookup(place).empty()) return nearest(name);
      out += fmt::format(
          "{}{}", out.empty() ? "; it is no module here, see " : ", ", place);
    }
    return out;
  }
  return nearest(name);
}

std::string SiteCatalog::nearest(const std::string& name) const {
  std::vector<std::string> names;
  for (const auto& site : sites_) {
    if (site.name.empty()) continue;
    names.push_back(site.name);
    names.insert(names.end(), site.aliases.begin(), site.aliases.end());
  }
  // As it would be called here: spellings of one kind are compared.
  auto asked =
      rename(rename(from_nnterp(without_model(name)), renames_), lens_renames);
  for (size_t at; (at = asked.find("hook_")) != std::string::npos;)
    asked.erase(at, 5);
  return suggest_sites(asked, names);
}

}  // namespace mlxterp
