"""The site and the lab book: `make site` and `make study` call Sphinx with this file.

The source folder is the repository's root, so that links between pages are those that GitHub follows.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for book_pages

project = "dycoke_lab"
extensions = ["myst_nb", "sphinx.ext.autodoc", "book_pages"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "notebooks/**.ipynb",
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "data/results/*.md",
]
exclude_patterns = ["**/.*", "build", "runs", "dycoke_lab", "tests"]

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3
nb_render_markdown_format = "gfm"  # tables in outputs
nb_execution_mode = "off"  # what was committed is shown
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]  # needs a kernel
nb_ipywidgets_js: dict = {}  # from elsewhere, otherwise
nb_code_prompt_show = nb_code_prompt_hide = "Code"

default_role = "code"  # docstrings mark code with one backtick
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 60
python_use_unqualified_type_names = True
maximum_signature_line_length = 60

html_theme = "furo"
html_title = "dycoke_lab"
html_static_path = ["_static"]
html_css_files, html_js_files = ["book.css"], ["book.js"]
templates_path = ["_templates"]
html_show_search_summary = False  # a page from disk must not read other files
html_show_sourcelink = html_copy_source = html_show_sphinx = html_show_copyright = False
