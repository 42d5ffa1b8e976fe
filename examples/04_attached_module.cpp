// A sparse autoencoder of your own on the residual stream: its features are
// sites, to be read, ablated and swept, and every analysis sees the edited
// model.   usage: example_04_attached_module [MODEL]

#include <iostream>
#include <string>
#include <vector>

#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlxterp/mlxterp.h"
#include "mlxterp/nn/linear.h"

namespace mx = mlx::core;
using namespace mlxterp;

// decode(relu(encode(x))), with a feature for each row of `directions`,
// [feature, d_model]. A trained one would read its weights from a file.
struct SparseAutoencoder : nn::Module {
  nn::Linear encode, decode;
  const Slot acts;  // [batch, pos, feature]
  explicit SparseAutoencoder(const mx::array& directions)
      : encode(directions.shape(1), directions.shape(0)),
        decode(directions.shape(0), directions.shape(1)),
        acts(site("acts", {.width = directions.shape(0)})) {
    add("encode", encode);
    add("decode", decode);
    encode.weight = directions;
    decode.weight = mx::transpose(directions);
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    const auto pre = encode(mx::astype(x, mx::float32), pass);
    const auto on = mx::maximum(pre, mx::array(0.0f));
    return decode(tap(pass, acts, on), pass);
  }
};

// The directions that the unembedding reads these tokens from, less their
// mean, of length 1.
mx::array directions_of(const Decoder& decoder, const std::vector<int>& ids) {
  const mx::array tokens(ids.data(), {static_cast<int>(ids.size())});
  auto rows = mx::astype(
      mx::take(decoder.unembed.weight().numbers(), tokens, 0) *
          decoder.ln_final.weight,
      mx::float32);
  rows = rows - mx::mean(rows, 0, true);
  return rows / mx::linalg::norm(rows, 1, true);
}

int main(int argc, char** argv) try {
  std::cout.precision(3);
  const auto plain = InterpretableModel::load(argc > 1 ? argv[1] : "demo");
  const int layer = plain.decoder().config().n_layers - 4;
  const auto site = "layers." + std::to_string(layer) + ".resid_post";
  const std::string prompt = "The capital of France is";
  const std::vector<std::string> cities = {
      " Paris", " Rome", " London", " Berlin", " Madrid"};
  std::vector<int> ids;
  for (const auto& city : cities)
    ids.push_back(plain.tokenizer().single_token(city));
  const auto sae =
      std::make_shared<SparseAutoencoder>(directions_of(plain.decoder(), ids));

  // The same model in three ways, each beside the plain one. `by_position`: it
  // reads one position at a time, so that sweeps compute only what changes.
  using Mode = AttachOptions::Mode;
  const auto attached = [&](Mode mode) {
    return plain.attach(
        site, sae, {.mode = mode, .name = "sae", .by_position = true});
  };
  const auto read = attached(Mode::read);
  const auto replaced = attached(Mode::replace);
  const auto exact = attached(Mode::replace_with_error);

  Saved acts;
  {
    auto trace = read.trace(prompt);
    acts = trace.save(site + ".sae.acts");
  }
  const auto last = mx::take(acts.value(), acts.value().shape(1) - 1, 1);
  std::cout << acts.name() << " of \"" << prompt << "\", at the end:\n";
  for (size_t i = 0; i < cities.size(); ++i)
    std::cout << "  " << cities[i] << " "
              << mx::take(last, static_cast<int>(i), -1).item<float>() << "\n";

  const Edit no_paris = {site + ".sae.acts", on_neurons({0}, zero_out())};
  const auto answer = [&](const InterpretableModel& model,
                          std::vector<Edit> edits = {}) {
    const auto run =
        model.run(prompt, {.save = {"logits"}, .edits = std::move(edits)});
    return measure(model, probability(" Paris"), run["logits"]);
  };
  std::cout << "\nP( Paris)\n  plain model:                 " << answer(plain)
            << "\n  read:                        " << answer(read)
            << "\n  replace, by " << cities.size()
            << " features:      " << answer(replaced)
            << "\n  replace with error:          " << answer(exact)
            << "\n  the same without \" Paris\":   "
            << answer(exact, {no_paris}) << "\n";

  // Which feature makes the difference between France and Italy?
  const auto sweep = patch(
      exact,
      {.clean = prompt,
       .corrupt = "The capital of Italy is",
       .site = "resid_post.sae.acts",
       .by = {Axis::neuron},
       .metric = logit_diff(" Paris", " Rome"),
       .layers = {layer}});
  std::cout << "\nfeatures of France in the run on Italy, effect on "
            << "logit_diff( Paris, Rome)\n";
  for (size_t i = 0; i < cities.size(); ++i)
    std::cout << "  " << cities[i] << " " << sweep.effect()[i] << "\n";

  // A handle that makes the edit in every pass, under the lens.
  const auto edited = exact.with({no_paris});
  const LensOptions options = {
      .layers = {layer - 1, layer, layer + 1, layer + 2, layer + 3},
      .positions = {-1},
      .track = ids[0]};
  const auto before = logit_lens(exact, prompt, options);
  const auto after = logit_lens(edited, prompt, options);
  std::cout << "\nP( Paris) by the logit lens, without edits and with\n";
  for (size_t row = 0; row < before.rows(); ++row)
    std::cout << "  " << before.sites[row] << " "
              << before.track_probabilities[row] << " "
              << after.track_probabilities[row] << "\n";
} catch (const Error& error) {
  std::cerr << error.what() << "\n";
  return error.exit_code();
}
