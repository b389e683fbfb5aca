"""Sphinx: how the documentation is built. ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import gz3d_zarr

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "gz3d_zarr"
author = "The gz3d_zarr developers"
copyright = "the gz3d_zarr developers, BSD-3-Clause"  # noqa: A001 - Sphinx's name
version = release = gz3d_zarr.__version__
extensions = [
    "data_model",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"gz3d_zarr {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
nb_execution_mode = "off"  # tutorials are kept with their outputs; tests run them
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# What the extra docs leaves out, so that the pages are built in a minute.
autodoc_mock_imports = [
    name for name in ("lightning", "torch") if importlib.util.find_spec(name) is None
]
autodoc_typehints = "none"  # NumPy-style docstrings name the types
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["mystnb.unknown_mime_type"]
