// mlxterp/io/npz.h: reads and writes .npz, numpy's archives of arrays, and
// reads .npy.

#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/**
 * The arrays of a .npz in the order of the archive, evaluated, in their own
 * dtypes; float64 becomes float32. Reads what numpy.savez, savez_compressed and
 * mlx.core.savez write: little-endian numbers in C order. Everything is checked
 * against the file before it sizes anything. Throws bad_data, environment.
 */
std::vector<std::pair<std::string, mlx::core::array>> load_npz(
    const std::filesystem::path& path);

/** The array of a .npy, under the same rules. Throws bad_data, environment. */
mlx::core::array load_npy(const std::filesystem::path& path);

/** Writes named arrays (evaluates them), uncompressed as numpy.savez does;
 * the same arrays give the same bytes. The file appears whole or not at all.
 * Needs memory for the file twice. Throws usage where `path` exists. */
void save_npz(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, mlx::core::array>>& arrays,
    bool overwrite = false);

}  // namespace mlxterp
