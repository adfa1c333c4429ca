"""Checks of the printed pages: nothing from elsewhere, no dead link, words for every picture."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ELSEWHERE = re.compile(r"^(?:https?:)?//", re.IGNORECASE)
CSS_LOAD = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
PATH_LIKE = re.compile(r"\S+\.(?:png|svg|jpe?g|gif|webp)$|^(?:_images|\.\.?)/", re.IGNORECASE)
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
LOADED = {
    "stylesheet",
    "icon",
    "shortcut icon",
    "preload",
    "modulepreload",
    "preconnect",
}  # relations of <link>


class Page(HTMLParser):
    """The ids, links, assets and picture texts of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.pictures: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what one tag loads, links to or names."""
        have = dict(attrs)
        self.ids.update(have[name] for name in ("id", "name") if have.get(name))
        if tag == "a" and have.get("href"):
            self.links.append(have["href"])
        address = have.get(LOADS.get(tag, "")) or ""
        if address and (tag != "link" or have.get("rel") in LOADED):
            self.assets.append(address)
        if tag == "img":
            self.pictures.append((address, have.get("alt")))


def check_site(site: Path) -> list[str]:
    """What is wrong with the pages under ``site``, one line each; an empty list is a good site.

    Three rules: no page or style sheet loads anything over the network; every link and asset inside the site
    leads to a file (and, on a page, to an id) that exists; every picture has a text that is not a file name.
    """
    found = [
        path for path in site.rglob("*.html") if "_static" not in path.parts
    ]  # themes keep templates there
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in found}
    if not pages:
        return [f"{site} holds no page"]
    problems = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        problems += [f"{name}: loads {url} from elsewhere" for url in page.assets if ELSEWHERE.match(url)]
        for address in page.links + page.assets:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                problems.append(f"{name}: {address} leads to no file")
            elif target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].ids:
                problems.append(f"{name}: {address} leads to no place on that page")
        for source, alt in page.pictures:
            if not (alt or "").strip() or PATH_LIKE.search(alt or ""):
                problems.append(f"{name}: the picture {source} has no alternative text (alt={alt!r})")
    for path in site.rglob("*.css"):
        name = path.relative_to(site).as_posix()
        loads = CSS_LOAD.findall(path.read_text(encoding="utf-8"))
        problems += [f"{name}: loads {url} from elsewhere" for url in loads]
    return sorted(set(problems))
