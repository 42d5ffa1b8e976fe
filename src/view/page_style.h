// view/page_style.h: the style sheet of every page.

#pragma once

#include <string_view>

namespace mlxterp::view {

inline constexpr std::string_view page_style = R"(
:root {
  --paper: #fbfaf7; --ink: #1d1c1a; --soft: #6d6a64; --line: #e4e0d8;
  --card: #ffffff; --cold: #f4f1ea; --hot: #0b6e6e; --on-hot: #ffffff;
  --track: #c2410c; --mark: #fde3a7; --hatch: #d8d2c6;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #eceae5; --soft: #9a978f; --line: #2c3035;
    --card: #1f2328; --cold: #1c2024; --hot: #35b5ab; --on-hot: #06201e;
    --track: #fb923c; --mark: #5c4710; --hatch: #343a41;
  }
}
* { box-sizing: border-box; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
body {
  margin: 0 auto; padding: 1.4rem 2rem 2rem; max-width: 116rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif;
}
.eyebrow {
  margin: 0; color: var(--hot); font-size: .75rem; font-weight: 650;
  letter-spacing: .12em; text-transform: uppercase;
}
h1 {
  margin: .15rem 0 .45rem; max-width: 72rem; font-size: 1.3rem;
  font-weight: 620; line-height: 1.25; letter-spacing: -.01em;
  overflow-wrap: anywhere; white-space: pre-wrap;
}
.about { margin: .3rem 0 .6rem; max-width: 72rem; color: var(--soft); font-size: .87rem; }
.about code { color: var(--ink); }
code, table, #card, .prompt, .top { font-family: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.prompt { margin: 0 0 .1rem; font-size: .83rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt span { display: inline-block; min-width: 6.2rem; color: var(--soft); font-family: system-ui, sans-serif; }
mark { padding: .08em 0; border-radius: 3px; background: var(--mark); color: inherit; font-weight: 650; }
.facts { display: flex; flex-wrap: wrap; gap: .1rem 1.5rem; margin: .45rem 0 .5rem; font-size: .8rem; }
.facts div { display: flex; gap: .45rem; min-width: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.legend {
  display: flex; flex-wrap: wrap; align-items: center; gap: .3rem 1.6rem;
  margin: 0 0 .5rem; color: var(--soft); font-size: .8rem;
}
.legend span { display: inline-flex; align-items: center; gap: .5rem; }
.legend .ramp { gap: 0; border-radius: 3px; overflow: hidden; }
.ramp i { width: .65rem; height: .8rem; }
.swatch { width: 1.6rem; height: .95rem; border-radius: 3px; background: var(--cold); }
.swatch.track { box-shadow: inset 0 0 0 2px var(--track); }
.inert { background: repeating-linear-gradient(135deg, transparent 0 3px, var(--hatch) 3px 4px); }
.figure { display: flex; align-items: flex-start; gap: 1.5rem; }
.grid { container-type: inline-size; min-width: 0; padding: 2px; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
.grid.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 1px; table-layout: fixed; width: 100%; font-size: var(--text); line-height: 1; }
th { padding: 0 .35rem; background: var(--card); color: var(--soft); font-weight: 500; font-size: min(11px, calc(var(--row) * .8)); white-space: pre; overflow: hidden; }
thead th { position: sticky; top: 0; z-index: 1; padding: .2rem .25rem .3rem; text-align: center; vertical-align: bottom; font-size: 11px; line-height: 1.25; }
thead b { display: block; overflow: hidden; text-overflow: ellipsis; color: var(--ink); font-weight: 650; }
tbody th { position: sticky; left: 0; text-align: right; font-variant-numeric: tabular-nums; }
thead th:first-child { left: 0; z-index: 2; text-align: right; }
td { height: var(--row); padding: 0 .25em; border-radius: 2px; overflow: hidden; text-overflow: ellipsis; white-space: pre; cursor: default; outline: none; }
td.track { box-shadow: inset 0 0 0 2px var(--track); }
td:hover, td:focus, td.pinned { box-shadow: inset 0 0 0 2px var(--ink); }
td.bad { color: var(--track); font-style: italic; }
aside { flex: 0 0 16.5rem; }
aside .about { margin-top: .9rem; font-size: .8rem; }
aside h2 { margin: .2rem 0 .4rem; font-size: .85rem; }
.top { margin: 0; padding: 0; list-style: none; font-size: .78rem; }
.top li + li { border-top: 1px solid var(--line); }
.top button { display: flex; justify-content: space-between; gap: .8rem; width: 100%; padding: .35rem .3rem; border: 0; background: none; color: inherit; font: inherit; text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; cursor: pointer; }
.top button:hover { background: var(--cold); }
.top b { white-space: nowrap; font-variant-numeric: tabular-nums; }
#card {
  position: absolute; z-index: 9; width: 21rem; max-width: calc(100vw - 16px); padding: .7rem .9rem .8rem;
  background: var(--card); color: var(--ink); border: 1px solid var(--line);
  border-radius: 10px; box-shadow: 0 10px 34px rgb(0 0 0 / .2);
  font-size: .78rem; pointer-events: none;
}
#card.pinned { pointer-events: auto; border-color: var(--ink); user-select: text; }
#card p { margin: 0 0 .45rem; color: var(--soft); font-family: system-ui, sans-serif; }
#card ol { margin: 0; padding: 0; list-style: none; }
#card li { display: grid; grid-template-columns: 1fr 4.2rem 3.4rem; gap: .6rem; padding: .14rem .35rem; border-radius: 3px; }
#card li.heading, #card li.heading span { color: var(--soft); font-size: .7rem; }
#card li.track { color: var(--track); font-weight: 650; }
#card b { overflow: hidden; text-overflow: ellipsis; white-space: pre; font-weight: inherit; }
#card span { text-align: right; font-variant-numeric: tabular-nums; }
#card span + span { color: var(--soft); }
#card footer { margin-top: .5rem; padding-top: .5rem; border-top: 1px solid var(--line); color: var(--track); }
h2 { margin: 2rem 0 .2rem; font-size: 1.05rem; font-weight: 620; white-space: pre-wrap; }
svg { display: block; width: 100%; max-width: 48rem; height: auto; margin-top: .8rem; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid-line { stroke: var(--line); }
svg .area { fill: var(--track); opacity: .13; }
svg .way { fill: none; stroke: var(--track); stroke-width: 2; stroke-linejoin: round; }
svg .dot { fill: var(--track); }
.notice { margin: 0 0 .5rem; padding: .35rem .8rem; border-left: 3px solid var(--track); background: var(--cold); font-size: .85rem; }
@media (max-width: 60rem) { .figure { flex-direction: column; } .grid { width: 100%; } }
@media (max-width: 40rem) { body { padding: 1rem .6rem; } h1 { font-size: 1.1rem; } }
@media print { body { padding: 0; } .grid.wide { overflow: visible; } thead th, tbody th { position: static; } .hint { display: none; } }
)";

}  // namespace mlxterp::view
