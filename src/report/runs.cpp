#include <cmath>

#include "core/fail.h"
#include "mlxterp/report/sweep.h"

namespace mlxterp::report {

namespace {

using Kind = Metric::Kind;

std::string shown(float value) {
  constexpr float least = 1e-3f;  // that four decimals show
  return value != 0 && std::abs(value) < least ? fmt::format("{:+.2e}", value)
                                               : fmt::format("{:+.4f}", value);
}

bool is_difference(Kind kind, bool task) {
  return kind == Kind::logit_diff || (task && kind == Kind::custom);
}

// Which of two values of it is better: 1 the larger, -1 the smaller, 0 neither.
int better(Kind kind, bool task) {
  switch (kind) {
    case Kind::logit:
    case Kind::probability:
    case Kind::log_probability:
      return 1;
    case Kind::rank:
      return -1;
    default:
      return is_difference(kind, task) ? 1 : 0;
  }
}

}  // namespace

std::string runs_text(const std::string& metric, const Sweep& sweep) {
  const auto text =
      std::isnan(sweep.corrupt)
          ? fmt::format("{}: not ablated {}", metric, shown(sweep.clean))
          : fmt::format(
                "{}: clean {}, corrupted {}",
                metric,
                shown(sweep.clean),
                shown(sweep.corrupt));
  if (sweep.pairs < 2) return text;
  return fmt::format(
      "{} (mean{} of {} runs)",
      text,
      std::isnan(sweep.corrupt) ? "" : "s",
      sweep.pairs);
}

std::vector<std::string> run_warnings(
    const Metric& metric,
    const std::string& name,
    const Sweep& sweep,
    bool task) {
  const bool one_run = std::isnan(sweep.corrupt);
  const auto on_average = sweep.pairs > 1 ? " on average" : "";
  std::vector<std::string> out;
  if (is_difference(metric.kind, task) && sweep.clean <= 0)
    out.push_back(fmt::format(
        "the model does not do this: {} is {}{} on the {}, where what should "
        "win is not ahead; no effect of such a run explains how it is done",
        name,
        shown(sweep.clean),
        on_average,
        one_run ? "run to be ablated" : "clean run"));
  const auto way = static_cast<float>(better(metric.kind, task));
  if (!one_run && way * sweep.clean <= way * sweep.corrupt && way != 0)
    out.push_back(fmt::format(
        "{} is {}{} on the clean run and {} on the corrupted one, which is no "
        "worse; are the two prompts swapped, or the tokens?",
        name,
        shown(sweep.clean),
        on_average,
        shown(sweep.corrupt)));
  return out;
}

}  // namespace mlxterp::report
