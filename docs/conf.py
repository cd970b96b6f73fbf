"""make docs. Sphinx reads the whole repository, so that links to its files are the same as in its folders."""

import sys
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from posenc_ext import __version__  # the built library: pages of the API come from its docstrings

project = "posenc_ext"
author = "posenc_ext contributors"
copyright = author
version = release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "bench/*.md", "csrc/cuda/*.md", "tests/parity/*.md"]
exclude_patterns = ["README.md", ".*", "build", "dist", "shared"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = True
# Without a network, there is no documentation of other projects.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|collections|typing)\..*|Tensor|Figure|optional|Optional|Sequence|dtype")
]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch.nn.Module say nothing here
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes and dtypes", "params_style")]
python_maximum_signature_line_length = 88

html_theme = "furo"
html_extra_path = ["redirect"]  # index.html, to the page above
html_title = f"posenc_ext {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False


def inline_math(self, node):
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def block_math(self, node):
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app):
    # MathML, which browsers show by themselves: no script, no font, no network.
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))


html_math_renderer = "mathml"
