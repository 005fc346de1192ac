"""Pages of one HTML file: text, tables, charts as SVG and pictures inside of it, nothing that is fetched."""

from csc_nets.pages.charts import bars, grid, lines, scatter
from csc_nets.pages.page import Block, Page, can_render, render
from csc_nets.pages.parts import command, picture, table

__all__ = [
    "Block",
    "Page",
    "bars",
    "can_render",
    "command",
    "grid",
    "lines",
    "picture",
    "render",
    "scatter",
    "table",
]
