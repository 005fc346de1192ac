"""Energy in cascades of filters and moduli: how it decays, how deep a network must be, and how features move."""
