"""Reports that people look at: one self-contained HTML page, and the same figures as PNG."""
