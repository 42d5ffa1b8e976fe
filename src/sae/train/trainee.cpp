#include "sae/train/trainee.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/clt_train.h"
#include "mlxterp/sae/save.h"
#include "sae/hooks.h"
#include "trace/lens_names.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

constexpr int chunk_rows = 1024;

// TransformerLens' name of a site, as other tools write it; else the site's
// own.
std::string hook_of(const std::string& site) {
  const auto hook = to_lens(site);
  return hook.empty() ? site : hook;
}

void name_sites(const std::string& in, const std::string& out, SaeSource& to) {
  to.hook_in = hook_of(in);
  to.hook_out = hook_of(out);
  to.site_in = in;
  to.site_out = out;
  to.layer = layer_of_site(in);
}

// Features that any rows had active.
class Fired {
 public:
  explicit Fired(int features) : any_(mx::zeros({features}, mx::bool_)) {}

  void add(const mx::array& acts) {
    any_ =
        mx::logical_or(any_, mx::any(mx::not_equal(acts, mx::array(0.0f)), 0));
    any_.eval();
  }
  double dead_share() const {
    auto share = mx::mean(mx::astype(any_, mx::float32));
    return 1 - static_cast<double>(share.item<float>());
  }

 private:
  mx::array any_;
};

// What each of them hands on to its trainer.
template <typename Trainer>
class Held : public Trainee {
 public:
  template <typename... Given>
  explicit Held(const SaeRunOptions& run, const Given&... given)
      : run_(run), trainer_(given...) {}

  int64_t steps() const override { return trainer_.steps(); }
  const SaeTimes& times() const override { return trainer_.times(); }
  SaeTrainer::Tensors state() const override { return trainer_.state(); }
  void restore(const SaeTrainer::Tensors& state) override {
    trainer_.restore(state);
  }

 protected:
  const SaeRunOptions& run_;
  Trainer trainer_;
};

class OneTrainee : public Held<SaeTrainer> {
 public:
  OneTrainee(
      const SaeTrainOptions& train,
      const SaeRunOptions& run,
      const Rows& sample)
      : Held(run, train, sample.x, train.transcoder ? sample.y : std::nullopt) {
  }

  SaeStep step(const Rows& rows) override {
    return trainer_.step(
        rows.x, trainer_.options().transcoder ? rows.y : std::nullopt);
  }

  SaeTrained measured(const Rows& rows) const override {
    const auto sae = trainer_.sae();
    SaeFitter fitter;
    std::vector<SaeFitter> parts(run_.layers.size());  // of a crosscoder
    Fired fired(sae.d_sae());
    for (int begin = 0; begin < rows.size(); begin += chunk_rows) {
      const auto part =
          part_of(rows, begin, std::min(rows.size(), begin + chunk_rows));
      const auto acts = encode(sae, part.x);
      const auto want = part.y.value_or(part.x);
      const auto recon = decode(sae, acts, part.x);
      fitter.add(want, recon, acts);
      fired.add(acts);
      const int width =
          want.shape(1) / std::max(static_cast<int>(parts.size()), 1);
      for (size_t i = 0; i < parts.size(); ++i) {
        const auto cut = [&](const mx::array& x) {
          const int first = static_cast<int>(i) * width;
          return mx::slice(x, {0, first}, {x.shape(0), first + width});
        };
        parts[i].add(cut(want), cut(recon), acts);
      }
    }
    SaeTrained out{.fit = fitter.fit(), .dead_share = fired.dead_share()};
    if (parts.empty()) return out;
    out.fit.explained_variance = 0;
    for (const auto& it : parts) {
      out.layers.push_back(it.fit());
      out.fit.explained_variance += out.layers.back().explained_variance /
                                    static_cast<double>(parts.size());
    }
    out.fit.fvu = 1 - out.fit.explained_variance;
    return out;
  }

  void write(const fs::path& folder, std::optional<double> l0) const override {
    auto sae = trainer_.sae();
    sae.source = {.format = "saelens", .model = run_.model, .l0 = l0};
    const auto in =
        run_.crosscoder
            ? fmt::format(
                  "layers.{{{}}}.{}", fmt::join(run_.layers, ","), run_.site)
            : run_.site;
    name_sites(in, run_.site_out.empty() ? in : run_.site_out, sae.source);
    save_saelens(sae, folder, /*overwrite=*/true);
  }
};

