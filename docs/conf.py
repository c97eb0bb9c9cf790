"""Sphinx settings: `make docs` builds these pages to `out/docs`, and any warning is an error."""

project = "medglip-etl"
author = "The medglip-etl developers"
project_copyright = "2026, the medglip-etl developers, Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block"]
smartquotes = False  # they make a dash of the two of an option
html_theme = "furo"
html_title = "medglip-etl"
html_show_sphinx = False
