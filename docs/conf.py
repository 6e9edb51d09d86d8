"""The site: `make docs` builds it into build/docs. Nothing in it comes from the network when it is read."""

from __future__ import annotations

import sparsegate

project = "SparseGate"
author = "the SparseGate authors"
release = version = sparsegate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings are those that repository hosts make
suppress_warnings = [
    "docutils",  # docstrings are written for people first: x^ and W~ are no roles
    "ref.python",  # one name may be found in a room and in its face
    "misc.highlighting_failure",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_numpy_docstring = True
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"SparseGate {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sphinx = False
