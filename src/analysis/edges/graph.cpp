#include "analysis/edges/graph.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

class Builder {
 public:
  Builder(const InterpretableModel& model, bool ungrouped)
      : model_(model),
        config_(model.decoder().config()),
        ungrouped_(ungrouped) {}

  EdgeGraph build() {
    write(
        {.kind = EdgeWriter::Kind::input, .site = find("layers.0.resid_pre")},
        {"input"});
    graph_.factors = {1.0f};
    for (int i = 0; i < config_.n_layers; ++i) {
      const auto& layer = *model_.decoder().layers[static_cast<size_t>(i)];
      add(i, layer);
      graph_.factors.push_back(graph_.factors.back() * scalar(i, layer));
    }
    read({.layer = config_.n_layers}, {"logits"}, written());
    return std::move(graph_);
  }

 private:
  SiteId find(const std::string& name) const {
    return model_.sites().find(name);
  }
  SiteId at(int layer, const std::string& site) const {
    return find(fmt::format("layers.{}.{}", layer, site));
  }
  int written() const { return static_cast<int>(graph_.sources.size()); }

  static float scalar(int i, const DecoderLayer& layer) {
    if (!layer.layer_scalar) return 1.0f;
    const auto value =
        mx::astype(*layer.layer_scalar, mx::float32).item<float>();
    if (value == 0)
      fail(
          ErrorKind::usage,
          "[edges] layer {} multiplies the residual stream by 0: nothing "
          "before it reaches what stands behind",
          i);
    return value;
  }

  void write(EdgeWriter writer, const std::vector<std::string>& names) {
    writer.first = written();
    writer.count = static_cast<int>(names.size());
    for (const auto& name : names)
      graph_.sources.push_back({name, writer.layer});
    graph_.writers.push_back(writer);
  }

  void read(
      EdgeReader reader, const std::vector<std::string>& names, int before) {
    reader.first = static_cast<int>(graph_.destinations.size());
    reader.count = static_cast<int>(names.size());
    reader.before = before;
    for (const auto& name : names)
      graph_.destinations.push_back({name, reader.layer, before});
    graph_.readers.push_back(std::move(reader));
  }

  void add(int i, const DecoderLayer& layer) {
    const int before = written();
    mix(i, layer, before);
    if (layer.feeds_forward()) {
      feed_forward(i, layer, config_.parallel ? before : written());
      const auto site = at(i, "mlp_out");
      write({.layer = i, .site = site, .added = site}, {fmt::format("m{}", i)});
    }
    if (!layer.ple) return;
    const auto name = fmt::format("p{}", i);
    read({.layer = i, .sites = {at(i, "ple.input")}}, {name}, written());
    const auto site = at(i, "ple_out");
    write({.layer = i, .site = site, .added = site}, {name});
  }

  void mix(int i, const DecoderLayer& layer, int before) {
    const auto* attention = layer.attention();
    // Latents that queries, keys or values come from are read as a whole.
    if (attention && attention->q_proj &&
        (attention->k_proj || !attention->config().own_kv))
      heads(i, layer, *attention, before);
    else
      whole(i, layer, before);
    const auto added = at(i, "attn_out");
    if (!attention)
      return write(
          {.layer = i, .site = added, .added = added}, {fmt::format("a{}", i)});
    write(
        {.kind = EdgeWriter::Kind::heads,
         .layer = i,
         .site = at(i, "attn.z"),
         .added = added,
         .scale = layer.ln1_post ? at(i, "ln1_post.scale") : -1},
        names_of(i, "h", attention->config().n_heads));
  }

  static std::vector<std::string> names_of(
      int layer, const char* unit, int count, char input = 0) {
    std::vector<std::string> out;
    for (int h = 0; h < count; ++h) {
      out.push_back(fmt::format("a{}.{}{}", layer, unit, h));
      if (input) out.back() += fmt::format("<{}>", input);
    }
    return out;
  }

  // Queries, keys, values and gates, each by a matrix of its own.
  void heads(
      int i,
      const DecoderLayer& layer,
      const nn::Attention& attention,
      int before) {
    const auto& config = attention.config();
    const nn::Norm* norm = layer.ln1 ? &*layer.ln1 : nullptr;
    const auto add = [&](const std::optional<nn::Linear>& linear,
                         const char* name,
                         char input,
                         bool kv) {
      if (!linear) return;
      const bool grouped = kv && !ungrouped_;
      read(
          {.layer = i,
           .sites = {at(i, fmt::format("attn.{}.output", name))},
           .norm = norm,
           .projection = &*linear,
           .input = input},
          names_of(
              i,
              grouped ? "kv" : "h",
              grouped ? config.n_kv_heads : config.n_heads,
              input),
          before);
    };
    if (ungrouped_ && config.kv_layer >= 0)
      fail(
          ErrorKind::usage,
          "[edges] layer {} has keys and values in common with other layers, "
          "whose heads have no copies of them; leave ungrouped out",
          i);
    add(attention.q_proj, "q_proj", 'q', false);
    add(attention.k_proj, "k_proj", 'k', true);
    add(attention.v_proj, "v_proj", 'v', true);
    add(attention.gate_proj, "gate_proj", 'g', false);
  }

  void whole(int i, const DecoderLayer& layer, int before) {
    EdgeReader reader{.layer = i};
    const bool shared = config_.parallel && !layer.ln2 && layer.ln1;
    if (layer.ln1 && !shared) {
      reader.sites = {at(i, "ln1.input")};
    } else {
      reader.sites = {at(i, fmt::format("{}.input", layer.mixer->name()))};
      if (layer.ln1) reader.norm = &*layer.ln1;
    }
    read(std::move(reader), {fmt::format("a{}", i)}, before);
  }

  void feed_forward(int i, const DecoderLayer& layer, int before) {
    EdgeReader reader{.layer = i};
    const auto experts = fmt::format("{}.input", layer.moe_name());
    if (layer.ln2) {
      reader.sites = {at(i, "ln2.input")};
      // Experts with a norm of their own read what ln2 does not.
      if (layer.ln_mlp_post) reader.sites.push_back(at(i, experts));
    } else {
      reader.sites = {at(i, "mlp.input")};
      if (layer.moe_beside()) reader.sites.push_back(at(i, experts));
      if (config_.parallel && layer.ln1) reader.norm = &*layer.ln1;
    }
    read(std::move(reader), {fmt::format("m{}", i)}, before);
  }

  const InterpretableModel& model_;
  const DecoderConfig& config_;
  bool ungrouped_;
  EdgeGraph graph_;
};

}  // namespace

EdgeGraph edge_graph(const InterpretableModel& model, bool ungrouped) {
  return Builder(model, ungrouped).build();
}

}  // namespace mlxterp
