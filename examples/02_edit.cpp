// Reads an attention pattern, then silences one MLP and asks how the model's
// answer moved.   usage: example_02_edit [MODEL]

#include <iostream>

#include "mlx/ops.h"
#include "mlxterp/mlxterp.h"

namespace mx = mlx::core;
using namespace mlxterp;

int main(int argc, char** argv) try {
  const auto model = InterpretableModel::load(argc > 1 ? argv[1] : "demo");
  const auto prompt = "The Eiffel Tower is located in the city of";
  const int paris = model.tokenizer().single_token(" Paris");

  // A trace: everything has a name, and only what is saved is computed.
  Saved pattern;
  {
    auto trace = model.trace(prompt);
    pattern = model.layers()[9]["self_attn"]["pattern"].output().save();
  }
  std::cout << pattern.name() << " " << pattern.value().shape() << "\n";

  // Probability of " Paris" at the last position.
  const auto answer = [&](std::vector<Edit> edits) {
    const auto run =
        model.run(prompt, {.save = {"logits"}, .edits = std::move(edits)});
    const auto& logits = run["logits"];
    const auto last = mx::take(logits, logits.shape(1) - 1, 1);
    return mx::take(mx::softmax(last, -1), paris, -1).item<float>();
  };
  std::cout << "unedited:                     " << answer({}) << "\n";
  std::cout << "without the MLP of layer 4:   "
            << answer({{"layers.4.mlp_out", zero_out()}}) << "\n";
  std::cout << "without head 7 of layer 10:   "
            << answer({{"layers.10.attn.z", on_heads({7}, zero_out())}})
            << "\n";
} catch (const Error& error) {
  std::cerr << error.what() << "\n";
  return error.exit_code();
}
