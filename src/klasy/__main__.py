"""Run klasy as a module: ``python -m klasy``."""

from klasy.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
