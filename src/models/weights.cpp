#include "mlxterp/models/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::array<std::string_view, 18> names = {
    "W_E",
    "W_pos",
    "W_Q",
    "W_K",
    "W_V",
    "W_O",
    "b_Q",
    "b_K",
    "b_V",
    "b_O",
    "W_in",
    "W_gate",
    "W_out",
    "b_in",
    "b_gate",
    "b_out",
    "W_U",
    "b_U",
};

// The name without W_ or b_.
std::string_view stem(std::string_view name) {
  return name.substr(2);
}

bool is_bias(std::string_view name) {
  return name.starts_with('b');
}

bool of_heads(std::string_view name) {
  return stem(name) == "Q" || stem(name) == "K" || stem(name) == "V" ||
         name == "W_O";
}

bool of_layers(std::string_view name) {
  return stem(name) != "E" && stem(name) != "U" && stem(name) != "pos";
}

bool of_tokens(std::string_view name) {
  return stem(name) == "E" || stem(name) == "U";
}

[[noreturn]] void absent(
    const Decoder& decoder, std::string_view name, std::string_view why) {
  fail(
      ErrorKind::unknown_name,
      "[weight] this {} has no {}: {}",
      decoder.config().model_type,
      name,
      why);
}

void check(int index, int count, std::string_view name, std::string_view what) {
  if (index < 0 || index >= count)
    fail(
        ErrorKind::out_of_range,
        "[weight] {} {} of {} is out of range: there are {}, from 0",
        what,
        index,
        name,
        count);
}

void check(
    const DecoderConfig& config,
    std::string_view name,
    const WeightPart& part) {
  if (std::ranges::find(names, name) == names.end())
    fail(
        ErrorKind::unknown_name,
        "[weight] no weight is called '{}'; there are {}",
        printable(name),
        fmt::join(names, ", "));
  const auto only = [&](bool given, bool has, std::string_view what) {
    if (given && !has)
      fail(
          ErrorKind::usage,
          "[weight] {} has no {}; leave that out",
          name,
          what);
  };
  only(part.layer.has_value(), of_layers(name), "layers");
  only(part.head.has_value(), of_heads(name), "heads");
  only(part.tokens.has_value(), of_tokens(name), "tokens");
  if (part.layer) check(*part.layer, config.n_layers, name, "layer");
  if (part.head) check(*part.head, config.n_heads, name, "head");
  if (part.tokens)
    for (const int token : *part.tokens)
      check(token, config.vocab, name, "token");
}

mx::array times(const mx::array& x, float factor) {
  return factor == 1.0f ? x : mx::multiply(x, mx::array(factor, x.dtype()));
}

// [d_out, d_in] that read through a norm, as reading what it gives before its
// gain.
mx::array folded(
    const mx::array& weight, const nn::Norm& norm, const nn::NormConfig& by) {
  auto gain = mx::astype(norm.weight, weight.dtype());
  if (by.plus_one) gain = mx::add(gain, mx::array(1.0f, gain.dtype()));
  auto scaled = mx::multiply(weight, gain);
  if (by.kind != nn::NormConfig::Kind::layer) return scaled;
  return mx::subtract(scaled, mx::mean(scaled, -1, true));
}

// A parameter pair y = x weight^T + bias, of one matrix or of several experts',
// and the norm it reads through.
struct Projection {
  mx::array weight;
  std::optional<mx::array> bias;
  const nn::Norm* norm = nullptr;

  mx::array rows(const DecoderConfig& config, bool fold) const {
    return fold && norm ? folded(weight, *norm, config.norm) : weight;
  }
  mx::array shift(bool fold) const {
    auto shape = weight.shape();
    shape.pop_back();
    auto by = bias ? *bias : mx::zeros(shape, weight.dtype());
    if (fold && norm && norm->bias)
      by = mx::add(by, mx::matmul(weight, *norm->bias));
    return by;
  }
};

const nn::Norm* pointer(const std::optional<nn::Norm>& norm) {
  return norm ? &*norm : nullptr;
}

const nn::Attention& attention_of(
    const Decoder& decoder, std::string_view name, int number) {
  const auto& layers = decoder.layers;
  if (const auto* attn = layers[static_cast<size_t>(number)]->attention())
    return *attn;
  std::vector<int> have;
  for (int i = 0; i < decoder.config().n_layers; ++i)
    if (layers[static_cast<size_t>(i)]->attention()) have.push_back(i);
  absent(
      decoder,
      name,
      fmt::format(
          "layer {} has '{}' in place of attention; {}",
          number,
          layers[static_cast<size_t>(number)]->mixer->name(),
          have.empty() ? std::string("no layer has any")
                       : fmt::format(
                             "ask for one layer that has it: {}",
                             fmt::join(have, ", "))));
}

