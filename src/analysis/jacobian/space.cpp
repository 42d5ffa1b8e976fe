#include "mlxterp/analysis/jacobian_space.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "analysis/int_array.h"
#include "analysis/jacobian/source.h"
#include "analysis/jacobian/sparse.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* caller = "jacobian_space";
constexpr int most_atoms = 256;
constexpr size_t most_controls = 4096;
// Rows of W_U whose lengths are found at a time.
constexpr int rows_at_once = 8192;

// The layer's token directions, of which none is held.
class Dictionary {
 public:
  Dictionary(
      const InterpretableModel& model, const JacobianLens& lens, int layer)
      : model_(model), lens_(lens), layer_(layer), inverse_(lengths()) {}

  int vocab() const { return model_.decoder().config().vocab; }

  // [row, vocab]: each unit direction times r [row, d_model].
  mx::array agreement(const mx::array& r) const {
    const auto& w = model_.decoder().unembed.weight();
    const auto read = lens_(r, layer_);
    auto y = w.dtype() == mx::float32 ? w.times(read) : widened(read);
    if (y.shape(-1) > vocab()) y = mx::slice(y, {0, 0}, {y.shape(0), vocab()});
    return mx::multiply(y, inverse_);
  }

  // Unit directions, [token, d_model].
  mx::array atoms(const std::vector<int>& tokens) const {
    return mx::multiply(
        lens_.directions(model_, tokens, layer_),
        mx::expand_dims(mx::take(inverse_, int_array(tokens), 0), 1));
  }

 private:
  std::vector<int> tokens_from(int first) const {
    std::vector<int> out(
        static_cast<size_t>(std::min(rows_at_once, vocab() - first)));
    std::iota(out.begin(), out.end(), first);
    return out;
  }

  // x W_U^T in float32 of a W_U in another precision, some rows at a time.
  mx::array widened(const mx::array& x) const {
    std::vector<mx::array> parts;
    for (int from = 0; from < vocab(); from += rows_at_once) {
      parts.push_back(mx::matmul(
          x,
          mx::transpose(jacobian::unembedding_of(model_, tokens_from(from)))));
      parts.back().eval();
    }
    return mx::concatenate(std::move(parts), 1);
  }

  // 1 / length, [vocab]; 0 of a direction that is 0.
  mx::array lengths() const {
    std::vector<mx::array> squares;
    for (int from = 0; from < vocab(); from += rows_at_once) {
      squares.push_back(mx::sum(
          mx::square(lens_.directions(model_, tokens_from(from), layer_)), 1));
      squares.back().eval();
    }
    const auto all = mx::concatenate(std::move(squares), 0);
    auto out = mx::where(
        mx::greater(all, mx::array(0.0f)), mx::rsqrt(all), mx::array(0.0f));
    out.eval();
    return out;
  }

  const InterpretableModel& model_;
  const JacobianLens& lens_;
  int layer_;
  mx::array inverse_;
};

double dot(const double* a, const float* b, size_t n) {
  double out = 0;
  for (size_t i = 0; i < n; ++i)
    out += a[i] * static_cast<double>(b[i]);
  return out;
}

// One activation while atoms join.
class Target {
 public:
  Target(const float* h, size_t width, int k) : h_(h, h + width), left_(h_) {
    for (const double x : h_)
      length_ += x * x;
    code_.explained.reserve(static_cast<size_t>(k));
  }

  const std::vector<double>& left() const { return left_; }
  bool ended() const { return ended_; }
  const std::vector<int>& tokens() const { return code_.tokens; }

  void end() { ended_ = true; }

  void join(int token, const float* atom, SparseMethod method) {
    const size_t n = c_.size(), width = h_.size();
    atoms_.emplace_back(atom, atom + width);
    code_.tokens.push_back(token);
    gram_.emplace_back();
    for (size_t i = 0; i < n; ++i) {
      const double g = dot(atoms_[i].data(), atom, width);
      gram_[i].push_back(g);
      gram_[n].push_back(g);
    }
    gram_[n].push_back(dot(atoms_[n].data(), atom, width));
    b_.push_back(dot(h_.data(), atom, width));
    c_.push_back(0);
    c_ = method == SparseMethod::nnls ? jacobian::nnls(gram_, b_)
                                      : jacobian::pursuit_step(gram_, b_, c_);
    left_ = h_;
    for (size_t i = 0; i < c_.size(); ++i)
      for (size_t j = 0; j < width; ++j)
        left_[j] -= c_[i] * atoms_[i][j];
    double rest = 0;
    for (const double x : left_)
      rest += x * x;
    code_.explained.push_back(static_cast<float>(1 - rest / length_));
  }

