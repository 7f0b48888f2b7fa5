"""Small permissive data sets inside the package: see `sets` for what they are."""
