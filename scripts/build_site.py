"""Build the site of the documents: `python scripts/build_site.py [FOLDER]`. Needs: pip install -e '.[docs]'

The pages keep the places that they have in the repository, so that one link is right there and on the site. A link, an
anchor or a page of the navigation that is not there ends it with exit code 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from api_pages import expand, links_to

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples")
FILES = ("README.md", "ROADMAP.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")


def lay_out(project: Path) -> None:
    """The settings of the site in `project`, and every page, with what pages show, below its `pages`."""
    pages = project / "pages"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, pages / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (pages / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, pages / name)
    write_reference(pages / "docs" / "reference")
    shutil.copy(ROOT / "zensical.toml", project)


def write_reference(folder: Path) -> None:
    """Put the descriptions of the API into the pages of `folder`."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))}
    links = {name: link for page, text in texts.items() for name, link in links_to(text, page.name).items()}
    for page, text in texts.items():
        page.write_text(expand(text, links), encoding="utf-8")


def render(project: Path) -> str:
    """Make `project / "site"`; what is wrong, in words, or nothing."""
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return said if done.returncode else ""


def main(site: Path) -> int:
    """Write the site into `site`, in place of what is there; the exit code. Nothing is written if anything is wrong."""
    with TemporaryDirectory(prefix="psyqueue-site-") as made:
        lay_out(Path(made))
        if problems := render(Path(made)):
            print(problems, file=sys.stderr)
            return 1
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(Path(made) / "site", site)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
