# What mlxterp stands on.
if(SKBUILD)
  set(_python ${Python_EXECUTABLE})  # pip's, with the wheel being built for it
elseif(EXISTS ${PROJECT_SOURCE_DIR}/.venv/bin/python)
  set(_python ${PROJECT_SOURCE_DIR}/.venv/bin/python)
else()
  set(_python python3)
endif()
set(MLXTERP_PYTHON ${_python} CACHE FILEPATH "Python that has the mlx wheel")

include(Ccache)
include(MlxBackend)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt 9 REQUIRED)
find_package(CLI11 2 REQUIRED)
find_package(Threads REQUIRED)
find_package(CURL 7.85 REQUIRED)
find_package(hwy 1.0.3 REQUIRED)
find_package(Libzip REQUIRED)
if(NOT APPLE)
  find_package(OpenSSL REQUIRED COMPONENTS Crypto)  # SHA-256; a Mac has its own
endif()
