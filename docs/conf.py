"Sphinx configuration: the guide's pages are the notebooks of nbs, read by nbdoc."

import re
import shutil
import sys
import tomllib
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
NBS = HERE.parent / "nbs"
sys.path[:0] = [str(HERE), str(HERE.parent)]
about = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
project = about["name"]

guide = HERE / "guide"  # made anew: nbs/02_contract.ipynb becomes guide/contract.html
shutil.rmtree(guide, ignore_errors=True)
for notebook in sorted(NBS.rglob("*.ipynb")):
    place = notebook.relative_to(NBS)
    if notebook.name != "index.ipynb" and not any(part.startswith(".") for part in place.parts):
        page = guide / place.with_name(re.sub(r"^\d+_", "", notebook.name))
        page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(notebook, page)

# the front page is the README, whose links lead to files beside it
front = (HERE.parent / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
    if not (HERE.parent / page).is_file():
        continue
    front = front.replace(f"]({page})", f"]({page.lower()})")
    (HERE / page.lower()).write_text((HERE.parent / page).read_text(encoding="utf-8"), encoding="utf-8")
(guide / "front.md").write_text(
    front.replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)"), encoding="utf-8"
)

author = copyright = f"{project} contributors"
version = release = import_module(project).__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton", "sphinx_design", "nbdoc"]
exclude_patterns = ["_build", "guide/front.md", "generated"]

nb_custom_formats = {".ipynb": ["nbdoc.read", {"package": project}]}
nb_execution_mode = "off"  # the stored outputs are shown; nbval proves them
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # with tables, as JupyterLab and GitHub show it
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_disable_syntax = ["myst_line_comment"]  # a line of prose may begin with %

default_role = "code"
nitpicky = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_static_path = ["images"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = False
html_show_sourcelink = False
html_sidebars = {name: [] for name in ("index", "start", "design", "changelog", "contributing")}
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "github_url": about["urls"]["Repository"],
}

if (HERE / "sitepages.py").is_file():  # pages that this project writes from its code
    import_module("sitepages").write(HERE)
    html_favicon = "../mlserve/static/favicon.svg"
