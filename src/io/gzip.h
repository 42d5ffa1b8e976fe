// io/gzip.h: bytes packed as gzip.

#pragma once

#include <string>
#include <string_view>

namespace mlxterp {

/** A gzip member (RFC 1952) with nothing in its header: the same bytes for the
 * same input. Throws environment where there is no memory for it. */
std::string gzip(std::string_view bytes);

}  // namespace mlxterp
