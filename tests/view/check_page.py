"""usage: check_page.py FILE: fails where a lens page holds an element,
attribute, script or address that is not the program's own, or where its data
is not JSON."""

import json
import re
import sys
from html.parser import HTMLParser

ALLOWED = {
    "html": {"lang"}, "head": set(), "meta": {
        "charset", "http-equiv", "content", "name"}, "title": set(),
    "style": {"nonce"}, "script": {"nonce"}, "body": set(), "header": set(),
    "p": {"class"}, "h1": set(), "h2": set(), "code": set(), "b": set(),
    "div": {"class", "id", "role", "hidden"}, "span": {"class"},
    "i": {"class"}, "table": {"role", "aria-label"}, "thead": set(), "tbody": set(),
    "tr": set(), "th": {"scope"}, "td": {"tabindex", "class"},
    "section": set(), "svg": {"viewbox", "role", "aria-label"},
    "path": {"class", "d"}, "text": {"x", "y", "text-anchor"},
    "polygon": {"class", "points"}, "polyline": {"class", "points"},
    "circle": {"class", "cx", "cy", "r"},
}
VOID = {"meta"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.wrong = [], [], []

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        if tag not in ALLOWED:
            self.wrong.append(f"element {tag}")
        elif names - ALLOWED[tag]:
            self.wrong.append(f"{tag} has {names - ALLOWED[tag]}")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

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
data = re.search(r"^const lens = (\{.*?\]\});$", page.scripts[0], re.S | re.M)
try:
    lens = json.loads(data[1])
    if not lens["cells"] or not lens["labels"]:
        wrong.append("no data")
except ValueError as error:
    wrong.append(f"data: {error}")
print("\n".join(wrong), end="")
sys.exit(1 if wrong else 0)
