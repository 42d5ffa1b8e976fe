#include "mlxterp/analysis/verify.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr int default_tokens = 48;

std::string layer_site(size_t layer, const char* name) {
  return fmt::format("layers.{}.{}", layer, name);
}

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

// Of finite values; NaN where there is another.
double magnitude(const mx::array& x) {
  const auto y = wide(x);
  if (!mx::all(mx::isfinite(y)).item<bool>()) return nan;
  return mx::max(mx::abs(y)).item<float>();
}

// Positions of axis 1 from `first` on, `count` of them.
mx::array positions(const mx::array& x, int first, int count) {
  auto from = mx::Shape(x.ndim(), 0), to = x.shape();
  from[1] = first;
  to[1] = first + count;
  return mx::slice(x, from, to);
}

// The real positions of each row as they are in `reference` from `first` on;
// padding stays what it is.
Intervention as_in(const mx::array& reference, int first) {
  return [reference, first](const mx::array& x, const SiteView& site) {
    const int n = x.shape(1);
    const auto ends = mx::array(
        site.lengths.data(),
        {static_cast<int>(site.lengths.size()), 1, 1},
        mx::int32);
    const auto real = mx::less(mx::reshape(mx::arange(n), {1, n, 1}), ends);
    return mx::where(real, positions(reference, first, n), x);
  };
}

// Whether `src` may be seen from `dest`, by the definition: [dest, src].
mx::array allowed(int n, int window, int chunk) {
  std::vector<float> out;
  for (int dest = 0; dest < n; ++dest)
    for (int src = 0; src < n; ++src)
      out.push_back(
          src <= dest && (window == 0 || dest - src < window) &&
          (chunk == 0 || dest / chunk == src / chunk));
  return mx::array(out.data(), {n, n});
}

class Verifier {
 public:
  Verifier(const InterpretableModel& model, const VerifyOptions& options)
      : model_(model),
        decoder_(model.decoder()),
        options_(options),
        ids_(model
                 .token_ids(
                     options.prompt.value_or(verify_prompt(model)))  // checked
                 .front()),
        n_(static_cast<int>(ids_.size())) {
    for (size_t i = 0; i < decoder_.layers.size(); ++i)
      if (decoder_.layers[i]->attention()) attending_.push_back(i);
    const auto holds = [&](mx::Dtype dtype) {
      if (mx::issubdtype(dtype, mx::floating))
        epsilon_ = std::max(epsilon_, mx::finfo(dtype).eps);
    };
    std::set<const mx::array*> parts;  // of what is packed
    for (const auto& [path, matrix] : model.module().matrices()) {
      holds(matrix->dtype());
      for (const auto& [name, part] : matrix->parts())
        parts.insert(part);
    }
    for (const auto& [path, weight] : model.parameters())
      if (!parts.contains(weight)) holds(weight->dtype());
  }

  std::vector<Check> checks() {
    read_reference();
    check("finite values", 0, [&] { finite(); });
    if (!rows_.back().passed()) return std::move(rows_);
    const auto layers = static_cast<double>(decoder_.layers.size());
    // Sums and products are float32 inside, whatever the weights are.
    const double sums = 64 * mx::finfo(mx::float32).eps;
    // Each of 2 additions a layer rounds by half an epsilon of the stream, to
    // either side.
    check("component sums", 2 * std::sqrt(layers + 1) * epsilon_ + sums, [&] {
      components();
    });
    // A row's weights round by half an epsilon of themselves, which sum to 1;
    // the float32 sum, in the softmax and here, is the worse the longer it is.
    const double longer = std::sqrt(std::max(1.0, n_ / 64.0));
    if (!attending_.empty()) {
      check("pattern rows", epsilon_ + longer * sums, [&] { pattern_rows(); });
      check("masked sources", 0, [&] { masked(); });
      check("heads through W_O", 4 * epsilon_ + sums, [&] { heads(); });
      // Opened up, scores round to the model's precision before the softmax,
      // which makes of it an error of the pattern.
      check("explicit = fused", largest_score_ * epsilon_ + sums, [&] {
        explicitly();
      });
    }
    // Products of other shapes sum in another order, which may round to a
    // neighbour at each step of a layer. So may those of the same shape: what a
    // BLAS does depends on its threads, too.
    const double again = 16 * epsilon_ + sums;
    check("no-op patch", again, [&] { noop(); });
    check("empty trace", again, [&] { empty(); });
    check("batch = single", again, [&] { batched(); });
    check("cache = one pass", again, [&] { cached(); });
    return std::move(rows_);
  }

