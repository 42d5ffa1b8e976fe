#include "mlxterp/analysis/lens.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "nn/simd/kernels.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// So few that the processor's caches still hold some of them when they are
// read, so many that the product is not slower.
constexpr size_t logits_budget = size_t{24} << 20;
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// As a set, counted from the front; all of 0..size where `chosen` is empty.
std::vector<int> resolve(
    const std::vector<int>& chosen, int size, const char* what) {
  std::vector<int> all;
  if (chosen.empty())
    for (int i = 0; i < size; ++i)
      all.push_back(i);
  for (const int i : chosen) {
    if (i < -size || i >= size)
      fail(
          ErrorKind::out_of_range,
          "[logit_lens] {} {} is out of range; there are {}, numbered 0 to {} "
          "or {} to -1",
          what,
          i,
          size,
          size - 1,
          -size);
    all.push_back(i < 0 ? i + size : i);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

void check_top_k(int k, size_t vocab) {
  if (k < 1 || static_cast<size_t>(k) > vocab)
    fail(
        ErrorKind::out_of_range,
        "[logit_lens] {} top tokens asked for, of a vocabulary of {}; ask for "
        "1 "
        "to {}",
        k,
        vocab,
        vocab);
}

// The winners of one row, the best first, of equal ones the lower id: an
// insertion into k places that few tokens reach. A NaN leaves -1 everywhere.
void best(std::span<const float> logits, std::span<int> ids) {
  size_t filled = 0;
  bool valid = true;
  float least = -std::numeric_limits<float>::infinity();
  for (size_t token = 0; token < logits.size(); ++token) {
    const float x = logits[token];
    valid &= x == x;
    if (filled == ids.size() && !(x > least)) continue;
    size_t place = filled < ids.size() ? filled++ : filled - 1;
    for (; place > 0 && logits[static_cast<size_t>(ids[place - 1])] < x;
         --place)
      ids[place] = ids[place - 1];
    ids[place] = static_cast<int>(token);
    least = logits[static_cast<size_t>(ids[filled - 1])];
  }
  if (!valid || !std::isfinite(logits[static_cast<size_t>(ids[0])]))
    std::fill(ids.begin(), ids.end(), -1);
}

float normalizer(std::span<const float> logits, float most) {
  return most + static_cast<float>(std::log(simd::sum_of_exponentials(
                    logits.data(), logits.size(), most)));
}

// Fills one cell of the lens from its row of logits.
void read_cell(Lens& lens, size_t cell, std::span<const float> logits) {
  const auto k = static_cast<size_t>(lens.top_k);
  const std::span ids(lens.top_ids.data() + cell * k, k);
  best(logits, ids);
  const bool finite = ids[0] >= 0;
  const float total =
      finite ? normalizer(logits, logits[static_cast<size_t>(ids[0])]) : nan;
  for (size_t i = 0; i < k; ++i) {
    const float logit = finite ? logits[static_cast<size_t>(ids[i])] : nan;
    lens.top_logits[cell * k + i] = logit;
    lens.top_probabilities[cell * k + i] = std::exp(logit - total);
  }
  if (!lens.track) return;
  const auto tracked = static_cast<size_t>(*lens.track);
  const float logit = finite ? logits[tracked] : nan;
  int rank = finite ? 0 : -1;
  for (size_t i = 0; finite && i < logits.size(); ++i)
    rank += logits[i] > logit || (logits[i] == logit && i < tracked);
  lens.track_logits[cell] = logit;
  lens.track_probabilities[cell] = std::exp(logit - total);
  lens.track_ranks[cell] = rank;
}

void check_site(const InterpretableModel& model, const LensOptions& options) {
  constexpr std::string_view read[] = {
      "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"};
  if (std::ranges::count(read, options.site) == 0)
    fail(
        ErrorKind::usage,
        "[logit_lens] a lens does not read '{}'; use one of {}",
        printable(options.site),
        fmt::join(read, ", "));
  if (options.tuned && options.jacobian)
    fail(
        ErrorKind::usage,
        "[logit_lens] a tuned lens and a Jacobian lens; read through one");
  if (!options.tuned && !options.jacobian) return;
  if (options.tuned) options.tuned->check_fits(model);
  if (options.jacobian) options.jacobian->check_fits(model, true);
  if (options.site != "resid_post")
    fail(
        ErrorKind::usage,
        "[logit_lens] a {} lens reads resid_post, not {}; leave out the lens "
        "or the site",
        options.tuned ? "tuned" : "Jacobian",
        options.site);
}

mx::array positions_of(const Lens& lens) {
  return mx::array(
      lens.positions.data(), {static_cast<int>(lens.columns())}, mx::int32);
}

// A row's residual at every position, [pos, d_model], through the lens
// where there is one.
mx::array residual(
    const ActivationCache& run,
    const Lens& lens,
    size_t row,
    const LensOptions& options) {
  auto x = mx::squeeze(run[lens.sites[row]], 0);
  if (!lens.layers[row]) return x;
  const int layer = *lens.layers[row];
  if (options.tuned) return (*options.tuned)(x, layer);
  const bool last = layer + 1 == lens.model_layers;
  return options.jacobian && !last ? (*options.jacobian)(x, layer) : x;
}

// The logits of some cells, float32 [cell, vocab], lazy. Where a whole sequence
// goes through the head at once, cells are read a row at a time.
class Reader {
 public:
  Reader(
      const InterpretableModel& model,
      const ActivationCache& run,
      const Lens& lens,
      const LensOptions& options)
      : model_(model), ids_(lens.ids), where_(positions_of(lens)) {
    for (size_t i = 0; i < lens.rows(); ++i)
      rows_.push_back(residual(run, lens, i, options));
    if (by_row()) return;
    for (auto& row : rows_)
      row = mx::take(row, where_, 0);
    rows_ = {mx::concatenate(std::move(rows_), 0)};
  }

  // What edits the head may look at a whole sequence.
  bool by_row() const {
    return !decoder_of(model_) || Stepper::edits_head(model_);
  }

  mx::array operator()(size_t begin, size_t end) const {
    if (by_row())
      return mx::contiguous(mx::take(
          logits_of(rows_[begin / static_cast<size_t>(where_.size())]),
          where_,
          0));
    const auto some = mx::slice(
        rows_[0],
        {static_cast<int>(begin), 0},
        {static_cast<int>(end), rows_[0].shape(1)});
    return mx::contiguous(mx::astype(Stepper(model_).head(some), mx::float32));
  }

 private:
  mx::array logits_of(const mx::array& x) const {
    if (!decoder_of(model_)) return logits_of_last(model_, ids_, x);
    Stepper stepper(model_, nullptr, {.lengths = {x.shape(0)}});
    return mx::astype(
        mx::squeeze(stepper.head(mx::expand_dims(x, 0)), 0), mx::float32);
  }

  const InterpretableModel& model_;
  const std::vector<int>& ids_;
  mx::array where_;
  std::vector<mx::array> rows_;  // residuals: of each row, or all of them
};

}  // namespace

std::optional<size_t> Lens::on_top_from(size_t column) const {
  if (!track)
    fail(ErrorKind::usage, "[Lens] no token is tracked; set LensOptions.track");
  if (column >= columns())
    fail(
        ErrorKind::out_of_range,
        "[Lens] column {} is out of range; there are {}",
        column,
        columns());
  size_t first = rows();
  while (first > 0 && track_ranks[cell(first - 1, column)] == 0)
    --first;
  return first < rows() ? std::optional(first) : std::nullopt;
}

Lens logit_lens(
    const InterpretableModel& plain,
    const Inputs& prompt,
    const LensOptions& options) {
  const auto model = plain.with(options.edits);
  Lens lens;
  lens.model_layers = layer_count(model);
  const auto vocab = static_cast<size_t>(vocabulary(model));
  check_top_k(options.top_k, vocab);
  if (options.track &&
      (*options.track < 0 || static_cast<size_t>(*options.track) >= vocab))
    fail(
        ErrorKind::out_of_range,
        "[logit_lens] token id {} is out of range; the vocabulary has {}",
        *options.track,
        vocab);
  check_site(model, options);

  lens.site = options.site;
  lens.tuned = options.tuned != nullptr;
  lens.jacobian = options.jacobian != nullptr;
  if (options.embed && options.site != "resid_pre") {  // which has it anyway
    lens.layers.emplace_back();
    lens.sites.push_back(
        model.sites()[model.sites().find("layers.0.resid_pre")].name);
  }
  auto asked = resolve(options.layers, lens.model_layers, "layer");
  if (const auto* jacobian = options.jacobian) {
    const auto lacks = [&](int layer) {
      return layer + 1 < lens.model_layers && !jacobian->has(layer);
    };
    if (options.layers.empty()) std::erase_if(asked, lacks);
    for (const int layer : asked)
      if (lacks(layer)) static_cast<void>(jacobian->at(layer));  // throws
  }
  for (const int layer : asked) {
    auto site = fmt::format("layers.{}.{}", layer, options.site);
    // Layers without an MLP have no mlp_out; rows say which layers they are.
    if (!model.sites().contains(site)) continue;
    lens.layers.emplace_back(layer);
    lens.sites.push_back(std::move(site));
  }
  if (std::ranges::none_of(
          lens.layers, [](const auto& layer) { return layer.has_value(); }))
    fail(
        ErrorKind::usage,
        "[logit_lens] no layer {}has {}; read another site",
        static_cast<int>(asked.size()) < lens.model_layers ? "asked for " : "",
        options.site);

  const auto running = [&] {
    if (options.progress) options.progress("Running the model", 0.0);
  };
  running();
  auto save = lens.sites;
  save.emplace_back("tokens");
  const auto run = model.run(prompt, {.save = save, .between = running});
  if (run.lengths().size() != 1)
    fail(
        ErrorKind::usage,
        "[logit_lens] {} prompts given; a lens reads one",
        run.lengths().size());
  const auto tokens = run["tokens"];
  lens.ids.assign(tokens.data<int>(), tokens.data<int>() + tokens.size());
  lens.positions = resolve(options.positions, run.lengths()[0], "position");
  lens.top_k = options.top_k;
  lens.track = options.track;
  const size_t cells = lens.rows() * lens.columns();
  const size_t places = cells * static_cast<size_t>(lens.top_k);
  lens.top_ids.resize(places);
  lens.top_logits.resize(places);
  lens.top_probabilities.resize(places);
  if (lens.track) {
    lens.track_logits.resize(cells);
    lens.track_probabilities.resize(cells);
    lens.track_ranks.resize(cells);
  }

  const Reader reader(model, run, lens, options);
  const size_t chunk =
      reader.by_row()
          ? lens.columns()
          : std::max<size_t>(1, logits_budget / (vocab * sizeof(float)));
  for (size_t begin = 0; begin < cells; begin += chunk) {
    const size_t end = std::min(cells, begin + chunk);
    if (options.progress)
      options.progress(
          "Reading the residual stream",
          static_cast<double>(begin) / static_cast<double>(cells));
    auto logits = reader(begin, end);
    logits.eval();
    // Softmax and top-k as plain loops: on a CPU MLX takes six times as long.
    const float* data = logits.data<float>();
    split_over_cores(end - begin, 1, [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i)
        read_cell(lens, begin + i, {data + i * vocab, vocab});
    });
  }
  if (options.progress) options.progress("Reading the residual stream", 1.0);
  return lens;
}

TopTokens top_tokens(std::span<const float> logits, int k) {
  check_top_k(k, logits.size());
  TopTokens top;
  top.ids.resize(static_cast<size_t>(k));
  best(logits, top.ids);
  const bool finite = top.ids[0] >= 0;
  top.normalizer =
      finite ? normalizer(logits, logits[static_cast<size_t>(top.ids[0])])
             : nan;
  for (const int id : top.ids) {
    const float logit = finite ? logits[static_cast<size_t>(id)] : nan;
    top.logits.push_back(logit);
    top.probabilities.push_back(std::exp(logit - top.normalizer));
  }
  return top;
}

}  // namespace mlxterp
