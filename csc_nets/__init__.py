"""csc_nets: a PyTorch zoo of unrolled sparse-coding networks."""

__version__ = "0.1.0"
