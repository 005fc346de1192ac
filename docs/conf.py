"""The site: ``make docs`` builds it into ``docs/_build/html``."""

import logging
import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the package of this clone
sys.path.insert(0, str(HERE))  # gallery_style
os.environ.setdefault("MPLBACKEND", "agg")

from gallery_style import set_style  # noqa: E402

import csc_nets  # noqa: E402

project = "csc_nets"
author = "the authors of csc_nets"
release = version = csc_nets.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_parser",
]
exclude_patterns = ["_build", "examples", "gallery", "auto_examples/*.ipynb", "**.py"]
templates_path = ["_templates"]
suppress_warnings = [
    "config.cache",  # functions in the gallery's settings
    "ref.python",  # a word in a docstring that is the name of two attributes
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
highlight_language = "none"

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4

autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "csc_nets"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
}
mathjax3_config = {"tex": {"macros": {"R": "\\mathbb{R}"}}}

linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_ignore = [r"https://doi\.org/.*"]  # publishers answer programs with 403

sphinx_gallery_conf = {
    "examples_dirs": ["examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "reset_modules": (set_style,),
    "reset_modules_order": "before",
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "plot_gallery": os.environ.get("CSC_NETS_GALLERY", "1") != "0",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 0,
    "download_all_examples": False,
    "capture_repr": (),
}

# Lightning and torch say on import what no reader can act on.
warnings.filterwarnings("ignore", category=DeprecationWarning)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
