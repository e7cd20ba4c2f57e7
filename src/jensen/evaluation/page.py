"""The report's HTML: one self-contained page.

Text is escaped wherever it enters, unless it is `Html` already. Pictures are data: URIs, the style is inline, there is no
script, and the page's own content security policy forbids the browser to fetch anything.
"""

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup that needs no escaping."""


def text(content: "str | Html") -> Html:
    """Plain text as markup: escaped, control and direction characters and lone surrogates replaced."""
    if isinstance(content, Html):
        return content
    shown = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" else c for c in content)
    return Html(html.escape(shown))


def join(*parts: "str | Html") -> Html:
    """Parts one after another."""
    return Html("".join(text(part) for part in parts))


def paragraph(*parts: "str | Html", style: str = "") -> Html:
    """A paragraph; style is a class name."""
    return Html(f"<p{_class(style)}>{join(*parts)}</p>\n")


def strong(content: "str | Html") -> Html:
    """Emphasised text."""
    return Html(f"<strong>{text(content)}</strong>")


def sub(symbol: str, index: str) -> Html:
    """A symbol with an index below."""
    return Html(f"{text(symbol)}<sub>{text(index)}</sub>")


def number(content: "str | Html") -> Html:
    """A number with its unit that is not broken over lines."""
    return Html(f'<span class="n">{text(content)}</span>')


def missing(reason: "str | Html") -> Html:
    """The line that stands where something could not be shown."""
    return paragraph(reason, style="missing")


def panel(title: str, *parts: "str | Html") -> Html:
    """A section with a heading."""
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{join(*parts)}</section>\n")


def side_by_side(*parts: Html) -> Html:
    """Blocks beside each other where the screen is wide enough, below each other elsewhere."""
    return Html(f'<div class="pair">{join(*parts)}</div>\n')


def table(headers: Sequence[str], rows: Iterable[Sequence["str | Html"]]) -> Html:
    """A table; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{text(h)}</th>' for h in headers)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(c)}</td>" for c in rest)}</tr>\n'
        for first, *rest in rows
    )
    return Html(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n")


def cards(headers: Sequence[str], rows: Iterable[Sequence["str | Html"]]) -> Html:
    """A table with many columns; on a narrow screen each row is a block, its cells named by their headers."""
    head = "".join(f'<th scope="col">{text(h)}</th>' for h in headers)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f'<td data-label="{text(h)}">{text(c)}</td>' for h, c in zip(headers[1:], rest, strict=True))
        + "</tr>\n"
        for first, *rest in rows
    )
    return Html(f'<table class="cards">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n')


def code(content: str) -> Html:
    """A command to copy."""
    return Html(f'<pre class="code">{text(content)}</pre>\n')


def facts(pairs: Iterable[tuple[str, "str | Html"]], style: str = "") -> Html:
    """Names and values; the style "compact" puts several beside each other."""
    return Html(
        f"<dl{_class(style)}>\n"
        + "".join(f"<div><dt>{text(k)}</dt><dd><bdi>{text(v)}</bdi></dd></div>\n" for k, v in pairs)
        + "</dl>\n"
    )


def share(part: float) -> Html:
    """A bar that fills this share of its cell."""
    width = f"{100 * min(1.0, max(0.0, part)):.1f}"
    return Html(f'<span class="bar"><span style="width:{width}%"></span></span>')


def picture(light: bytes, alt: str, *, dark: bytes | None = None, caption: "str | Html" = "", style: str = "") -> Html:
    """A PNG, with another for dark screens, and a caption."""
    source = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{_uri(dark)}">' if dark else ""
    image = f'<picture>{source}<img src="{_uri(light)}" alt="{text(alt)}"></picture>'
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f"<figure{_class(style)}>{image}{below}</figure>\n")


def block(*parts: "str | Html") -> Html:
    """Parts that stay together."""
    return Html(f"<div>{join(*parts)}</div>\n")


def gallery(items: Iterable[Html]) -> Html:
    """Small pictures that wrap."""
    return Html(f'<div class="gallery">{join(*items)}</div>\n')


def details(summary: str, content: str) -> Html:
    """Preformatted text that is folded away."""
    return Html(f"<details><summary>{text(summary)}</summary><pre>{text(content)}</pre></details>\n")


def head(title: "str | Html", quote: "str | Html", about: "str | Html") -> Html:
    """The top of the page: what it is about and the one line to quote."""
    below = paragraph(about, style="about") if about else ""
    return Html(f"<header>\n<h1>{text(title)}</h1>\n{paragraph(quote, style='quote')}{below}</header>\n")


def bullets(lines: Iterable[Html]) -> Html:
    """A list; empty lines are left out."""
    return Html("<ul>\n" + "".join(f"<li>{line}</li>\n" for line in lines if line) + "</ul>\n")


