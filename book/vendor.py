"""Let the built pages load scripts, styles and fonts from files beside them: they work offline.

``make book`` calls this after the build:

    python -m book.vendor

book/npm/package.json names the npm packages, package-lock.json beside it pins them, build/npm
holds them, and what the pages load of them is copied into _static/npm of the built book. Where
npm or its network is missing, the pages keep their public links. NPM names another npm program.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "book" / "npm"
PACKAGES = ROOT / "build" / "npm"
BOOK = ROOT / "build" / "book" / "_build" / "html"
VENDOR = "_static/npm"

NPM_ADDRESS = re.compile(
    r"https://(?:cdn\.jsdelivr\.net/npm|unpkg\.com)/((?:@[^/@]+/)?[^/@]+)(?:@([^/]+))?/([^?#]+)"
)
# Addresses that name no npm package, and what npm has of them.
CDNJS = "https://cdnjs.cloudflare.com/ajax/libs"
MARKERS = "leaflet.awesome-markers@2.0.5/dist/leaflet.awesome-markers"  # npm has no 2.0.2
ELSEWHERE = {
    "https://code.jquery.com/jquery-3.7.1.min.js": "jquery@3.7.1/dist/jquery.min.js",
    f"{CDNJS}/Leaflet.awesome-markers/2.0.2/leaflet.awesome-markers.js": f"{MARKERS}.js",
    f"{CDNJS}/Leaflet.awesome-markers/2.0.2/leaflet.awesome-markers.css": f"{MARKERS}.css",
    "https://netdna.bootstrapcdn.com/bootstrap/3.0.0/css/bootstrap-glyphicons.css": (
        "glyphicons-only-bootstrap@1.0.1/css/bootstrap.min.css"
    ),
}
# folium's sheet for turned marker icons is in no package, and quickly written.
TURNED = (
    "https://cdn.jsdelivr.net/gh/python-visualization/folium/folium/templates/"
    "leaflet.awesome.rotate.min.css"
)
TURNED_CSS = "".join(f".fa-rotate-{a} {{ transform: rotate({a}deg); }}\n" for a in range(360))
# What scripts load while they run; what style sheets load is read from the sheets.
AT_RUN_TIME = {
    "leaflet": ["dist/images/*"],
    "mathjax": [
        *("es5/a11y/*", "es5/input/tex/extensions/*", "es5/output/**/*"),
        *(f"es5/sre/mathmaps/{name}.json" for name in ("base", "en", "nemeth")),
    ],
}
OFFLINE = re.compile(
    r"npm error code E(?:NOTFOUND|AI_AGAIN|CONN\w+|TIMEDOUT|NETUNREACH|HOSTUNREACH|NOTCACHED)"
)

# What a page may load from: comments and the code of scripts are matched to be left alone.
PARTS = re.compile(
    r'<!--.*?-->|(?<=\s)srcdoc="(?P<inner>[^"]*)"|(?P<script><script\b[^>]*>)(?P<code>.*?</script>)'
    r"""|(?P<link><link\b(?=[^>]*\srel=["']?stylesheet)[^>]*>)|(?P<style><style\b.*?</style>)""",
    re.DOTALL | re.IGNORECASE,
)
ADDRESS = re.compile(r"""(\s(?:src|href)\s*=\s*)["']?([^\s"'>]+)["']?""", re.IGNORECASE)
REFUSED = re.compile(
    r"""\s(?:crossorigin|integrity)(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'>]+))?(?=[\s/>])""",
    re.IGNORECASE,
)
CSS_URL = re.compile(r"""(url\(\s*["']?|@import\s+["'])([^"')]+)""", re.IGNORECASE)
PUBLIC = re.compile(r"(?:https?:)?//", re.IGNORECASE)

Move = Callable[[str], str | None]  # the new address for a public one; None where it must stay


def rewrite(page: str, move: Move) -> str:
    """The page with every public address that it loads moved, those of embedded pages too."""

    def part(match: re.Match[str]) -> str:
        if match["inner"]:
            old = html.unescape(match["inner"])
            new = rewrite(old, move)
            return match[0] if new == old else f'srcdoc="{html.escape(new)}"'
        if tag := match["script"] or match["link"]:
            return rewrite_tag(tag, move) + (match["code"] or "")
        if match["style"]:
            return CSS_URL.sub(lambda m: m[1] + (moved(m[2], move) or m[2]), match[0])
        return match[0]

    return PARTS.sub(part, page)


def moved(address: str, move: Move) -> str | None:
    """The new address; None for a relative one and for one that must stay."""
    return move(PUBLIC.sub("https://", address, count=1)) if PUBLIC.match(address) else None


def rewrite_tag(tag: str, move: Move) -> str:
    """A tag with its address moved, without the attributes that a page opened as a file refuses."""
    address = ADDRESS.search(tag)
    new = moved(html.unescape(address[2]), move) if address else None
    if not address or not new:
        return tag
    return REFUSED.sub("", tag.replace(address[0], f'{address[1]}"{new}"'))


def locate(address: str, versions: dict[str, str]) -> tuple[str, str] | None:
    """The package and the file behind an address; None where no locked version stands for it."""
    if address in ELSEWHERE:
        address = f"https://unpkg.com/{ELSEWHERE[address]}"
    match = NPM_ADDRESS.match(address)
    if not match or match[1] not in versions:
        return None
    wanted = match[2].split(".") if match[2] not in (None, "latest") else []
    fits = versions[match[1]].split(".")[: len(wanted)] == wanted  # @3 is any 3.x.y
    return (match[1], match[3]) if fits else None


def install() -> str:
    """Have the locked packages in build/npm. Says why where they cannot be had."""
    npm = shutil.which(os.environ.get("NPM") or "npm")
    if not npm:
        return "there is no npm"
    names, done = ("package.json", "package-lock.json"), PACKAGES / "installed"
    locked = b"".join((LOCK / name).read_bytes() for name in names)
    if done.exists() and done.read_bytes() == locked:
        return ""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    for name in names:
        shutil.copyfile(LOCK / name, PACKAGES / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    # What is in npm's cache needs no network; where there is none, seconds must do to find out.
    command += ["--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=2000"]
    run = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True)
    if run.returncode and OFFLINE.search(run.stderr):
        return "npm finds no network"
    if run.returncode:
        raise RuntimeError(f"npm ci failed in build/npm:\n{run.stderr.rstrip()}")
    done.write_bytes(locked)  # last, so an installation that was killed is taken up again
    return ""


def needed(package: Path, name: str) -> set[str]:
    """A file of a package, and the files that it names where it is a style sheet."""
    found = {name}
    if name.endswith(".css"):
        for match in CSS_URL.finditer((package / name).read_text(encoding="utf-8")):
            address = re.split("[?#]", match[2])[0]
            if address and not address.startswith("data:"):
                found |= needed(package, os.path.normpath(Path(name).parent / address))
    return found


def copy(wanted: set[tuple[str, str]], versions: dict[str, str]) -> str:
    """Copy files out of their packages, and all that they load in turn. Says how much."""
    for package, name in sorted(wanted):
        source = PACKAGES / "node_modules" / package
        target = BOOK / VENDOR / f"{package}@{versions[package]}"
        names = needed(source, name)
        for pattern in AT_RUN_TIME.get(package, []):
            names |= {str(p.relative_to(source)) for p in source.glob(pattern) if p.is_file()}
        for path in names:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)
    (BOOK / VENDOR / "turned.css").write_text(TURNED_CSS, encoding="utf-8")
    files = [p.stat().st_size for p in (BOOK / VENDOR).rglob("*") if p.is_file()]
    return f"{len(files)} files, {sum(files) / 1e6:.1f} MB"


def plan(versions: dict[str, str]) -> tuple[dict[Path, str], set[tuple[str, str]], list[str]]:
    """Every page that must change as it must become, the files it needs, and what is not locked."""
    pages: dict[Path, str] = {}
    wanted: set[tuple[str, str]] = set()
    problems: list[str] = []
    for path in sorted(p for p in BOOK.rglob("*.html") if "_static" not in p.parts):
        page = path.relative_to(BOOK).as_posix()

        def move(address: str, page: str = page) -> str | None:
            folder = "../" * page.count("/") + VENDOR
            if address == TURNED:
                return f"{folder}/turned.css"
            if found := locate(address, versions):
                wanted.add(found)
                return f"{folder}/{found[0]}@{versions[found[0]]}/{found[1]}"
            problems.append(
                f"{page}: nothing locked stands for {address}; add its package to "
                "book/npm/package.json (an address that names none: also to ELSEWHERE in "
                "book/vendor.py), then run `make lock-pages`"
            )
            return None

        old = path.read_text(encoding="utf-8")
        if (new := rewrite(old, move)) != old:
            pages[path] = new
    return pages, wanted, problems


def strip_downloads() -> None:
    """Take the outputs out of the notebooks that readers download: pages show them, a run makes them."""
    for path in (BOOK / "_sources").rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    strip_downloads()
    lock = json.loads((LOCK / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    versions = {
        name.removeprefix("node_modules/"): e.get("version", "") for name, e in lock.items()
    }
    pages, wanted, problems = plan(versions)
    if not pages and not problems:
        print("vendor: the pages load nothing from outside")
        return 0
    try:
        if reason := install():
            print(f"vendor: {reason}, so the pages keep their public links", file=sys.stderr)
            return 0
        if problems:
            print("\n".join(dict.fromkeys(problems)), file=sys.stderr)
            return 1
        size = copy(wanted, versions)
    except (RuntimeError, FileNotFoundError) as failure:
        print(f"vendor: {failure}", file=sys.stderr)
        return 1
    for path, text in pages.items():  # now that all they load is there
        beside = path.with_name(f"{path.name}.partial")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    print(f"vendor: {len(pages)} pages load {VENDOR} ({size}), not the network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
