// sae/feature_examples.h: what is gathered of one feature while a text streams
// by: counts, its best examples, and some of each interval.

#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "mlxterp/sae/dashboard.h"

namespace mlxterp {

/**
 * Equal stretches of (0, largest], the smallest power of two wide with which
 * `most` of them hold the largest magnitude seen. Growing merges pairs of them,
 * so counts stay exact whatever comes later.
 */
class PowerGrid {
 public:
  explicit PowerGrid(int most) : most_(most) {}

  /** Makes room for a finite magnitude above 0: how often pairs of stretches
   * have to be merged. */
  int grow(double magnitude);
  /** The stretch of a magnitude that there is room for: 0 to most - 1. */
  size_t place(double magnitude) const;
  double width() const;

 private:
  int most_, exponent_ = 0;
  bool empty_ = true;
};

/** A window's rows of activations as they lie in a block. */
struct WindowActs {
  const std::vector<int>& ids;
  const float* acts;  ///< [position, feature]
  size_t features;    ///< In a row.
  int64_t document, window;
};

/** One feature's. A value. */
class FeatureExamples {
 public:
  FeatureExamples(int feature, size_t column, const DashboardOptions& options);

  /** An activation that is finite and not 0; positions of a window one after
   * the other. */
  void add(const WindowActs& from, size_t position, float value);
  /** Behind the last position of a window. */
  void end_window(const WindowActs& from);

  /** What was gathered, without logits and neighbours. */
  FeatureDashboard take();

 private:
  // Of an interval, those with the smallest of random numbers that depend on
  // their place alone: any way of merging leaves the same.
  struct Drawn {
    uint64_t number;
    FeatureExample example;
  };
  struct Interval {
    int64_t positions = 0;
    std::vector<Drawn> drawn;  // the smallest number first
  };

  FeatureExample example(
      const WindowActs& from, size_t position, float value) const;
  void grow(double magnitude);
  void merge_intervals();

  size_t column_;
  DashboardOptions options_;
  FeatureDashboard out_;
  double sum_ = 0;
  PowerGrid bins_, stretches_;
  std::vector<int64_t> above_, below_;  // of each bin, by sign
  std::vector<Interval> intervals_;
  size_t best_at_ = 0;  // of this window
  float best_ = 0;
};

}  // namespace mlxterp
