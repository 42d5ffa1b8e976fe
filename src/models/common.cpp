#include "models/common.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

// Radians to positions of each pair, theta^(2i / dims).
std::vector<double> plain_periods(int dims, double theta) {
  std::vector<double> wavelengths;
  for (int i = 0; i < dims / 2; ++i)
    wavelengths.push_back(std::pow(theta, 2.0 * i / dims));
  return wavelengths;
}

// A number that the fields of a rotation lead to, as float32. Extreme ones,
// each in its range, may still multiply to one that is not.
float narrow(double wide, const char* what) {
  const auto value = static_cast<float>(wide);
  if (!(value >= std::numeric_limits<float>::min()) || !std::isfinite(value))
    fail(
        ErrorKind::bad_data,
        "[config.json] the RoPE fields make {} {}, which is not a positive "
        "float32; rope_theta and the scaling parameters do not fit together",
        what,
        wide);
  return value;
}

std::vector<float> narrow(const std::vector<double>& wide) {
  // Shorter ones turn by more than a float32 at the last of 2^31 positions.
  constexpr double shortest = 1e-28;
  std::vector<float> values;
  for (const double value : wide)
    values.push_back(narrow(value < shortest ? 0 : value, "a wavelength of"));
  return values;
}

// Llama 3.1: slow turns are stretched, fast ones kept, a ramp between them.
std::vector<float> llama3_periods(
    const ConfigReader& scaling, int dims, float theta, double context) {
  const double factor = scaling.positive("factor");
  const double low = scaling.positive("low_freq_factor");
  const double high = scaling.positive("high_freq_factor");
  auto wavelengths = plain_periods(dims, theta);
  for (auto& period : wavelengths) {
    const double wavelength = 2 * std::numbers::pi * period;
    if (wavelength > context / low) {
      period *= factor;
    } else if (wavelength >= context / high) {
      const double smooth = (context / wavelength - low) / (high - low);
      period = 1 / ((1 - smooth) / (factor * period) + smooth / period);
    }
  }
  return narrow(wavelengths);
}

// Where transformers takes null and 0 for absent.
bool given(const ConfigReader& scaling, const char* field) {
  return scaling.has(field) && scaling.json()[field] != 0;
}

// YaRN (Peng et al., 2023).
void set_yarn(
    nn::Rope& rope, const ConfigReader& scaling, double factor, int context) {
  const auto mscale = [](double by, double times) {
    return by <= 1 ? 1.0 : 0.1 * times * std::log(by) + 1.0;
  };
  double attention = 0;
  if (scaling.has("attention_factor"))
    attention = scaling.positive("attention_factor");
  else if (given(scaling, "mscale") && given(scaling, "mscale_all_dim"))
    attention = mscale(factor, scaling.positive("mscale")) /
                mscale(factor, scaling.positive("mscale_all_dim"));
  else
    attention = mscale(factor, 1);
  rope.attention_factor = narrow(attention, "an attention factor of");

  // The dimension that turns so many times within the context.
  const auto dimension = [&](double turns) {
    return rope.dims * std::log(context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(static_cast<double>(rope.theta)));
  };
  const auto turns = [&](const char* field, float usual) {
    return given(scaling, field) ? scaling.positive(field) : usual;
  };
  double first = dimension(turns("beta_fast", 32.0f));
  double last = dimension(turns("beta_slow", 1.0f));
  if (scaling.boolean("truncate", true)) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, rope.dims - 1.0);
  if (first == last) last += 0.001;
  auto wavelengths = plain_periods(rope.dims, rope.theta);
  for (size_t i = 0; i < wavelengths.size(); ++i) {
    const double stretched =
        std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    wavelengths[i] = 1 / (stretched / (factor * wavelengths[i]) +
                          (1 - stretched) / wavelengths[i]);
  }
  rope.wavelengths = narrow(wavelengths);
}

