#include "analysis/edges/flow.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "analysis/edges/means.h"
#include "analysis/edges/runs.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Numbers of one difference of all sources and the stream.
constexpr size_t numbers_at_once = size_t{1} << 24;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// The share of each source [source, pos, d_model] in a stream [pos, d_model]:
// [pos, source], summing to 1, or 0 where none comes near it.
mx::array shares(const mx::array& added, const mx::array& stream) {
  const int sources = added.shape(0), length = added.shape(1);
  const int width = added.shape(2);
  const int chunk = static_cast<int>(
      std::max(size_t{1}, numbers_at_once / (size(sources) * size(width))));
  std::vector<mx::array> parts;
  for (int from = 0; from < length; from += chunk) {
    const int end = std::min(from + chunk, length);
    const auto y = mx::slice(added, {0, from, 0}, {sources, end, width});
    const auto x = mx::slice(stream, {from, 0}, {end, width});
    const auto far = mx::sum(mx::abs(mx::subtract(x, y)), -1);
    auto near = mx::maximum(
        mx::subtract(mx::sum(mx::abs(x), -1), far), mx::array(0.0f));
    const auto all = mx::sum(near, 0, true);
    near = mx::divide(
        near,
        mx::where(mx::equal(all, mx::array(0.0f)), mx::ones_like(all), all));
    parts.push_back(mx::transpose(near));
    mx::eval(parts.back());
  }
  return mx::contiguous(mx::concatenate(std::move(parts), 0));
}

}  // namespace

EdgeScores information_flow(
    const InterpretableModel& model,
    const EdgeOptions& options,
    const EdgeGraph& graph) {
  const auto rows = model.token_ids(options.clean);
  for (size_t i = 1; options.by_position && i < rows.size(); ++i)
    if (rows[i].size() != rows[0].size())
      fail(
          ErrorKind::usage,
          "[edges] prompt {} has {} tokens and prompt 0 has {}: their "
          "positions cannot be averaged; give prompts of one length",
          i,
          rows[i].size(),
          rows[0].size());
  EdgeScores out{.sources = graph.sources, .destinations = graph.destinations};
  const size_t positions = options.by_position ? rows[0].size() : 0;
  const size_t to = out.destinations.size();
  const size_t cells = std::max(positions, size_t{1}) * out.sources.size() * to;
  std::vector<double> sums(cells), squares(cells);
  const EdgeRunner runner(model, graph, options.ungrouped);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto parts = runner.parts(rows[i]);
    mx::eval(parts.added);
    std::vector<double> own(cells);
    std::optional<mx::array> last;
    for (size_t r = 0; r < graph.readers.size(); ++r) {
      const auto& reader = graph.readers[r];
      if (options.progress)
        options.progress(
            "Scoring edges",
            (static_cast<double>(i) +
             static_cast<double>(r) /
                 static_cast<double>(graph.readers.size())) /
                static_cast<double>(rows.size()));
      // Readers between two sources of a layer read one stream.
      if (r == 0 || graph.readers[r - 1].before != reader.before ||
          graph.readers[r - 1].layer != reader.layer) {
        auto added = mx::slice(
            parts.added,
            {0, 0, 0},
            {reader.before, parts.added.shape(1), parts.added.shape(2)});
        const float factor = graph.factors[size(reader.layer)];
        if (factor != 1.0f) added = mx::multiply(added, mx::array(factor));
        last = shares(added, parts.streams[r]);
        mx::eval(*last);
      }
      const auto* data = last->data<float>();
      const size_t before = size(reader.before);
      for (size_t at = 0; at < last->size(); ++at) {
        const double value = static_cast<double>(data[at]);
        const size_t source = at % before, position = at / before;
        if (!std::isfinite(value))
          fail(
              ErrorKind::usage,
              "[edges] the share of {} in {} is {} in prompt {}; does the "
              "model overflow in this precision?",
              graph.sources[source].name,
              graph.destinations[size(reader.first)].name,
              value,
              i);
        const size_t row =
            (positions > 0 ? position * out.sources.size() : 0) + source;
        for (int c = 0; c < reader.count; ++c)
          own[row * to + size(reader.first + c)] +=
              positions > 0 ? value
                            : value / static_cast<double>(rows[i].size());
      }
    }
    for (size_t c = 0; c < cells; ++c) {
      sums[c] += own[c];
      squares[c] += own[c] * own[c];
    }
  }
  if (options.progress) options.progress("Scoring edges", 1);
  out.positions = static_cast<int>(positions);
  out.clean = out.corrupt = std::numeric_limits<float>::quiet_NaN();
  out.pairs = rows.size();
  out.ids = rows[0];
  put_means(out, sums, squares);
  return out;
}

}  // namespace mlxterp