Projection projection(
    const Decoder& decoder, std::string_view name, int number) {
  const auto& layer = *decoder.layers[static_cast<size_t>(number)];
  const auto of = [](const nn::Linear& linear, const nn::Norm* norm) {
    return Projection{linear.weight.numbers(), linear.bias, norm};
  };
  const auto what = stem(name);
  const auto attn = [&]() -> const nn::Attention& {
    return attention_of(decoder, name, number);
  };
  if (what == "Q" || what == "K" || what == "V") {
    const auto& own = attn();
    const auto latent = [&](const char* first, const char* second) {
      absent(
          decoder,
          name,
          fmt::format(
              "two matrices make it, with a norm between; they are the "
              "parameters layers.{0}.attn.{1}.weight and "
              "layers.{0}.attn.{2}.weight",
              number,
              first,
              second));
    };
    if (what == "Q" && !own.q_proj) latent("q_a_proj", "q_b_proj");
    if (what == "Q") return of(*own.q_proj, pointer(layer.ln1));
    if (own.config().own_kv && !own.k_proj)
      latent("kv_a_proj", what == "K" ? "k_b_proj" : "v_b_proj");
    if (!own.config().own_kv)
      absent(
          decoder,
          name,
          fmt::format(
              "layer {} reads the keys and values of layer {}; ask for that "
              "one",
              number,
              own.config().kv_layer));
    const bool values = what == "V" && own.v_proj;
    return of(values ? *own.v_proj : *own.k_proj, pointer(layer.ln1));
  }
  if (what == "O") return of(attn().o_proj, nullptr);
  if (!layer.feeds_forward()) {
    std::vector<int> have;
    for (int i = 0; i < decoder.config().n_layers; ++i)
      if (decoder.layers[static_cast<size_t>(i)]->feeds_forward())
        have.push_back(i);
    absent(
        decoder,
        name,
        fmt::format(
            "layer {} has no MLP; {}",
            number,
            have.empty() ? std::string("no layer has any")
                         : fmt::format(
                               "ask for one layer that has it: {}",
                               fmt::join(have, ", "))));
  }
  const auto* norm =
      pointer(decoder.config().shared_norm ? layer.ln1 : layer.ln2);
  if (layer.moe && !layer.mlp) {
    const auto& experts = layer.moe->experts;
    const auto& from = what == "out"  ? experts.down_proj
                       : what == "in" ? experts.up_proj
                                      : experts.gate_proj;
    return {from.weight.numbers(), from.bias, what == "out" ? nullptr : norm};
  }
  if (what == "in") return of(layer.mlp->up_proj, norm);
  if (what == "out") return of(layer.mlp->down_proj, nullptr);
  if (!layer.mlp->gate_proj) absent(decoder, name, "its MLP is not gated");
  return of(*layer.mlp->gate_proj, norm);
}

mx::array picked(const mx::array& x, int axis, int i) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = i;
  last[static_cast<size_t>(axis)] = i + 1;
  return mx::squeeze(mx::slice(x, first, last), axis);
}

mx::array of_layer(
    const Decoder& decoder,
    std::string_view name,
    int layer,
    const WeightPart& part) {
  const auto& config = decoder.config();
  const auto from = projection(decoder, name, layer);
  const auto y =
      is_bias(name) ? from.shift(part.folded) : from.rows(config, part.folded);
  if (!of_heads(name)) return is_bias(name) ? y : mx::swapaxes(y, -1, -2);
  const bool kv = stem(name) == "K" || stem(name) == "V";
  const auto& attn = attention_of(decoder, name, layer).config();
  const int n = kv ? attn.n_kv_heads : attn.n_heads;
  const int group = config.n_heads / n;
  if (name == "W_O") {
    const auto all = heads_of_output(y, n);
    return part.head ? picked(all, 0, *part.head) : all;
  }
  if (part.head)
    return picked(heads_of_projection(y, n), 0, *part.head / group);
  return heads_of_projection(y, n, group);
}

mx::array of_model(
    const Decoder& decoder, std::string_view name, const WeightPart& part) {
  const auto& config = decoder.config();
  if (name == "W_pos") {
    if (!decoder.pos_embed)
      absent(decoder, name, "it has no learned position embeddings");
    const auto all = decoder.pos_embed->weight.numbers();
    const int first = config.position_offset;
    return mx::slice(all, {first, 0}, all.shape());
  }
  const auto chosen = [&](const mx::array& x) {
    if (!part.tokens) return x;
    const auto n = static_cast<int>(part.tokens->size());
    const mx::array ids(part.tokens->data(), {n}, mx::int32);
    return mx::take(x, ids, 0);
  };
  if (name == "W_E") {
    const auto rows = times(
        chosen(decoder.embed.weight.numbers()),
        config.embed_scale * config.embed_factor);
    Pass pass;
    return decoder.embed.ln ? (*decoder.embed.ln)(rows, pass) : rows;
  }
  auto bias = decoder.unembed.bias;
  if (bias) bias = chosen(*bias);
  const Projection from{
      chosen(decoder.unembed.weight().numbers()), bias, &decoder.ln_final};
  const auto y = is_bias(name) ? from.shift(part.folded)
                               : mx::transpose(from.rows(config, part.folded));
  return times(y, config.logit_scale);
}

}  // namespace

std::span<const std::string_view> weight_names() {
  return names;
}

mx::array heads_of_projection(
    const mx::array& parameter, int n_heads, int repeats) {
  const bool matrix = parameter.ndim() == 2;
  const auto y =
      matrix
          ? mx::swapaxes(
                mx::reshape(parameter, {n_heads, -1, parameter.shape(1)}), 1, 2)
          : mx::reshape(parameter, {n_heads, -1});
  return repeats == 1 ? y : mx::repeat(y, repeats, 0);
}

mx::array heads_of_output(const mx::array& parameter, int n_heads) {
  return mx::transpose(
      mx::reshape(parameter, {parameter.shape(0), n_heads, -1}), {1, 2, 0});
}

mx::array weight(
    const Decoder& decoder, std::string_view name, const WeightPart& part) {
  check(decoder.config(), name, part);
  if (!of_layers(name)) return of_model(decoder, name, part);
  if (part.layer) return of_layer(decoder, name, *part.layer, part);
  std::vector<mx::array> each;
  for (int i = 0; i < decoder.config().n_layers; ++i) {
    each.push_back(of_layer(decoder, name, i, part));
    if (each[0].shape() != each.back().shape())
      fail(
          ErrorKind::usage,
          "[weight] {} of layers 0 and {} differ in shape; ask for one layer "
          "at a time",
          name,
          i);
  }
  return mx::stack(each);
}

}  // namespace mlxterp
