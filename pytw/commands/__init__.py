"""The commands of `tw`, one module each; `pytw.cli` imports the one that runs."""
