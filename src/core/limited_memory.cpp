#include "core/limited_memory.h"

#include <cstring>

#include "core/fail.h"
#include "core/machine.h"
#include "core/mlx_calls.h"
#include "mlx/allocator.h"
#include "mlx/device.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlxterp/core/blas.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// MLX's own on a CPU, which gives a null pointer that nobody looks at.
class Checked final : public mx::allocator::Allocator {
 public:
  explicit Checked(Allocator& inner) : inner_(inner) {}

  mx::allocator::Buffer malloc(size_t bytes) override {
    const auto buffer = inner_.malloc(bytes);
    if (!buffer.ptr())
      fail(
          ErrorKind::environment,
          "[memory] {:.3f} GB more cannot be had, `ulimit -v` leaves this "
          "process {:.3f} GB; raise it, or run fewer or shorter prompts and "
          "save fewer sites at once",
          static_cast<double>(bytes) / 1e9,
          static_cast<double>(address_space_left()) / 1e9);
    return buffer;
  }
  void free(mx::allocator::Buffer buffer) override { inner_.free(buffer); }
  size_t size(mx::allocator::Buffer buffer) const override {
    return inner_.size(buffer);
  }
  mx::allocator::Buffer make_buffer(void* data, size_t bytes) override {
    return inner_.make_buffer(data, bytes);
  }
  void release(mx::allocator::Buffer buffer) override {
    inner_.release(buffer);
  }

 private:
  Allocator& inner_;
};

mx::allocator::Allocator& checked_allocator() {
  // Never destroyed: other threads may be freeing when the process ends.
  static auto* checked = new Checked(mx::allocator::allocator());
  return *checked;
}

}  // namespace

void prepare_for_limited_memory() {
  const size_t left = address_space_left();
  if (left == no_limit || mx::default_device() != mx::Device::cpu) return;
  static_cast<void>(checked_allocator());
  visit_mlx_calls([](const char* name, void** slot) {
    if (std::strcmp(name, "_ZN3mlx4core9allocator9allocatorEv") == 0)
      point_call(slot, reinterpret_cast<void*>(&checked_allocator));
  });
  // MLX prepares nodes long before it computes them; beyond this it waits.
  mx::set_memory_limit(mx::get_active_memory() + left / 2);
  if (left < 2 * blas_buffers()) return;
  auto product = mx::matmul(mx::ones({256, 256}), mx::ones({256, 256}));
  product.eval();
}

}  // namespace mlxterp
