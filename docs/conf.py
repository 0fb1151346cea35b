"""How Sphinx builds the documentation."""

import losskit

project = "losskit"
author = "The losskit authors"
release = losskit.__version__
extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
exclude_patterns = ["_build"]