 private:
  template <typename Measure>
  void check(const char* name, double bound, const Measure& measure) {
    constexpr double total = 10;
    if (options_.progress)
      options_.progress("Verifying", static_cast<double>(rows_.size()) / total);
    auto& row = rows_.emplace_back();
    row.name = name;
    row.bound = bound;
    try {
      measure();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::environment) throw;
      row.error = nan;
      row.where = error.what();
    }
  }

  void note(double error, size_t values, const std::string& where) {
    auto& row = rows_.back();
    row.compared += values;
    if (std::isnan(row.error)) return;
    if (error <= row.error) return;
    row.error = error;
    row.where = model_.sites()[model_.sites().find(where)].name;
  }

  // Errors as a part of `scale`, or of the largest value wanted.
  void compare(
      const std::string& where,
      const mx::array& got,
      const mx::array& wanted,
      std::optional<double> scale = std::nullopt) {
    if (got.shape() != wanted.shape()) return note(nan, got.size(), where);
    const double difference = magnitude(mx::subtract(wide(got), wide(wanted)));
    if (!scale) scale = magnitude(wanted);
    note(
        difference == 0 ? 0 : difference / *scale,  // x / 0: infinite
        got.size(),
        where);
  }

  ActivationCache run(
      const Inputs& inputs,
      std::vector<std::string> save,
      const std::vector<Edit>& edits = {},
      nn::KvCache* cache = nullptr) const {
    auto all = options_.edits;
    all.insert(all.end(), edits.begin(), edits.end());
    return model_.run(
        inputs, {.save = std::move(save), .edits = all, .cache = cache});
  }

  mx::array reference(const std::string& name) const {
    return (*reference_)[name];
  }

  bool sinks(size_t layer) const {
    return decoder_.layers[layer]->attention()->sinks.has_value();
  }

  bool mixture(size_t layer) const {
    return decoder_.layers[layer]->moe.has_value();
  }
  std::string experts(size_t layer) const {
    return fmt::format(
        "layers.{}.{}.expert_indices",
        layer,
        decoder_.layers[layer]->moe_name());
  }

  void read_reference() {
    std::vector<std::string> save = {
        "embed", "logits", "layers.*.{resid_pre,resid_post,attn_out}"};
    for (const auto i : attending_)
      save.push_back(layer_site(
          i,
          decoder_.layers[i]->attention()->config().own_kv
              ? "attn.{scores,pattern,q,k,v,z,output}"
              : "attn.{scores,pattern,q,z,output}"));
    if (decoder_.pos_embed) save.emplace_back("pos_embed");
    for (const auto i : attending_)
      if (sinks(i)) save.push_back(layer_site(i, "attn.sink_share"));
    for (size_t i = 0; i < decoder_.layers.size(); ++i)
      if (mixture(i)) save.push_back(experts(i));
    for (size_t i = 0; i < decoder_.layers.size(); ++i) {
      const auto& layer = *decoder_.layers[i];
      if (layer.feeds_forward()) save.push_back(layer_site(i, "mlp_out"));
      if (layer.ple) save.push_back(layer_site(i, "ple_out"));
      if (layer.layer_scalar) save.push_back(layer_site(i, "layer_scalar"));
    }
    reference_ = run(ids_, save);
    for (const auto i : attending_) {
      const auto scores = wide(reference(layer_site(i, "attn.scores")));
      const auto seen =
          mx::where(mx::isinf(scores), mx::array(0.0f), mx::abs(scores));
      largest_score_ = std::fmax(largest_score_, mx::max(seen).item<float>());
    }
  }

  // Every layer but the first reads what it read in the one pass from position
  // `first` on.
  std::vector<Edit> forced(int first) const {
    std::vector<Edit> edits;
    for (size_t i = 0; i < decoder_.layers.size(); ++i) {
      std::vector<std::string> sites;
      if (i > 0) sites.push_back(layer_site(i, "resid_pre"));
      if (mixture(i)) sites.push_back(experts(i));
      for (const auto& site : sites)
        edits.push_back({site, as_in(reference(site), first)});
    }
    return edits;
  }

  // What `got` has of the reference from position `first` on.
  void compare_layers(const ActivationCache& got, int first) {
    for (const auto& [name, values] : got)
      for (int row = 0; row < values.shape(0); ++row) {
        const int n = got.lengths()[static_cast<size_t>(row)];
        const auto one = mx::take(values, mx::array({row}), 0);
        compare(
            name,
            positions(one, 0, n),
            positions(reference(name), first, n),
            magnitude(reference(name)));
      }
  }

  void finite() {
    for (const auto& [name, value] : *reference_)
      if (name == "embed" || name.ends_with("resid_post") || name == "logits")
        note(std::isnan(magnitude(value)) ? nan : 0, value.size(), name);
  }

  void components() {
    auto sum = wide(reference("embed"));
    if (decoder_.pos_embed) sum = mx::add(sum, wide(reference("pos_embed")));
    double largest = magnitude(sum);
    std::string last = "embed";
    for (size_t i = 0; i < decoder_.layers.size(); ++i) {
      sum = mx::add(sum, wide(reference(layer_site(i, "attn_out"))));
      const auto& layer = *decoder_.layers[i];
      if (layer.feeds_forward())
        sum = mx::add(sum, wide(reference(layer_site(i, "mlp_out"))));
      if (layer.ple)
        sum = mx::add(sum, wide(reference(layer_site(i, "ple_out"))));
      if (layer.layer_scalar)
        sum = mx::multiply(sum, wide(reference(layer_site(i, "layer_scalar"))));
      last = layer_site(i, "resid_post");
      largest = std::max(largest, magnitude(reference(last)));
    }
    compare(last, sum, reference(last), largest);
  }

  void pattern_rows() {
    for (const auto i : attending_) {
      const auto site = layer_site(i, "attn.pattern");
      auto sums = mx::sum(wide(reference(site)), -1);
      if (sinks(i))  // they took the rest
        sums = mx::add(
            sums,
            mx::squeeze(
                mx::swapaxes(
                    wide(reference(layer_site(i, "attn.sink_share"))), 1, 2),
                -1));
      compare(site, sums, mx::ones(sums.shape()), 1);
    }
  }

  void masked() {
    for (const auto i : attending_) {
      const auto& config = decoder_.layers[i]->attention()->config();
      const auto site = layer_site(i, "attn.pattern");
      const auto pattern = reference(site);
      const auto seen = allowed(n_, config.window, config.chunk);
      const auto astray =
          mx::where(mx::equal(seen, mx::array(0.0f)), pattern, mx::array(0.0f));
      compare(site, astray, mx::zeros(astray.shape()), 1);
    }
  }

  void heads() {
    // Lazy: one layer's result at a time is in memory.
    std::map<size_t, std::pair<mx::array, mx::array>> sums;
    {
      auto trace = model_.trace(ids_, options_.edits);
      for (const auto i : attending_) {
        const auto result = wide(trace.value(layer_site(i, "attn.result")));
        sums.emplace(
            i, std::pair(mx::sum(result, 2), mx::max(mx::abs(result))));
      }
    }
    Pass pass;
    for (auto& [i, found] : sums) {
      auto& [sum, largest] = found;
      const auto& layer = *decoder_.layers[i];
      if (const auto& bias = layer.attention()->o_proj.bias)
        sum = mx::add(sum, wide(*bias));
      mx::eval(sum, largest);
      const auto site = layer_site(i, "attn.output");
      const auto written = reference(site);
      compare(site, sum, written, largest.item<float>());
      const auto post =
          layer.ln1_post ? (*layer.ln1_post)(written, pass) : written;
      const auto by = mx::array(decoder_.config().residual_scale, post.dtype());
      const auto out = layer_site(i, "attn_out");
      compare(out, mx::multiply(post, by), reference(out));
    }
  }

  void explicitly() {
    auto edits = forced(0);
    std::vector<std::string> save;
    for (const auto i : attending_) {
      edits.push_back({layer_site(i, "attn.pattern"), scale(1)});
      save.push_back(layer_site(i, "attn.z"));
    }
    compare_layers(run(ids_, save, edits), 0);
  }

  void noop() {
    std::vector<Edit> edits;
    for (const auto& [name, value] : *reference_)
      for (const auto* end :
           {"embed",
            ".q",
            ".k",
            ".v",
            ".z",
            "attn_out",
            "mlp_out",
            "ple_out",
            "layer_scalar",
            "_post"})
        if (name.ends_with(end)) {
          edits.push_back({name, replace_with(value)});
          break;
        }
    compare_layers(run(ids_, {"layers.*.resid_post", "logits"}, edits), 0);
  }

  void empty() {
    compare("logits", reference("logits"), model_(ids_));
    compare("logits", run(ids_, {"logits"})["logits"], model_(ids_));
  }

  std::vector<std::string> compared() const {
    std::vector<std::string> out = {
        "layers.0.resid_pre", "layers.*.attn_out", "logits"};
    for (size_t i = 0; i < decoder_.layers.size(); ++i)
      if (decoder_.layers[i]->feeds_forward())
        out.push_back(layer_site(i, "mlp_out"));
    return out;
  }

  bool same_angles(int length) const {
    return decoder_.config().same_angles(length, n_);
  }

  void batched() {
    // By causality a shorter prompt is the beginning of the longer one.
    const int part = std::max(1, n_ * 2 / 3);
    const int length = same_angles(part) ? part : n_;
    const Inputs::Rows rows = {ids_, {ids_.begin(), ids_.begin() + length}};
    compare_layers(run(rows, compared(), forced(0)), 0);
  }

  void cached() {
    nn::KvCache cache;
    for (const int end : {1, n_ / 2, n_ - 1, n_}) {
      const int held = cache.positions();
      if (end <= held || !same_angles(end)) continue;
      const std::vector<int> piece(ids_.begin() + held, ids_.begin() + end);
      compare_layers(run(piece, compared(), forced(held), &cache), held);
    }
  }

  const InterpretableModel& model_;
  const Decoder& decoder_;
  const VerifyOptions& options_;
  std::vector<int> ids_;
  int n_;
  std::vector<size_t> attending_;  // layers that have attention
  double epsilon_ = 0;             // of the coarsest weights
  double largest_score_ = 0;
  std::optional<ActivationCache> reference_;
  std::vector<Check> rows_;
};

}  // namespace

