// Asks after every layer what the model would say next, and shows it.
// usage: example_01_logit_lens [MODEL]

#include <iostream>
#include <vector>

#include "mlxterp/mlxterp.h"

using namespace mlxterp;

int main(int argc, char** argv) try {
  const auto model = InterpretableModel::load(argc > 1 ? argv[1] : "demo");
  const auto& tokenizer = model.tokenizer();
  const auto paris = tokenizer.single_token(" Paris");

  const auto lens = logit_lens(
      model,
      "The Eiffel Tower is located in the city of",
      {.positions = {-1}, .top_k = 1, .track = paris});

  for (size_t row = 0; row < lens.rows(); ++row) {
    const std::vector winner = {lens.winner(row, 0)};
    std::cout << lens.sites[row] << "  says"
              << view::visible(tokenizer.labels(winner).front())
              << "  P( Paris) = " << lens.track_probabilities[row] << "\n";
  }
  if (const auto row = lens.on_top_from(0))
    std::cout << "\nParis is on top from " << lens.sites[*row] << " on\n";
} catch (const Error& error) {
  std::cerr << error.what() << "\n";
  return error.exit_code();
}
