"""The report's style sheet: light and dark, screen, phone and print. Colours: Okabe and Ito's palette for all
  eyes."""

CSS = """
:root { color-scheme: light dark; --ink: #16202c; --soft: #566472; --line: #d9e0e7; --page: #f4f6f8; --card: #ffffff;
  --good: #00694d; --warn: #8a5a00; --bad: #b03a00; --none: #4a5a6a; --link: #005a9c;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0679a; --c4: #c98500; --c5: #3a9bd0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9fb0c0; --line: #2e3a46; --page: #0e141a;
  --card: #172029; --good: #35c795; --warn: #f0b440; --bad: #ff8f5a; --none: #9fb0c0; --link: #7cc4ff;
  --c0: #4aa8e0; --c1: #ff8f4d; --c2: #2cc79a; --c3: #e29ccb; --c4: #f0b840; --c5: #86cdf2; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; }
main, header.top, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header.top { padding-top: 40px; padding-bottom: 8px; }
.eyebrow { margin: 0; color: var(--soft); font-size: 13px; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: 4px 0 8px; font-size: 34px; line-height: 1.15; letter-spacing: -.01em; }
h2 { margin: 0; font-size: 22px; line-height: 1.25; letter-spacing: -.005em; }
h3 { margin: 36px 0 12px; font-size: 16px; }
h4 { margin: 0 0 8px; font-size: 14px; font-weight: 600; }
p { margin: 0 0 8px; }
a { color: var(--link); }
.lede { color: var(--soft); max-width: 75ch; }
section.group { background: var(--card); border: 1px solid var(--line); border-radius: 14px; margin: 24px 0;
  padding: 28px 32px 32px; }
section.many { content-visibility: auto; contain-intrinsic-size: auto 1400px; }
.verdict { display: grid; grid-template-columns: auto 1fr; gap: 4px 20px; align-items: start; border-left: 6px solid
  var(--tone);
  margin: 0 0 24px -32px; padding-left: 26px; }
.good { --tone: var(--good); } .warn { --tone: var(--warn); } .bad { --tone: var(--bad); } .none { --tone:
  var(--none); }
.badge { display: inline-flex; align-items: center; gap: 8px; color: var(--card); background: var(--tone);
  border-radius: 999px; padding: 4px 14px 4px 10px; font-weight: 700; font-size: 14px; letter-spacing: .02em;
  white-space: nowrap; }
.badge b { font-size: 15px; line-height: 1; }
.cause { grid-column: 1 / -1; font-size: 17px; margin: 10px 0 0; max-width: 85ch; }
.marks { grid-column: 1 / -1; margin: 6px 0 0; display: flex; flex-wrap: wrap; gap: 6px; }
.mark { border: 1px dashed var(--warn); color: var(--warn); border-radius: 6px; padding: 1px 8px; font-size: 13px; }
.notes { margin: 0 0 20px; padding-left: 20px; color: var(--soft); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 0 0 8px; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile dt { color: var(--soft); font-size: 13px; } .tile dd { margin: 0; font-size: 24px; font-weight: 650;
  font-variant-numeric: tabular-nums; line-height: 1.25; } .tile small { display: block; font-size: 13px;
  font-weight: 400; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px; }
figure { margin: 0; min-width: 0; } figcaption { color: var(--soft); font-size: 13px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; } svg text.title { font-size:
  12px; }
svg text.note { paint-order: stroke; stroke: var(--card); stroke-width: 5px; }
svg text.e { text-anchor: end; } svg text.m { text-anchor: middle; }
.grid { fill: none; stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.rule { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 6 4; } .rule.limit { stroke: var(--bad);
  stroke-dasharray: none; }
svg text.rulelabel { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width:
  4px; }
.curve { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
circle { r: 3.5px; fill: var(--c); stroke: var(--card); stroke-width: 1; }
circle:hover { stroke: var(--ink); stroke-width: 2; }
g:hover > .curve { stroke-width: 3.5; }
rect { fill: var(--c); } rect.hatched { fill-opacity: .25; stroke: var(--c); stroke-dasharray: 4 3; } rect:hover {
  opacity: .8; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c:
  var(--c4); }
.c5 { --c: var(--c5); }
.c1 .curve { stroke-dasharray: 9 3; } .c2 .curve { stroke-dasharray: 3 3; } .c3 .curve { stroke-dasharray: 12 3 3 3; }
.c4 .curve { stroke-dasharray: 6 2 2 2 2 2; } .c5 .curve { stroke-dasharray: 1 3; stroke-linecap: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin: 4px 0 8px; }
.swatch { display: inline-block; width: 14px; height: 10px; border-radius: 2px; background: var(--c); margin-right:
  6px; }
.scroll { overflow-x: auto; max-width: 100%; } .scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding: 0 0 6px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } .n { text-align: right; }
td .state { font-weight: 700; color: var(--tone); white-space: nowrap; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 0 32px;
  margin: 0; font-size: 14px; }
.facts > div { display: grid; grid-template-columns: minmax(110px, 42%) 1fr; gap: 12px; padding: 5px 0;
  border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); } .facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; overflow-x:
  auto;
  font: 13px/1.5 ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: 12px 0 0; } summary { cursor: pointer; font-weight: 600; font-size: 14px; color: var(--link); }
.findings { border-left: 4px solid var(--bad); padding-left: 14px; font-size: 14px; }
.toolbar { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 10px 0; font-size: 13px;
  color: var(--soft); }
button, .toolbar input { font: inherit; font-size: 13px; color: var(--ink); background: var(--page); border: 1px solid
  var(--line); border-radius: 8px; padding: 4px 12px; }
button { cursor: pointer; } [aria-pressed="false"] { opacity: .45; text-decoration: line-through; }
.key[role=button] { cursor: pointer; } button:focus-visible, .key:focus-visible { outline: 2px solid var(--link); }
figure.wide { max-width: 900px; margin-bottom: 20px; }
figure.large { grid-column: 1 / -1; } .enlarge { margin-top: 6px; }
.published circle { fill: var(--soft); fill-opacity: .45; r: 4px; }
td ul { margin: 0; padding-left: 18px; }
.hide-c0 .charts g.c0, .hide-c1 .charts g.c1, .hide-c2 .charts g.c2, .hide-c3 .charts g.c3, .hide-c4 .charts g.c4,
.hide-c5 .charts g.c5 { display: none; }
footer { color: var(--soft); font-size: 13px; padding-top: 8px; padding-bottom: 48px; }
@media (max-width: 640px) { main, header.top, footer { padding-left: 12px; padding-right: 12px; } h1 { font-size:
  26px; }
  .badge { justify-self: start; }
  section.group { padding: 18px 16px 22px; } .verdict { margin-left: -16px; padding-left: 12px;
  grid-template-columns: 1fr; }
  .tile dd { font-size: 20px; } h2 { font-size: 19px; } svg text { font-size: 14px; } svg text.title { font-size:
  14px; } }
@media print { .toolbar, .enlarge { display: none; } }
@media print { :root { --page: #fff; --card: #fff; } body { font-size: 11pt; } main, header.top, footer { max-width:
  none; padding: 0; }
  section.group { border: 0; padding: 0; margin: 0 0 18pt; break-before: page; } section.group:first-of-type {
  break-before: auto; }
  section.many { content-visibility: visible; } .verdict { margin-left: 0; }
  figure, .tile, tr, .facts > div { break-inside: avoid; } h3, h4 { break-after: avoid; }
  .badge { print-color-adjust: exact; -webkit-print-color-adjust: exact; } rect, .swatch { print-color-adjust:
  exact; }
  details::details-content { content-visibility: visible; display: block; } .scroll { overflow: visible; } }
"""
