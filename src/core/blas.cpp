#include "mlxterp/core/blas.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <vector>

#include "core/fail.h"
#include "core/machine.h"

namespace mlxterp {

namespace {

// CBLAS's own numbers.
constexpr int row_major = 101, as_it_is = 111, transposed = 112;

struct Shape {
  int m, n, k;  // [m, k] by [k, n]

  size_t a() const { return static_cast<size_t>(m) * static_cast<size_t>(k); }
  size_t b() const { return static_cast<size_t>(k) * static_cast<size_t>(n); }
  size_t c() const { return static_cast<size_t>(m) * static_cast<size_t>(n); }
};

// A library has code of its own for one row, for small products and for what
// the blocks of a large one leave over at the edges; these meet all of it.
constexpr std::array<Shape, 3> shapes{
    {{1, 95, 143}, {7, 13, 9}, {79, 95, 143}}};

using Matrix = std::vector<float>;

// Whole numbers from -8 to 8. Their products and sums are exact in float32, in
// every order, so that a right result is equal and not merely close.
Matrix whole_numbers(size_t size, uint32_t seed) {
  Matrix out(size);
  for (float& value : out) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int>((seed >> 16) % 17u) - 8);
  }
  return out;
}

Matrix transpose(const Matrix& b, const Shape& shape) {
  Matrix out(b.size());
  const auto k = static_cast<size_t>(shape.k), n = static_cast<size_t>(shape.n);
  for (size_t row = 0; row < k; ++row)
    for (size_t column = 0; column < n; ++column)
      out[column * k + row] = b[row * n + column];
  return out;
}

Matrix plain_product(const Matrix& a, const Matrix& b, const Shape& shape) {
  Matrix out(shape.c());
  const auto k = static_cast<size_t>(shape.k), n = static_cast<size_t>(shape.n);
  for (size_t i = 0; i < a.size(); ++i) {
    float* to = out.data() + i / k * n;
    const float* row = b.data() + i % k * n;
    for (size_t column = 0; column < n; ++column)
      to[column] += a[i] * row[column];
  }
  return out;
}

std::string remedy(const Blas& blas) {
  const auto is = [&](const char* kernel) {
    return blas.name.find(kernel) != std::string::npos;
  };
  if (!is("OpenBLAS")) return "install OpenBLAS, or another build of it";
#ifdef __aarch64__
  const char* plainer = "ARMV8";
#else
  // Haswell's needs AVX2, which these have.
  const bool avx2 =
      is("SkylakeX") || is("Cooperlake") || is("Sapphire") || is("Zen");
  const char* plainer = avx2 ? "Haswell" : "Nehalem";
#endif
  return fmt::format(
      "choose another of its kernels with OPENBLAS_CORETYPE={} in the "
      "environment, or install another build of OpenBLAS",
      plainer);
}

}  // namespace

Blas blas_of(Sgemm* sgemm) {
  Dl_info where{};
  if (!sgemm || !dladdr(reinterpret_cast<const void*>(sgemm), &where) ||
      !where.dli_fname)
    return {"unknown", true};
#ifdef __APPLE__
  const std::string file = "Accelerate";
  return {file, false, file, sgemm};
#else
  const auto file = std::filesystem::path(where.dli_fname).filename().string();
  if (file.find("openblas") != std::string::npos) {
    // The handle stays: a library is not unloaded while it is in use.
    void* library = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    using Text = char* (*)();
    const auto ask = [&](const char* function) -> std::string {
      const auto call =
          library ? reinterpret_cast<Text>(dlsym(library, function)) : nullptr;
      return call ? call() : "";
    };
    // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...": the first two words.
    const auto config = ask("openblas_get_config");
    const auto end = config.find(' ', config.find(' ') + 1);
    return {
        fmt::format(
            "{} ({})", config.substr(0, end), ask("openblas_get_corename")),
        false,
        file,
        sgemm};
  }
  const bool fast = file.find("mkl") != std::string::npos ||
                    file.find("blis") != std::string::npos;
  return {fast ? file : "reference BLAS (" + file + ")", !fast, file, sgemm};
#endif
}

Blas blas() {
  // The first cblas_sgemm in the search order is the one MLX calls.
  auto found =
      blas_of(reinterpret_cast<Sgemm*>(dlsym(RTLD_DEFAULT, "cblas_sgemm")));
#ifdef __APPLE__
  found.name = "Accelerate";  // the only one MLX is built with there
  found.slow = false;
#endif
  return found;
}

std::string wrong_product(const Blas& blas) {
  if (!blas.sgemm) return "";
  for (const auto& shape : shapes) {
    const auto [m, n, k] = shape;
    const auto a = whole_numbers(shape.a(), 1), b = whole_numbers(shape.b(), 2);
    const auto turned = transpose(b, shape), right = plain_product(a, b, shape);
    for (const bool turn : {false, true}) {
      // What was there before is not to be read.
      Matrix c(shape.c(), std::numeric_limits<float>::quiet_NaN());
      blas.sgemm(
          row_major,
          as_it_is,
          turn ? transposed : as_it_is,
          m,
          n,
          k,
          1,
          a.data(),
          k,
          turn ? turned.data() : b.data(),
          turn ? k : n,
          0,
          c.data(),
          n);
      for (size_t i = 0; i < c.size(); ++i)
        if (c[i] != right[i])  // and where it is NaN
          return fmt::format(
              "{} in {} multiplies wrongly on this processor: entry ({}, {}) "
              "of a [{}, {}] by [{}, {}] product is {:g}, where a plain loop "
              "has {:g}; {}",
              blas.name,
              blas.file,
              i / static_cast<size_t>(n),
              i % static_cast<size_t>(n),
              m,
              k,
              k,
              n,
              c[i],
              right[i],
              remedy(blas));
    }
  }
  return "";
}

void require_right_products(const Blas& blas) {
  const auto wrong = wrong_product(blas);
  if (!wrong.empty()) fail(ErrorKind::environment, "[blas] {}", wrong);
}

int blas_threads() {
#ifdef __APPLE__
  return 0;
#else
  static const auto threads = reinterpret_cast<int (*)()>(
      dlsym(RTLD_DEFAULT, "openblas_get_num_threads"));
  return threads ? threads() : 0;
#endif
}

size_t compute_threads() {
  const int threads = blas_threads();
  return threads > 0 ? static_cast<size_t>(threads) : usable_cores();
}

std::string better_kernels(const Blas& blas) {
#if defined(__x86_64__) && !defined(__APPLE__)
  // The kernels of processors without AVX.
  const bool old = std::ranges::any_of(
      std::array{"Prescott", "Core2", "Penryn", "Dunnington", "Nehalem"},
      [&](const char* kernel) {
        return blas.name.find(kernel) != std::string::npos;
      });
  if (!old || std::getenv("OPENBLAS_CORETYPE")) return "";
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return "Haswell";
#else
  static_cast<void>(blas);
#endif
  return "";
}

void set_blas_threads(int threads) {
#ifdef __APPLE__
  static_cast<void>(threads);  // Accelerate's are not ours to bound
#else
  for (const char* chosen :
       {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"})
    if (std::getenv(chosen)) return;
  const auto set = reinterpret_cast<void (*)(int)>(
      dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (set && threads > 0) set(threads);
#endif
}

void bound_blas_threads(std::optional<int> most) {
  const int threads = blas_threads();
  if (threads < 2) return;
  const int bound = most.value_or(static_cast<int>(free_cores()));
  if (threads > bound) set_blas_threads(bound);
}

size_t blas_buffers() {
  return static_cast<size_t>(blas_threads()) << 27;
}

}  // namespace mlxterp
