// mlxterp/view/html.h: text made harmless inside a page.

#pragma once

#include <string>
#include <string_view>

namespace mlxterp::view {

/** `text` as the content of an element or a quoted attribute. What cannot be
 * seen or is not UTF-8 is shown as `escape` of terminal.h shows it. */
std::string html(std::string_view text);

/** `text` as a JSON string that may stand inside a script element: quoted,
 * nothing in it ends the element or a line. Escaped for reading like `html`.
 */
std::string script_string(std::string_view text);

/** A whole page that loads nothing and runs no script but its own: title,
 * style sheet, body and script as they are, the title escaped. */
std::string page(
    std::string_view title,
    std::string_view style,
    std::string_view body,
    std::string_view script);

}  // namespace mlxterp::view
