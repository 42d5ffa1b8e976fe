# `cmake --install`: the headers, the libraries, the command, and what
# find_package(mlxterp) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(MLXTERP_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/mlxterp)

# The tokenizer is a Rust library, which CMake cannot export: it is copied, and
# mlxterpConfig.cmake declares it again as mlxterp::tokenizers_c.
get_filename_component(TOKENIZERS_C_NAME ${TOKENIZERS_C_LIBRARY} NAME)
get_target_property(TOKENIZERS_C_LINKS tokenizers_c INTERFACE_LINK_LIBRARIES)
target_link_libraries(mlxterp
                      PRIVATE $<INSTALL_INTERFACE:mlxterp::tokenizers_c>)
install(FILES ${TOKENIZERS_C_LIBRARY} DESTINATION ${CMAKE_INSTALL_LIBDIR})

install(DIRECTORY include/mlxterp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS mlxterp EXPORT mlxterpTargets)
# libmlx stays where its wheel is, outside the loader's usual folders.
set_target_properties(mlxterp_cli PROPERTIES INSTALL_RPATH "${MLX_LIBRARY_DIRS}")
install(TARGETS mlxterp_cli)

install(
  EXPORT mlxterpTargets
  NAMESPACE mlxterp::
  DESTINATION ${MLXTERP_CMAKE_DIR})
configure_package_config_file(
  cmake/mlxterpConfig.cmake.in ${PROJECT_BINARY_DIR}/mlxterpConfig.cmake
  INSTALL_DESTINATION ${MLXTERP_CMAKE_DIR}
  PATH_VARS CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/mlxterpConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(
  FILES ${PROJECT_BINARY_DIR}/mlxterpConfig.cmake
        ${PROJECT_BINARY_DIR}/mlxterpConfigVersion.cmake cmake/MlxBackend.cmake
        cmake/FindLibzip.cmake
  DESTINATION ${MLXTERP_CMAKE_DIR})
