# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the pages look: colours by name, for light and dark, and one style sheet. Pure."""

from __future__ import annotations

from collections.abc import Mapping

# each on C(paper) and on C(raised): text with a contrast of 4.5 at least, what is only drawn with 3
LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "raised": "#f3f5f7",
    "line": "#c9d1d9",
    "ink": "#1b1f24",
    "soft": "#505a64",
    "link": "#0757bd",
    "good": "#14692d",
    "mixed": "#7d5100",
    "bad": "#b3121d",
    "update": "#5b6570",
    "build": "#0a6e7c",
    "probe": "#6b7580",
    "copy": "#0a63cc",
    "activation": "#187a35",
    "verification": "#7a49d6",
    "reboot": "#b04700",
    "rollback": "#c31f2b",
    "other": "#6b7580",
}
DARK: Mapping[str, str] = {
    "paper": "#0f1419",
    "raised": "#1a222b",
    "line": "#3d4854",
    "ink": "#e6edf3",
    "soft": "#a3aeb9",
    "link": "#79b8ff",
    "good": "#56d07a",
    "mixed": "#e8b949",
    "bad": "#ff8a80",
    "update": "#9aa5b1",
    "build": "#3fb8c8",
    "probe": "#8d98a4",
    "copy": "#5aa5ff",
    "activation": "#4cc46c",
    "verification": "#b693ff",
    "reboot": "#f2914a",
    "rollback": "#ff7a70",
    "other": "#8d98a4",
}
TEXT = ("ink", "soft", "link", "good", "mixed", "bad")
STEPS = ("update", "build", "probe", "copy", "activation", "verification", "reboot", "rollback", "other")
DRAWN = (*STEPS, "good", "mixed", "bad")
# what tells them apart without colour: strokes of a square of eight
PATTERNS: Mapping[str, str] = {
    "update": "M0 4H8",
    "build": "M4 0V8M0 4H8",
    "probe": "",
    "copy": "M-1 9L9 -1",
    "activation": "M4 0V8",
    "verification": "M3 3H5",
    "reboot": "M-1 -1L9 9",
    "rollback": "M-1 9L9 -1M-1 -1L9 9",
    "other": "M0 2H8M0 6H8",
    "good": "",
    "mixed": "M-1 9L9 -1",
    "bad": "M-1 9L9 -1M-1 -1L9 9",
}

_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;background:var(--paper);color:var(--ink);
 font:1rem/1.5 system-ui,"Liberation Sans","DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:1rem 1.25rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:.25rem 0}
h2{font-size:1.2rem;margin:2.25rem 0 .5rem;padding-bottom:.2rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:0}
p,ul,ol,dl{margin:.4rem 0}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-999rem}
.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.25rem .5rem}
.soft{color:var(--soft)}
.word{font-weight:600;white-space:nowrap}
.good{color:var(--good)}.mixed{color:var(--mixed)}.bad{color:var(--bad)}
.verdict{border-left:.5rem solid currentColor;background:var(--raised);padding:.75rem 1rem;border-radius:.25rem}
.verdict>*{color:var(--ink)}
.verdict h1 .word{white-space:normal}
.counts{display:flex;flex-wrap:wrap;gap:.1rem 1.25rem;list-style:none;padding:0}
.card{border:1px solid var(--line);border-left-width:.3rem;border-radius:.25rem;padding:.6rem .9rem;margin:.75rem 0}
.card.bad{border-left-color:var(--bad);color:var(--ink)}
.card.mixed{border-left-color:var(--mixed);color:var(--ink)}
.said{white-space:pre-wrap}
pre{font:.9rem/1.45 ui-monospace,"Liberation Mono","DejaVu Sans Mono",monospace;margin:.2rem 0 .6rem;
 background:var(--raised);padding:.4rem .6rem;border-radius:.25rem;white-space:pre-wrap;
 user-select:all;-webkit-user-select:all}
dt{margin-top:.4rem}dd{margin:0}
table{border-collapse:collapse;width:100%;font-size:.95rem}
caption{text-align:left;color:var(--soft);padding:.8rem 0 .2rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}
tbody th{font-weight:600;min-width:5.5rem}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{display:block;width:100%;overflow:hidden}
.bar{height:1.2rem;background:var(--raised)}
.bar .grid{stroke:var(--line);stroke-width:1}
.bar .step{stroke:var(--paper);stroke-width:1}
.marks{position:absolute;width:0;height:0}
.marks path{stroke:var(--paper);stroke-width:1.5;fill:none}
.axis{height:1.3rem}
.axis text{fill:var(--soft);font-size:.8rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0}
.legend li{display:flex;align-items:center;gap:.4rem}
.legend svg{width:2rem;height:1rem}
.timeline{list-style:none;padding:0}
.timeline li{display:grid;grid-template-columns:minmax(6rem,11rem) minmax(0,1fr) minmax(10rem,20rem);gap:0 .75rem;
 align-items:center;padding:.12rem 0;break-inside:avoid}
.timeline .took{font-size:.85rem;color:var(--soft)}
.trend .bar{width:10rem}
footer{margin-top:2.5rem;color:var(--soft);font-size:.9rem}
@media (max-width:44rem){
 body{padding:.75rem .75rem 2rem}
 h1{font-size:1.3rem}
 .timeline li{grid-template-columns:minmax(0,1fr)}
 .timeline li.axis-row .took,.timeline li.axis-row .name,.trend .drawn{display:none}
 table{font-size:.9rem}
 th,td{padding-right:.5rem}
 thead th{white-space:normal;overflow-wrap:break-word}
 tbody th{min-width:4.5rem}
 .number{white-space:normal}
}
@media print{
 body{max-width:none;padding:0}
 .skip,nav{display:none}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
 .card,tr{break-inside:avoid}
 h2,h3{break-after:avoid}
 pre{border:1px solid var(--line)}
}
"""


def sheet() -> str:
    """The style sheet. Paper is light, whatever the screen is."""
    fills = "".join(f".fill-{name}{{fill:var(--{name})}}" for name in DRAWN)
    return (
        f":root{_colours(LIGHT)}@media screen and (prefers-color-scheme:dark){{:root{_colours(DARK)}}}{_RULES}{fills}\n"
    )


def _colours(named: Mapping[str, str]) -> str:
    return "{" + "".join(f"--{name}:{value};" for name, value in named.items()) + "}"
