#include "interrupt.h"

#include <csignal>

namespace mlxterp::cli {

namespace {

constexpr int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t remembered = 0;

void remember(int signal) {
  if (remembered) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  remembered = signal;
}

}  // namespace

Uninterrupted::Uninterrupted() {
  for (const int signal : ending_signals)
    if (std::signal(signal, remember) == SIG_IGN) std::signal(signal, SIG_IGN);
}

Uninterrupted::~Uninterrupted() {
  for (const int signal : ending_signals)
    if (std::signal(signal, SIG_DFL) == SIG_IGN) std::signal(signal, SIG_IGN);
  if (remembered) std::raise(remembered);
}

}  // namespace mlxterp::cli