// [n, layers, d] of rows.
mx::array by_layer(const mx::array& x, int layers) {
  return mx::reshape(x, {x.shape(0), layers, -1});
}

class CltTrainee : public Held<CltTrainer> {
 public:
  CltTrainee(
      const SaeTrainOptions& train,
      const SaeRunOptions& run,
      const Rows& sample)
      : Held(
            run,
            train,
            sae_train::by_layer(sample.x, train.layers),
            sae_train::by_layer(*sample.y, train.layers)) {}

  SaeStep step(const Rows& rows) override {
    return trainer_.step(by_layer(rows.x), by_layer(*rows.y));
  }

  SaeTrained measured(const Rows& rows) const override {
    auto all = trainer_.transcoders();
    for (auto& it : all)
      mx::eval(it.W_enc, it.b_enc, it.W_dec, it.b_dec, *it.threshold);
    std::vector<SaeFitter> fitters(all.size());
    std::vector<Fired> fired(all.size(), Fired(all.front().d_sae()));
    for (int begin = 0; begin < rows.size(); begin += chunk_rows) {
      const auto part =
          part_of(rows, begin, std::min(rows.size(), begin + chunk_rows));
      const auto x = by_layer(part.x), y = by_layer(*part.y);
      std::vector<std::optional<mx::array>> recon(all.size());
      for (size_t l = 0; l < all.size(); ++l) {
        const auto acts = encode(all[l], mx::take(x, static_cast<int>(l), 1));
        const auto written = decode(all[l], acts);
        for (size_t t = l; t < all.size(); ++t) {
          const auto to = mx::take(written, static_cast<int>(t - l), 1);
          recon[t] = recon[t] ? mx::add(*recon[t], to) : to;
        }
        // All that is written to this layer is known.
        fitters[l].add(mx::take(y, static_cast<int>(l), 1), *recon[l], acts);
        fired[l].add(acts);
      }
    }
    SaeTrained out;
    const auto n = static_cast<double>(all.size());
    for (size_t l = 0; l < all.size(); ++l) {
      const auto fit = fitters[l].fit();
      out.layers.push_back(fit);
      out.fit.rows = fit.rows;
      out.fit.explained_variance += fit.explained_variance / n;
      out.fit.l0 += fit.l0;
      out.dead_share += fired[l].dead_share() / n;
    }
    out.fit.fvu = 1 - out.fit.explained_variance;
    return out;
  }

  void write(
      const fs::path& folder, std::optional<double> /*l0*/) const override {
    const auto sites = sites_of(run_);
    auto all = trainer_.transcoders();
    for (size_t l = 0; l < all.size(); ++l) {
      all[l].source.model = run_.model;
      name_sites(sites[l], sites[l + all.size()], all[l].source);
    }
    // Beside them first: a disk that fills up leaves the files of one
    // checkpoint together.
    const auto next = folder / "next";
    std::error_code error;
    fs::remove_all(next, error);
    save_circuit_tracer(all, next, /*overwrite=*/true);
    std::vector<fs::path> names;
    for (const auto& entry : fs::directory_iterator(next, error))
      names.push_back(entry.path().filename());
    for (const auto& name : names)
      if (!error) fs::rename(next / name, folder / name, error);
    if (!error) fs::remove_all(next, error);
    if (error)
      fail(
          ErrorKind::environment,
          "[train_sae] what stands in {} cannot be moved above it ({})",
          quoted(next),
          error.message());
  }

 private:
  mx::array by_layer(const mx::array& x) const {
    return sae_train::by_layer(x, trainer_.options().layers);
  }
};

}  // namespace

std::unique_ptr<Trainee> trainee_of(
    const SaeTrainOptions& train,
    const SaeRunOptions& run,
    const Rows& sample) {
  if (train.layers > 0) return std::make_unique<CltTrainee>(train, run, sample);
  return std::make_unique<OneTrainee>(train, run, sample);
}

}  // namespace mlxterp::sae_train
