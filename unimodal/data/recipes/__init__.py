"""The recipes that come with the package, one module each; `RECIPES` finds them by name."""