  SparseCode code(int k) {
    for (const double c : c_)
      code_.coefficients.push_back(static_cast<float>(c));
    const float last = length_ == 0 ? std::numeric_limits<float>::quiet_NaN()
                       : code_.explained.empty() ? 0.0f
                                                 : code_.explained.back();
    code_.explained.resize(static_cast<size_t>(k), last);
    return std::move(code_);
  }

 private:
  std::vector<double> h_, left_, b_, c_;
  std::vector<std::vector<double>> atoms_;
  jacobian::Gram gram_;
  double length_ = 0;
  bool ended_ = false;
  SparseCode code_;
};

// The next atom of each target, -1 where none agrees.
std::vector<int> next_atoms(
    const Dictionary& dictionary, const std::vector<Target>& targets) {
  const size_t width = targets[0].left().size();
  const int n = static_cast<int>(targets.size());
  std::vector<float> left;
  left.reserve(targets.size() * width);
  for (const auto& target : targets)
    for (const double x : target.left())
      left.push_back(static_cast<float>(x));
  auto scores = dictionary.agreement(
      mx::array(left.data(), {n, static_cast<int>(width)}));
  // Those that have joined do not join again; where there are fewer, the first
  // one fills up.
  size_t most = 0;
  for (const auto& target : targets)
    most = std::max(most, target.tokens().size());
  if (most > 0) {
    std::vector<int> taken;
    for (const auto& target : targets)
      for (size_t i = 0; i < most; ++i)
        taken.push_back(
            target.tokens().empty()
                ? 0
                : target.tokens()[i < target.tokens().size() ? i : 0]);
    scores = mx::put_along_axis(
        scores,
        mx::array(taken.data(), {n, static_cast<int>(most)}),
        mx::array(-1.0f),
        1);
  }
  auto best = mx::astype(mx::argmax(scores, 1), mx::int32);
  auto value = mx::max(scores, 1);
  mx::eval({best, value});
  std::vector<int> out;
  for (int i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    const bool helps = !targets[at].ended() && value.data<float>()[i] > 0;
    out.push_back(helps ? best.data<int>()[i] : -1);
  }
  return out;
}

void check(
    const Dictionary& dictionary,
    const mx::array& h,
    const SparseOptions& given) {
  const int most = std::min(most_atoms, dictionary.vocab());
  if (given.k < 1 || given.k > most)
    fail(
        ErrorKind::usage,
        "[{}] k is {}; give 1 to {} atoms",
        caller,
        given.k,
        most);
  if (h.shape(0) > 0 && !mx::all(mx::isfinite(h)).item<bool>())
    fail(
        ErrorKind::usage,
        "[{}] the activation holds NaN or infinity; does the model overflow in "
        "this precision?",
        caller);
}

std::vector<SparseCode> codes_of(
    const Dictionary& dictionary,
    const mx::array& given,
    const SparseOptions& options) {
  auto h = mx::contiguous(mx::astype(given, mx::float32));
  check(dictionary, h, options);
  h.eval();
  const auto width = static_cast<size_t>(h.shape(1));
  const auto rows = static_cast<size_t>(h.shape(0));
  const size_t a_row = static_cast<size_t>(dictionary.vocab()) * sizeof(float);
  const size_t chunk = std::max<size_t>(1, options.memory / a_row);
  std::vector<SparseCode> out;
  for (size_t begin = 0; begin < rows; begin += chunk) {
    std::vector<Target> targets;
    for (size_t i = begin; i < std::min(rows, begin + chunk); ++i)
      targets.emplace_back(h.data<float>() + i * width, width, options.k);
    for (int step = 0; step < options.k; ++step) {
      const auto next = next_atoms(dictionary, targets);
      std::vector<int> tokens;
      for (const int token : next)
        if (token >= 0) tokens.push_back(token);
      if (tokens.empty()) break;
      auto atoms = mx::contiguous(dictionary.atoms(tokens));
      atoms.eval();
      const float* atom = atoms.data<float>();
      for (size_t i = 0; i < targets.size(); ++i) {
        if (next[i] < 0) {
          targets[i].end();
          continue;
        }
        targets[i].join(next[i], atom, options.method);
        atom += width;
      }
    }
    for (auto& target : targets)
      out.push_back(target.code(options.k));
  }
  return out;
}

