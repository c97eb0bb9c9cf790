"""The frame of the report: HTML with its style; `{links}` and `{body}` are put in."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>medglip-etl dataset</title>
<style>
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--panel:#f6f8fa;--bar:#0072b2;
--mark:#d55e00;--link:#0a58a8}
@media (prefers-color-scheme:dark){:root{--bg:#0f1318;--ink:#e6edf3;--soft:#9aa5b1;--line:#30363d;--panel:#171c23;
--bar:#56b4e9;--mark:#e69f00;--link:#79b8ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header,section{max-width:1160px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:28px;margin:0 0 8px}
h2{font-size:21px;margin:44px 0 12px;padding-top:12px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:22px 0 8px}
small,figcaption,.soft{color:var(--soft);font-weight:400}
nav{display:flex;flex-wrap:wrap;gap:4px 14px}
nav a{color:var(--link);text-decoration:none;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(130px,1fr));gap:10px;margin:12px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.wide{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:14px}
th,td{padding:4px 12px 4px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 40px}
ul.bars{list-style:none;margin:0;padding:0;font-size:13.5px}
ul.bars li{display:grid;grid-template-columns:minmax(90px,34%) 1fr auto;gap:8px;align-items:center;padding:1.5px 0}
.name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.count{color:var(--soft);font-variant-numeric:tabular-nums;min-width:3.5em;text-align:right}
svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--soft)}
svg text.mark{fill:var(--mark);font-size:12px;font-weight:600}
svg.track{height:13px;border-radius:2px}
svg .kept{fill:var(--bar)}svg .cut{fill:var(--mark)}
svg line.guide{stroke:var(--soft);stroke-dasharray:2 3}
svg line.axis{stroke:var(--line)}svg line.mark{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}
.key-cut,.key-kept{display:inline-block;padding-left:16px;position:relative;margin-right:10px}
.key-cut:before,.key-kept:before{content:"";position:absolute;left:0;top:.3em;width:11px;height:11px;border-radius:2px}
.key-cut:before{background:var(--mark)}.key-kept:before{background:var(--bar)}
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:14px}
.many.heat{grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}
svg.heat{background:var(--panel);border:1px solid var(--line);border-radius:4px}svg.heat rect{fill:var(--bar)}
figure{margin:0;min-width:0}
figcaption{font-size:12px;overflow-wrap:anywhere;padding-top:3px}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,190px),1fr));gap:14px;padding:8px 0}
.sheet img{width:100%;max-height:260px;object-fit:contain;display:block;background:#000;border-radius:4px}
code{font:11px ui-monospace,monospace}
em{font-style:normal;font-weight:600;color:var(--ink)}
details{margin:6px 0}summary{cursor:pointer}
footer{max-width:1160px;margin:40px auto;padding:0 20px;color:var(--soft);font-size:13px}
@media (max-width:600px){svg.large text,svg.large text.mark{font-size:19px}
header,section{padding:0 14px}header{padding-top:18px}h1{font-size:23px}
ul.bars li{grid-template-columns:38% 1fr auto}.tile b{font-size:19px}}
</style></head><body>
<header><h1>medglip-etl dataset</h1><nav>{links}</nav></header>
{body}
<footer>Written by medglip-etl from this build's own files. For research; not for clinical use.</footer>
</body></html>
"""