// LongRoPE (Ding et al., 2024).
void set_longrope(
    nn::Rope& rope, const ConfigReader& scaling, int original, int context) {
  const auto pairs = static_cast<size_t>(rope.dims / 2);
  const auto plain = plain_periods(rope.dims, rope.theta);
  const auto stretched = [&](const char* field) {
    const auto factors = scaling.numbers(field, pairs);
    auto wavelengths = plain;
    for (size_t i = 0; i < pairs; ++i)
      wavelengths[i] *= static_cast<double>(factors[i]);
    return narrow(wavelengths);
  };
  rope.wavelengths = stretched("short_factor");
  rope.longer = {original, stretched("long_factor")};
  const double factor = scaling.has("factor")
                            ? static_cast<double>(scaling.positive("factor"))
                            : static_cast<double>(context) / original;
  if (scaling.has("attention_factor"))
    rope.attention_factor = scaling.positive("attention_factor");
  else if (factor > 1)
    rope.attention_factor = narrow(
        std::sqrt(1 + std::log(factor) / std::log(original)),
        "an attention factor of");
}

// Pairs are those of the whole head; the first ones alone turn (Gemma 4).
void set_proportional(
    nn::Rope& rope, const ConfigReader& scaling, int d_head, float part) {
  const double factor = scaling.has("factor")
                            ? static_cast<double>(scaling.positive("factor"))
                            : 1;
  rope.dims = d_head;
  const auto turning =
      static_cast<size_t>(std::floor(static_cast<double>(part) * d_head / 2));
  auto wavelengths = plain_periods(d_head, rope.theta);
  wavelengths.resize(turning);
  for (auto& period : wavelengths)
    period *= factor;
  rope.wavelengths = narrow(wavelengths);
  rope.wavelengths.resize(
      static_cast<size_t>(d_head / 2), std::numeric_limits<float>::infinity());
}

}  // namespace

