"""Filter banks and scattering."""
