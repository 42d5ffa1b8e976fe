"""usage: check_page.py FILE lens|map|dashboards [ROWS]: fails where a page holds an
element, attribute, script or address that is not the program's own, where its
data is not JSON, or where the table's rows are not ROWS ("a 1 2/b 3 4")."""

import json
import re
import sys
from html.parser import HTMLParser

ALLOWED = {
    "html": {"lang"}, "head": set(), "meta": {
        "charset", "http-equiv", "content", "name"}, "title": set(),
    "style": {"nonce"}, "script": {"nonce"}, "body": set(), "header": set(),
    "p": {"class"}, "h1": set(), "h2": set(), "code": set(), "b": set(),
    "mark": set(), "dl": {"class"}, "dt": set(), "dd": set(), "aside": set(),
    "ol": {"class"}, "li": set(), "button": {"type", "data-cell"},
    "div": {"class", "id", "role", "hidden"}, "span": {"class"},
    "i": {"class"}, "table": {"class", "role", "aria-label"}, "thead": set(), "tbody": set(),
    "tr": set(), "th": {"scope"}, "td": {"tabindex", "class"},
    "section": set(), "svg": {"viewbox", "role", "aria-label"},
    "path": {"class", "d"}, "text": {"x", "y", "text-anchor"},
    "polygon": {"class", "points"}, "polyline": {"class", "points"},
    "circle": {"class", "cx", "cy", "r"},
}
DASHBOARDS = {
    "nav": set(), "a": {"href"}, "h3": set(), "details": set(), "summary": set(),
    "section": {"id"}, "i": {"class", "title"}, "p": {"class"},
    "rect": {"class", "x", "y", "width", "height"},
}
if sys.argv[2] == "dashboards":
    ALLOWED |= DASHBOARDS
VOID = {"meta"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.wrong, self.rows = [], [], [], []

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        if tag not in ALLOWED:
            self.wrong.append(f"element {tag}")
        elif names - ALLOWED[tag]:
            self.wrong.append(f"{tag} has {names - ALLOWED[tag]}")
        for name, value in attributes:
            if name == "href" and not re.fullmatch(
                    r"#f\d+|feature-\d+\.html|index\.html", value):
                self.wrong.append(f"a link to {value}")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "tr" and "tbody" in self.open:
            self.rows.append([])
        if tag in ("td", "th") and "tbody" in self.open:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        if self.open and self.open[-1] in ("td", "th") and "tbody" in self.open:
            self.rows[-1][-1] += data

    def handle_comment(self, data):
        self.wrong.append("a comment")


text = open(sys.argv[1], encoding="utf-8").read()
page = Page()
page.feed(text)
page.close()
wrong = page.wrong
if page.open:
    wrong.append(f"never closed: {page.open}")
if len(page.scripts) != 1:
    wrong.append(f"{len(page.scripts)} scripts")
if "default-src 'none'" not in text:
    wrong.append("no policy")
if re.search(r"https?://", text):
    wrong.append("an address")
for bad in "\u2028\u2029\u202e\x1b":
    if bad in text:
        wrong.append(f"a raw {bad!r}")
kind = sys.argv[2]
if kind == "dashboards":
    if page.scripts[0].strip():
        wrong.append("a script")
    print("\n".join(wrong), end="")
    sys.exit(1 if wrong else 0)
data = re.search(r"^const %s = (\{.*?\]\});$" % kind, page.scripts[0], re.S | re.M)
try:
    shown = json.loads(data[1])
    parts = ("cells", "labels") if kind == "lens" else ("values", "rows", "columns")
    if not all(shown[part] for part in parts):
        wrong.append("no data")
    if kind == "map":
        columns = len(shown["columns"])
        if len(shown["rows"]) * columns != len(shown["values"]):
            wrong.append("the data has other cells than rows and columns")
        if [len(row) - 1 for row in page.rows] != [columns] * len(shown["rows"]):
            wrong.append("the table has other cells than the data")
except (TypeError, ValueError) as error:
    wrong.append(f"data: {error}")
if len(sys.argv) > 3:
    rows = "/".join(" ".join(row) for row in page.rows)
    if rows != sys.argv[3]:
        wrong.append(f"the table reads {rows}")
    first = [float(x) for x in sys.argv[3].split("/")[0].split()[1:]]
    if shown["values"][:len(first)] != first:
        wrong.append(f"the data begins with {shown['values'][:3]}")
print("\n".join(wrong), end="")
sys.exit(1 if wrong else 0)
