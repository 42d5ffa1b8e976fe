#include "interrupt.h"

#include <unistd.h>

#include <csignal>
#include <cstring>

namespace mlxterp::cli {

namespace {

constexpr int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t remembered = 0;
const char* answer = nullptr;

void remember(int signal) {
  if (remembered) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  remembered = signal;
  if (answer && write(STDERR_FILENO, answer, std::strlen(answer)) < 0) return;
}

}  // namespace

Uninterrupted::Uninterrupted(const char* told) {
  answer = told;
  for (const int signal : ending_signals)
    if (std::signal(signal, remember) == SIG_IGN) std::signal(signal, SIG_IGN);
}

Uninterrupted::~Uninterrupted() {
  for (const int signal : ending_signals)
    if (std::signal(signal, SIG_DFL) == SIG_IGN) std::signal(signal, SIG_IGN);
  answer = nullptr;
  if (remembered) std::raise(remembered);
}

bool Uninterrupted::asked() const {
  return remembered != 0;
}

}  // namespace mlxterp::cli
