"""The YAML files of the command line; a package so that Hydra finds `pkg://unimodal.conf`."""
