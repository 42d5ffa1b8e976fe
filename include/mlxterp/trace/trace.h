// mlxterp/trace/trace.h: a forward pass whose values can be read by name.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/trace/context.h"

namespace mlxterp {

/**
 * One forward pass, run (lazily) when it is made. While it lives, on the thread
 * that made it, the model's proxies read its values; when it ends, what was
 * saved is evaluated together and everything else is dropped unevaluated, so an
 * unsaved value costs neither time nor memory.
 *
 * Traces nest, each with its own pass, and several threads may each have their
 * own. Leaving a trace by an exception evaluates nothing.
 */
class Trace {
 public:
  /** Runs `forward` with `context` watching. `keep_alive` owns the modules. */
  Trace(
      std::shared_ptr<const void> keep_alive,
      TraceContext context,
      const std::function<mlx::core::array(Observer&)>& forward);
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  /** Ends the trace. A failure to evaluate is thrown by each Saved's value().
   */
  ~Trace();

  /** Keeps the value of a site. Throws unknown_name, or usage where the pass
   * never reached it. */
  Saved save(std::string_view site) { return context_.save(site); }

  /** The lazy value of a site, good while the trace lives. */
  mlx::core::array value(std::string_view site) { return context_.value(site); }

  /** What the model returned, lazy. Throws usage once the trace has ended. */
  mlx::core::array output() const;

  /** Real positions of each row; what lies behind them is padding. */
  const std::vector<int>& lengths() const { return context_.lengths(); }

  /** Ends the trace now: evaluates what was saved, and `kept` with it, and
   * throws what goes wrong. */
  void finish(
      std::vector<mlx::core::array> kept = {},
      const std::function<void()>& between = {});

  /** Evaluates the NaN checks of the edits; throws where one made a NaN. */
  void check() const { context_.check(); }

  /** Everything saved, evaluated; ends the trace. */
  ActivationCache saved();

 private:
  std::shared_ptr<const void> keep_alive_;
  TraceContext context_;
  std::optional<mlx::core::array> output_;  // until the trace ends
  int exceptions_;                          // in flight when the trace began
};

}  // namespace mlxterp
