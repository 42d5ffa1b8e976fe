#include "mlxterp/trace/site_catalog.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <map>

#include "core/fail.h"
#include "core/glob.h"
#include "trace/lens_names.h"
#include "trace/site_suggestions.h"

namespace mlxterp {

namespace {

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
  std::array<std::string_view, 5> sites;
} elsewhere[] = {
    {"attn.qkv_proj", false, {"attn.q", "attn.k", "attn.v"}},
    {"mlp.gate_up_proj", false, {"mlp.pre", "mlp.pre_linear"}},
    {"attn.kv_b_proj", false, {"attn.k_b_proj", "attn.v_b_proj"}},
    {"delta.qkv_proj", false, {"delta.q_proj", "delta.k_proj", "delta.v_proj"}},
    {"delta.qkvz_proj",
     false,
     {"delta.q_proj", "delta.k_proj", "delta.v_proj", "delta.z_proj"}},
    {"ssm.in_proj",
     false,
     {"ssm.z_proj", "ssm.x_proj", "ssm.B_proj", "ssm.C_proj", "ssm.dt_proj"}},
    {"delta.ba_proj", false, {"delta.b_proj", "delta.a_proj"}},
    {"mlp.experts",
     true,
     {"mlp.router_logits",
      "mlp.router_scores",
      "mlp.expert_indices",
      "mlp.expert_weights",
      "mlp.experts"}},
    {"moe.experts.gate_up_proj", false, {"moe.experts"}},
    {"moe.experts.down_proj", false, {"moe.experts"}},
    {"router",  // with its norm and what it makes of logits (Gemma 4)
     false,
     {"moe.router_norm",
      "moe.router_logits",
      "moe.router_scores",
      "moe.expert_indices",
      "moe.expert_weights"}},
    {"mlp.moe_statics", false, {"mlp.router_scores", "mlp.router_choice"}},
    {"attn.q_norm", true, {"attn.q_norm"}},
    {"attn.k_norm", true, {"attn.k_norm"}},
};

// The path whose output is asked for.
std::string module_of(std::string path) {
  constexpr std::string_view output = ".output";
  if (path.ends_with(output)) path.resize(path.size() - output.size());
  return path;
}

// "model.language_model.layers.0" of a multimodal model's text part, too.
std::string without_model(std::string_view name) {
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view prefix : {"model.", "language_model."}) {
      if (!name.starts_with(prefix)) continue;
      name.remove_prefix(prefix.size());
      found = true;
    }
  }
  return std::string(name == "model" || name == "language_model" ? "" : name);
}

std::string join(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
}

constexpr std::string_view layers_prefix = "layers.";

// The number in "layers.3.mlp"; -1: there is none.
int layer_of(std::string_view name) {
  if (!name.starts_with(layers_prefix)) return -1;
  const auto* begin = name.data() + layers_prefix.size();
  const auto* end = name.data() + name.size();
  int layer = -1;
  const auto [rest, error] = std::from_chars(begin, end, layer);
  return error == std::errc() && rest != end && *rest == '.' ? layer : -1;
}

}  // namespace

