# The Python package of what MLXTERP_BUILT, a build folder of this source tree,
# holds already: `make python` and `make wheel` compile nothing twice.
include(PythonCommand)
foreach(target _core_stub mlxterp_packed)
  add_custom_target(${target})  # done
endforeach()
set(_extension ${SKBUILD_PLATLIB_DIR}/mlxterp/_core.${SKBUILD_SOABI}.so)
install(
  CODE "
  execute_process(
    COMMAND [[${CMAKE_COMMAND}]] --install [[${MLXTERP_BUILT}]] --component
            python --strip --prefix [[${SKBUILD_PLATLIB_DIR}]]
    COMMAND_ERROR_IS_FATAL ANY)
  if(NOT EXISTS [[${_extension}]])
    message(FATAL_ERROR [[${MLXTERP_BUILT} was built for another Python than \
the one that packs it: there is no ${_extension}]])
  endif()"
  COMPONENT python)
