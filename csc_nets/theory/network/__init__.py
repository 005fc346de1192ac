"""Reports of any network: its coded layers, its sparsity, its priors and the energy that each operation removes."""
