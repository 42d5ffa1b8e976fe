# Warnings, sanitizers and how much to optimise, for this project's own targets
# only. Warnings are errors where $CI is set: another compiler's new ones shall
# stop no user.
if(DEFINED ENV{CI})
  set(_werror ON)
endif()
option(MLXTERP_WERROR "Warnings are errors" "${_werror}")
add_library(mlxterp_strict INTERFACE)
target_compile_options(
  mlxterp_strict INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                           -Wno-sign-conversion
                           $<$<BOOL:${MLXTERP_WERROR}>:-Werror>)
if(MLXTERP_SANITIZE)
  # vptr checks need the type information of MLX's classes, which the wheel's
  # library does not export.
  target_compile_options(
    mlxterp_strict INTERFACE -fsanitize=address,undefined -fno-sanitize=vptr
                             -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(mlxterp_strict INTERFACE -fsanitize=address,undefined)
  # GCC sees uninitialised values in std::regex that the checks themselves made.
  target_compile_options(mlxterp_strict INTERFACE -Wno-maybe-uninitialized)
endif()

# MLX does the arithmetic; -O3 takes half as long again to compile and gains
# nothing outside src/nn/simd, which asks for it.
target_compile_options(mlxterp_strict INTERFACE $<$<CONFIG:Release>:-O2>)
# GCC 12 then warns of strings that are joined and of empty optionals.
target_compile_options(
  mlxterp_strict
  INTERFACE
    "$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-restrict;-Wno-stringop-overflow>"
)

# What computes nothing itself, the command and the tests: most of its compile
# time would go into optimising it.
add_library(mlxterp_quick INTERFACE)
target_compile_options(mlxterp_quick INTERFACE $<$<NOT:$<CONFIG:Debug>>:-O1>)
