// A user's program: links the library, its tokenizer and MLX.

#include <iostream>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/text/tokenizer.h"

int main() {
  std::cout << mlx::core::sum(mlx::core::ones({2, 3})).item<float>() << "\n";
  try {
    mlxterp::Tokenizer::from_json("{}");
  } catch (const mlxterp::Error& error) {
    std::cout << error.what() << "\n";
    return 0;
  }
  std::cerr << "an empty object is no tokenizer\n";
  return 1;
}
