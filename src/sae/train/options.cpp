// What can be chosen in training, its names, and what peers choose.

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/sae/train.h"

namespace mlxterp {

namespace {

constexpr const char* who = "train_sae";

template <typename Choice>
struct Named {
  Choice value;
  std::string_view name;
};

constexpr Named<SaeRecipe> recipes[] = {
    {SaeRecipe::relu_l1, "relu_l1"},
    {SaeRecipe::gated, "gated"},
    {SaeRecipe::topk, "topk"},
    {SaeRecipe::batch_topk, "batch_topk"},
    {SaeRecipe::jump_relu, "jump_relu"},
    {SaeRecipe::matryoshka, "matryoshka"}};
constexpr Named<SaePenalty> penalties[] = {
    {SaePenalty::step, "step"},
    {SaePenalty::tanh, "tanh"},
    {SaePenalty::quadratic, "quadratic"}};
constexpr Named<SaeLossScale> loss_scales[] = {
    {SaeLossScale::rows, "rows"}, {SaeLossScale::variance, "variance"}};
constexpr Named<SaeAuxLoss> aux_losses[] = {
    {SaeAuxLoss::none, "none"},
    {SaeAuxLoss::saelens, "saelens"},
    {SaeAuxLoss::dictionary_learning, "dictionary_learning"},
    {SaeAuxLoss::sparsify, "sparsify"},
    {SaeAuxLoss::openai, "openai"}};
constexpr Named<SaeInputScale> input_scales[] = {
    {SaeInputScale::none, "none"},
    {SaeInputScale::root_d, "root_d"},
    {SaeInputScale::unit, "unit"}};
constexpr std::array<std::string_view, 5> presets = {
    "mlxterp", "saelens", "dictionary_learning", "sparsify", "openai"};

template <typename Choice, size_t n>
std::string_view name_in(const Named<Choice> (&all)[n], Choice value) {
  return std::ranges::find(all, value, &Named<Choice>::value)->name;
}

template <typename Choice, size_t n>
Choice parse(
    const Named<Choice> (&all)[n], std::string_view name, const char* what) {
  std::vector<std::string_view> names;
  for (const auto& it : all) {
    if (it.name == name) return it.value;
    names.push_back(it.name);
  }
  fail(
      ErrorKind::usage,
      "[{}] there is no {} '{}'; there are {}",
      who,
      what,
      printable(name),
      fmt::join(names, ", "));
}

// What must be a finite number of a range.
void check_number(
    const char* name, double value, double least, double most, bool above) {
  if (std::isfinite(value) && value <= most &&
      (above ? value > least : value >= least))
    return;
  fail(
      ErrorKind::usage,
      "[{}] {} is {}; give a number {} {}, at most {}",
      who,
      name,
      value,
      above ? "above" : "from",
      least,
      most);
}

bool chooses_k(SaeRecipe recipe) {
  return recipe == SaeRecipe::topk || recipe == SaeRecipe::batch_topk ||
         recipe == SaeRecipe::matryoshka;
}

void check_widths(SaeTrainOptions& o) {
  if (o.widths.empty())
    for (const int part : {16, 4, 1})
      if (o.features / part > 0) o.widths.push_back(o.features / part);
  for (size_t i = 0; i < o.widths.size(); ++i)
    if (o.widths[i] < 1 || (i > 0 && o.widths[i] <= o.widths[i - 1]) ||
        o.widths[i] > o.features)
      fail(
          ErrorKind::usage,
          "[{}] widths {} of {} features; they ascend from 1, and the last is "
          "the number of features",
          who,
          fmt::join(o.widths, ", "),
          o.features);
  if (o.widths.back() != o.features) o.widths.push_back(o.features);
}

void check_layers(const SaeTrainOptions& o, int d_in, int d_out) {
  if (o.layers < 2 || o.layers > limits::layers)
    fail(
        ErrorKind::usage,
        "[{}] a cross-layer transcoder of {} layers; give 2 to {}: of one, "
        "train a transcoder",
        who,
        o.layers,
        limits::layers);
  if (o.recipe != SaeRecipe::jump_relu && o.recipe != SaeRecipe::batch_topk)
    fail(
        ErrorKind::usage,
        "[{}] a cross-layer transcoder is trained by jump_relu or batch_topk, "
        "which circuit-tracer's files hold as thresholds; not by {}",
        who,
        name_of(o.recipe));
  if (!o.transcoder || o.skip || o.penalty != SaePenalty::tanh ||
      o.loss != SaeLossScale::rows || o.unit_decoder ||
      (o.aux != SaeAuxLoss::none && o.aux != SaeAuxLoss::saelens))
    fail(
        ErrorKind::usage,
        "[{}] a cross-layer transcoder has no skip, the penalty tanh and the "
        "loss of rows, as clt_preset has it",
        who);
  const auto n = static_cast<uint64_t>(o.layers);
  const auto features = static_cast<uint64_t>(o.features);
  const auto most = std::max(
      {n * static_cast<uint64_t>(std::max(d_in, d_out)),
       n * static_cast<uint64_t>(std::max(o.batch_size, 1))});
  if (features * most > limits::dim)
    fail(
        ErrorKind::usage,
        "[{}] {} features of {} layers, {} numbers, batches of {}; give at "
        "most {} features",
        who,
        o.features,
        o.layers,
        std::max(d_in, d_out),
        o.batch_size,
        limits::dim / most);
}

void check_blocks(const SaeTrainOptions& o, int d_in) {
  if (o.blocks < 2 || o.blocks > limits::layers || d_in % o.blocks != 0)
    fail(
        ErrorKind::usage,
        "[{}] a crosscoder of {} layers and {} numbers in all; give 2 to {} "
        "layers of one width: of one, train an SAE",
        who,
        o.blocks,
        d_in,
        limits::layers);
  if (o.recipe == SaeRecipe::gated || o.recipe == SaeRecipe::matryoshka)
    fail(
        ErrorKind::usage,
        "[{}] a crosscoder is trained by relu_l1, topk, batch_topk or "
        "jump_relu, not by {}",
        who,
        name_of(o.recipe));
  if (o.transcoder || o.layers != 0 || o.subtract_b_dec || o.unit_decoder)
    fail(
        ErrorKind::usage,
        "[{}] a crosscoder predicts what it reads, with b_dec not subtracted "
        "and rows of W_dec of any length, as crosscoder_preset has it",
        who);
}

}  // namespace

std::string_view name_of(SaeRecipe recipe) {
  return name_in(recipes, recipe);
}
std::string_view name_of(SaePenalty penalty) {
  return name_in(penalties, penalty);
}
std::string_view name_of(SaeLossScale scale) {
  return name_in(loss_scales, scale);
}
std::string_view name_of(SaeAuxLoss loss) {
  return name_in(aux_losses, loss);
}
std::string_view name_of(SaeInputScale scale) {
  return name_in(input_scales, scale);
}

SaeRecipe parse_sae_recipe(std::string_view name) {
  return parse(recipes, name, "recipe");
}
SaePenalty parse_sae_penalty(std::string_view name) {
  return parse(penalties, name, "penalty");
}

std::span<const std::string_view> sae_presets() {
  return presets;
}

int64_t SaeTrainOptions::steps() const {
  return std::max<int64_t>(1, tokens / std::max(batch_size, 1));
}

SaeTrainOptions sae_preset(std::string_view peer, SaeRecipe recipe) {
  SaeTrainOptions o;
  o.recipe = recipe;
  const auto only_topk = [&] {
    if (recipe != SaeRecipe::topk)
      fail(
          ErrorKind::usage,
          "[{}] {} trains topk alone, not {}; choose that, or the preset "
          "saelens or dictionary_learning",
          who,
          peer,
          name_of(recipe));
  };
  if (peer == "saelens" || peer == "mlxterp") {
    o.scale = SaeInputScale::root_d;
    if (peer == "mlxterp") {
      // A stream's mean is most of its length: learning it takes long.
      o.mean_bias = true;
      o.batch_size = 512;
      o.learning_rate = 1e-3;
    }
    if (recipe == SaeRecipe::jump_relu) o.subtract_b_dec = false;
  } else if (peer == "dictionary_learning") {
    o.scale = SaeInputScale::unit;
    o.decoder_norm = 1;
    o.unit_decoder = true;
    o.rank_by_norm = false;
    o.mean_over_widths = true;
    o.aux = SaeAuxLoss::dictionary_learning;
    o.aux_weight = 1.0 / 32;
    o.dead_after = 10'000'000;
    o.clip = 1;
    o.penalty = SaePenalty::quadratic;
    o.bandwidth = 0.001;
    o.threshold = 0.001;
    o.pre_act = 0;
    o.mean_bias = chooses_k(recipe);
    if (recipe == SaeRecipe::jump_relu) o.subtract_b_dec = false;
  } else if (peer == "sparsify") {
    only_topk();
    o.loss = SaeLossScale::variance;
    o.decoder_norm = 1;
    o.unit_decoder = true;
    o.rank_by_norm = false;
    o.aux = SaeAuxLoss::sparsify;
    o.aux_weight = 0;
    o.dead_after = 10'000'000;
    o.mean_bias = true;
  } else if (peer == "openai") {
    only_topk();
    o.loss = SaeLossScale::variance;
    o.decoder_norm = 1;
    o.unit_decoder = true;
    o.rank_by_norm = false;
    o.aux = SaeAuxLoss::openai;
    o.aux_weight = 1.0 / 32;
    o.aux_k = 256;
    o.dead_after = 10'000'000;
    o.mean_bias = true;
    o.epsilon = 6.25e-10;
  } else {
    fail(
        ErrorKind::usage,
        "[{}] there is no preset '{}'; there are {}",
        who,
        printable(peer),
        fmt::join(presets, ", "));
  }
  return o;
}

SaeTrainOptions clt_preset(SaeRecipe recipe, int layers) {
  SaeTrainOptions o;
  o.recipe = recipe;
  o.layers = layers;
  o.transcoder = true;
  o.subtract_b_dec = false;
  o.scale = SaeInputScale::root_d;
  o.mean_bias = true;
  o.sparsity = 2;
  o.sparsity_warm_up = 0.7;
  o.bandwidth = 1;
  o.threshold = 0.03;
  o.pre_act = 1e-5;
  o.clip = 1;
  o.batch_size = 512;
  return o;
}

SaeTrainOptions crosscoder_preset(SaeRecipe recipe, int layers) {
  auto o = sae_preset("mlxterp", recipe);
  o.blocks = layers;
  o.subtract_b_dec = false;
  return o;
}

SaeTrainOptions checked(SaeTrainOptions o, int d_in, int d_out) {
  constexpr double many = 1e9;
  if (o.features == 0 && o.expansion > 0 &&
      o.expansion < std::numeric_limits<int>::max() / d_in)
    o.features = o.expansion * d_in;
  if (o.features < 1 ||
      static_cast<uint64_t>(o.features) * static_cast<uint64_t>(d_in) >
          limits::dim)
    fail(
        ErrorKind::usage,
        "[{}] {} features (or {} times as many) of {} numbers; give 1 to {}",
        who,
        o.features,
        o.expansion,
        d_in,
        limits::dim / static_cast<uint64_t>(d_in));
  if (o.layers != 0) check_layers(o, d_in, d_out);
  if (o.blocks != 0) check_blocks(o, d_in);
  const int choice = o.features * std::max(o.layers, 1);
  if (chooses_k(o.recipe) && (o.k < 1 || o.k > choice))
    fail(
        ErrorKind::usage,
        "[{}] k is {} of {} features; give 1 to {}",
        who,
        o.k,
        choice,
        choice);
  if (o.recipe == SaeRecipe::matryoshka) check_widths(o);
  if (o.batch_size < 1 || o.batch_size > 1 << 20 || o.tokens < 0 ||
      o.dead_after < 0 || o.aux_k < 0)
    fail(
        ErrorKind::usage,
        "[{}] batches of {} rows, {} tokens, dead after {}, aux_k {}; give "
        "batches of 1 to {} rows, and no negative numbers",
        who,
        o.batch_size,
        o.tokens,
        o.dead_after,
        o.aux_k,
        1 << 20);
  constexpr int64_t least_rows = 10'000, most_rows = 1'000'000, parts = 10;
  if (o.dead_after == 0)
    o.dead_after = std::clamp(o.tokens / parts, least_rows, most_rows);
  if (o.aux_k == 0) o.aux_k = std::max(1, d_in / 2);
  if (!chooses_k(o.recipe)) o.aux = SaeAuxLoss::none;
  check_number("sparsity", o.sparsity, 0, many, false);
  check_number("tanh_scale", o.tanh_scale, 0, many, true);
  check_number("target_l0", o.target_l0, 0, many, true);
  check_number("bandwidth", o.bandwidth, 0, many, true);
  check_number("threshold", o.threshold, 0, many, /*above=*/o.layers > 0);
  check_number("pre_act", o.pre_act, 0, many, false);
  check_number("aux_weight", o.aux_weight, 0, many, false);
  check_number("decoder_norm", o.decoder_norm, 0, many, true);
  check_number("learning_rate", o.learning_rate, 0, many, true);
  check_number("epsilon", o.epsilon, 0, 1, true);
  constexpr double below_one = 0.999999999;
  check_number("beta1", o.beta1, 0, below_one, false);
  check_number("beta2", o.beta2, 0, below_one, false);
  check_number("warm_up", o.warm_up, 0, 1, false);
  check_number("decay", o.decay, 0, 1, false);
  check_number("sparsity_warm_up", o.sparsity_warm_up, 0, 1, false);
  check_number("clip", o.clip, 0, many, false);
  if (o.bfloat16 && o.layers > 0)
    fail(
        ErrorKind::usage,
        "[{}] a transcoder across layers is trained in float32; leave bfloat16 "
        "out",
        who);
  if (o.skip && !o.transcoder)
    fail(
        ErrorKind::usage,
        "[{}] a skip is of a transcoder: of what is read itself it would "
        "reconstruct everything",
        who);
  if (o.transcoder) o.subtract_b_dec = false;
  if (!o.transcoder && d_in != d_out)
    fail(
        ErrorKind::usage,
        "[{}] what is read has {} numbers and what is predicted {}; a "
        "transcoder may",
        who,
        d_in,
        d_out);
  return o;
}

}  // namespace mlxterp
