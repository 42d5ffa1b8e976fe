# Defines mlxterp_mlx: MLX and, on Linux, a BLAS in front of it. Used by this
# build and, installed, by find_package(mlxterp).
#
# MLX comes from its PyPI wheel: the Python named by MLXTERP_PYTHON tells where
# it lies. MLX_DIR, the folder of MLXConfig.cmake, goes before it. What is built
# already fits one version, MLXTERP_MLX_VERSION.
if(TARGET mlxterp_mlx)
  return()
endif()

if(NOT MLX_DIR)
  if(NOT MLXTERP_PYTHON)
    set(MLXTERP_PYTHON python3)
  endif()
  execute_process(
    COMMAND ${MLXTERP_PYTHON} -m mlx --cmake-dir
    OUTPUT_VARIABLE _mlxterp_mlx_root
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE _mlxterp_mlx_missing)
  if(_mlxterp_mlx_missing)
    message(FATAL_ERROR "${MLXTERP_PYTHON} has no mlx; run `make setup`, or "
                        "pass -DMLXTERP_PYTHON=<python with mlx>")
  endif()
endif()
set(_mlxterp_mlx_version)
if(MLXTERP_MLX_VERSION)
  set(_mlxterp_mlx_version ${MLXTERP_MLX_VERSION} EXACT)
endif()
find_package(MLX ${_mlxterp_mlx_version} CONFIG REQUIRED
             PATHS ${_mlxterp_mlx_root} NO_DEFAULT_PATH)

# IMPORTED, so that an installed mlxterp looks for MLX anew, here.
add_library(mlxterp_mlx INTERFACE IMPORTED GLOBAL)

# The Linux wheel carries the reference BLAS (one thread, 4 GFLOP/s); the first
# cblas_sgemm on the link line answers, so OpenBLAS has to stand before MLX.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  find_library(OPENBLAS_LIBRARY openblas REQUIRED)
  target_link_libraries(
    mlxterp_mlx INTERFACE -Wl,--no-as-needed ${OPENBLAS_LIBRARY} -Wl,--as-needed)
endif()
target_link_libraries(mlxterp_mlx INTERFACE mlx)
