"""The command line: one file a verb, none of which imports torch before it runs."""
