// mlxterp/spec/range.h: lists and ranges of numbers, and lists of sites, as
// they are written in text.

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mlxterp::spec {

/**
 * The items of each text, split at commas, without the spaces around them.
 * Commas inside (), [] and {} do not split: "a, layers.{1,4}.z" is two items.
 *
 * Here and in all of spec/, `name` is what the texts are called where they come
 * from ("--layers", "layers"); messages begin with it. Throws usage for an
 * empty item, and for more text than limits::spec_bytes.
 */
std::vector<std::string> parse_list(
    const std::vector<std::string>& texts, std::string_view name = "list");

/**
 * Whole numbers:
 *
 *     list   = item {"," item}
 *     item   = number | number ".." number      both ends count
 *     number = ["-"] digits                     negative: from the end
 *
 * "0,5,10..12,-1" is 0, 5, 10, 11, 12, -1. Throws usage, also for a range that
 * falls and for more than limits::spec_numbers numbers in all.
 */
std::vector<int> parse_numbers(
    const std::vector<std::string>& texts, std::string_view name = "numbers");

/** Decimal numbers, split at commas: "-0.2,0,0.2". Throws usage where one is
 * not finite. */
std::vector<float> parse_decimals(
    const std::vector<std::string>& texts, std::string_view name = "numbers");

/**
 * Pairs of positions that correspond, as PatchOptions::position_map
 * takes them: CLEAN:CORRUPT, each a number or a range of as many.
 * "0..2:1..3,5:4" is (0, 1), (1, 2), (2, 3), (5, 4). Throws usage.
 */
std::vector<std::pair<int, int>> parse_position_map(
    const std::vector<std::string>& texts,
    std::string_view name = "position map");

}  // namespace mlxterp::spec