std::vector<int> verify_prompt(const InterpretableModel& model) {
  const auto& config = model.decoder().config();
  std::vector<int> ids;
  if (model.has_tokenizer()) {
    ids = model.tokenizer().encode(
        "When Mary and John went to the store, John gave a drink to Mary.\n"
        "def f(x):\n    return 3.14 * x  # na\u00efve, \u6771\u4eac "
        "\U0001F600");
  } else {
    uint32_t state = 1;  // a fixed sequence of our own, the same everywhere
    for (int i = 0; i < default_tokens; ++i) {
      state = state * 1664525u + 1013904223u;
      ids.push_back(
          static_cast<int>((state >> 8) % static_cast<uint32_t>(config.vocab)));
    }
  }
  if (ids.size() > static_cast<size_t>(config.context))
    ids.resize(static_cast<size_t>(config.context));
  return ids;
}

std::vector<Check> verify(
    const InterpretableModel& model, const VerifyOptions& options) {
  return Verifier(model, options).checks();
}

std::string failures(const std::vector<Check>& checks) {
  std::string out;
  for (const auto& check : checks)
    if (!check.passed())
      out += fmt::format(
          "{}'{}' is off by {:.2g} at {}, the bound is {:.2g}",
          out.empty() ? "" : "; ",
          check.name,
          check.error,
          check.where,
          check.bound);
  return out;
}

void require_verified(
    const InterpretableModel& model, const VerifyOptions& options) {
  if (const auto failed = failures(verify(model, options)); !failed.empty())
    fail(
        ErrorKind::bad_data,
        "[verify] the model fails checks that every model must pass: {}",
        failed);
}

}  // namespace mlxterp
