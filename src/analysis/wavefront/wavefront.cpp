#include "analysis/wavefront/wavefront.h"

#include <algorithm>
#include <cmath>

#include "analysis/int_array.h"
#include "analysis/wavefront/metric_reader.h"
#include "analysis/wavefront/plan.h"
#include "analysis/wavefront/walk.h"
#include "core/fail.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/stream.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows beyond which a larger product is no faster, by device.
constexpr size_t rows_that_pay_cpu = 2048;
constexpr size_t rows_that_pay_gpu = 32768;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// Waits, when it goes, for all that this thread has begun to evaluate.
struct Awaited {
  Awaited() = default;
  Awaited(const Awaited&) = delete;
  Awaited& operator=(const Awaited&) = delete;
  ~Awaited() {
    try {
      mx::synchronize();
    } catch (...) {
      // A sweep that succeeds has read every number by now. One that fails
      // has an error on its way to the caller: this is part of the same.
    }
  }
};

class Sweeper {
 public:
  explicit Sweeper(const Wavefront& wave)
      : wave_(wave),
        decoder_(wave.model.decoder()),
        layers_(decoder_.config().n_layers),
        plans_(make_plans(wave)) {
    int row = 0;
    for (const auto& run : wave.runs) {
      run_rows_.push_back(row);
      row += static_cast<int>(run.ids.size());
    }
    runs_end_ = row;
  }

  Wavefront::Result sweep() {
    result_.runs.assign(wave_.runs.size(), 0);
    result_.cells.assign(wave_.cells.size(), 0);
    result_.computed = plans_.size();

    auto stream = embedded();
    const size_t budget = rows_allowed(stream.x.dtype());
    double total = 0, so_far = 0;  // rows times layers
    for (const auto& plan : plans_)
      total += static_cast<double>(rows_of(plan)) * (layers_ - plan.join);
    total += static_cast<double>(runs_end_) * layers_;

    // An error leaves layers that are still being evaluated: a process that
    // ends then would take the memory they work in from under them.
    const Awaited awaited;
    Walk walk(wave_, run_rows_);
    MetricReader reader(wave_, result_);
    int start = 0;
    size_t begin = 0;
    do {
      size_t end = begin, rows = size(runs_end_);
      while (end < plans_.size() && rows + rows_of(plans_[end]) <= budget)
        rows += rows_of(plans_[end++]);
      if (end == begin && end < plans_.size())
        fail(
            ErrorKind::usage,
            "[patch] one cell takes {} rows of {} positions, the memory given "
            "holds {}; give at least {:.0f} MB",
            rows_of(plans_[end]),
            runs_end_,
            budget,
            std::ceil(
                static_cast<double>(
                    (size(runs_end_) + rows_of(plans_[end])) *
                    bytes_of_row(stream.x.dtype())) /
                1e6));
      const int next =
          end < plans_.size() ? std::min(plans_[end].join, layers_) : -1;
      walk.go(
          plans_,
          begin,
          end,
          start,
          stream,
          next == layers_ ? layers_ - 1 : next,
          [&](int, size_t travelling) {
            so_far += static_cast<double>(travelling);
            result_.rows += travelling;
            if (wave_.progress)
              wave_.progress(
                  "Patching", std::min(1.0, so_far / std::max(total, 1.0)));
          });
      reader.read(walk);
      for (auto& kept : walk.kept()) {
        kept.value.eval();
        result_.kept.push_back(std::move(kept));
      }
      start = next == layers_ ? layers_ - 1 : next;
      begin = end;
    } while (begin < plans_.size());
    if (wave_.progress) wave_.progress("Patching", 1.0);

    result_.inert.assign(wave_.cells.size(), true);
    for (const auto& plan : plans_)
      result_.inert[plan.cell] = false;
    for (size_t i = 0; i < wave_.cells.size(); ++i)
      if (result_.inert[i])
        result_.cells[i] = result_.runs[size(wave_.cells[i].run)];
    return std::move(result_);
  }

 private:
  // What enters layer 0 of all runs. What travels beside it is that of their
  // ids.
  Stream embedded() const {
    std::vector<mx::array> x;
    std::vector<Carried> carried;
    for (const auto& run : wave_.runs) {
      Stepper stepper(
          wave_.model,
          nullptr,
          {.lengths = {static_cast<int>(run.ids.size())}});
      const auto own = stepper.embed(mx::expand_dims(int_array(run.ids), 0));
      x.push_back(run.embedded.value_or(own));
      carried.push_back(std::move(stepper.carried()));
    }
    return {
        x.size() == 1 ? x[0] : mx::concatenate(x, 1), concatenate(carried, 1)};
  }

  size_t rows_of(const Plan& plan) const {
    return wave_.runs[size(plan.run)].ids.size() - size(plan.first);
  }

  size_t bytes_of_row(mx::Dtype dtype) const {
    const auto& c = decoder_.config();
    const int experts = c.moe ? c.moe->top_k : 0;
    const auto largest = [](int one, const std::vector<int>& each) {
      return each.empty() ? one : std::ranges::max(each);
    };
    const auto d_mlp = static_cast<size_t>(std::max(
        largest(c.d_mlp, c.d_mlps), c.moe ? experts * c.moe->d_mlp : 0));
    size_t longest = 0;
    for (const auto& run : wave_.runs)
      longest = std::max(longest, run.ids.size());
    const size_t heads = size(c.n_heads) * size(largest(c.d_head, c.d_heads));
    // The stream in three copies, q, k, v, z, three of the MLP; and scores,
    // where attention is explicit. Beside them, what is carried, twice.
    return dtype.size() * (6 * size(c.d_model) + 6 * heads + 3 * d_mlp +
                           3 * size(c.n_heads) * longest +
                           2 * size(c.n_layers) * size(c.d_per_layer));
  }

  size_t rows_allowed(mx::Dtype dtype) const {
    const size_t pays = mx::default_device() == mx::Device::gpu
                            ? rows_that_pay_gpu
                            : rows_that_pay_cpu;
    const size_t most = std::max(pays, 4 * size(runs_end_));
    if (wave_.memory == 0) return most;
    return std::min(most, wave_.memory / bytes_of_row(dtype));
  }

  const Wavefront& wave_;
  const Decoder& decoder_;
  int layers_;
  std::vector<Plan> plans_;
  std::vector<int> run_rows_;
  int runs_end_ = 0;
  Wavefront::Result result_;
};

}  // namespace

Wavefront::Result Wavefront::sweep() const {
  return Sweeper(*this).sweep();
}

}  // namespace mlxterp
