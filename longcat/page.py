"""Style sheet of all HTML pages that longcat writes."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; background: #f5f6f8; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.lead { color: #55607a; margin: 0 0 1.5rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; }
.card { background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; } .card span { color: #55607a; font-size: .85rem; }
.verdict { background: #fff; border-left: 4px solid #2f6fde; border-radius: .25rem; padding: .75rem 1rem; margin: 1rem 0; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th, td { padding: .45rem .75rem; text-align: left; white-space: nowrap; }
.note { color: #55607a; font-size: .85rem; } td.wrap { white-space: normal; min-width: 9rem; }
td.source { white-space: normal; min-width: 15rem; } th { color: #55607a; font-weight: 600; border-bottom: 1px solid #e1e5ec; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #eef0f4; } tr.ours td { background: #eef4ff; font-weight: 600; }
img { width: 100%; height: auto; background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; } footer { color: #55607a; font-size: .85rem; margin-top: 2rem; }
"""
