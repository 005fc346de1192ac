"""Model restricted isometry: measured constants, random filters, and theorems about one step of hard thresholding."""