def document(title: str, body: Html) -> str:
    """The page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _uri(content: bytes | None) -> str:
    return f"data:image/png;base64,{base64.b64encode(content or b'').decode()}"


def _class(style: str) -> str:
    return f' class="{text(style)}"' if style else ""


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #5f6670; --rule: #d9dce0; --page: #f4f5f6; --card: #ffffff;
  --accent: #2563a8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --muted: #a0a7b0; --rule: #3a4048; --page: #121418; --card: #1b1e23; --accent: #7fb2e8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header { padding: 1rem 0 1.5rem; }
h1 { font-size: 1rem; font-weight: 500; color: var(--muted); margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; font-weight: 650; line-height: 1.3; margin: 0 0 .6rem; }
.quote { font-size: clamp(1.9rem, 7vw, 3rem); font-weight: 650; line-height: 1.15; letter-spacing: -.015em; margin: 0; }
.about { color: var(--muted); margin: .35rem 0 1rem; }
p { margin: 0 0 .8rem; max-width: 44rem; }
ul { margin: 0 0 .8rem; padding-left: 1.2rem; max-width: 44rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: 1.2rem 1.3rem 1rem;
  margin: 0 0 1rem; }
.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.missing { color: var(--muted); font-style: italic; border-left: 3px solid var(--rule); padding-left: .8rem; }
.verdict { font-weight: 600; }
.note { color: var(--muted); font-size: .88rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: .5rem 2rem;
  align-items: start; }
.pair > * { min-width: 0; }
figure { margin: .3rem 0 1rem; }
figure img { display: block; width: 100%; max-width: 30rem; height: auto; }
figure.pixels img { image-rendering: pixelated; max-width: 26rem; }
figure.wide img { max-width: 40rem; }
figcaption { color: var(--muted); font-size: .88rem; line-height: 1.4; margin-top: .35rem; max-width: 44rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); gap: .6rem 1rem; margin: .3rem 0 .6rem; }
.gallery figure { margin: 0; }
.gallery figcaption { text-align: center; font-variant-numeric: tabular-nums; margin-top: .1rem; }
table { border-collapse: collapse; width: 100%; max-width: 44rem; margin: .2rem 0 1rem; font-size: .94rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: break-word; }
thead th { color: var(--muted); font-weight: 500; font-size: .85rem; }
tbody th { font-weight: 600; }
dl { margin: 0 0 1rem; font-size: .94rem; }
dl div { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr; gap: .2rem 1rem; padding: .25rem 0;
  border-bottom: 1px solid var(--rule); }
dt { color: var(--muted); }
dd { margin: 0; white-space: pre-line; min-width: 0; }
dl.compact { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 0 2rem; }
dl.compact div { grid-template-columns: minmax(5rem, 8rem) 1fr; }
sub { font-size: .75em; line-height: 0; }
.bar { display: block; height: .6rem; min-width: 3rem; margin-top: .45rem; background: var(--rule); border-radius: .3rem; }
.bar span { display: block; height: 100%; background: var(--accent); border-radius: .3rem; }
details { margin: .2rem 0 .6rem; }
summary { cursor: pointer; color: var(--muted); font-size: .9rem; }
pre { white-space: pre-wrap; font-size: .8rem; line-height: 1.4; }
pre.code { background: var(--page); border: 1px solid var(--rule); border-radius: .4rem; padding: .6rem .8rem; font-size: .88rem; }
table.cards { max-width: none; } table.cards td p { margin: 0; } table.cards td:last-child { padding-right: 0; }
@media screen and (max-width: 40rem) {
  table.cards thead { display: none; } table.cards, table.cards tbody, table.cards tr { display: block; }
  table.cards tr { border-bottom: 1px solid var(--rule); padding: .5rem 0; }
  table.cards th, table.cards td { display: block; border: 0; padding: .1rem 0; }
  table.cards td { display: grid; grid-template-columns: 7.5rem 1fr; gap: .6rem; }
  table.cards td::before { content: attr(data-label); color: var(--muted); font-size: .85rem; } }
@media (max-width: 30rem) { main { padding: .8rem .6rem 2rem; } section { padding: 1rem .9rem .7rem; }
  th, td { padding-right: .5rem; } table { font-size: .88rem; } ul { padding-left: 1rem; }
  dl div, dl.compact div { grid-template-columns: 7rem 1fr; } }
@media print {
  body { background: #fff; font-size: 10pt; } main { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--rule); border-radius: 0; padding: .8rem 0 0; }
  h2 { break-after: avoid; } figure, table, dl div, .gallery figure { break-inside: avoid; }
  .pair { grid-template-columns: 1fr 1fr; } details { display: none; }
  .bar, .bar span { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
