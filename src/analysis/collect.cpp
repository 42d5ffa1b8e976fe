#include "mlxterp/analysis/collect.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "analysis/any_model.h"
#include "analysis/row_sites.h"
#include "core/fail.h"
#include "core/machine.h"
#include "mlx/ops.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// The rows kept of one site, filled batch by batch in host memory.
class Rows {
 public:
  explicit Rows(size_t count) : count_(count) {}

  size_t bytes_each() const { return bytes_each_; }

  // Takes the shape of a row from [batch, pos, ...].
  void shape_like(const mx::array& value) {
    shape_ = {static_cast<int>(count_)};
    for (size_t i = 2; i < value.ndim(); ++i)
      shape_.push_back(value.shape(static_cast<int>(i)));
    dtype_ = value.dtype();
    bytes_each_ = value.itemsize();
    for (size_t i = 1; i < shape_.size(); ++i)
      bytes_each_ *= static_cast<size_t>(shape_[static_cast<int>(i)]);
  }

  void allocate() { data_.reset(new std::byte[count_ * bytes_each_]); }

  void put(size_t row, const std::byte* from, size_t n) {
    std::memcpy(data_.get() + row * bytes_each_, from, n * bytes_each_);
  }

  // Hands the memory over.
  mx::array take() {
    return mx::array(data_.release(), shape_, dtype_, [](void* data) {
      delete[] static_cast<std::byte*>(data);
    });
  }

 private:
  size_t count_;
  size_t bytes_each_ = 0;
  mx::Shape shape_;
  mx::Dtype dtype_ = mx::float32;
  std::unique_ptr<std::byte[]> data_;
};

// The layer behind which none of the sites stands, or nothing where they take
// the whole pass.
std::optional<int> last_layer(
    const InterpretableModel& model, const std::vector<SiteId>& sites) {
  const auto* decoder = decoder_of(model);
  if (!decoder) return {};
  int last = -1;
  for (const auto site : sites) {
    const int layer = model.sites()[site].layer;
    // What is of no layer stands before all of them, or in the head, which the
    // decoder numbers last; attached modules come behind.
    if (layer < 0 && site >= decoder->ln_final.input_site()) return {};
    last = std::max(last, layer);
  }
  return last;
}

// The values of these sites for one batch, whose layers behind `last` are not
// even built.
ActivationCache run_to_layer(
    const InterpretableModel& model,
    const Inputs::Rows& batch,
    const std::vector<SiteId>& sites,
    int last) {
  std::vector<int> lengths;
  size_t longest = 0;
  for (const auto& row : batch) {
    lengths.push_back(static_cast<int>(row.size()));
    longest = std::max(longest, row.size());
  }
  std::vector<int> ids(batch.size() * longest);
  for (size_t i = 0; i < batch.size(); ++i)
    std::ranges::copy(
        batch[i], ids.begin() + static_cast<ptrdiff_t>(i * longest));
  TraceContext context(model.shared_sites(), {}, lengths, sites);
  Stepper stepper(model, &context, {.lengths = lengths});
  auto x = stepper.embed(mx::array(
      ids.data(),
      {static_cast<int>(batch.size()), static_cast<int>(longest)},
      mx::int32));
  for (int i = 0; i <= last; ++i)
    x = stepper.layer(i, x);
  for (const auto site : sites)
    context.save(site);
  context.finish();
  return context.saved();
}

// How many of the prompts from `begin` on go into one pass: a rotary embedding
// may turn by the length of the longest, which comes first.
size_t batch_end(
    const InterpretableModel& model,
    const Inputs::Rows& tokens,
    const std::vector<size_t>& order,
    size_t begin,
    size_t most) {
  const auto* decoder = decoder_of(model);
  const auto length = [&](size_t i) {
    return static_cast<int>(tokens[order[i]].size());
  };
  size_t end = begin + 1;
  while (
      end < order.size() && end - begin < most &&
      (!decoder || decoder->config().same_angles(length(end), length(begin))))
    ++end;
  return end;
}

}  // namespace

