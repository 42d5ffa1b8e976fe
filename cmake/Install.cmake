# `cmake --install`: the headers, the libraries, the command, and what
# find_package(mlxterp) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(MLXTERP_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/mlxterp)

# MLX comes along where it is a Python wheel's: the environment that has it may
# be gone tomorrow, or have another version, which the library would not fit.
# The CUDA wheel's needs others around it and stays where it is.
set(MLXTERP_MLX_DIR ${CMAKE_INSTALL_LIBDIR}/mlxterp)
get_filename_component(_mlx ${MLX_LIBRARY_DIRS} DIRECTORY)
if(EXISTS ${_mlx}/__main__.py AND NOT MLXTERP_CUDA)
  install(DIRECTORY ${_mlx}/include ${_mlx}/lib ${_mlx}/share
          DESTINATION ${MLXTERP_MLX_DIR}/mlx)
  file(GLOB _mlx_needs ${_mlx}/../mlx*.libs)
  install(DIRECTORY ${_mlx_needs} DESTINATION ${MLXTERP_MLX_DIR})
  file(RELATIVE_PATH _to_mlx ${CMAKE_INSTALL_FULL_BINDIR}
       ${CMAKE_INSTALL_FULL_LIBDIR}/mlxterp/mlx/lib)
  if(APPLE)
    set(_rpath "@loader_path/${_to_mlx}")
  else()
    set(_rpath "$ORIGIN/${_to_mlx}")
  endif()
  set(MLXTERP_USED_MLX "")
else()
  set(_rpath "${MLX_LIBRARY_DIRS}")
  set(MLXTERP_USED_MLX "${MLX_DIR}")
endif()

# The tokenizer is a Rust library, which CMake cannot export: it is copied, and
# mlxterpConfig.cmake declares it again as mlxterp::tokenizers_c.
get_filename_component(TOKENIZERS_C_NAME ${TOKENIZERS_C_LIBRARY} NAME)
get_target_property(TOKENIZERS_C_LINKS tokenizers_c INTERFACE_LINK_LIBRARIES)
target_link_libraries(mlxterp
                      PRIVATE $<INSTALL_INTERFACE:mlxterp::tokenizers_c>)
install(FILES ${TOKENIZERS_C_LIBRARY} DESTINATION ${CMAKE_INSTALL_LIBDIR})

install(DIRECTORY include/mlxterp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS mlxterp EXPORT mlxterpTargets)
set_target_properties(mlxterp_cli PROPERTIES INSTALL_RPATH "${_rpath}")
install(TARGETS mlxterp_cli)

install(
  EXPORT mlxterpTargets
  NAMESPACE mlxterp::
  DESTINATION ${MLXTERP_CMAKE_DIR})
configure_package_config_file(
  cmake/mlxterpConfig.cmake.in ${PROJECT_BINARY_DIR}/mlxterpConfig.cmake
  INSTALL_DESTINATION ${MLXTERP_CMAKE_DIR}
  PATH_VARS CMAKE_INSTALL_LIBDIR MLXTERP_MLX_DIR)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/mlxterpConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(
  FILES ${PROJECT_BINARY_DIR}/mlxterpConfig.cmake
        ${PROJECT_BINARY_DIR}/mlxterpConfigVersion.cmake cmake/MlxBackend.cmake
        cmake/FindLibzip.cmake
  DESTINATION ${MLXTERP_CMAKE_DIR})