// As a set, counted from the front; all of them where none is asked for.
std::vector<int> resolved(
    const std::vector<int>& asked, int size, const char* what) {
  std::vector<int> out;
  for (int i = 0; asked.empty() && i < size; ++i)
    out.push_back(i);
  for (const int i : asked) {
    if (i < -size || i >= size)
      fail(
          ErrorKind::out_of_range,
          "[{}] {} {} is out of range; there are {}",
          caller,
          what,
          i,
          size);
    out.push_back(i < 0 ? i + size : i);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<float> mean_of(const std::vector<SparseCode>& codes, int k) {
  std::vector<float> out;
  for (size_t i = 0; i < static_cast<size_t>(k); ++i) {
    double sum = 0;
    for (const auto& code : codes)
      sum += static_cast<double>(code.explained[i]);
    out.push_back(static_cast<float>(sum / static_cast<double>(codes.size())));
  }
  return out;
}

int occupancy_of(const SparseCode& code, const std::vector<float>& control) {
  int out = 0;
  float best = 0;
  for (size_t i = 0; i < control.size(); ++i)
    if (const float ahead = code.explained[i] - control[i]; ahead > best) {
      best = ahead;
      out = static_cast<int>(i) + 1;
    }
  return out;
}

}  // namespace

const char* name(SparseMethod method) {
  return method == SparseMethod::nnls ? "nnls" : "pursuit";
}

SparseMethod sparse_method(std::string_view name) {
  if (name == "pursuit") return SparseMethod::pursuit;
  if (name == "nnls") return SparseMethod::nnls;
  fail(
      ErrorKind::usage,
      "[{}] there is no method '{}'; use pursuit or nnls",
      caller,
      printable(std::string(name)));
}

std::vector<SparseCode> sparse_codes(
    const InterpretableModel& model,
    const JacobianLens& lens,
    int layer,
    const mx::array& h,
    const SparseOptions& options) {
  if (h.ndim() != 2 || h.shape(1) != lens.d_model())
    fail(
        ErrorKind::usage,
        "[{}] the activations are not [row, {}], the width that this lens "
        "reads",
        caller,
        lens.d_model());
  return codes_of(Dictionary(model, lens, layer), h, options);
}

JacobianSpace jacobian_space(
    const InterpretableModel& model,
    const JacobianLens& lens,
    const Inputs& prompt,
    const SpaceOptions& options) {
  lens.check_fits(model, true);
  if (options.controls < 0 ||
      static_cast<size_t>(options.controls) > most_controls)
    fail(
        ErrorKind::usage,
        "[{}] {} controls; give 0 to {}",
        caller,
        options.controls,
        most_controls);
  const auto rows = model.token_ids(prompt);
  if (rows.size() != 1)
    fail(
        ErrorKind::usage,
        "[{}] {} prompts given; it reads one",
        caller,
        rows.size());
  JacobianSpace out;
  out.ids = rows[0];
  const int n = model.decoder().config().n_layers;
  out.layers = resolved(options.layers, n, "layer");
  const auto lacks = [&](int layer) {
    return layer != lens.source.target_layer && layer + 1 < n &&
           !lens.has(layer);
  };
  if (options.layers.empty()) std::erase_if(out.layers, lacks);
  for (const int layer : out.layers)
    if (lacks(layer)) static_cast<void>(lens.at(layer));  // throws
  out.positions =
      resolved(options.positions, static_cast<int>(out.ids.size()), "position");
  std::vector<std::string> sites;
  for (const int layer : out.layers)
    sites.push_back(fmt::format("layers.{}.resid_post", layer));
  const auto say = [&](size_t done) {
    if (options.progress)
      options.progress(
          "Decomposing",
          static_cast<double>(done) / static_cast<double>(out.layers.size()));
  };
  say(0);
  const auto run = model.run(prompt, {.save = sites});
  auto key = mx::random::key(options.seed);
  // The last layer is read by W_U itself, whether or not a file says so.
  auto whole = lens;
  whole.source.target_layer = n - 1;
  for (size_t l = 0; l < out.layers.size(); ++l) {
    const Dictionary dictionary(model, whole, out.layers[l]);
    const auto h =
        mx::take(mx::squeeze(run[sites[l]], 0), int_array(out.positions), 0);
    auto codes = codes_of(dictionary, h, options.sparse);
    if (options.controls > 0) {
      const auto [mine, next] = mx::random::split(key);
      key = next;
      out.controls.push_back(mean_of(
          codes_of(
              dictionary,
              mx::random::normal(
                  {options.controls, lens.d_model()}, mx::float32, 0, 1, mine),
              options.sparse),
          options.sparse.k));
      for (const auto& code : codes)
        out.occupancy.push_back(occupancy_of(code, out.controls.back()));
    }
    std::ranges::move(codes, std::back_inserter(out.codes));
    say(l + 1);
  }
  return out;
}

}  // namespace mlxterp
