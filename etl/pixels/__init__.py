"""Arrays: geometry, intensities, regions, shapes, fingerprints. Pure; no file is read here."""
