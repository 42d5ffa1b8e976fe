#include "mlxterp/trace/trace.h"

#include <exception>

#include "core/fail.h"

namespace mlxterp {

Trace::Trace(
    std::shared_ptr<const void> keep_alive,
    TraceContext context,
    const std::function<mlx::core::array(Observer&)>& forward)
    : keep_alive_(std::move(keep_alive)),
      context_(std::move(context)),
      exceptions_(std::uncaught_exceptions()) {
  output_ = forward(context_);
  context_.check_reached();
  TraceContext::push(context_);
}

Trace::~Trace() {
  if (std::uncaught_exceptions() > exceptions_) {
    context_.abandon(std::make_exception_ptr(Error(
        ErrorKind::usage,
        "[Saved] an exception left the trace before it was evaluated")));
  } else {
    try {
      finish();
    } catch (...) {
      // Every Saved holds it, and throws it when read.
      context_.abandon(std::current_exception());
    }
  }
  TraceContext::pop(context_);
}

mlx::core::array Trace::output() const {
  if (!output_)
    fail(
        ErrorKind::usage,
        "[trace] the output cannot be read: the trace has ended; save it");
  context_.check_thread();
  return *output_;
}

void Trace::finish(
    std::vector<mlx::core::array> kept, const std::function<void()>& between) {
  if (!output_) return;
  context_.check_thread();
  output_.reset();
  context_.finish(std::move(kept), between);
}

ActivationCache Trace::saved() {
  finish();
  return context_.saved();
}

}  // namespace mlxterp
