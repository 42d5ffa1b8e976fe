# Defines libzip::zip. Not libzip's own CMake package: Debian's names tools that
# stand in another package, and fails without them.
find_path(LIBZIP_INCLUDE_DIR zip.h)
find_library(LIBZIP_LIBRARY zip)
mark_as_advanced(LIBZIP_INCLUDE_DIR LIBZIP_LIBRARY)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libzip DEFAULT_MSG LIBZIP_LIBRARY
                                  LIBZIP_INCLUDE_DIR)
if(Libzip_FOUND AND NOT TARGET libzip::zip)
  add_library(libzip::zip UNKNOWN IMPORTED)
  set_target_properties(
    libzip::zip PROPERTIES IMPORTED_LOCATION ${LIBZIP_LIBRARY}
                           INTERFACE_INCLUDE_DIRECTORIES ${LIBZIP_INCLUDE_DIR})
endif()