nn::Rope rope_of(
    const ConfigReader& config,
    int d_head,
    int context,
    const RopeDefaults& defaults) {
  auto json = config.has("rope_parameters")
                  ? config.object("rope_parameters").json()
                  : config.object("rope_scaling").json();
  if (defaults.kind && json.contains(defaults.kind))
    json = ConfigReader(json).object(defaults.kind).json();
  // What the newer object does not say, the older fields do.
  for (const char* field : {"rope_theta", "partial_rotary_factor"})
    if (!json.contains(field) && config.json().contains(field))
      json[field] = config.json()[field];
  // Null beside the object is not a part of it: all of d_head turns.
  const bool whole = config.null("partial_rotary_factor");
  if (whole && json["partial_rotary_factor"].is_null())
    json["partial_rotary_factor"] = 1;
  // This one counts more beside the object than in it (Phi-3).
  if (config.json().contains("original_max_position_embeddings"))
    json["original_max_position_embeddings"] =
        config.json()["original_max_position_embeddings"];
  else if (defaults.original > 0)
    json["original_max_position_embeddings"] = defaults.original;
  const ConfigReader scaling(json);

  nn::Rope rope;
  rope.theta = scaling.positive("rope_theta", defaults.theta);
  const float part = scaling.positive("partial_rotary_factor", defaults.part);
  rope.dims = static_cast<int>(static_cast<float>(d_head) * part);
  const auto older = scaling.text_or("type", "default");
  auto type = scaling.text_or("rope_type", older.c_str());
  const bool pairs = rope.dims >= 2 && rope.dims % 2 == 0;
  if (part > 1 || (!pairs && type != "proportional"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'partial_rotary_factor' is {}; of head_dim {} it must "
        "leave an even number of rotated dimensions, at least 2",
        part,
        d_head);

  // Some Phi-3 say "yarn" and mean their lists of factors.
  if (type == "yarn" && scaling.has("long_factor")) type = "longrope";
  const int original = scaling.integer_or(
      "original_max_position_embeddings", context, 1, limits::dim);
  rope.kind = type;
  narrow(plain_periods(rope.dims, rope.theta));  // refuses what cannot turn
  if (type == "default") return rope;
  if (type == "proportional") {
    set_proportional(rope, scaling, d_head, part);
    return rope;
  }
  if (scaling.has("factor"))
    rope.max_positions = static_cast<int>(std::min<double>(
        static_cast<double>(scaling.positive("factor")) * original, 1 << 30));
  if (type == "linear") {
    rope.scale = 1.0f / scaling.positive("factor");
    narrow(std::vector{1.0 / static_cast<double>(rope.scale)});
  } else if (type == "dynamic") {
    rope.dynamic = {scaling.positive("factor"), original};
    const double stretch = rope.dynamic->factor * rope.dynamic->factor;
    if (rope.dims <= 2)
      fail(
          ErrorKind::bad_data,
          "[config.json] dynamic RoPE scaling needs more than the 2 rotated "
          "dimensions that this model has");
    narrow(
        rope.theta * std::pow(stretch + 1, rope.dims / (rope.dims - 2.0)),
        "a base of");
  } else if (type == "llama3") {
    rope.wavelengths = llama3_periods(scaling, rope.dims, rope.theta, original);
  } else if (type == "yarn") {
    const double factor = scaling.null("factor")
                              ? static_cast<double>(context) / original
                              : static_cast<double>(scaling.positive("factor"));
    set_yarn(rope, scaling, factor, original);
  } else if (type == "longrope" || type == "su") {
    set_longrope(rope, scaling, original, context);
  } else {
    fail(
        ErrorKind::bad_data,
        "[config.json] RoPE scaling '{}' is not supported; known: default, "
        "linear, dynamic, llama3, yarn, longrope, proportional",
        printable(type));
  }
  return rope;
}

void check_scaling_type(const ConfigReader& config) {
  if (!config.has("rope_scaling")) return;
  const auto scaling = config.object("rope_scaling");
  if (!scaling.has("type") && !scaling.has("rope_type"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'rope_scaling' has no 'type'; say which scaling it is, "
        "or leave it out");
}

nn::Activation activation_of(
    const ConfigReader& config, const char* field, const char* fallback) {
  const auto name = config.text_or(field, fallback);
  if (name == "silu" || name == "swish") return nn::Activation::silu;
  if (name == "relu") return nn::Activation::relu;
  if (name == "relu2") return nn::Activation::relu_squared;
  if (name == "gelu") return nn::Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return nn::Activation::gelu_tanh;
  fail(
      ErrorKind::bad_data,
      "[config.json] '{}' is '{}', which is not supported; known: silu, relu, "
      "relu2, gelu, gelu_new, gelu_pytorch_tanh",
      field,
      printable(name));
}

std::vector<int> windows_of(
    const ConfigReader& config,
    int n_layers,
    int usual,
    bool (*otherwise)(int layer)) {
  const int window =
      config.null("sliding_window") ||
              (usual == 0 && !config.json().contains("sliding_window"))
          ? 0
          : config.integer_or("sliding_window", usual, 1, limits::dim);
  if (window == 0) return {};
  std::vector<int> windows(static_cast<size_t>(n_layers), 0);
  std::vector<std::string> types;
  if (config.has("layer_types"))
    types = config.texts("layer_types", windows.size());
  for (int i = 0; i < n_layers; ++i) {
    const auto at = static_cast<size_t>(i);
    if (types.empty() ? otherwise(i) : types[at] == "sliding_attention")
      windows[at] = window;
    else if (!types.empty() && types[at] != "full_attention")
      fail(
          ErrorKind::bad_data,
          "[config.json] 'layer_types' names '{}'; known: full_attention, "
          "sliding_attention",
          printable(types[at]));
  }
  return windows;
}

std::vector<bool> attending_layers(
    const ConfigReader& config,
    int n_layers,
    const char* other,
    const std::function<bool(int layer)>& otherwise) {
  std::vector<bool> attending;
  if (!config.has("layer_types")) {
    for (int i = 0; i < n_layers; ++i)
      attending.push_back(otherwise(i));
    return attending;
  }
  for (const auto& type :
       config.texts("layer_types", static_cast<size_t>(n_layers))) {
    attending.push_back(type == "full_attention");
    if (!attending.back() && type != other)
      fail(
          ErrorKind::bad_data,
          "[config.json] 'layer_types' names '{}'; known: full_attention, {}",
          printable(type),
          other);
  }
  return attending;
}

float softcap_of(const ConfigReader& config, const char* field, float usual) {
  if (config.null(field)) return 0;
  return usual > 0 || config.has(field) ? config.positive(field, usual) : 0;
}

void check_heads(const DecoderConfig& c) {
  if (c.n_heads % c.n_kv_heads != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] num_attention_heads {} is not a multiple of "
        "num_key_value_heads {}",
        c.n_heads,
        c.n_kv_heads);
  if (c.rope.dims > 0 && c.d_head % 2 != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] head_dim {} is odd; RoPE rotates pairs of dimensions",
        c.d_head);
}