SiteCatalog::SiteCatalog(nn::Module& root, std::span<const Rename> renames)
    : renames_(renames.begin(), renames.end()) {
  // Numbers first (a shared module once), names after, so that a parent's
  // aliases can point at what lies below it. Modules learn theirs at the end,
  // when nothing can fail any more.
  struct Place {
    std::string path;
    nn::Module* module;
    SiteId first;
  };
  std::vector<Place> places;
  std::unordered_map<const nn::Module*, SiteId> numbered;
  const std::function<void(const std::string&, nn::Module&, Stage)> number =
      [&](const std::string& path, nn::Module& module, Stage above) {
        const auto stage =
            module.stage_ == Stage::outside ? above : module.stage_;
        const auto [found, fresh] =
            numbered.emplace(&module, static_cast<SiteId>(sites_.size()));
        places.push_back({path, &module, found->second});
        if (fresh)
          for (const auto& [name, traits] : module.sites_) {
            sites_.push_back({traits, "", {}, -1});
            if (traits.stage == Stage::outside) sites_.back().stage = stage;
          }
        for (const auto& [name, child] : module.children())
          number(join(path, name), *child, stage);
      };
  number("", root, Stage::outside);
  for (const auto& [path, module, first] : places)
    if (module->first_site_ >= 0 && module->first_site_ != first)
      fail(
          ErrorKind::usage,
          "[SiteCatalog] module '{}' is part of another model already; "
          "build one for each",
          printable(path));

  for (const auto& [path, module, first] : places)
    for (size_t i = 0; i < module->sites_.size(); ++i)
      names_.emplace(
          join(path, module->sites_[i].name), first + static_cast<SiteId>(i));
  for (const auto& [path, module, first] : places) {
    for (const auto& [name, below] : module->aliases_) {
      const auto target = names_.find(join(path, below));
      if (target == names_.end())
        fail(
            ErrorKind::usage,
            "[SiteCatalog] '{}' is an alias of '{}', which is not a site",
            join(path, name),
            join(path, below));
      const auto site = target->second;
      auto& canonical = sites_[static_cast<size_t>(site)].name;
      if (canonical.empty()) canonical = join(path, name);
      names_.insert_or_assign(join(path, name), site);
    }
  }
  name_sites();
  std::ranges::for_each(places, [](const Place& place) {
    auto& module = *place.module;
    if (module.first_site_ >= 0) return;  // as before
    module.first_site_ = place.first;
    module.path_ = place.path;
  });
}

void SiteCatalog::name_sites() {
  for (auto& site : sites_)
    site.aliases.clear();
  // std::map: aliases come out sorted, whatever the hash does.
  for (const auto& [name, site] :
       std::map<std::string, SiteId>(names_.begin(), names_.end())) {
    auto& entry = sites_[static_cast<size_t>(site)];
    if (entry.name.empty())
      entry.name = name;
    else if (entry.name != name)
      entry.aliases.push_back(name);
  }
  for (auto& site : sites_)
    site.layer = layer_of(site.name);
}

std::string SiteCatalog::lens_name(SiteId site) const {
  auto name = to_lens((*this)[site].name);
  const bool means_it = lookup(name) == std::vector{site};
  return means_it ? name : "";
}

SiteCatalog SiteCatalog::extended(
    SiteId site,
    const std::string& name,
    const SiteCatalog& module,
    bool error) const {
  const bool word = std::ranges::all_of(name, [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z');
  });
  if (name.empty() || !word)
    fail(
        ErrorKind::usage,
        "[attach] '{}' is no name for sites; take letters, digits and _",
        printable(name));
  auto out = *this;
  const auto& base = (*this)[site];
  auto bases = base.aliases;
  bases.push_back(base.name);
  // A module's path means its output.
  constexpr std::string_view output = ".output";
  for (size_t i = 0, n = bases.size(); i < n; ++i)
    if (bases[i].ends_with(output))
      bases.push_back(bases[i].substr(0, bases[i].size() - output.size()));
  for (const auto& taken : bases)
    if (contains(join(taken, name)))
      fail(
          ErrorKind::usage,
          "[attach] a site is already called '{}'; give the module another "
          "name",
          join(taken, name));
  const auto first = static_cast<SiteId>(sites_.size());
  for (const auto& own : module.sites_) {
    auto& added = out.sites_.emplace_back(own);
    added.name = join(join(base.name, name), own.name);
    if (added.stage == Stage::outside) added.stage = base.stage;
  }
  std::vector<std::pair<std::string, SiteId>> names(
      module.names_.begin(), module.names_.end());
  if (error) {
    auto& added = out.sites_.emplace_back();
    static_cast<SiteTraits&>(added) = static_cast<const SiteTraits&>(base);
    added.name = join(join(base.name, name), "error");
    names.emplace_back("error", static_cast<SiteId>(module.sites_.size()));
  }
  for (const auto& spelled : bases)
    for (const auto& [own, id] : names)
      out.names_.emplace(join(join(spelled, name), own), first + id);
  out.name_sites();
  return out;
}

std::string_view SiteCatalog::Site::relative() const {
  if (layer < 0) return name;
  const std::string_view all(name);
  return all.substr(all.find('.', layers_prefix.size()) + 1);
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
  all.push_back(from_lens(plain));
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
          "{}{}",
          out.empty() ? "; it is not a module here, see " : ", ",
          place);
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
  const auto asked =
      from_lens(rename(from_nnterp(without_model(name)), renames_));
  return suggest_sites(asked, names);
}

}  // namespace mlxterp
