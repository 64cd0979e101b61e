"""Style sheet of all HTML pages that longcat writes.

Pages are read on telephones, too: a wide table scrolls inside its own box, whose edge is shaded where there is more
(`.scroll`), or becomes a card per row (`table.stack`, with `data-label` on each cell).
"""

STYLE = """
:root { color-scheme: light; scroll-padding-top: 1rem; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; background: #f5f6f8; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
a { color: #1f5bc4; } ul { padding-left: 1.2rem; } li { margin: .2rem 0; }
.lead { color: #55607a; margin: 0 0 1rem; }
.contents { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 0 0 1.25rem; font-size: .9rem; }
.contents a, .links a { text-decoration: none; } .contents a:hover, .links a:hover { text-decoration: underline; }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; }
.card { flex: 1 1 6.5rem; min-width: min-content; background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.45rem; white-space: nowrap; font-variant-numeric: tabular-nums; } .card span { color: #55607a; font-size: .85rem; }
.verdict { background: #fff; border-left: 4px solid #2f6fde; border-radius: .25rem; padding: .75rem 1rem; margin: .5rem 0 1rem; }
.verdict p { margin: 0; } .verdict p + p, .verdict ul + p { margin-top: .6rem; } .verdict ul { margin: .2rem 0 0; }
.links a { display: inline-block; border: 1px solid #c9d2e0; border-radius: .35rem; padding: .05rem .5rem; margin: .1rem; }
.links small { color: #55607a; }
.own { color: #55607a; font-size: .85rem; } .within { color: #2b8a3e; } .outside { color: #c92a2a; } .straddles { color: #a35c00; }
.scroll { overflow-x: auto; border: 1px solid #e1e5ec; border-radius: .5rem;
  background: linear-gradient(90deg, #fff 30%, #fff0) 0 0 / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, #fff 30%, #fff0) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, #1c233040, #1c233000) 0 0 / .9rem 100% no-repeat scroll,
    linear-gradient(270deg, #1c233040, #1c233000) 100% 0 / .9rem 100% no-repeat scroll, #fff; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th, td { padding: .45rem .75rem; text-align: left; white-space: nowrap; }
table.stack { background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; border-collapse: separate; border-spacing: 0; }
table.stack td { vertical-align: top; }
.note { color: #55607a; font-size: .85rem; } td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; } td.title { min-width: 12rem; }
td.source { white-space: normal; min-width: 10rem; } th { color: #55607a; font-weight: 600; border-bottom: 1px solid #e1e5ec; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #eef0f4; } tr.ours td { background: #eef4ffb0; font-weight: 600; } tr.ours td.source { font-weight: 400; } tr:target td { background: #fff7db; }
ol.sources { padding-left: 1.6rem; } ol.sources li:target { background: #fff7db; }
img { width: 100%; height: auto; background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; box-sizing: border-box; }
footer { color: #55607a; font-size: .85rem; margin-top: 2rem; }
@media (max-width: 46rem) {
  main { padding: 1.25rem .9rem 2rem; }
  th, td { padding: .4rem .5rem; } th, td:not(.n) { white-space: normal; }
  table.stack, table.stack tbody, table.stack tr, table.stack td { display: block; width: auto; }
  table.stack { background: none; border: 0; } table.stack thead { display: none; }
  table.stack tr { background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; margin: 0 0 .75rem; padding: .5rem .75rem; }
  table.stack td, table.stack td.n { border: 0; padding: .15rem 0; white-space: normal; text-align: left; background: none; }
  table.stack tr.ours { background: #eef4ff; } table.stack tr:target { background: #fff7db; }
  table.stack td[data-label], table.stack td.n[data-label] { display: flow-root; padding-left: 9rem; }
  table.stack td[data-label]::before { content: attr(data-label); float: left; width: 8.5rem; margin-left: -9rem; color: #55607a; font-weight: 400; }
  table.stack td.n br { display: none; } .own { margin-left: .75rem; } .own::after { content: " " attr(data-by); }
  table.stack td.rank { float: right; color: #55607a; } table.stack td.rank::before { content: "row "; }
}
@media print { .contents { display: none; } h2 { break-after: avoid; } tr, img { break-inside: avoid; } }
"""
