// A BLAS that multiplies wrongly, to be loaded before the right one.

extern "C" {

const char* openblas_get_config() {
  return "OpenBLAS 0.0.1 FOR_A_TEST";
}

const char* openblas_get_corename() {
  return "SkylakeX";
}

void cblas_sgemm(
    int,
    int,
    int,
    int m,
    int n,
    int,
    float,
    const float*,
    int,
    const float*,
    int,
    float,
    float* c,
    int ldc) {
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column)
      c[row * ldc + column] = 0;
}

}  // extern "C"