std::vector<SiteId> row_sites(
    const InterpretableModel& model,
    const std::vector<std::string>& sites,
    const char* function) {
  std::vector<SiteId> ids;
  for (const auto& pattern : sites)
    for (const auto site : model.sites().match(pattern)) {
      const auto layout = model.sites()[site].layout;
      if (layout == Layout::scores || layout == Layout::other)
        fail(
            ErrorKind::usage,
            "[{}] site '{}' has no [batch, pos, ...] rows; "
            "use run() prompt by prompt",
            function,
            model.sites()[site].name);
      ids.push_back(site);
    }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

ActivationCache collect_activations(
    const InterpretableModel& model,
    const Inputs& prompts,
    const std::vector<std::string>& sites,
    const CollectOptions& options) {
  if (options.batch_size < 1)
    fail(
        ErrorKind::usage,
        "[collect_activations] batch_size is {}; it must be at least 1",
        options.batch_size);
  const auto ids = row_sites(model, sites, "collect_activations");

  const auto tokens = model.token_ids(prompts);
  const bool last = options.positions == CollectOptions::Positions::last;
  std::vector<int> lengths;
  std::vector<size_t> first_row;
  size_t rows = 0;
  for (const auto& prompt : tokens) {
    lengths.push_back(last ? 1 : static_cast<int>(prompt.size()));
    first_row.push_back(rows);
    rows += static_cast<size_t>(lengths.back());
  }
  // Prompts of like length share a batch, so that little is padding.
  std::vector<size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return tokens[a].size() > tokens[b].size();
  });

  RunOptions run{.save = {}, .edits = options.edits};
  for (const auto site : ids)
    run.save.push_back(model.sites()[site].name);
  // Edits may stand anywhere, and are checked to have been reached.
  const auto last_one =
      options.edits.empty() ? last_layer(model, ids) : std::optional<int>();
  std::vector<Rows> kept;
  for (size_t s = 0; s < ids.size(); ++s)
    kept.emplace_back(rows);
  const auto most = static_cast<size_t>(options.batch_size);
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    if (options.progress)
      options.progress(
          "Collecting activations",
          static_cast<double>(begin) / static_cast<double>(order.size()));
    end = batch_end(model, tokens, order, begin, most);
    Inputs::Rows batch;
    for (size_t i = begin; i < end; ++i)
      batch.push_back(tokens[order[i]]);
    const auto values = last_one ? run_to_layer(model, batch, ids, *last_one)
                                 : model.run(std::move(batch), run);

    if (begin == 0) {
      size_t bytes = 0;
      for (size_t s = 0; s < kept.size(); ++s) {
        kept[s].shape_like(values.entries()[s].second);
        bytes += rows * kept[s].bytes_each();
      }
      if (bytes > machine_memory())
        fail(
            ErrorKind::environment,
            "[collect_activations] {} rows take {:.1f} GB, this machine has "
            "{:.1f} GB; keep fewer sites, the last positions, or fewer prompts",
            rows,
            static_cast<double>(bytes) / 1e9,
            static_cast<double>(machine_memory()) / 1e9);
      for (auto& site : kept)
        site.allocate();
    }
    for (size_t s = 0; s < kept.size(); ++s) {
      auto value = mx::contiguous(values.entries()[s].second);
      value.eval();
      const auto* data = value.data<std::byte>();
      const auto padded = static_cast<size_t>(value.shape(1));
      for (size_t i = begin; i < end; ++i) {
        const auto skip = last ? tokens[order[i]].size() - 1 : 0;
        const auto from = (i - begin) * padded + skip;
        kept[s].put(
            first_row[order[i]],
            data + from * kept[s].bytes_each(),
            static_cast<size_t>(lengths[order[i]]));
      }
    }
  }
  if (options.progress) options.progress("Collecting activations", 1.0);
  std::vector<std::pair<SiteId, mx::array>> values;
  for (size_t s = 0; s < ids.size(); ++s)
    values.emplace_back(ids[s], kept[s].take());
  return {model.shared_sites(), std::move(values), std::move(lengths)};
}

}  // namespace mlxterp
