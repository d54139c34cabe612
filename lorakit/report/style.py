"""How the page looks, in light and in dark."""

# Lines and parts take colours of middling lightness that can be told apart on both grounds.
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c1e21; --faint: #5c6370; --edge: #d5d9df; --raised: #f5f6f8;
  --added: #fde3b0; --missing: #f8d0d0; --trained: #c9ecd0; --exact: #1a7f37; --link: #1f6feb;
  --c0: #2f6fde; --c1: #d9730d; --c2: #2e9e6b; --c3: #9a5bd0; --c4: #c94f7c; --c5: #8a8d22; --c6: #7a828e; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15181c; --text: #e3e6ea; --faint: #9aa3af; --edge: #363c45; --raised: #1e2329;
    --added: #5f4708; --missing: #66292c; --trained: #1d5530; --exact: #56d364; --link: #79b0ff;
    --c0: #6ba2ff; --c1: #f0984a; --c2: #4cc38d; --c3: #bd8df0; --c4: #ea82a8; --c5: #c2c552; --c6: #9aa3af; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 16px; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--edge); }
p { margin: .5rem 0; }
.verdict { font-size: 1.1rem; font-weight: 600; }
.note, small, figcaption { color: var(--faint); }
.note { max-width: 75ch; font-size: .92rem; }
.box { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--edge); }
th { font-weight: 600; white-space: nowrap; }
.numbers th, .numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal; }
.numbers td:first-child { white-space: normal; min-width: 120px; overflow-wrap: break-word; }
.numbers th + th, .numbers td + td { text-align: right; }
.texts { min-width: 760px; width: 100%; table-layout: fixed; }
.texts th:first-child { width: 17%; }
.shares { table-layout: auto; }
.texts td { white-space: pre-wrap; min-width: 90px; }
@media (max-width: 760px) {
  .texts { min-width: 0; } .texts thead { display: none; }
  .texts tr { display: block; padding: 8px 0; border-bottom: 2px solid var(--edge); }
  .texts td { display: block; padding: 3px 0; border: 0; min-width: 0; }
  .texts td::before { content: attr(data-label); display: block; color: var(--faint); font-size: .85rem; } }
mark { background: var(--added); color: inherit; border-radius: 2px; }
del { background: var(--missing); color: inherit; border-radius: 2px; text-decoration-thickness: 1px; }
.exact { color: var(--exact); font-weight: 600; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px; }
figure { margin: 0 0 1rem; }
figcaption strong { color: var(--text); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--faint); }
.grid { stroke: var(--edge); stroke-width: 1; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line.s0 { stroke: var(--c0); } .line.s1 { stroke: var(--c1); stroke-dasharray: 5 3; }
.dot.s0 { fill: var(--c0); } .dot.s1 { fill: var(--c1); }
.key { margin-left: 12px; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 16px; margin-right: 5px; vertical-align: middle;
  border-top: 3px solid; }
.k0::before { border-color: var(--c0); } .k1::before { border-color: var(--c1); border-top-style: dashed; }
.bar { height: 20px; max-width: 720px; border-radius: 3px; }
.bar-name { margin: .5rem 0 .1rem; font-size: .92rem; }
.p0 { fill: var(--c0); } .p1 { fill: var(--c1); } .p2 { fill: var(--c2); } .p3 { fill: var(--c3); }
.p4 { fill: var(--c4); } .p5 { fill: var(--c5); } .p6, .whole { fill: var(--c6); }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); }
.b3 { background: var(--c3); } .b4 { background: var(--c4); } .b5 { background: var(--c5); }
.b6 { background: var(--c6); }
.tokens, pre { background: var(--raised); border: 1px solid var(--edge); border-radius: 5px; padding: 10px; }
.tokens { white-space: pre-wrap; line-height: 1.9; font-size: .92rem; }
.token { border-right: 1px solid var(--edge); color: var(--faint); }
.token.trained { background: var(--trained); color: var(--text); text-decoration: underline;
  text-decoration-color: var(--exact); text-underline-offset: 4px; }
pre { overflow-x: auto; margin: .5rem 0; font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
"""
