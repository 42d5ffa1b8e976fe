// mlxterp/core/blas.h: which BLAS does the matrix products on the CPU, and
// whether it does them right.

#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace mlxterp {

/** The type of cblas_sgemm. */
using Sgemm = void(
    int order,
    int transpose_a,
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
    int ldc);

struct Blas {
  std::string name;   ///< "OpenBLAS 0.3.21 (Haswell)", "reference", ...
  bool slow = false;  ///< The one-thread reference BLAS of MLX's Linux wheel.
  std::string file = {};   ///< The library's, without its folder.
  Sgemm* sgemm = nullptr;  ///< null where it cannot be seen.
};

/** Finds out which library is in use; measures nothing. */
Blas blas();

/**
 * "SkylakeX" or "Haswell" where OpenBLAS is older than this processor and took
 * kernels without AVX, by which a product takes two to three times as long; ""
 * where those it has fit, the user has chosen, and with other libraries. It
 * reads OPENBLAS_CORETYPE while it is loaded, so that only a process started
 * with that gets others.
 */
std::string better_kernels(const Blas& blas);

/**
 * Leaves OpenBLAS at most so many threads, as many as cores are free now where
 * nothing is said. Its threads wait for each other without sleeping: where
 * others use the cores, a product takes several times as long by two threads as
 * by one. Does nothing where the user has chosen (OPENBLAS_NUM_THREADS,
 * GOTO_NUM_THREADS, OMP_NUM_THREADS), and with other libraries.
 */
void bound_blas_threads(std::optional<int> most = {});

/** The same, to more than it has now, too: sums come out differently by another
 * number of threads, which a run that shall end with the same bits cannot have.
 */
void set_blas_threads(int threads);

/** How many threads OpenBLAS may use; 0 where that is not known. */
int blas_threads();

/** Threads for products and loops of our own: as many as OpenBLAS may use,
 * which are bounded by the cores that were free when the model was loaded; the
 * process's cores where that is not known. At least 1. */
size_t compute_threads();

/** Address space that its buffers take, which it looks for without end where
 * `ulimit -v` leaves less; 0 where that is not known. */
size_t blas_buffers();

/** The library that a cblas_sgemm belongs to. */
Blas blas_of(Sgemm* sgemm);

/**
 * Multiplies a few small matrices by `blas` and in a plain loop: some builds of
 * OpenBLAS silently give wrong products on some processors. Says which entry is
 * wrong, by what library and kernel, and the remedy; "" where all are right or
 * there is no sgemm. Takes less than a millisecond.
 */
std::string wrong_product(const Blas& blas);

/** Throws environment with what wrong_product() says. */
void require_right_products(const Blas& blas);

}  // namespace mlxterp
