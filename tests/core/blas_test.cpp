// Which BLAS answers, and that one that multiplies wrongly is found out.

#include "mlxterp/core/blas.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>
#include <utility>
#include <vector>

#include "mlxterp/core/error.h"
#include "tests/environment.h"

namespace mlxterp {
namespace {

// cblas_sgemm for row-major products with a as it is, slowly, in the precision
// and the order of no other; `Spoil` changes an entry of the result.
template <float (*Spoil)(float right, int row, int column, int m, bool turned)>
void product(
    int,
    int,
    int transpose_b,
    int m,
    int n,
    int k,
    float alpha,
    const float* a,
    int lda,
    const float* b,
    int ldb,
    float beta,
    float* c,
    int ldc) {
  const bool turned = transpose_b == 112;
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column) {
      double sum = 0;
      for (int i = k - 1; i >= 0; --i)
        sum += static_cast<double>(a[row * lda + i]) *
               static_cast<double>(
                   turned ? b[column * ldb + i] : b[i * ldb + column]);
      float& to = c[row * ldc + column];
      const float before = beta == 0 ? 0 : beta * to;
      const auto right = static_cast<float>(alpha * sum) + before;
      to = Spoil(right, row, column, m, turned);
    }
}

float nothing(float right, int, int, int, bool) {
  return right;
}

// What broken kernels do: nothing at all, nonsense in one orientation, at an
// edge of a block, in one row, in large products or small ones only; NaN.
const std::vector<std::pair<std::string, Sgemm*>> broken{
    {"zeros", product<[](float, int, int, int, bool) { return 0.0f; }>},
    {"a sign", product<[](float x, int, int, int, bool) { return -x; }>},
    {"turned", product<[](float x, int, int, int, bool turned) {
       return turned ? x + 1 : x;
     }>},
    {"as it is", product<[](float x, int, int, int, bool turned) {
       return turned ? x : x + 1;
     }>},
    {"the last column", product<[](float x, int, int column, int, bool) {
       return column == 94 ? x - 1 : x;
     }>},
    {"the last row", product<[](float x, int row, int, int, bool) {
       return row == 78 ? x - 1 : x;
     }>},
    {"one row", product<[](float x, int, int, int m, bool) {
       return m == 1 ? x + 1 : x;
     }>},
    {"small ones", product<[](float x, int, int, int m, bool) {
       return m == 7 ? x + 1 : x;
     }>},
    {"NaN", product<[](float x, int row, int column, int, bool) {
       return row == 5 && column == 3 ? x * __builtin_nanf("") : x;
     }>}};

TEST(Blas, TheOneInUseMultipliesRightly) {
  const auto found = blas();
  EXPECT_FALSE(found.name.empty());
  ASSERT_NE(found.sgemm, nullptr);
  EXPECT_EQ(wrong_product(found), "");
  EXPECT_NO_THROW(require_right_products(found));
}

#ifdef __linux__
TEST(Blas, ItsThreadsAreBoundedUnlessTheUserChose) {
  const auto set = reinterpret_cast<void (*)(int)>(
      dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (!set) {  // another library, of which nothing is asked
    bound_blas_threads(1);
    EXPECT_EQ(blas_threads(), 0);
    return;
  }
  const int before = blas_threads();
  const testing::Environment environment{
      "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"};
  set(3);
  bound_blas_threads(4);  // never more
  EXPECT_EQ(blas_threads(), 3);
  for (const char* name :
       {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"}) {
    testing::Environment::set(name, "3");
    bound_blas_threads(1);
    EXPECT_EQ(blas_threads(), 3) << name;
    unsetenv(name);
  }
  bound_blas_threads(2);
  EXPECT_EQ(blas_threads(), 2);
  bound_blas_threads();
  EXPECT_GE(blas_threads(), 1);
  EXPECT_LE(blas_threads(), 2);
  set(before);
}
#endif

TEST(Blas, RightIsRightInAnyOrderAndPrecision) {
  EXPECT_EQ(wrong_product({.name = "mine", .sgemm = product<nothing>}), "");
}

TEST(Blas, WhatCannotBeSeenIsNotChecked) {
  EXPECT_EQ(wrong_product({.name = "unknown"}), "");
}

TEST(Blas, AWrongProductIsAnErrorWithARemedy) {
  for (const auto& [how, sgemm] : broken) {
    SCOPED_TRACE(how);
    const Blas wrong{
        .name = "OpenBLAS 0.3.7 (SkylakeX)",
        .file = "libopenblas.so.0",
        .sgemm = sgemm};
    try {
      require_right_products(wrong);
      ADD_FAILURE() << "nothing is said";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::environment);
      const std::string said = error.what();
      for (const char* part :
           {"OpenBLAS 0.3.7",
            "SkylakeX",
            "libopenblas.so.0",
            "entry (",
            "OPENBLAS_CORETYPE="})
        EXPECT_NE(said.find(part), std::string::npos) << part << ": " << said;
    }
  }
  const auto said = wrong_product(
      {.name = "reference BLAS (libblas.so.3)",
       .file = "libblas.so.3",
       .sgemm = broken.front().second});
  EXPECT_NE(said.find("install OpenBLAS"), std::string::npos) << said;
}

// An OpenBLAS older than the processor takes kernels without AVX.
TEST(Blas, KernelsOfOldProcessorsAreNoticed) {
  const testing::Environment none = {"OPENBLAS_CORETYPE"};
#if defined(__x86_64__) && !defined(__APPLE__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  const bool avx2 = false;
#endif
  for (const auto* old : {"Prescott", "Nehalem"}) {
    Blas blas;
    blas.name = fmt::format("OpenBLAS 0.3.21 ({})", old);
    EXPECT_EQ(better_kernels(blas) != "", avx2) << blas.name;
    testing::Environment::set("OPENBLAS_CORETYPE", old);
    EXPECT_EQ(better_kernels(blas), "") << "the user has chosen";
    unsetenv("OPENBLAS_CORETYPE");
  }
  for (const auto* fitting : {"Haswell", "SkylakeX", "Zen", "Cooperlake"}) {
    Blas blas;
    blas.name = fmt::format("OpenBLAS 0.3.21 ({})", fitting);
    EXPECT_EQ(better_kernels(blas), "") << fitting;
  }
}

}  // namespace
}  // namespace mlxterp
