#include "nn/simd/fused.h"

#include <new>

#include "core/fail.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace mlxterp::simd {

namespace {

class Fused : public mx::Primitive {
 public:
  Fused(
      mx::Stream stream,
      const char* name,
      Plain plain,
      Kernel kernel,
      bool in_place,
      Back back)
      : Primitive(stream),
        name_(name),
        plain_(std::move(plain)),
        kernel_(std::move(kernel)),
        in_place_(in_place),
        back_(std::move(back)) {}

  void eval_cpu(
      const std::vector<mx::array>& inputs,
      std::vector<mx::array>& outputs) override {
    auto& out = outputs[0];
    if (in_place_ && inputs[0].is_donatable())
      out.copy_shared_buffer(inputs[0]);
    else {
      auto data = mx::allocator::malloc(out.nbytes());
      if (!data.buffer().ptr()) throw std::bad_alloc();
      out.set_data(std::move(data));
    }
    if (out.size() == 0) return;
    auto& encoder = mx::cpu::get_command_encoder(stream());
    // MLX keeps the arrays themselves until the work is done.
    std::vector<mx::array> in;
    for (const auto& input : inputs) {
      encoder.set_input_array(input);
      in.push_back(mx::array::unsafe_weak_copy(input));
    }
    encoder.set_output_array(out);
    encoder.dispatch([kernel = kernel_,
                      in = std::move(in),
                      to = out.data<float>()] { kernel(in, to); });
  }

  void eval_gpu(
      const std::vector<mx::array>&, std::vector<mx::array>&) override {
    fail(
        ErrorKind::usage,
        "[{}] this operation runs only on a CPU stream",
        name_);
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<mx::array>&) override {
    if (back_) return chosen(back_(primals, cotangents[0]), argnums);
    return mx::vjp(
               plain_of(primals, argnums), chosen(primals, argnums), cotangents)
        .second;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    return mx::jvp(
               plain_of(primals, argnums), chosen(primals, argnums), tangents)
        .second;
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs,
      const std::vector<int>& axes) override {
    return {mx::vmap(plain_, axes, {0})(inputs), {0}};
  }

  const char* name() const override { return name_; }

 private:
  static std::vector<mx::array> chosen(
      const std::vector<mx::array>& primals, const std::vector<int>& argnums) {
    std::vector<mx::array> some;
    for (const int i : argnums)
      some.push_back(primals[static_cast<size_t>(i)]);
    return some;
  }

  // Of the inputs `argnums` alone.
  Plain plain_of(
      const std::vector<mx::array>& primals,
      const std::vector<int>& argnums) const {
    return [plain = plain_, primals, argnums](const auto& some) {
      auto all = primals;
      for (size_t i = 0; i < argnums.size(); ++i)
        all[static_cast<size_t>(argnums[i])] = some[i];
      return plain(all);
    };
  }

  const char* name_;
  Plain plain_;
  Kernel kernel_;
  bool in_place_;
  Back back_;
};

}  // namespace

bool applies_to(const mx::array& x) {
  return x.dtype() == mx::float32 && mx::default_device() == mx::Device::cpu;
}

mx::array dense(const mx::array& x) {
  const bool is =
      x.status() == mx::array::available && x.flags().row_contiguous;
  return is ? x : mx::contiguous(x);
}

mx::array fused(
    const char* name,
    const mx::Shape& shape,
    std::vector<mx::array> inputs,
    Plain plain,
    Kernel kernel,
    bool in_place,
    Back back) {
  const auto stream = mx::default_stream(mx::default_device());
  return mx::array(
      shape,
      mx::float32,
      std::make_shared<Fused>(
          stream,
          name,
          std::move(plain),
          std::move(kernel),
          in_place,
          std::move(back)),
      std::move(inputs));
}

}  // namespace mlxterp::simd
