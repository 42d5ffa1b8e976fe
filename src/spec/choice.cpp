#include "mlxterp/spec/choice.h"

#include <span>

#include "mlxterp/spec/range.h"
#include "spec/text.h"

namespace mlxterp::spec {

namespace {

template <typename T>
struct Word {
  const char* word;
  T value;
};

template <typename T, size_t n>
T choose(
    std::string_view text, std::string_view name, const Word<T> (&words)[n]) {
  std::string known;
  for (const auto& [word, value] : words) {
    if (text == word) return value;
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  fail(
      ErrorKind::usage,
      "{} '{}' is not one of {}",
      name,
      printable(text),
      known);
}

template <typename T, size_t n>
const char* word_of(T value, const Word<T> (&words)[n]) {
  for (const auto& [word, own] : words)
    if (own == value) return word;
  return "";
}

constexpr Word<Axis> axes[] = {
    {"layer", Axis::layer},
    {"pos", Axis::position},
    {"head", Axis::head},
    {"neuron", Axis::neuron}};
constexpr Word<Direction> directions[] = {
    {"denoise", Direction::denoise}, {"noise", Direction::noise}};
constexpr Word<Ablation> ablations[] = {
    {"zero", Ablation::zero},
    {"mean", Ablation::mean},
    {"resample", Ablation::resample}};
constexpr Word<Unit> units[] = {
    {"component", Unit::component},
    {"head", Unit::head},
    {"neuron", Unit::neuron}};
constexpr Word<HeadMeasure> measures[] = {
    {"mean", HeadMeasure::mean},
    {"mul", HeadMeasure::mul},
    {"abs", HeadMeasure::abs}};
constexpr Word<AblationOptions::Value> head_ablations[] = {
    {"zero", AblationOptions::Value::zero},
    {"mean", AblationOptions::Value::mean}};
constexpr Word<CollectOptions::Positions> kept[] = {
    {"all", CollectOptions::Positions::all},
    {"last", CollectOptions::Positions::last}};
constexpr Word<ProbeKind> probe_kinds[] = {
    {"logistic", ProbeKind::logistic}, {"ridge", ProbeKind::ridge}};
constexpr Word<mlx::core::Dtype> dtypes[] = {
    {"float32", mlx::core::float32},
    {"float16", mlx::core::float16},
    {"bfloat16", mlx::core::bfloat16}};
constexpr Word<SteeringMethod> methods[] = {
    {"mean", SteeringMethod::mean_difference},
    {"pca", SteeringMethod::pca},
    {"logistic", SteeringMethod::logistic}};
constexpr Word<SteeringOperation> operations[] = {
    {"add", SteeringOperation::add},
    {"project_out", SteeringOperation::project_out},
    {"clamp", SteeringOperation::clamp},
    {"ablate", SteeringOperation::ablate}};
constexpr Word<GgufLayers> gguf_layers[] = {
    {"repeng", GgufLayers::repeng},
    {"cvector-generator", GgufLayers::cvector_generator}};
constexpr Word<EdgeMethod> edge_methods[] = {
    {"eap", EdgeMethod::eap},
    {"eap-ig", EdgeMethod::eap_ig},
    {"eap-ig-activations", EdgeMethod::eap_ig_activations},
    {"clean-corrupted", EdgeMethod::clean_corrupted},
    {"exact", EdgeMethod::exact},
    {"ifr", EdgeMethod::ifr}};
constexpr Word<AttributionMethod> attribution_methods[] = {
    {"atp", AttributionMethod::atp},
    {"qk-fix", AttributionMethod::qk_fix},
    {"grad-drop", AttributionMethod::grad_drop},
    {"atp-star", AttributionMethod::atp_star}};
constexpr Word<LineRule> line_rules[] = {
    {"left", LineRule::left},
    {"mid", LineRule::mid},
    {"right", LineRule::right}};

}  // namespace

std::vector<Axis> parse_axes(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<Axis> out;
  for (const auto& item : parse_list(texts, name))
    out.push_back(
        item == "position" ? Axis::position : choose(item, name, axes));
  return out;
}

Direction parse_direction(std::string_view text, std::string_view name) {
  return choose(text, name, directions);
}

Ablation parse_ablation(std::string_view text, std::string_view name) {
  return choose(text, name, ablations);
}

Unit parse_unit(std::string_view text, std::string_view name) {
  return choose(text, name, units);
}

HeadMeasure parse_head_measure(std::string_view text, std::string_view name) {
  return choose(text, name, measures);
}

AblationOptions::Value parse_head_ablation(
    std::string_view text, std::string_view name) {
  return choose(text, name, head_ablations);
}

CollectOptions::Positions parse_positions(
    std::string_view text, std::string_view name) {
  return choose(text, name, kept);
}

ProbeKind parse_probe_kind(std::string_view text, std::string_view name) {
  return choose(text, name, probe_kinds);
}

const char* name(ProbeKind kind) {
  return word_of(kind, probe_kinds);
}

mlx::core::Dtype parse_dtype(std::string_view text, std::string_view name) {
  return choose(text, name, dtypes);
}

SteeringMethod parse_steering_method(
    std::string_view text, std::string_view name) {
  return choose(text, name, methods);
}

SteeringOperation parse_steering_operation(
    std::string_view text, std::string_view name) {
  return choose(text, name, operations);
}

GgufLayers parse_gguf_layers(std::string_view text, std::string_view name) {
  return choose(text, name, gguf_layers);
}

const char* name(CollectOptions::Positions positions) {
  return word_of(positions, kept);
}

EdgeMethod parse_edge_method(std::string_view text, std::string_view name) {
  return choose(text, name, edge_methods);
}

AttributionMethod parse_attribution_method(
    std::string_view text, std::string_view name) {
  return choose(text, name, attribution_methods);
}

LineRule parse_line_rule(std::string_view text, std::string_view name) {
  return choose(text, name, line_rules);
}

const char* name(EdgeMethod method) {
  return word_of(method, edge_methods);
}

const char* name(AttributionMethod method) {
  return word_of(method, attribution_methods);
}

const char* name(LineRule rule) {
  return word_of(rule, line_rules);
}

const char* name(Direction direction) {
  return word_of(direction, directions);
}

const char* name(Ablation ablation) {
  return word_of(ablation, ablations);
}

const char* name(Unit unit) {
  return word_of(unit, units);
}

const char* name(AblationOptions::Value value) {
  return word_of(value, head_ablations);
}

}  // namespace mlxterp::spec
