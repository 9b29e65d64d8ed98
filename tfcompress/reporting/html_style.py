"""The style of a report's page, in light and in dark, on wide and on narrow screens."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2129; --soft: #5b6472; --line: #d9dee6;
  --bar: #2563c9; --ghost: #c9d3e3; --c0: #2563c9; --c1: #d9772b; --c2: #2f9461; --c3: #b4407a;
  --c4: #7a5cc7; --c5: #a88a12; --c6: #21899c; --c7: #8b95a5; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e8ebf0; --soft: #a2acba;
  --line: #333a45; --bar: #6ea2f5; --ghost: #3a4352; --c0: #6ea2f5; --c1: #eb9a57; --c2: #5dbd8b;
  --c3: #dd76a8; --c4: #a78ff0; --c5: #cdb347; --c6: #55b7c9; --c7: #7f8998; } }
body { margin: 0 auto; padding: 1.2rem; max-width: 64rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h1 + p { margin-bottom: .8rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; color: var(--soft); overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; }
.facts div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; }
.facts b { display: block; font-size: 1.25rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
.left { text-align: left; }
tfoot td { font-weight: 600; }
.layer { display: grid; grid-template-columns: 22% 1fr; gap: .2rem .8rem;
  margin: .5rem 0; align-items: center; }
.layer span { overflow-wrap: anywhere; }
.bar { height: .6rem; min-width: 1px; border-radius: 2px; margin: 2px 0; background: var(--bar); }
.ghost { background: var(--ghost); }
.layer small, .stack small { color: var(--soft); }
.stack { margin: .7rem 0; }
.stack div { display: flex; height: 1.5rem; border-radius: 3px; overflow: hidden; }
.stack i { min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; color: var(--soft); }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }
.plot { position: relative; height: 18rem; margin: 1rem 1rem 2.6rem 3.6rem;
  border-left: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.plot span { position: absolute; color: var(--soft); font-size: .8rem;
  white-space: nowrap; }
.plot .x { top: 100%; transform: translate(-50%, .3rem); }
.plot .y { right: 100%; transform: translate(-.4rem, 50%); }
.plot svg { position: absolute; width: 100%; height: 100%; overflow: visible; }
.plot polyline { fill: none; stroke: var(--bar); stroke-width: 1.5;
  vector-effect: non-scaling-stroke; }
.plot i { position: absolute; background: var(--line); }
.plot i.x { top: 0; bottom: 0; width: 1px; }
.plot i.y { left: 0; right: 0; height: 1px; }
.plot b { position: absolute; width: 1.35rem; height: 1.35rem; margin: 0 0 -.675rem -.675rem;
  border-radius: 50%; background: var(--ghost); color: var(--text); font-size: .75rem;
  line-height: 1.35rem; text-align: center; }
.plot b.front { background: var(--bar); color: var(--back); }
.plot b.float { outline: 2px solid var(--text); outline-offset: 2px; }
@media (max-width: 40rem) {
  body { padding: .8rem; font-size: 14px; }
  .facts { grid-template-columns: 1fr 1fr; }
  .layer { grid-template-columns: 1fr; gap: 0; }
  .plot { margin-left: 3rem; height: 14rem; }
}
"""
