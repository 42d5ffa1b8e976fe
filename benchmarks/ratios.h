// benchmarks/ratios.h: Google Benchmark's table, then the ratios that matter:
// absolute times say little on a busy machine, two times of one run say more.

#pragma once

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace mlxterp::bench {

class Recorder : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    // With repetitions, the fastest: noise only ever adds.
    for (const auto& run : runs)
      if (run.run_type == Run::RT_Iteration) {
        const auto name = run.run_name.function_name;
        const double unit = benchmark::GetTimeUnitMultiplier(run.time_unit);
        keep(wall_, name, run.GetAdjustedRealTime() / unit);
        keep(cpu_, name, run.GetAdjustedCPUTime() / unit);
      }
    ConsoleReporter::ReportRuns(runs);
  }

  /** Seconds of one iteration of the benchmark of that name; NaN where it was
   * filtered out. */
  double wall(const std::string& name) const { return of(wall_, name); }
  /** The same of this thread's own work: for what one thread does alone. */
  double cpu(const std::string& name) const { return of(cpu_, name); }

 private:
  using Times = std::map<std::string, double>;

  static void keep(Times& times, const std::string& name, double seconds) {
    const auto found = times.try_emplace(name, seconds).first;
    found->second = std::min(found->second, seconds);
  }

  static double of(const Times& times, const std::string& name) {
    const auto found = times.find(name);
    return found == times.end() ? std::numeric_limits<double>::quiet_NaN()
                                : found->second;
  }

  Times wall_, cpu_;
};

inline void row(
    const std::string& what, double value, const char* unit, double at_most) {
  if (std::isnan(value)) return;  // not run
  fmt::print(
      "{:<52} {:>9.3f} {:<6} {} {:g}\n",
      what,
      value,
      unit,
      value <= at_most ? "at most" : "OVER",
      at_most);
}

}  // namespace mlxterp::bench