DecoderConfig common_config(
    const ConfigReader& config, const CommonDefaults& defaults) {
  DecoderConfig c;
  c.model_type = config.text("model_type");
  c.vocab = config.integer("vocab_size", 1, limits::vocab);
  c.d_model = config.integer("hidden_size", 1, limits::d_model);
  c.n_layers = config.integer("num_hidden_layers", 1, limits::layers);
  c.n_heads = config.integer("num_attention_heads", 1, limits::heads);
  c.n_kv_heads = defaults.kv_heads > 0 ? defaults.kv_heads : c.n_heads;
  if (config.null("num_key_value_heads"))
    c.n_kv_heads = c.n_heads;
  else
    c.n_kv_heads = config.integer_or(
        "num_key_value_heads", c.n_kv_heads, 1, limits::heads);
  if (config.has("head_dim")) {
    c.d_head = config.integer("head_dim", 1, limits::d_model);
  } else if (defaults.d_head > 0 && !config.null("head_dim")) {
    c.d_head = defaults.d_head;
  } else {
    if (c.d_model % c.n_heads != 0)
      fail(
          ErrorKind::bad_data,
          "[config.json] hidden_size {} is not a multiple of "
          "num_attention_heads "
          "{}, and there is no head_dim",
          c.d_model,
          c.n_heads);
    c.d_head = c.d_model / c.n_heads;
  }
  if (c.d_head % 2 != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] head_dim {}{} is odd; RoPE rotates pairs of dimensions",
        c.d_head,
        config.has("head_dim") ? "" : " (hidden_size / num_attention_heads)");
  c.d_mlp = config.integer("intermediate_size", 1, limits::d_mlp);
  c.context = config.integer_or(
      "max_position_embeddings", defaults.context, 1, limits::dim);
  c.norm.eps = config.positive("rms_norm_eps", defaults.eps);
  c.qk_norm_config = c.norm;
  c.rope = rope_of(config, c.d_head, c.context, {.theta = defaults.theta});
  c.context = std::max(c.context, c.rope.max_positions);
  c.tied = config.boolean("tie_word_embeddings", defaults.tied);
  c.activation = activation_of(config, "hidden_act", "silu");
  check_heads(c);
  return c;
}

DecoderConfig sized_config(const ConfigReader& config, const SizeNames& names) {
  DecoderConfig c;
  c.model_type = config.text("model_type");
  c.vocab = config.integer("vocab_size", 1, limits::vocab);
  c.d_model = config.integer(names.d_model, 1, limits::d_model);
  c.n_layers = config.integer(names.n_layers, 1, limits::layers);
  c.n_heads = c.n_kv_heads = config.integer(names.n_heads, 1, limits::heads);
  if (c.d_model % c.n_heads != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] {} {} is not a multiple of {} {}",
        names.d_model,
        c.d_model,
        names.n_heads,
        c.n_heads);
  c.d_head = c.d_model / c.n_heads;
  return c;
}

DecoderConfig gpt_config(const ConfigReader& config, bool tied, int context) {
  auto c = sized_config(config, {"n_embd", "n_layer", "n_head"});
  c.d_mlp = config.has("n_inner") ? config.integer("n_inner", 1, limits::d_mlp)
                                  : 4 * c.d_model;
  c.context = config.integer_or("n_positions", context, 1, limits::dim);
  c.norm = layer_norm(config, "layer_norm_epsilon", true);
  c.activation = activation_of(config, "activation_function", "gelu_new");
  c.gated = false;
  c.mlp_bias = true;
  c.tied = config.boolean("tie_word_embeddings", tied);
  return c;
}

nn::NormConfig layer_norm(
    const ConfigReader& config, const char* field, bool bias) {
  return {
      .kind = nn::NormConfig::Kind::layer,
      .eps = config.positive(field, 1e-5f),
      .bias = bias};
}

}  // namespace mlxterp
