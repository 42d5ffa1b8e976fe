// mlxterp/spec/choice.h: words that choose one of a few ways.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/analysis/edges.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/probe.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/analysis/sweep.h"

namespace mlxterp::spec {

// Each throws usage with the words there are; messages begin with `name`.

/** A list of "layer", "pos" (or "position"), "head", "neuron". */
std::vector<Axis> parse_axes(
    const std::vector<std::string>& texts, std::string_view name = "by");

/** "denoise" or "noise". */
Direction parse_direction(
    std::string_view text, std::string_view name = "direction");

/** "zero", "mean" or "resample". */
Ablation parse_ablation(
    std::string_view text, std::string_view name = "ablation");

/** "component", "head" or "neuron". */
Unit parse_unit(std::string_view text, std::string_view name = "unit");

/** "mean", "mul" or "abs". */
HeadMeasure parse_head_measure(
    std::string_view text, std::string_view name = "measure");

/** "zero" or "mean". */
AblationOptions::Value parse_head_ablation(
    std::string_view text, std::string_view name = "ablation");

/** "all" or "last". */
CollectOptions::Positions parse_positions(
    std::string_view text, std::string_view name = "positions");

/** "logistic" or "ridge". */
ProbeKind parse_probe_kind(
    std::string_view text, std::string_view name = "kind");

/** "float32", "float16" or "bfloat16". */
mlx::core::Dtype parse_dtype(
    std::string_view text, std::string_view name = "dtype");

/** "mean", "pca" or "logistic". */
SteeringMethod parse_steering_method(
    std::string_view text, std::string_view name = "method");

/** "add", "project_out", "clamp" or "ablate". */
SteeringOperation parse_steering_operation(
    std::string_view text, std::string_view name = "operation");

/** "repeng" or "cvector-generator". */
GgufLayers parse_gguf_layers(
    std::string_view text, std::string_view name = "gguf layers");

/** "eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact" or "ifr".
 */
EdgeMethod parse_edge_method(
    std::string_view text, std::string_view name = "method");

/** "atp", "qk-fix", "grad-drop" or "atp-star". */
AttributionMethod parse_attribution_method(
    std::string_view text, std::string_view name = "method");

/** "left", "mid" or "right". */
LineRule parse_line_rule(std::string_view text, std::string_view name = "rule");

/** The word of each; a name() of axes, measures and head kinds stands beside
 * them. */
const char* name(Direction direction);
const char* name(Ablation ablation);
const char* name(Unit unit);
const char* name(AblationOptions::Value value);
const char* name(CollectOptions::Positions positions);
const char* name(ProbeKind kind);
const char* name(EdgeMethod method);
const char* name(AttributionMethod method);
const char* name(LineRule rule);

}  // namespace mlxterp::spec
