// view/page_style.h: the style sheet of every page.

#pragma once

#include <string_view>

namespace mlxterp::view {

inline constexpr std::string_view page_style = R"(
:root {
  --paper: #fbfaf7; --ink: #1d1c1a; --soft: #6d6a64; --line: #e4e0d8;
  --card: #ffffff; --cold: #f4f1ea; --hot: #0b6e6e; --on-hot: #ffffff;
  --track: #c2410c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #eceae5; --soft: #9a978f; --line: #2c3035;
    --card: #1f2328; --cold: #1c2024; --hot: #35b5ab; --on-hot: #06201e;
    --track: #fb923c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 2rem 4rem; max-width: 92rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
}
.eyebrow {
  margin: 0; color: var(--hot); font-size: .75rem; font-weight: 650;
  letter-spacing: .12em; text-transform: uppercase;
}
h1 {
  margin: .3rem 0 .4rem; max-width: 48rem; font-size: 1.7rem;
  font-weight: 620; line-height: 1.25; letter-spacing: -.015em;
  text-wrap: balance; overflow-wrap: anywhere; white-space: pre-wrap;
}
.about { margin: 0 0 1.6rem; max-width: 48rem; color: var(--soft); }
.about code { color: var(--ink); }
code, table, #card { font-family: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.legend {
  display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1.8rem;
  margin: 0 0 .9rem; color: var(--soft); font-size: .8rem;
}
.legend span { display: inline-flex; align-items: center; gap: .5rem; }
.legend .ramp { gap: 0; border-radius: 3px; overflow: hidden; }
.ramp i { width: .65rem; height: .8rem; }
.swatch { width: 1.6rem; height: .95rem; border-radius: 3px; background: var(--cold); box-shadow: inset 0 0 0 2px var(--track); }
.scroll { overflow: auto; max-height: 88vh; scroll-padding: 3.5rem 0 0 5rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: separate; border-spacing: 2px; width: 100%; font-size: .78rem; line-height: 1.2; }
th { padding: .3rem .5rem; background: var(--card); color: var(--soft); font-weight: 500; white-space: pre; }
thead th { position: sticky; top: 0; z-index: 1; text-align: left; vertical-align: bottom; border-bottom: 1px solid var(--line); }
thead b { display: block; max-width: 9rem; overflow: hidden; text-overflow: ellipsis; color: var(--ink); font-weight: 650; }
tbody th { position: sticky; left: 0; text-align: right; font-variant-numeric: tabular-nums; }
thead th:first-child { left: 0; z-index: 2; text-align: right; }
td { min-width: 5rem; max-width: 9rem; padding: .32rem .5rem; border-radius: 3px; overflow: hidden; text-overflow: ellipsis; white-space: pre; cursor: default; outline: none; }
td.track { box-shadow: inset 0 0 0 2px var(--track); }
td:hover, td:focus { box-shadow: inset 0 0 0 2px var(--ink); }
td.bad { color: var(--track); font-style: italic; background: none; }
#card {
  position: fixed; z-index: 9; width: 21rem; padding: .8rem .95rem .9rem;
  background: var(--card); color: var(--ink); border: 1px solid var(--line);
  border-radius: 10px; box-shadow: 0 10px 34px rgb(0 0 0 / .2);
  font-size: .78rem; pointer-events: none;
}
#card p { margin: 0 0 .55rem; color: var(--soft); font-family: system-ui, sans-serif; }
#card ol { margin: 0; padding: 0; list-style: none; }
#card li { display: grid; grid-template-columns: 1fr 4.2rem 3.4rem; gap: .6rem; padding: .14rem .35rem; border-radius: 3px; }
#card li.heading, #card li.heading span { color: var(--soft); font-size: .7rem; }
#card li.track { color: var(--track); font-weight: 650; }
#card b { overflow: hidden; text-overflow: ellipsis; white-space: pre; font-weight: inherit; }
#card span { text-align: right; font-variant-numeric: tabular-nums; }
#card span + span { color: var(--soft); }
#card footer { margin-top: .5rem; padding-top: .5rem; border-top: 1px solid var(--line); color: var(--track); }
h2 { margin: 2.4rem 0 .2rem; font-size: 1.05rem; font-weight: 620; white-space: pre-wrap; }
svg { display: block; width: 100%; max-width: 48rem; height: auto; margin-top: .8rem; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--line); }
svg .area { fill: var(--track); opacity: .13; }
svg .way { fill: none; stroke: var(--track); stroke-width: 2; stroke-linejoin: round; }
svg .dot { fill: var(--track); }
.notice { padding: .6rem .9rem; border-left: 3px solid var(--track); background: var(--cold); }
@media (max-width: 40rem) { body { padding: 1.5rem 1rem; } h1 { font-size: 1.35rem; } }
@media print { .scroll { max-height: none; overflow: visible; } }
)";

}  // namespace mlxterp::view
